"""Say what a run would take before it is started; see `benchmarks/plans/command.py`."""

from __future__ import annotations

import sys

from bench import about_here
from benchmarks.plans.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], about=about_here()))

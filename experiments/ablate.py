"""Train and report a suite: `python experiments/ablate.py --suite NAME --dataset D`; see `studies/ablation.py`."""

from __future__ import annotations

import sys

from studies.ablation import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

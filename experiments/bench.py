"""Measure speed and memory: python experiments/bench.py --suite prepare [--json FILE].

Suites:
  prepare   vendor files to dataset folder, at growing numbers of interactions, each in a process of its own
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import preparation


def main(argv: Sequence[str]) -> int:
    """Run one suite, print it, and write it to --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=["prepare"], required=True)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument(
        "--interactions",
        type=int,
        nargs="+",
        default=[12_500_000, 25_000_000, 50_000_000],
        metavar="N",
        help="sizes for prepare (default 12.5, 25 and 50 million)",
    )
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where large files go (default: the temporary folder)"
    )
    parser.add_argument("--memory", default="2GB", metavar="SIZE", help="as for the adapters (default 2GB)")
    arguments = parser.parse_args(argv)
    print(_about())
    results = preparation.measure(arguments.interactions, folder=arguments.folder, memory=arguments.memory)
    print(preparation.describe(results))
    if arguments.json:
        tree: dict[str, Any] = {"about": _about(), "prepare": results}
        arguments.json.write_text(json.dumps(tree, indent=1) + "\n")
    return 0


def _about() -> str:
    """Name the day, the commit and the machine that figures belong to."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    processor = next(
        (line.split(":")[1].strip() for line in _cpuinfo().splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    return f"{date.today().isoformat()}, commit {commit or 'unknown'}, {len_cpus()} x {processor}"


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.is_file() else ""


def len_cpus() -> int:
    """Count the processors that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

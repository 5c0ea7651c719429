"""Measure speed and memory: python experiments/bench.py --suite NAME [--json FILE] [options of the suite].

Tables of what was measured: python experiments/bench.py --table FILE.json ...

Suites:
  step      a training step beside a plain reference of the same loss and gradients, and the arithmetic floor
  eval      item encoding, scoring and ranking beside the release's way, and the full ranking of MicroLens-50k
  loader    reading a batch's tokens beside the step that uses it, with cached features, warm and cold
  live      training through an encoder of clips: memory against batch, frames per second, who waits for whom
  growth    time and memory against batch, tokens, catalogue, streams and history length, beside the formula
  catalogue steps with dense and with lazy id updates, full softmax and ranking at up to ten million items
  start     import, --help, opening a dataset and the first step, each in a process of its own
  prepare   vendor files to dataset folder, at growing numbers of interactions, each in a process of its own
  peers     the same model in other libraries, each in an environment of its own
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

SUITES = {
    "step": "step",
    "eval": "evaluation",
    "loader": "loader",
    "live": "live",
    "growth": "growth",
    "catalogue": "catalogue",
    "start": "start",
    "prepare": "preparation",
    "peers": "peers",
}
"""Modules of `benchmarks`, imported when asked for: each has add_arguments(parser), measure(arguments) and
describe(results)."""


def main(argv: Sequence[str]) -> int:
    """Run one suite, print it, and write it to --json."""
    style = argparse.RawDescriptionHelpFormatter
    first = argparse.ArgumentParser(description=__doc__, formatter_class=style, add_help=False)
    task = first.add_mutually_exclusive_group(required=True)
    task.add_argument("--suite", choices=list(SUITES))
    task.add_argument("--table", nargs="+", type=Path, metavar="FILE", help="print Markdown of these --json files")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style, parents=[first])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    if "--suite" not in " ".join(argv):
        print(importlib.import_module("benchmarks.tables").tables_of(parser.parse_args(argv).table))
        return 0
    name = first.parse_known_args(argv)[0].suite
    suite = importlib.import_module(f"benchmarks.{SUITES[name]}")
    suite.add_arguments(parser)
    arguments = parser.parse_args(argv)
    about = about_here()  # before anything loads the machine
    print(about)
    results = suite.measure(arguments)
    print(suite.describe(results))
    if arguments.json:
        tree: dict[str, Any] = {"about": about, "command": _without_paths(argv), name: results}
        arguments.json.write_text(json.dumps(tree, indent=1) + "\n")
    return 0


def _without_paths(argv: Sequence[str]) -> str:
    """Return the options that decide the figures, without those that say where files lie on this machine."""
    places = [k for k, word in enumerate(argv) if word in ("--json", "--folder", "--plot", "--environments")]
    return " ".join(word for k, word in enumerate(argv) if k not in places and k - 1 not in places)


def about_here() -> str:
    """Name the day, the commit, the machine and its load, and the libraries that figures belong to."""
    command = ["git", "describe", "--always", "--dirty"]
    git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    told = [date.today().isoformat(), f"commit {git.stdout.strip() or 'unknown'}"]
    told += [
        f"{cores} x {processor or platform.processor()}",
        *(f"{name} {version(name)}" for name in ("torch", "numpy")),
    ]
    return ", ".join([*told, f"load {os.getloadavg()[0]:.2f}"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

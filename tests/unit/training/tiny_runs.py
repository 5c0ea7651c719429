"""Runs of a second: their settings, and what they logged."""

from __future__ import annotations

import json
from pathlib import Path

from accelerate.state import AcceleratorState

from odmt.config import Experiment, parse

SMALL = [
    "--model.dim=16",
    "--model.fusion=imt(layers=1,heads=1)",
    "--model.backbone=sasrec(layers=1,heads=1)",
    "--distill.ramp-epochs=2",
    "--train.epochs=3",
    "--train.batch-size=16",
    "--train.lr=0.01",
    "--train.log-every=2",
]


def fresh_accelerator() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


def arguments(dataset: Path, output: Path, *more: str) -> list[str]:
    argv = [*SMALL, f"--dataset={dataset}", f"--output={output}", *more]
    return list({flag.partition("=")[0]: flag for flag in argv}.values())  # a later flag replaces an earlier one


def experiment(dataset: Path, output: Path, *more: str) -> Experiment:
    return parse(arguments(dataset, output, *more), configs=output)


def lines(folder: Path) -> list[dict[str, object]]:
    """Read what was logged, without what depends on the time and the machine."""
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("seconds", "speed")} for line in read]

"""The folder of one run: who may write there, and how its files stay whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from odmt.config import Experiment, to_yaml

__all__ = ["RunFolder", "write_whole"]


class RunFolder:
    """Name the files of a run; see `odmt.training` for what they hold."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.experiment = path / "experiment.yaml"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.best_weights = self.checkpoints / "best.safetensors"
        self.model = path / "model"
        self.test_ranks = path / "test_ranks.npz"
        self.result = path / "result.json"

    def claim(self, experiment: Experiment, fingerprint: str) -> None:
        """Make the folder, or take it up again with `resume`, or empty it with `overwrite`; refuse another run's.

        A run is resumed only with the configuration and the dataset (by `fingerprint`) that it was started with.
        """
        header = _header(fingerprint)
        if self.path.exists() and experiment.overwrite:
            shutil.rmtree(self.path)
        if not self.experiment.exists():
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_whole(self.experiment, header + to_yaml(experiment))
            return
        if not experiment.resume:
            raise ValueError(
                f"{self.path} holds a run already; add --resume to go on with it, --overwrite to begin anew, "
                "or --name NAME"
            )
        before = self.experiment.read_text(encoding="utf-8")
        if f"# dataset: {fingerprint}\n" not in before:
            raise ValueError(
                f"{self.experiment}: this run was started on other data than {experiment.dataset} holds now "
                f"({fingerprint[:16]}); choose another --name"
            )
        _same_settings(self.experiment, before, to_yaml(experiment))

    def newest_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint, or None where there is none yet."""
        complete = sorted(self.checkpoints.glob("epoch-*"))  # one being written carries another name
        return complete[-1] if complete else None

    def add_checkpoint(self, partial: Path, epoch: int) -> None:
        """Make the checkpoint written at `partial` the newest, then remove older ones."""
        os.replace(partial, self.checkpoints / f"epoch-{epoch:05d}")
        for old in sorted(self.checkpoints.glob("epoch-*"))[:-1]:
            shutil.rmtree(old)

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def save_ranks(self, users: np.ndarray, ranks: Mapping[str, np.ndarray]) -> None:
        """Keep every user's rank under every head, so that runs can be compared user by user."""
        partial = self.path / ".test_ranks.partial.npz"
        np.savez(partial, users=users, **ranks)  # pyright: ignore[reportArgumentType]
        os.replace(partial, self.test_ranks)

    def metrics_bytes(self) -> int:
        return self.metrics.stat().st_size if self.metrics.exists() else 0

    def truncate_metrics(self, size: int) -> None:
        """Drop what was logged after the checkpoint that a resumed run starts from."""
        os.truncate(self.metrics, size)


def write_whole(path: Path, text: str) -> None:
    """Write a file aside and rename it into place."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _header(fingerprint: str) -> str:
    names = ("odmt", "torch", "accelerate", "numpy")
    commit = _commit()
    lines = [
        f"commit: {commit}",
        f"versions: {', '.join(f'{name} {version(name)}' for name in names)}",
        f"dataset: {fingerprint}",
    ]
    return "".join(f"# {line}\n" for line in lines)


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not run from a git checkout)"


def _same_settings(path: Path, before: str, now: str) -> None:
    ignored = ("resume:", "overwrite:", "output:", "trackers:")
    old, new = ([line for line in text.splitlines() if not line.startswith(("#", *ignored))] for text in (before, now))
    for a, b in zip(old, new, strict=False):
        if a != b:
            raise ValueError(
                f"{path}: the run to resume has `{a.strip()}`, the command says `{b.strip()}`; make them equal "
                "or choose another --name"
            )

"""The folder of one run: who may write there, and how its files stay whole."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import yaml

from odmt.config import Experiment, to_yaml
from odmt.data import MODALITIES
from odmt.data.folder_name import flush
from odmt.settings_check import heads_of

__all__ = ["RunFolder", "flat", "write_whole", "writing_whole"]

FREE_ON_RESUME = (
    "output", "trackers", "dataset", "data/root", "data/features", "data/workers", "data/store_gb",
    "train/checkpoint_minutes", "train/keep_checkpoints",
)  # fmt: skip
"""Settings that may differ when a run is taken up again: they change nothing that it computes, or, like the place of
the data and the choice among features, are checked by content."""


class RunFolder:
    """Name the files of a run; see `odmt.training` for what they hold."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.experiment = path / "experiment.yaml"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.test_ranks = path / "test_ranks.npz"
        self.result = path / "result.json"
        self.unreadable = path / "unreadable.json"
        self.broken_batch = path / "broken_batch.json"
        self.trackers = path / "trackers.json"
        self.lock = path / ".lock"

    def claim(self, experiment: Experiment, inputs: Mapping[str, str]) -> None:
        """Make the folder, or take it up again with `resume`, or replace it with `overwrite`; refuse another run's.

        A run is resumed only with the configuration and the `inputs` (what identifies its data and features) that it
        was started with.
        """
        text = _header(inputs) + to_yaml(experiment)
        leftovers = {self.checkpoints, self.lock}  # what a start that failed may leave
        is_run = self.experiment.is_file()
        if self.path.exists() and not is_run and not leftovers.issuperset(self.path.iterdir()):
            raise ValueError(f"{self.path} exists and is no run of ours (no experiment.yaml); choose another --name")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock()
        if is_run and experiment.overwrite:
            for old in set(self.path.iterdir()) - {self.lock, self.experiment}:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            is_run = False
        if not is_run:
            write_whole(self.experiment, text)
        elif not experiment.resume:
            raise ValueError(
                f"{self.path} holds a run already; add --resume to go on with it, --overwrite to begin anew, "
                "or --name NAME"
            )
        else:
            self.check_same(experiment, inputs)
        self.checkpoints.mkdir(exist_ok=True)

    def _lock(self) -> None:
        """Keep the folder for this process until it ends, however it ends."""
        self._held = open(self.lock, "w")  # noqa: SIM115 - held for the life of the run
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{self.path} is being written by another process; wait for it, or use --name") from error

    def write_unreadable(self, files: Mapping[str, Mapping[str, str]]) -> str:
        """List the files that could not be read, {modality: {file: reason}}; return what to tell of them."""
        write_whole(self.unreadable, json.dumps(files, indent=2, ensure_ascii=False) + "\n")
        counts = ", ".join(f"{len(reasons):,} of {modality}" for modality, reasons in files.items())
        first, reason = next((file, why) for reasons in files.values() for file, why in reasons.items())
        return (
            f"could not be read: {counts}, such as {first} ({reason}); those items lack the modality. "
            f"All are listed in {self.unreadable}"
        )

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def metrics_bytes(self) -> int:
        """Say how much was logged, which is then on the disk."""
        if not self.metrics.exists():
            return 0
        flush(self.metrics)
        return self.metrics.stat().st_size

    def truncate_metrics(self, size: int) -> None:
        """Drop what was logged after the checkpoint that a resumed run starts from."""
        if self.metrics.exists():
            os.truncate(self.metrics, size)

    def save_ranks(self, users: np.ndarray, ranks: Mapping[str, np.ndarray]) -> None:
        """Keep every user's rank under every head, so that runs can be compared user by user."""
        partial = self.path / ".test_ranks.partial.npz"
        np.savez(partial, users=users, **ranks)  # pyright: ignore[reportArgumentType]
        flush(partial)
        os.replace(partial, self.test_ranks)

    def check_same(self, experiment: Experiment, inputs: Mapping[str, str]) -> None:
        """Refuse to go on with a run of other settings or inputs; raises ValueError naming the first difference.

        Settings come first: other streams bring other features.
        """
        text = self.experiment.read_text(encoding="utf-8")
        # a setting that came after the run began had its default then
        unset = dict(_entries(yaml.safe_load(to_yaml(Experiment(experiment.dataset)))))
        trees = [yaml.safe_load(one) for one in (text, to_yaml(experiment))]
        before, now = (_that_count(unset | dict(_entries(tree)), tree, heads_of(experiment.model)) for tree in trees)
        for name in before | now:
            if before.get(name) != now.get(name) and name not in FREE_ON_RESUME:
                setting = name.replace("/", ".")
                raise ValueError(
                    f"{self.experiment}: the run to resume has {setting}={_as_typed(before.get(name))}, the command "
                    f"says {_as_typed(now.get(name))}; make them equal or choose another --name"
                )
        for name, value in inputs.items():
            if (recorded := _recorded(text, name)) != value:
                raise ValueError(f"{self.experiment}: {_other_input(name, recorded, value, experiment)}")


def write_whole(path: Path, text: str) -> None:
    """Write a file aside and rename it into place."""
    with writing_whole(path) as file:
        file.write(text)


@contextmanager
def writing_whole(path: Path) -> Iterator[TextIO]:
    """Write a file aside, piece by piece, and rename it into place at the end."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested mappings to {"outer/inner": value}; what is neither number nor text becomes text."""
    plain = int | float | str
    return {name: value if isinstance(value, plain) else str(value) for name, value in _entries(tree)}


def _entries(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Go through nested mappings: ("outer/inner", value) of each."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _entries(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def _as_typed(value: Any) -> str:
    """Write a value as the command line has it."""
    if isinstance(value, list):
        return shlex.join(str(one) for one in value) or "(nothing)"
    return str(value)


def _recorded(text: str, name: str) -> str | None:
    """Read what experiment.yaml says in its head of an input, None where it says nothing."""
    start = f"# {name}: "
    return next((line.removeprefix(start) for line in text.splitlines() if line.startswith(start)), None)


def _other_input(name: str, before: str | None, now: str, experiment: Experiment) -> str:
    """Say in what an input differs from that of the start, and the way out."""
    anew = "choose another --name, or begin anew with --overwrite"
    if name == "dataset":
        return (
            f"the run was started on other data than {experiment.dataset} holds now (fingerprints {str(before)[:16]} "
            f"then, {now[:16]} now); name the folder that holds those, {anew}"
        )
    if name == "features":
        then, present = (json.loads(keys or "{}") for keys in (before, now))
        for stream in present:
            if (key := then.get(stream)) != present[stream]:
                modality, colon, _ = experiment.data.selected_features().get(stream, "").partition(":")
                source = modality + colon if colon and stream not in MODALITIES else ""
                return (
                    f"the run was started with other features of {stream} ({key}) than are read now "
                    f"({present[stream]}); if those are still there, choose them with --data.features "
                    f"{stream}={source}{key}; else {anew}"
                )
    return f"the run was started with {name}={before}, and now there is {name}={now}; launch it as then, {anew}"


def _that_count(settings: dict[str, Any], tree: Mapping[str, Any], heads: Sequence[str]) -> dict[str, Any]:
    """Write out who teaches whom among `heads`, and leave out how where none teaches."""
    from odmt.distill import DistillationGraph  # brings torch, which reading a folder can do without

    edges = tree.get("distill", {}).get("graph", [])
    with suppress(ValueError):  # streams of one's own fusion, which are known once it is built
        edges = [str(edge) for edge in DistillationGraph(*edges).among(heads).edges]
    if not edges:
        settings = {name: value for name, value in settings.items() if not name.startswith("distill/")}
    return settings | {"distill/graph": edges}


def _header(inputs: Mapping[str, str]) -> str:
    names = ("odmt", "torch", "accelerate", "numpy")
    lines = {"commit": _commit(), "versions": ", ".join(f"{name} {version(name)}" for name in names), **inputs}
    return "".join(f"# {name}: {value}\n" for name, value in lines.items())


def _commit() -> str:
    source = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(source)]
    try:
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True).stdout
        if Path(top.strip()) == source:  # and not a repository that merely holds our installation
            described = [*git, "describe", "--always", "--dirty", "--abbrev=12"]
            return subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    return "unknown (not run from a git checkout of odmt)"

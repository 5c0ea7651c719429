"""Keep of finished runs what reports need, small enough to be committed: settings, result, and ranks up to twenty.

DIR/ROW-sSEED/ holds experiment.yaml and result.json as training wrote them, and ranks_to_20.npz: the rank of each
user's target under every head, 21 for all that are worse, and `users` where these are not all, in order.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from odmt.data.format import Dataset
from odmt.run_folder import RunFolder

from .finished import KEPT_RANKS, KEPT_TO, POPULAR, load
from .planning import PlannedRun
from .suite import SuiteError

__all__ = ["keep", "restore", "reuse"]

NAME = re.compile(r"^name: (?P<name>.*?)(?:  # trained as (?P<trained_as>.*))?$", re.MULTILINE)
"""What a run is called in experiment.yaml, and what it was called where it was trained."""


def keep(runs: Sequence[PlannedRun], folder: Path) -> list[Path]:
    """Write those of `runs` that are finished and not in `folder` yet, each whole or not at all; give their places.

    Raises ReportError where a run's files disagree.
    """
    written = []
    for run in runs:
        place = folder / run.folder.name
        if run.state != "finished" or _same_result(place, run.folder):
            continue
        found = load(run.folder, label=f"{run.row} (seed {run.seed})")
        partial = folder / f".{run.folder.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name in ("experiment.yaml", "result.json"):
            shutil.copyfile(run.folder / name, partial / name)
        ranks = {
            head: np.minimum(values, KEPT_TO + 1).astype(np.float16)  # ties have ranks and a half
            for head, values in found.ranks.items()
            if head != POPULAR
        }
        everyone = np.array_equal(found.users, np.arange(len(found.users)))
        users = {} if everyone else {"users": found.users}
        np.savez_compressed(partial / KEPT_RANKS, **ranks, **users)  # pyright: ignore[reportArgumentType]
        shutil.rmtree(place, ignore_errors=True)
        os.replace(partial, place)
        written.append(place)
    return written


def restore(runs: Sequence[PlannedRun], folder: Path) -> list[Path]:
    """Put what `folder` has of `runs` where the run would be, unless something is there already; give their places."""
    restored = []
    for run in runs:
        place = folder / run.folder.name
        if run.state != "new" or not RunFolder(place).result.is_file():
            continue
        partial = run.folder.with_name(f".{run.folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(place, partial)
        os.replace(partial, run.folder)
        restored.append(run.folder)
    return restored


def reuse(runs: Sequence[PlannedRun], folders: Sequence[Path], dataset: Dataset) -> dict[Path, Path]:
    """Take finished runs of other suites for those of `runs` that are new and have the same settings, data and
    features: a row is often the same in several suites. Give {the run's folder: where it was found}.

    folders: of runs as training left them, or as `keep` did. Raises SuiteError where one holds none.
    """
    found: list[tuple[Path, str]] = []
    for folder in folders:
        finished = sorted(result.parent for result in folder.glob("*/result.json"))
        if not finished:
            raise SuiteError(f"--reuse {folder}: no finished runs there (folders that hold result.json)")
        found += [(place, yaml.safe_load((place / "experiment.yaml").read_text("utf-8"))["name"]) for place in finished]
    taken = {}
    for run in runs:
        if run.state != "new":
            continue
        same = (at for at, name in found if run.difference(RunFolder(at), dataset, name=name) is None)
        if (place := next(same, None)) is not None:
            _take(place, run)
            taken[run.folder] = place
    return taken


def _take(place: Path, run: PlannedRun) -> None:
    partial = run.folder.with_name(f".{run.folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in ("result.json", KEPT_RANKS, "test_ranks.npz"):
        if (place / name).is_file():
            shutil.copyfile(place / name, partial / name)
    text = (place / "experiment.yaml").read_text("utf-8")
    renamed = re.sub(NAME, lambda found: _renamed(found, run.folder.name), text)
    (partial / "experiment.yaml").write_text(renamed, "utf-8")
    os.replace(partial, run.folder)


def _renamed(found: re.Match[str], name: str) -> str:
    trained_as = found["trained_as"] or found["name"]
    return f"name: {name}" + (f"  # trained as {trained_as}" if trained_as != name else "")


def _same_result(place: Path, folder: Path) -> bool:
    ours, theirs = RunFolder(place).result, RunFolder(folder).result
    return ours.is_file() and ours.read_bytes() == theirs.read_bytes()

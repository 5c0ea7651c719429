"""Keep of finished runs what reports need, small enough to be committed: settings, result, and ranks up to twenty.

DIR/ROW-sSEED/ holds experiment.yaml and result.json as training wrote them, and ranks_to_20.npz: the rank of each
user's target under every head, 21 for all that are worse, and `users` where these are not all, in order.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from odmt.run_folder import RunFolder

from .finished import KEPT_RANKS, KEPT_TO, POPULAR, load
from .suite import PlannedRun

__all__ = ["keep", "restore"]


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


def _same_result(place: Path, folder: Path) -> bool:
    ours, theirs = RunFolder(place).result, RunFolder(folder).result
    return ours.is_file() and ours.read_bytes() == theirs.read_bytes()

"""Finished runs as training left them, and which of them may be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "COMPARED",
    "ENSEMBLE",
    "KEPT_RANKS",
    "KEPT_TO",
    "POPULAR",
    "SHOWN",
    "Estimate",
    "ReportError",
    "Run",
    "check_comparable",
    "load",
    "per_user",
]

SHOWN = ("HR@10", "NDCG@10", "HR@20", "MRR")
COMPARED = ("HR@10", "NDCG@10")
KEPT = ("HR@10", "NDCG@10", "HR@20", "NDCG@20")
POPULAR, ENSEMBLE = "most-popular", "ensemble"
KEPT_TO, KEPT_RANKS = 20, "ranks_to_20.npz"
"""Of a run that was kept in short (see `keeping`): the last rank that is told from worse ones, and the file."""
PROTOCOL = {
    "# dataset": "the data's fingerprint",
    "  length": "data.length, which cuts the history that is masked",
    "  mask_history": "train.mask_history",
    "  repeats": "train.repeats",
}
"""Lines of experiment.yaml that decide which targets are ranked and among what, and how errors name them."""


class ReportError(ValueError):
    """Say which run cannot be reported or compared, and what to do."""


@dataclass(frozen=True)
class Run:
    """Hold what one run left behind: `result` as in result.json, the rank of every user's target under every head.

    `protocol` is what experiment.yaml says of PROTOCOL, `header` its heading: commit, versions, dataset, features,
    processes. Users are sorted, and the ranks with them. A run that was `kept` in short has ranks up to KEPT_TO, and
    none of the most popular items.
    """

    label: str
    result: Mapping[str, Any]
    protocol: Mapping[str, str]
    header: Mapping[str, str]
    users: np.ndarray
    ranks: Mapping[str, np.ndarray]
    kept: bool = False

    @property
    def heads(self) -> list[str]:
        """Name the heads to show, the recommendation last: a lone stream is its own ensemble and is shown once."""
        streams = [head for head in self.ranks if head not in (ENSEMBLE, POPULAR)]
        lone = len(streams) == 1 and np.array_equal(self.ranks[streams[0]], self.ranks[ENSEMBLE])
        return streams if lone else [*streams, ENSEMBLE]


@dataclass(frozen=True)
class Estimate:
    """Hold a mean over users and its standard error."""

    mean: float
    error: float

    @classmethod
    def over(cls, values: np.ndarray) -> Estimate:
        """Estimate from one value per user; the error is the sample deviation over the root of their number."""
        error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
        return cls(float(values.mean()), error)


def per_user(metric: str, ranks: np.ndarray) -> np.ndarray:
    """Score each user's rank (1 is best): HR@k is 1 for rank <= k, NDCG@k is 1 / log2(rank + 1) then, MRR 1 / rank."""
    ranks = ranks.astype(np.float64)
    if metric == "MRR":
        return 1.0 / ranks
    name, _, cutoff = metric.partition("@")
    gain = {"HR": np.ones_like(ranks), "NDCG": 1.0 / np.log2(ranks + 1.0)}[name]
    return np.where(ranks <= int(cutoff), gain, 0.0)


def load(path: Path, *, label: str) -> Run:
    """Read a finished run; raises ReportError for a missing or unfinished one, and where its two files disagree."""
    kept = (path / KEPT_RANKS).is_file()
    file = KEPT_RANKS if kept else "test_ranks.npz"
    for name in ("result.json", file):
        if not (path / name).is_file():
            state = f"has no {name}: it is unfinished" if path.is_dir() else "does not exist"
            finished = sorted(str(found.parent) for found in path.parent.glob("*/result.json"))
            raise ReportError(f"{path} {state}; finished runs there: {', '.join(finished) or 'none'}")
    result = json.loads((path / "result.json").read_text(encoding="utf-8"))
    with np.load(path / file) as saved:
        arrays = dict(saved)
    users = arrays.pop("users", np.arange(len(arrays[ENSEMBLE])))
    order = np.argsort(users, kind="stable")
    ranks = {head: values[order] for head, values in arrays.items()}
    recorded = {**result["test"], POPULAR: result["most_popular"]}
    for head, metric in product(ranks if kept else recorded, KEPT if kept else SHOWN):
        counted, told = per_user(metric, ranks[head]).mean(), recorded[head][metric]
        if abs(counted - told) > 1e-5:
            found = f"{head} {metric} is {told:.6f} in result.json and {counted:.6f} in {file}"
            raise ReportError(f"{path}: {found}; the files are of different runs, so train it again")
    return Run(label, result, *_settings(path), users[order], ranks, kept)


def _settings(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    if not (path / "experiment.yaml").is_file():
        raise ReportError(f"{path} has no experiment.yaml, so that nothing says how it was tested; train it again")
    protocol, header = {}, {}
    for line in (path / "experiment.yaml").read_text(encoding="utf-8").splitlines():
        setting, _, value = line.partition(": ")
        if setting in PROTOCOL:
            protocol[PROTOCOL[setting]] = value
        if setting.startswith("# ") and value:
            header[setting[2:]] = value
    return protocol, header


def check_comparable(run: Run, reference: Run) -> None:
    """Refuse to compare runs that were not asked the same questions."""
    pair = f"{run.label} and {reference.label}"
    if run.result["dataset"] != reference.result["dataset"]:
        datasets = f"{run.result['dataset']!r} and {reference.result['dataset']!r}"
        raise ReportError(f"{pair} were tested on different datasets, {datasets}; report them separately")
    for name in run.protocol.keys() & reference.protocol.keys():
        ours, theirs = run.protocol[name], reference.protocol[name]
        if ours != theirs:
            raise ReportError(f"{pair} differ in {name}, {ours} and {theirs}; report them separately")
    if len(run.users) != len(reference.users):
        raise ReportError(
            f"{pair} were tested on {len(run.users)} and {len(reference.users)} users; report them separately"
        )
    if (differs := run.users != reference.users).any():
        first = int(np.argmax(differs))
        users = f"the first that differ are {run.users[first]} and {reference.users[first]}"
        raise ReportError(f"{pair} were tested on different users ({users}); report them separately")

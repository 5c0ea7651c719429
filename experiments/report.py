"""Compare runs on the test set, user by user:

    python experiments/report.py runs/microlens-id_only-s1 runs/microlens-s1
    python experiments/report.py runs/* --json report.json

Prints a Markdown table: most-popular first, then each head of each run, with standard errors over users. The columns
"ahead" are paired: how far the ensemble of the last run named is ahead of the row, and the standard error of that
difference over the same users, which is smaller than the two separate errors suggest.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHOWN = ("HR@10", "NDCG@10", "HR@20", "MRR")
COMPARED = ("HR@10", "NDCG@10")
POPULAR, ENSEMBLE = "most-popular", "ensemble"
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

    `protocol` is what experiment.yaml says of PROTOCOL. Users are sorted, and the ranks with them.
    """

    label: str
    result: Mapping[str, Any]
    protocol: Mapping[str, str]
    users: np.ndarray
    ranks: Mapping[str, np.ndarray]

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


@dataclass(frozen=True)
class Row:
    """Hold a line of the table; `ahead` is the reference minus this row, empty for the reference itself."""

    run: str
    head: str
    metrics: Mapping[str, Estimate]
    ahead: Mapping[str, Estimate]
    result: Mapping[str, Any]


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
    for name in ("result.json", "test_ranks.npz"):
        if not (path / name).is_file():
            state = f"has no {name}: it is unfinished" if path.is_dir() else "does not exist"
            finished = sorted(str(found.parent) for found in path.parent.glob("*/result.json"))
            raise ReportError(f"{path} {state}; finished runs there: {', '.join(finished) or 'none'}")
    result = json.loads((path / "result.json").read_text(encoding="utf-8"))
    with np.load(path / "test_ranks.npz") as file:
        arrays = dict(file)
    order = np.argsort(arrays["users"], kind="stable")
    ranks = {head: values[order] for head, values in arrays.items() if head != "users"}
    for head, recorded in {**result["test"], POPULAR: result["most_popular"]}.items():
        for metric in SHOWN:
            counted = per_user(metric, ranks[head]).mean()
            if abs(counted - recorded[metric]) > 1e-5:
                found = f"{head} {metric} is {recorded[metric]:.6f} in result.json and {counted:.6f} in test_ranks.npz"
                raise ReportError(f"{path}: {found}; the files are of different runs, so train it again")
    return Run(label, result, _protocol(path), arrays["users"][order], ranks)


def _protocol(path: Path) -> dict[str, str]:
    if not (path / "experiment.yaml").is_file():
        raise ReportError(f"{path} has no experiment.yaml, so that nothing says how it was tested; train it again")
    protocol = {}
    for line in (path / "experiment.yaml").read_text(encoding="utf-8").splitlines():
        setting, _, value = line.partition(": ")
        if setting in PROTOCOL:
            protocol[PROTOCOL[setting]] = value
    return protocol


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


def compare(runs: Sequence[Run]) -> list[Row]:
    """Make the rows, each against the last run's ensemble: most-popular of that run, then all runs' heads."""
    reference = runs[-1]
    best = reference.heads[-1]
    for run in runs[:-1]:
        check_comparable(run, reference)
    rows = []
    for run, head in [(reference, POPULAR), *((each, head) for each in runs for head in each.heads)]:
        ranks = run.ranks[head]
        ahead = {}
        if (run, head) != (reference, best):
            for metric in COMPARED:
                ahead[metric] = Estimate.over(per_user(metric, reference.ranks[best]) - per_user(metric, ranks))
        metrics = {metric: Estimate.over(per_user(metric, ranks)) for metric in SHOWN}
        rows.append(
            Row("" if head == POPULAR else run.label, head, metrics, ahead, {} if head == POPULAR else run.result)
        )
    return rows


def to_markdown(rows: Sequence[Row]) -> str:
    """Write the rows as a Markdown table, numbers as mean ± standard error."""
    best = next(row for row in rows if not row.ahead)
    lead = [f"{best.run} {best.head} ahead in {metric}" for metric in COMPARED]
    lines = [["run", "head", *SHOWN, *lead, "epochs (best)", "minutes"]]
    for row in rows:
        metrics = [f"{row.metrics[metric].mean:.4f} ± {row.metrics[metric].error:.4f}" for metric in SHOWN]
        ahead = [
            f"{row.ahead[metric].mean:+.4f} ± {row.ahead[metric].error:.4f}" if row.ahead else "" for metric in COMPARED
        ]
        cost = ["", ""]
        if row.result:
            cost = [f"{row.result['epochs']} ({row.result['best_epoch']})", f"{row.result['seconds'] / 60:.1f}"]
        lines.append([row.run, row.head, *metrics, *ahead, *cost])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    cells = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def to_json(rows: Sequence[Row], reference: Run) -> dict[str, Any]:
    """Give the table as a tree: every number with its standard error."""
    return {
        "dataset": reference.result["dataset"],
        "users": len(reference.users),
        "reference": {"run": reference.label, "head": reference.heads[-1]},
        "rows": [
            {
                "run": row.run,
                "head": row.head,
                "metrics": {metric: {"mean": e.mean, "error": e.error} for metric, e in row.metrics.items()},
                "ahead": {metric: {"mean": e.mean, "error": e.error} for metric, e in row.ahead.items()},
                **{name: row.result[name] for name in ("seed", "epochs", "best_epoch", "seconds") if row.result},
            }
            for row in rows
        ],
    }


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders; the others are compared with the last")
    parser.add_argument("--json", type=Path, help="write the table to this file, too")
    arguments = parser.parse_args()
    paths: list[Path] = arguments.runs
    names = [path.absolute().name for path in paths]
    try:
        labels = [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]
        runs = [load(path, label=label) for path, label in zip(paths, labels, strict=True)]
        rows = compare(runs)
    except ReportError as error:
        sys.exit(f"error: {error}")
    print(to_markdown(rows), end="")
    if arguments.json:
        partial = arguments.json.with_name(f".{arguments.json.name}.partial")
        partial.write_text(json.dumps(to_json(rows, runs[-1]), indent=2) + "\n", encoding="utf-8")
        os.replace(partial, arguments.json)


if __name__ == "__main__":
    main()

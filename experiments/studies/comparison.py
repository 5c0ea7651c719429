"""Compare runs on the test set, user by user:

    python experiments/report.py runs/microlens-id_only-s1 runs/microlens-s1
    python experiments/report.py runs/microlens-* --json report.json

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

from .finished import COMPARED, POPULAR, SHOWN, Estimate, ReportError, Run, check_comparable, load, per_user

__all__ = ["Row", "compare", "main", "to_json", "to_markdown"]


@dataclass(frozen=True)
class Row:
    """Hold a line of the table; `ahead` is the reference minus this row, empty for the reference itself."""

    run: str
    head: str
    metrics: Mapping[str, Estimate]
    ahead: Mapping[str, Estimate]
    result: Mapping[str, Any]


def compare(runs: Sequence[Run]) -> list[Row]:
    """Make the rows, each against the last run's ensemble: most-popular of that run, then all runs' heads."""
    reference = runs[-1]
    best = reference.heads[-1]
    for run in runs:
        if run.kept:
            raise ReportError(f"{run.label} was kept in short, without its heads and low ranks; train it to compare it")
    for run in runs[:-1]:
        check_comparable(run, reference)
    rows = []
    for run, head in [(reference, POPULAR), *((each, head) for each in runs for head in each.heads)]:
        ranks = run.ranks[head]
        ahead = {}
        if run is not reference or head != best:
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
        _check_once(paths)
        labels = [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]
        runs = [load(path, label=label) for path, label in zip(paths, labels, strict=True)]
        rows = compare(runs)
    except ReportError as error:
        sys.exit(f"error: {error}")
    print(to_markdown(rows), end="")
    if arguments.json:
        _write(arguments.json, json.dumps(to_json(rows, runs[-1]), indent=2) + "\n")


def _check_once(paths: Sequence[Path]) -> None:
    """Refuse a run that is named twice, be it by other words."""
    first: dict[Path, Path] = {}
    for path in paths:
        before = first.setdefault(path.resolve(), path)
        if before is not path:
            also = f", as {path} the second time" if path != before else ""
            raise ReportError(f"{before} is named twice{also}; name each run once")


def _write(path: Path, text: str) -> None:
    if path.is_dir():
        sys.exit(f"error: --json {path} is a folder; name a file, such as {path / 'report.json'}")
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        sys.exit(f"error: --json {path} cannot be written ({error}); name a file where you may write")

"""The report of a suite: Markdown, an HTML page, the plot, and a JSON file with every number of them."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from odmt.data.format import Dataset
from odmt.run_folder import write_whole

from . import tables
from .document import Block, Code, Figure, Heading, Paragraph, to_html, to_markdown
from .figures import RowFigures, Spread, cold_users, summarise
from .finished import ReportError, Run, load
from .planning import PlannedRun
from .suite import Suite
from .tuning import Tuning

__all__ = ["SuiteReport"]

TEST = (
    "Row minus base, mean ± standard error over users. p is of a paired t test over the {users:,} test users, each "
    "user's metric averaged over the seeds that both rows have; p (Holm) is corrected for the {rows} rows tested. The "
    "test covers the choice of users for the models that were trained. It does not cover the choice of seeds, which "
    "the deviations above and the last column of each metric show, nor tuning."
)
TUNED = (
    "Every row was trained with each of these {number} sets of settings, with seed {seed}, and kept the one with the "
    "best validation NDCG@10, which is marked; its other seeds were trained with it alone. So the validation score of "
    "seed {seed} is the largest of {number} (fewer where one failed), and a row whose attempts differ more gains more "
    "from that. A setting that does not matter to a row is no attempt to tune it."
)
OWN = (
    " What a row sets itself stays as it is: in brackets is what was tried for it instead, and = stands where that is "
    "the same as before."
)
SHOULD_AGREE = ("processes", "versions", "commit")
"""Lines of a run's heading that change figures a little, and are pointed out where they differ within a suite."""


@dataclass(frozen=True)
class SuiteReport:
    """Hold what a report is made of: the suite, its runs that count, the figures of those that are finished.

    `command` is how it was made, `tuning` what was tried for each row before; targets with fewer than `fewer_than`
    training events are cold, `num_cold` of them.
    """

    suite: Suite
    planned: Sequence[PlannedRun]
    dataset: Dataset
    rows: Sequence[RowFigures]
    command: str
    fewer_than: int
    num_cold: int
    tuning: Tuning | None

    @classmethod
    def of(
        cls,
        suite: Suite,
        planned: Sequence[PlannedRun],
        dataset: Dataset,
        *,
        command: str,
        fewer_than: int,
        tuning: Tuning | None,
    ) -> SuiteReport:
        """Read the finished runs; raises ReportError where there is none, or they cannot be compared."""
        found: dict[str, dict[int, Run]] = {row.label: {} for row in suite.rows}
        for run in planned:
            if run.state == "finished":
                found[run.row][run.seed] = load(run.folder, label=f"{run.row} (seed {run.seed})")
        if not any(found.values()):
            raise ReportError(f"no run of {suite.name} is finished yet, so there is nothing to report")
        cold = cold_users(dataset, length=planned[0].experiment.data.length, fewer_than=fewer_than)
        rows = summarise(found, bases=suite.bases, cold=cold)
        _check_features(rows)
        return cls(suite, planned, dataset, rows, command, fewer_than, int(cold.sum()), tuning)

    @property
    def missing(self) -> list[str]:
        """Name the runs that are not finished, the seeds of a row together, and how far they are."""
        states = {"begun": "begun, not finished", "new": "not begun"}
        seeds: dict[tuple[str, str], dict[str, None]] = {}
        for run in self.planned:
            if run.state != "finished":
                seeds.setdefault((run.row, states[run.state]), {})[str(run.seed)] = None
        return [f"{row}, seed {' and '.join(numbers)}: {state}" for (row, state), numbers in seeds.items()]

    @property
    def runs(self) -> list[Run]:
        """List the finished runs."""
        return [run for row in self.rows for run in row.runs.values()]

    def write(self, prefix: Path) -> list[Path]:
        """Write PREFIX.md, .html, .svg and .json, each whole or not at all; give their paths."""
        prefix.parent.mkdir(parents=True, exist_ok=True)
        svg = tables.plot(self.rows, self.suite)
        blocks = self.blocks(svg, f"{prefix.name}.svg")
        texts = {
            ".md": to_markdown(blocks),
            ".html": to_html(blocks, title=f"{self.suite.title}, {self.dataset.name}"),
            ".svg": svg + "\n",
            ".json": json.dumps(_plain(self.to_json()), indent=1, allow_nan=False) + "\n",
        }
        paths = [prefix.with_name(prefix.name + ending) for ending in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            write_whole(path, text)
        return paths

    def blocks(self, svg: str, file: str) -> list[Block]:
        """Lay out the report; `svg` is the plot, and `file` the name under which it lies beside the Markdown."""
        rows, suite = self.rows, self.suite
        chosen = "Epochs and settings" if self.tuning else "Epochs"
        spread = "mean ± standard deviation over seeds" if any(len(row.runs) > 1 for row in rows) else "one seed each"
        tested = sum(bool(row.against) for row in rows)
        nothing = f"“{suite.base}” has no finished run with a seed of another row: no test yet."
        if not suite.one_base:
            nothing = "No row has a finished run with a seed of its base: no test yet."
        comparison: list[Block] = [Paragraph(nothing)]
        if tested:
            users = len(self.runs[0].users)
            comparison = [Paragraph(TEST.format(users=users, rows=tested)), tables.against(rows, suite)]
        return [
            Heading(f"{self.suite.title}, {self.dataset.name}", 1),
            Paragraph(self.suite.claim),
            Paragraph(self._origin()),
            *(Paragraph(text) for text in self._cautions()),
            Heading("Accuracy on test"),
            Paragraph(
                f"Of the ensemble, {spread}. Cold HR@10 is over the {self.num_cold:,} users whose target has fewer "
                f"than {self.fewer_than} training events. {chosen} were chosen by the validation NDCG@10."
            ),
            tables.accuracy(rows, suite),
            Figure(svg, file, tables.caption(suite)),
            Heading(f"Against “{suite.base}”" if suite.one_base else "Against each row's own base"),
            *comparison,
            Heading("NDCG@10 of the streams"),
            Paragraph(
                "Alike: the correlation over users of two streams' hits at 10, averaged over pairs of streams. An "
                "ensemble gains from streams that are good, and gains less the more they are alike."
            ),
            tables.streams(rows),
            Heading("Cost and settings"),
            tables.cost(rows, suite, self.tuning),
            *self._tuning(),
            Heading("Commands"),
            Paragraph("The first makes all of it; the others train one run of each row by itself."),
            Code([self.command, *self._commands().values()]),
        ]

    def _tuning(self) -> list[Block]:
        if self.tuning is None:
            return []
        text = TUNED.format(seed=self.tuning.seed, number=len(self.tuning.attempts))
        own = OWN if self.tuning.instead else ""
        return [Heading("Tuning"), Paragraph(text + own), tables.tuning(self.tuning)]

    def to_json(self) -> dict[str, Any]:
        """Give every number as a tree, the results of all finished runs among them."""
        about = {"suite": self.suite.name, "title": self.suite.title, "claim": self.suite.claim}
        data = {"name": self.dataset.name, "fingerprint": self.dataset.fingerprint, "users": len(self.runs[0].users)}
        commands = self._commands()
        return {
            **about,
            "base": self.suite.base,
            "date": date.today().isoformat(),
            "cores": _cores(),
            "command": self.command,
            "dataset": data,
            "cold": {"fewer_than": self.fewer_than, "users": self.num_cold},
            "missing": self.missing,
            "tuning": self.tuning and _tuning(self.tuning),
            "rows": [{"command": commands[row.label], **self._base(row), **_row(row)} for row in self.rows],
        }

    def _base(self, row: RowFigures) -> dict[str, str]:
        """Name what the row is tested against, where not all rows have the same."""
        bases = self.suite.bases
        return {} if self.suite.one_base or row.label not in bases else {"base": bases[row.label]}

    def _origin(self) -> str:
        commits = ", ".join(dict.fromkeys(run.header.get("commit", "unknown") for run in self.runs))
        seeds = [
            run for row in self.rows for seed, run in row.runs.items() if not self.tuning or seed != self.tuning.seed
        ]
        hours = (sum(run.result["seconds"] for run in seeds) + (self.tuning.seconds if self.tuning else 0)) / 3600
        return (
            f"Written {date.today().isoformat()} on a machine with {_cores()} CPU cores; trained at commit {commits}, "
            f"{hours:.2f} hours in all. Dataset `{self.dataset.name}`, {len(self.runs[0].users):,} users, "
            f"{self.dataset.num_items:,} items, fingerprint `{self.dataset.fingerprint}`."
        )

    def _cautions(self) -> list[str]:
        found = []
        if self.missing:
            found.append(f"**Incomplete.** Missing: {'; '.join(self.missing)}.")
        for name in SHOULD_AGREE:
            values = dict.fromkeys(run.header.get(name, "unknown") for run in self.runs)
            if len(values) > 1:
                found.append(f"**Not all alike.** The runs differ in {name}: {'; '.join(values)}.")
        return found

    def _commands(self) -> dict[str, str]:
        """Give, per row, the command that trains its first planned run into a folder of its own."""
        found: dict[str, str] = {}
        for run in self.planned:
            _, dataset, *words = run.argv[: run.argv.index("--name")]
            words = ["--dataset", Path(dataset).absolute().name, *words]  # not where it lies on this machine
            found.setdefault(run.row, shlex.join(["python", "experiments/train.py", *words]))
        return found


def _check_features(rows: Sequence[RowFigures]) -> None:
    """Refuse runs that read different features of the same modality: then it is not the rows that are compared."""
    first: dict[str, tuple[str, str]] = {}
    for row in rows:
        for run in row.runs.values():
            for modality, key in json.loads(run.header.get("features", "{}")).items():
                known, label = first.setdefault(modality, (key, run.label))
                if known != key:
                    raise ReportError(
                        f"{label} and {run.label} read different {modality} features, {known} and {key}; choose one "
                        "with --data.features and train the other again"
                    )


def _tuning(tuning: Tuning) -> dict[str, Any]:
    tree = asdict(tuning)
    return tree if tuning.instead else {name: value for name, value in tree.items() if name != "instead"}


def _row(row: RowFigures) -> dict[str, Any]:
    return {
        "label": row.label,
        "metrics": {metric: _spread(spread) for metric, spread in row.metrics.items()},
        "cold HR@10": row.cold and _spread(row.cold),
        "validation NDCG@10": _spread(row.valid),
        "streams NDCG@10": {head: _spread(spread) for head, spread in row.streams.items()},
        "streams alike": row.alike and _spread(row.alike),
        "error of NDCG@10 over users": row.over_users.error,
        "against": {metric: asdict(found) for metric, found in row.against.items()},
        "runs": {str(seed): {**run.header, "result": run.result} for seed, run in row.runs.items()},
    }


def _spread(spread: Spread) -> dict[str, Any]:
    by_seed = {str(seed): value for seed, value in spread.by_seed.items()}
    return {"mean": spread.mean, "deviation": spread.deviation, "by_seed": by_seed}


def _plain(tree: Any) -> Any:
    """Put None for numbers that JSON does not have."""
    if isinstance(tree, Mapping):
        return {name: _plain(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_plain(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

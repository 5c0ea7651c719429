"""Try the same settings out for every row of a suite, and keep for each row the best by validation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from odmt.run_folder import RunFolder

from .figures import SELECTED_BY
from .finished import ENSEMBLE
from .suite import PlannedRun

__all__ = ["Tuning"]


@dataclass(frozen=True)
class Tuning:
    """Hold what each row scored in validation with each of `tries`, the flags that were tried; None where a run is not
    finished. All have the first seed.
    """

    tries: Sequence[str]
    seed: int
    scores: Mapping[str, Sequence[float | None]]

    @classmethod
    def of(cls, runs: Sequence[PlannedRun], tries: Sequence[str]) -> Tuning:
        """Read the validation NDCG@10 of the first seed's runs."""
        seed = runs[0].seed
        scores: dict[str, list[float | None]] = {}
        for run in runs:
            if run.seed == seed:
                scores.setdefault(run.row, []).append(_validation(run))
        return cls(tries, seed, scores)

    def chosen(self, row: str) -> int | None:
        """Give the place of the best try, the first of equals; None while any is not finished."""
        if not self.tries:
            return 0
        found = [score for score in self.scores[row] if score is not None]
        return found.index(max(found)) if len(found) == len(self.tries) else None

    def kept(self, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
        """List the runs that count: of the best try; of rows without one yet, those that are still to be tried."""
        return [
            run
            for run in runs
            if run.tried == self.chosen(run.row)
            or (self.chosen(run.row) is None and run.seed == self.seed and run.state != "finished")
        ]


def _validation(run: PlannedRun) -> float | None:
    if run.state != "finished":
        return None
    result = json.loads(RunFolder(run.folder).result.read_text(encoding="utf-8"))
    return float(result["valid"][ENSEMBLE][SELECTED_BY])

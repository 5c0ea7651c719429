"""Try the same settings out for every row of a suite, and keep for each row the best by validation."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from odmt.run_folder import RunFolder

from .figures import SELECTED_BY
from .finished import ENSEMBLE
from .planning import PlannedRun

__all__ = ["Tuning"]


@dataclass(frozen=True)
class Tuning:
    """Hold what each row scored in validation with each of `attempts`, the settings that were tried; None where a run
    is not finished. All have the seed `seed`. `chosen` gives the place of each row's best, and has no row of which an
    attempt is still to be made; `seconds` is what all of them took. `instead` has the rows that set some of it
    themselves: {row: {place: what was tried there instead, None where it is the same as at an earlier place}}.
    """

    attempts: Sequence[str]
    seed: int
    scores: Mapping[str, Sequence[float | None]]
    chosen: Mapping[str, int]
    seconds: float
    instead: Mapping[str, Mapping[int, str | None]]

    @classmethod
    def of(
        cls, runs: Sequence[PlannedRun], attempts: Sequence[str], *, given_up: Collection[PlannedRun] = ()
    ) -> Tuning:
        """Read the first seed's runs; of equal scores the first is the best, and runs that are given up have none."""
        seed = runs[0].seed
        scores: dict[str, list[float | None]] = {}
        tried: dict[str, dict[int, str]] = {}
        open_rows: set[str] = set()
        seconds = 0.0
        for run in runs:
            if run.seed == seed:
                result = _result(run)
                seconds += result["seconds"] if result else 0.0
                score = float(result["valid"][ENSEMBLE][SELECTED_BY]) if result else None
                scores.setdefault(run.row, [None] * len(attempts))[run.attempt] = score
                tried.setdefault(run.row, {})[run.attempt] = run.tried
                if result is None and run not in given_up:
                    open_rows.add(run.row)
        chosen = {}
        for row, found in scores.items():
            finished = [score for score in found if score is not None]
            if finished and row not in open_rows:
                chosen[row] = found.index(max(finished))
        instead = {
            row: other
            for row, made in tried.items()
            if (other := {place: made.get(place) for place, told in enumerate(attempts) if made.get(place) != told})
        }
        return cls(attempts, seed, scores, chosen, seconds, instead)

    def words(self, row: str, place: int) -> str | None:
        """Give what was tried for a row at `place`, None where it is the same as at an earlier place."""
        return self.instead.get(row, {}).get(place, self.attempts[place])

    def kept(self, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
        """List the runs that count: of each row's best; of rows without one yet, those that are still to be tried."""
        return [
            run
            for run in runs
            if run.attempt == self.chosen.get(run.row)
            or (run.row not in self.chosen and run.seed == self.seed and run.state != "finished")
        ]


def _result(run: PlannedRun) -> dict[str, Any] | None:
    if run.state != "finished":
        return None
    return json.loads(RunFolder(run.folder).result.read_text(encoding="utf-8"))

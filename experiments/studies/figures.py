"""The figures of a suite: means and deviations over seeds, and paired tests of rows against their bases over users.

What the test covers: a user's metric is averaged over the seeds that both rows have, and the differences of all users
are tested against zero (paired t test). It answers whether *these trained models* would differ for other users of the
same kind. It does not cover how another seed would have turned out: with three seeds, nothing tests that well, so the
deviation over seeds and the number of seeds in which a row is ahead stand beside it. The p values of a metric are
corrected for the number of rows by Holm's step-down method (Scandinavian Journal of Statistics 6, 1979), which bounds
the chance of any false finding among them, whatever their dependence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean, stdev

import numpy as np
from scipy import stats

from odmt.data.format import Dataset
from odmt.data.splits import LeaveTwoOut

from .finished import ENSEMBLE, Estimate, Run, check_comparable, per_user

__all__ = ["METRICS", "TESTED", "Difference", "RowFigures", "Spread", "cold_users", "difference", "holm", "summarise"]

METRICS = ("HR@10", "NDCG@10", "HR@20", "NDCG@20")
TESTED = ("NDCG@10", "HR@10")
SELECTED_BY = "NDCG@10"


@dataclass(frozen=True)
class Spread:
    """Hold a figure per seed; `deviation` is the sample standard deviation over seeds, nan with one."""

    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float:
        return fmean(self.by_seed.values())

    @property
    def deviation(self) -> float:
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else math.nan


@dataclass(frozen=True)
class Difference:
    """Hold row minus base: its mean, standard error and 95 % interval over users, p as tested and by Holm.

    `ahead` counts the seeds of `seeds` in which the row's mean is above the base's; `share` is the mean over the
    base's.
    """

    mean: float
    error: float
    low: float
    high: float
    p: float
    p_holm: float
    seeds: tuple[int, ...]
    ahead: int
    share: float


@dataclass(frozen=True)
class RowFigures:
    """Hold a row's finished runs by seed and what they come to.

    `metrics` and `cold` are of the ensemble on test, `valid` its NDCG@10 on validation, `streams` the NDCG@10 of each
    stream on test; `alike` is the correlation over users of two streams' hits at 10, averaged over pairs: 1 where they
    please the same users, None for one stream alone; `over_users` estimates the ensemble's NDCG@10, averaged over
    seeds, with its error over users. `against` is empty for a row without a base, and where the base is missing or no
    seed is in both.
    """

    label: str
    runs: Mapping[int, Run]
    metrics: Mapping[str, Spread]
    valid: Spread
    cold: Spread | None
    streams: Mapping[str, Spread]
    alike: Spread | None
    over_users: Estimate
    against: Mapping[str, Difference]


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number: the k-th smallest of n times n - k + 1, made monotone, at most 1."""
    corrected = [0.0] * len(p_values)
    least = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = least
    return corrected


def difference(row: Mapping[int, Run], base: Mapping[int, Run], metric: str) -> Difference | None:
    """Test row against base over the seeds that both have (see the head of this module); None where they share none."""
    seeds = tuple(sorted(row.keys() & base.keys()))
    if not seeds:
        return None
    ours, theirs = (np.array([_scores(runs[seed], metric) for seed in seeds]) for runs in (row, base))
    apart = Estimate.over((ours - theirs).mean(0))
    low, high, p = math.nan, math.nan, 1.0  # where no user differs there is nothing to test
    if not np.array_equal(ours.mean(0), theirs.mean(0)):
        test = stats.ttest_rel(ours.mean(0), theirs.mean(0))
        interval = test.confidence_interval(0.95)
        low, high, p = float(interval.low), float(interval.high), float(test.pvalue)
    ahead = int((ours.mean(1) > theirs.mean(1)).sum())
    share = apart.mean / float(theirs.mean()) if theirs.any() else math.nan
    return Difference(apart.mean, apart.error, low, high, p, p, seeds, ahead, share)


def summarise(rows: Mapping[str, Mapping[int, Run]], *, bases: Mapping[str, str], cold: np.ndarray) -> list[RowFigures]:
    """Work out every row that has a finished run; `bases` says against which row one is tested, where it is, and `cold`
    [users] whose target is cold.

    Raises ReportError where runs were not asked the same questions.
    """
    found = {label: dict(sorted(runs.items())) for label, runs in rows.items() if runs}
    every = [run for runs in found.values() for run in runs.values()]
    for run in every[1:]:
        check_comparable(run, every[0])
    figures = [_row(label, runs, cold) for label, runs in found.items()]
    for metric in TESTED:
        rivals = {
            row.label: difference(row.runs, found.get(bases[row.label], {}), metric)
            for row in figures
            if row.label in bases
        }
        tested = {label: apart for label, apart in rivals.items() if apart is not None}
        corrected = dict(zip(tested, holm([apart.p for apart in tested.values()]), strict=True))
        figures = [
            replace(row, against={**row.against, metric: replace(tested[row.label], p_holm=corrected[row.label])})
            if row.label in tested
            else row
            for row in figures
        ]
    return figures


def cold_users(dataset: Dataset, *, length: int, fewer_than: int) -> np.ndarray:
    """Say for every user whether the test target occurs in fewer than so many training events: bool [users]."""
    split = LeaveTwoOut(dataset.offsets, dataset.items, num_items=dataset.num_items, length=length)
    return split.item_counts()[split.questions("test").targets] < fewer_than


def _row(label: str, runs: Mapping[int, Run], cold: np.ndarray) -> RowFigures:
    def spread(figure: Callable[[Run], float]) -> Spread:
        return Spread({seed: float(figure(run)) for seed, run in runs.items()})

    streams = [head for head in next(iter(runs.values())).result["test"] if head != ENSEMBLE]
    return RowFigures(
        label,
        runs,
        metrics={metric: spread(lambda run, metric=metric: _scores(run, metric).mean()) for metric in METRICS},
        valid=spread(lambda run: run.result["valid"][ENSEMBLE][SELECTED_BY]),
        cold=spread(lambda run: _scores(run, "HR@10")[cold[run.users]].mean()) if cold.any() else None,
        streams={head: spread(lambda run, head=head: run.result["test"][head][SELECTED_BY]) for head in streams},
        alike=spread(lambda run: _alike(run, streams)) if len(streams) > 1 and _has(runs, streams) else None,
        over_users=Estimate.over(np.mean([_scores(run, SELECTED_BY) for run in runs.values()], axis=0)),
        against={},
    )


def _has(runs: Mapping[int, Run], streams: Sequence[str]) -> bool:
    """Say whether the ranks of all streams are there, which runs that were kept by an older version lack."""
    return all(head in run.ranks for run in runs.values() for head in streams)


def _alike(run: Run, streams: Sequence[str]) -> float:
    hits = [per_user("HR@10", run.ranks[head]) for head in streams]
    pairs = [(one, other) for one, other in combinations(hits, 2) if one.std() and other.std()]
    return float(np.mean([np.corrcoef(one, other)[0, 1] for one, other in pairs])) if pairs else math.nan


def _scores(run: Run, metric: str) -> np.ndarray:
    return per_user(metric, run.ranks[ENSEMBLE])

"""The figures of a suite, checked by hand, against scipy, and for not depending on the order of anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from experiments.studies.figures import RowFigures, cold_users, difference, holm, summarise
from experiments.studies.finished import ReportError, Run, per_user
from experiments.studies.forest import Mark, Panel, draw, ticks
from odmt.data.format import write_dataset
from odmt.evaluate import metrics

USERS = 400
NOBODY = np.zeros(USERS, dtype=bool)


def run(ranks: np.ndarray, *, label: str = "a run", length: str = "10") -> Run:
    """Make up a run as it is read from its folder."""
    every = {"id": ranks + 1, "ensemble": ranks, "most-popular": ranks + 7}
    scored = {head: metrics(values.astype(np.float32)) for head, values in every.items()}
    result = {"dataset": "made up", "valid": scored, "test": scored}
    return Run(label, result, {"data.length": length}, {}, np.arange(USERS), every)


def rows(seed: int = 0) -> dict[str, dict[int, Run]]:
    rng = np.random.default_rng(seed)
    return {
        label: {number: run(1.0 + rng.geometric(chance, USERS)) for number in (1, 2, 3)}
        for label, chance in (("base", 0.08), ("better", 0.12), ("like", 0.08), ("worse", 0.05))
    }


def figures(given: Mapping[str, Mapping[int, Run]], cold: np.ndarray = NOBODY) -> dict[str, RowFigures]:
    bases = dict.fromkeys(given.keys() - {"base"}, "base")
    return {row.label: row for row in summarise(given, bases=bases, cold=cold)}


def test_holm_gives_known_values() -> None:
    # R: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm"), and a textbook example out of order
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_does_not_depend_on_the_order() -> None:
    values = [0.04, 0.01, 0.01, 0.3]
    expected = dict(zip(values, holm(values), strict=True))
    for order in permutations(values):
        assert holm(list(order)) == [expected[value] for value in order]


def test_means_and_deviations_over_seeds() -> None:
    given = rows()
    found = figures(given)["better"]
    each = [given["better"][seed].result["test"]["ensemble"]["NDCG@10"] for seed in (1, 2, 3)]
    mean = sum(each) / 3
    assert found.metrics["NDCG@10"].mean == pytest.approx(mean)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in each) / 2)
    assert found.metrics["NDCG@10"].deviation == pytest.approx(deviation)
    assert found.streams["id"].by_seed[2] == given["better"][2].result["test"]["id"]["NDCG@10"]
    one = figures({"base": {1: given["base"][1]}})["base"]
    assert math.isnan(one.metrics["NDCG@10"].deviation)


def test_streams_are_alike_where_they_please_the_same_users() -> None:
    def alike(**every: list[int]) -> float | None:
        ranks = {head: np.array(values, dtype=float) for head, values in every.items()}
        scored = {head: metrics(values.astype(np.float32)) for head, values in ranks.items()}
        result = {"dataset": "made up", "valid": scored, "test": scored}
        users = np.arange(len(ranks["ensemble"]))
        one = Run("a run", result, {}, {}, users, ranks)
        (row,) = summarise({"base": {1: one}}, bases={}, cold=np.zeros(len(users), dtype=bool))
        return row.alike and row.alike.mean

    ids = [1, 30, 2, 30, 5, 30, 9, 30]
    assert alike(id=ids, text=[3, 40, 1, 99, 10, 11, 8, 12], ensemble=ids) == pytest.approx(1)
    assert alike(id=ids, text=ids[::-1], ensemble=ids) == pytest.approx(-1)
    assert alike(id=ids, text=[1, 1, 30, 30] * 2, ensemble=ids) == pytest.approx(0)
    three = alike(id=ids, text=ids, image=ids[::-1], ensemble=ids)
    assert three == pytest.approx((1 - 1 - 1) / 3)
    assert alike(id=ids, ensemble=ids) is None
    assert math.isnan(alike(id=ids, text=[30] * 8, ensemble=ids) or 0.0)


@pytest.mark.parametrize("metric", ["NDCG@10", "HR@10"])
def test_the_paired_test_is_scipys_over_users(metric: str) -> None:
    given = rows()
    found = figures(given)
    raw = {}
    for label in ("better", "like", "worse"):
        apart = np.mean(
            [
                per_user(metric, given[label][seed].ranks["ensemble"])
                - per_user(metric, given["base"][seed].ranks["ensemble"])
                for seed in (1, 2, 3)
            ],
            axis=0,
        )
        against = found[label].against[metric]
        error = apart.std(ddof=1) / math.sqrt(USERS)
        raw[label] = 2 * stats.t.sf(abs(apart.mean() / error), USERS - 1)
        assert (against.mean, against.error) == pytest.approx((apart.mean(), error))
        assert against.p == pytest.approx(raw[label])
        assert against.p == pytest.approx(stats.ttest_1samp(apart, 0).pvalue)
        reach = stats.t.ppf(0.975, USERS - 1) * error
        assert (against.low, against.high) == pytest.approx((apart.mean() - reach, apart.mean() + reach))
        theirs = np.mean([run.result["test"]["ensemble"][metric] for run in given["base"].values()])
        assert against.share == pytest.approx(apart.mean() / theirs, rel=1e-5)
    assert [found[label].against[metric].p_holm for label in raw] == pytest.approx(holm(list(raw.values())))
    assert found["better"].against[metric].p_holm < 0.01
    assert found["better"].against[metric].ahead == 3
    assert found["worse"].against[metric].ahead == 0
    assert found["base"].against == {}


def test_nothing_depends_on_the_order_of_rows_and_seeds() -> None:
    given = rows()
    turned = {label: dict(reversed(runs.items())) for label, runs in reversed(given.items())}
    before, after = figures(given), figures(turned)
    for label, row in before.items():
        assert row.against == after[label].against
        assert row.metrics == after[label].metrics


def test_rows_with_bases_of_their_own_are_corrected_together() -> None:
    given = rows()
    bases = {"better": "like", "like": "base", "worse": "like"}
    found = {row.label: row.against for row in summarise(given, bases=bases, cold=NOBODY)}
    assert found["base"] == {}
    expected = {row: difference(given[row], given[base], "HR@10") for row, base in bases.items()}
    corrected = holm([apart.p for apart in expected.values() if apart])
    for (row, apart), p in zip(expected.items(), corrected, strict=True):
        assert apart is not None
        assert found[row]["HR@10"] == replace(apart, p_holm=p)


def test_only_the_seeds_of_both_are_compared() -> None:
    given = rows()
    del given["base"][3]
    assert figures(given)["better"].against["HR@10"].seeds == (1, 2)
    given["base"] = {9: given["base"][1]}
    assert figures(given)["better"].against == {}
    del given["base"]
    assert figures(given)["better"].against == {}


def test_a_row_equal_to_the_base_is_no_finding() -> None:
    given = rows()
    given["like"] = given["base"]
    against = figures(given)["like"].against["NDCG@10"]
    assert (against.mean, against.p, against.p_holm, against.ahead) == (0.0, 1.0, 1.0, 0)


def test_cold_targets_are_scored_apart() -> None:
    ranks = np.full(USERS, 50.0)
    ranks[:10] = 1.0
    cold = np.zeros(USERS, dtype=bool)
    cold[5:25] = True
    found = figures({"base": {1: run(ranks)}}, cold)["base"].cold
    assert found is not None
    assert found.mean == 5 / 20
    assert figures({"base": {1: run(ranks)}})["base"].cold is None


def test_cold_is_counted_in_training_events_alone(tmp_path: Path) -> None:
    # item 1 trains 4 times, item 2 twice, item 3 never: it is the targets of validation and test only
    histories = [("a", [1, 1, 2, 3, 1], None), ("b", [1, 1, 2, 3, 2], None), ("c", [4, 4, 4, 3, 3], None)]
    items = {"id": list("wxyz")}
    dataset = write_dataset(
        tmp_path / "d", name="d", histories=histories, items=items, tie_rule="none", made_by="tests"
    )
    assert cold_users(dataset, length=10, fewer_than=3).tolist() == [False, True, True]
    assert cold_users(dataset, length=10, fewer_than=1).tolist() == [False, False, True]
    assert not cold_users(dataset, length=10, fewer_than=0).any()


def test_runs_of_other_questions_are_refused() -> None:
    given = rows()
    given["like"][2] = run(np.ones(USERS), label="like (seed 2)", length="12")
    with pytest.raises(ReportError, match=r"like \(seed 2\) and a run differ in data.length, 12 and 10"):
        figures(given)


def test_the_plot_stands_where_the_numbers_are() -> None:
    marks = [Mark(0.0, -1.0, 1.0, (-0.5, 0.5)), None, Mark(2.0, math.nan, math.nan)]
    svg = draw(["a & b", "", "c"], [Panel("left", marks, zero=True), Panel("right", [None] * 3)])
    assert "a &amp; b" in svg
    assert "right: nothing yet" in svg
    assert svg.count('class="mean"') == 2
    assert svg.count('class="whisker"') == 1
    assert svg.count('class="seed"') == 2
    drawn = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}circle")
    zero, lower, upper, two = (float(circle.attrib["cx"]) for circle in drawn)
    assert upper - lower == pytest.approx((two - zero) / 2, abs=0.11)  # 1 apart, and 2; written with one decimal
    assert zero == pytest.approx((lower + upper) / 2, abs=0.11)


def test_ticks_are_round() -> None:
    assert ticks(0.0, 1.0) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(0.0412, 0.0468) == pytest.approx([0.042, 0.044, 0.046])
    assert ticks(-0.003, 0.0021) == pytest.approx([-0.002, 0.0, 0.002])

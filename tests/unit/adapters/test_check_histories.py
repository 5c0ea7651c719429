"""The content check counts histories as counting them one by one does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_adapters import check_histories
from data_adapters.check_histories import HistoryFacts, walk
from data_adapters.check_page import _bars
from odmt.data.format import write_dataset
from odmt.data.splits import LeaveTwoOut
from odmt.settings import DataConfig

ROWS = st.lists(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=7), min_size=1, max_size=8
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, chunk=st.sampled_from([1, 3, 1000]), length=st.sampled_from([1, 2, 10]))
def test_counts_are_those_of_counting_one_by_one(
    rows: list[list[tuple[int, int]]], chunk: int, length: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [[(item, time) for time, item in sorted((time, item) for item, time in row)] for row in rows]
    histories = [(str(user), [item for item, _ in row], [time for _, time in row]) for user, row in enumerate(rows)]
    dataset = write_dataset(
        tmp_path / "any", name="any", histories=histories, items={"id": list("abcd")}, tie_rule="any", overwrite=True
    )
    monkeypatch.setattr(check_histories, "CHUNK", chunk)
    facts = walk(dataset, length=length)
    trained = [item for row in rows for item, _ in row[-(length + 3) : -2]]
    before = [[row[n][0] in [item for item, _ in row[:n]] for n in range(len(row))] for row in rows]
    assert facts.repeats == sum(map(sum, before))
    assert facts.repeaters == sum(map(any, before))
    assert facts.exact == sum(len(row) - len(set(row)) for row in rows)
    assert facts.tied_test == sum(len(row) > 1 and row[-1][1] == row[-2][1] for row in rows)
    assert facts.tied_valid == sum(len(row) > 2 and row[-2][1] == row[-3][1] for row in rows)
    assert facts.cold_tests == sum(row[-1][0] not in trained for row in rows)
    assert facts.trained.tolist() == [trained.count(n) for n in range(5)]
    assert facts.counts.tolist() == [sum(item == n for row in rows for item, _ in row) for n in range(5)]
    assert (facts.first_time, facts.last_time) == (
        min(t for r in rows for _, t in r),
        max(t for r in rows for _, t in r),
    )
    assert facts.backwards == 0


@pytest.mark.parametrize("length", [None, 3, 50])
def test_items_are_cold_where_training_has_no_event_of_them(length: int | None, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [(str(user), rng.integers(1, 400, rng.integers(4, 60)).tolist(), None) for user in range(40)]
    items = {"id": [str(n) for n in range(1, 400)]}
    dataset = write_dataset(tmp_path / "any", name="any", histories=rows, items=items, tie_rule="any")
    facts = walk(dataset) if length is None else walk(dataset, length=length)
    split = LeaveTwoOut(
        dataset.offsets, dataset.items, num_items=399, length=DataConfig().length if length is None else length
    )
    assert facts.trained.tolist() == split.item_counts().tolist()
    assert facts.cold_tests == sum(facts.trained[split.questions("test").targets] == 0) > 0


def test_bars_hold_every_user() -> None:
    rng = np.random.default_rng(0)
    lengths = np.bincount(rng.geometric(0.02, 5000) + 4, minlength=check_histories.LONGEST + 1)
    bars = _bars(lengths)
    assert sum(count for _, count in bars) == 5000
    assert bars[0][0].startswith("5")
    assert len(bars) <= 42
    facts = HistoryFacts(lengths, np.zeros(1), np.zeros(1))
    assert facts.quantile(0) == 5

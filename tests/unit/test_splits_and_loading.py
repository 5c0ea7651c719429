"""Leave-two-out by hand, and batches that hold each item once."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odmt import ItemFeatures, LeaveTwoOut, make_batch
from odmt.data.loading import UserBatches, training_loader

EVENTS = [[1, 2, 3, 4, 5], [6, 7, 1, 2, 3, 4, 5, 8, 9], [5, 5, 1, 5]]


@pytest.fixture
def split() -> LeaveTwoOut:
    offsets = np.cumsum([0, *map(len, EVENTS)])
    return LeaveTwoOut(offsets, np.concatenate(EVENTS), num_items=9, length=3)  # histories are cut to 6 events


def test_training_validation_and_test_by_hand(split: LeaveTwoOut) -> None:
    users = np.arange(3)
    assert split.training(users).tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [0, 0, 5, 5]]
    valid, test = split.questions("valid"), split.questions("test")
    assert valid.targets.tolist() == [4, 8, 1]
    assert valid.histories.tolist() == [[1, 2, 3], [3, 4, 5], [0, 5, 5]]
    assert valid.seen.tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [0, 0, 5, 5]]
    assert test.targets.tolist() == [5, 9, 5]
    assert test.histories.tolist() == [[2, 3, 4], [4, 5, 8], [5, 5, 1]]
    assert split.questions("test", np.array([2])).targets.tolist() == [5]


def test_popularity_counts_training_events_alone(split: LeaveTwoOut) -> None:
    assert split.item_counts().tolist() == [0, 1, 2, 2, 1, 3, 0, 0, 0, 0]


def test_a_user_too_short_to_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a user has 3 events.*at least 4.*--min-events 5"):
        LeaveTwoOut(np.array([0, 5, 8]), np.arange(1, 9), num_items=8, length=10)


def test_an_item_beyond_the_catalogue_is_named() -> None:
    split = LeaveTwoOut(np.array([0, 5]), np.array([1, 9, 2, 3, 4]), num_items=4, length=10)
    with pytest.raises(ValueError, match=r"item 9 occurs in a history, but items are 1\.\.4"):
        split.item_counts()


@given(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=7), min_size=1, max_size=6))
@settings(deadline=None, max_examples=50)
def test_a_batch_gives_back_its_histories_and_counts(sequences: list[list[int]]) -> None:
    histories = np.array([[0] * (9 - len(s)) + s for s in sequences])
    lengths = np.random.default_rng(0).integers(0, 4, size=13)
    text = [np.full((lengths[item], 2), item, dtype="float32") for item in range(1, 13)]
    features = ItemFeatures.from_arrays(12, text=text)
    batch = make_batch(histories, features, ("text",))
    longest = max(map(len, sequences))
    assert batch.mask.shape == (len(sequences), longest)
    restored = np.where(batch.mask, batch.items[batch.histories], 0)
    np.testing.assert_array_equal(restored, histories[:, -longest:])
    flat = [item for s in sequences for item in s]
    assert batch.items.tolist() == sorted(set(flat), key=lambda item: (lengths[item], item))
    assert batch.counts.tolist() == [flat.count(item) for item in batch.items.tolist()]
    np.testing.assert_array_equal(batch.content["text"].mask.sum(1), lengths[batch.items])
    first = batch.content["text"].values[:, 0, 0]
    np.testing.assert_array_equal(first, np.where(lengths[batch.items] > 0, batch.items, 0))


def test_a_batch_without_any_event_or_with_gaps_is_refused() -> None:
    for histories in (np.zeros((2, 3), np.int64), np.zeros((0, 3), np.int64)):
        with pytest.raises(ValueError, match=r"none of \d histories has an event"):
            make_batch(histories, ItemFeatures.from_arrays(6))
    with pytest.raises(ValueError, match=r"history 1 has padding behind an event: \[3, 0\]; put the zeros in front"):
        make_batch(np.array([[0, 4], [3, 0]]), ItemFeatures.from_arrays(6))


@pytest.mark.parametrize(
    ("histories", "told"),
    [
        (
            np.array([[0.0, 4.0]]),
            r"histories are float64 \[1, 2\]; pass numbers of items as integers \[users",
        ),
        (np.array([[False, True]]), r"histories are bool \[1, 2\]"),
        (torch.tensor([[0.0, 4.0]]), r"histories are float32 \[1, 2\]"),
        ([3, 4], r"histories are int64 \[2\]"),
        ([[3], [4, 5]], r"histories are no array \(.*inhomogeneous.*\); pass numbers of items .*left-padded with 0"),
        ([[3, "a"]], r"histories are <U\d+ \[1, 2\]"),
        ([[0, -1, 4]], r"histories hold item -1; items are 1\.\.6, and 0 is padding"),
        ([[0, 4, 7]], r"histories hold item 7"),
    ],
)
def test_a_batch_is_made_of_padded_numbers_of_items(histories: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make_batch(histories, ItemFeatures.from_arrays(6))


@pytest.mark.parametrize(
    "histories",
    [[[0, 4], [3, 4]], torch.tensor([[0, 4], [3, 4]]), *(np.array([[0, 4], [3, 4]], t) for t in ("u1", "i2", "u8"))],
)
def test_a_batch_is_made_of_integers_of_any_kind(histories: Any) -> None:
    batch = make_batch(histories, ItemFeatures.from_arrays(6))
    assert torch.where(batch.mask, batch.items[batch.histories], 0).tolist() == [[0, 4], [3, 4]]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_same_global_batches(world: int) -> None:
    alone = list(UserBatches(23, 7, seed=5))
    shares = [list(UserBatches(23, 7, seed=5, rank=rank, world=world)) for rank in range(world)]
    merged = [sorted(chain(*parts)) for parts in zip(*shares, strict=True)]
    if world < 3:
        assert merged == [sorted(batch) for batch in alone]
    assert sorted(chain(*merged)) == list(range(23))
    assert all(batch for share in shares for batch in share)
    assert all(len(UserBatches(23, 7, seed=5, rank=r, world=world)) == len(shares[0]) for r in range(world))


def test_epochs_differ_and_come_back(split: LeaveTwoOut) -> None:
    batches = UserBatches(100, 10, seed=1)
    first = list(batches)
    batches.epoch = 1
    assert list(batches) != first
    batches.epoch = 0
    assert list(batches) == first
    assert list(UserBatches(100, 10, seed=2)) != first
    with pytest.raises(ValueError, match="batch_size=2 is smaller than the 3 processes"):
        UserBatches(10, 2, seed=1, world=3)


def test_workers_load_what_the_process_itself_loads(split: LeaveTwoOut) -> None:
    features = ItemFeatures.from_arrays(9, text=np.ones((9, 2, 3), dtype="float32"))
    loaded = []
    for workers in (0, 1):
        loader = training_loader(split, features, ("text",), UserBatches(3, 2, seed=0), workers=workers)
        loaded.append([(b.items.tolist(), b.histories.tolist(), b.content["text"].values.tolist()) for b in loader])
    assert loaded[0] == loaded[1]
    assert len(loaded[0]) == 2

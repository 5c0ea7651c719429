"""Ranks against a sort, metrics by hand, and what evaluation must not depend on."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odmt import ODMT, ItemFeatures, LeaveTwoOut, metrics, ranks
from odmt.evaluate import mask_seen, popularity_ranks, rank_targets, top_items
from odmt.types import Questions


@given(st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=5), st.data())
@settings(deadline=None, max_examples=60)
def test_rank_is_the_average_position_in_a_sorted_list(rows: list[list[int]], data: st.DataObject) -> None:
    targets = [data.draw(st.integers(0, 5)) for _ in rows]
    found = rank_targets(torch.tensor(rows, dtype=torch.float32), torch.tensor(targets))
    for row, target, rank in zip(rows, targets, found.tolist(), strict=True):
        positions = [1 + i for i, score in enumerate(sorted(row, reverse=True)) if score == row[target]]
        assert rank == pytest.approx(sum(positions) / len(positions))


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_what_is_seen_is_left_out_as_if_it_were_masked(data: st.DataObject) -> None:
    score = st.sampled_from([-1.0, 0.0, 0.5, 2.0, math.nan])
    users = data.draw(st.integers(1, 4))
    scores = torch.tensor([[data.draw(score) for _ in range(7)] for _ in range(users)])
    targets = torch.tensor([data.draw(st.integers(1, 6)) for _ in range(users)])
    seen = torch.tensor([[data.draw(st.integers(0, 6)) for _ in range(4)] for _ in range(users)])
    for repeats in ("rank", "miss"):
        masked = mask_seen(scores, seen, targets, repeats=repeats)
        hit = repeats == "miss"
        for row, rank in enumerate(rank_targets(scores, targets, seen, repeats=repeats).tolist()):
            if scores[row, targets[row]].isnan() and not (hit and targets[row] in seen[row]):
                assert rank > (masked[row] > -math.inf).sum()  # behind all that may be ranked
            elif not masked[row].isnan().any():
                assert rank == rank_targets(masked[row : row + 1], targets[row : row + 1]).item()


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_top_items_are_the_first_of_a_sorted_list_however_the_catalogue_is_cut(data: st.DataObject) -> None:
    users, items, k = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12)), data.draw(st.integers(1, 14))
    table = torch.tensor([[float(data.draw(st.integers(0, 3)))] for _ in range(items + 1)])
    state = torch.tensor([[float(data.draw(st.sampled_from([1, 2, -1])))] for _ in range(users)])
    seen = torch.tensor([[data.draw(st.integers(0, items)) for _ in range(3)] for _ in range(users)])
    for chunk in (1, 3, 100):
        scores, found = top_items({"id": state}, {"id": table}, seen, k=k, combine=lambda z: z["id"], chunk=chunk)
        for row in range(users):
            allowed = [i for i in range(1, items + 1) if i not in seen[row]]
            best = sorted(allowed, key=lambda i, row=row: (-(state[row] * table[i]).item(), i))[:k]
            assert found[row].tolist() == best + [0] * (k - len(best))
            assert scores[row, : len(best)].tolist() == [(state[row] * table[i]).item() for i in best]
            assert (scores[row, len(best) :] == -math.inf).all()


def test_metrics_by_hand() -> None:
    found = metrics(np.array([1.0, 3.0, 10.0, 11.0], dtype=np.float32))
    assert found["HR@5"] == 0.5
    assert found["HR@10"] == 0.75
    assert found["HR@20"] == 1.0
    assert found["NDCG@10"] == pytest.approx((1 + 1 / 2 + 1 / math.log2(11)) / 4)
    assert found["MRR"] == pytest.approx((1 + 1 / 3 + 1 / 10 + 1 / 11) / 4)


def test_a_model_that_scores_everything_alike_earns_chance() -> None:
    scores = torch.zeros(1, 101)
    target = torch.tensor([7])
    masked = mask_seen(scores, torch.tensor([[0]]), target)
    assert rank_targets(masked, target).item() == 50.5  # the middle of 100 items; padding is none


def test_a_model_that_broke_earns_nothing() -> None:
    for scores in (torch.full((1, 50), torch.nan), torch.tensor([[0.0, torch.nan, 5.0, torch.nan]])):
        rank = rank_targets(scores, torch.tensor([2]))
        assert rank.item() == (51 if scores.isnan().all() else 3)  # a NaN beside a good target counts against it
    assert metrics(np.array([51.0]))["HR@20"] == 0


def test_history_is_masked_but_a_repeated_target_is_ranked_unless_told() -> None:
    scores = torch.tensor([[9.0, 5.0, 4.0, 3.0, 2.0]])
    seen, target = torch.tensor([[1, 3, 0]]), torch.tensor([3])
    assert rank_targets(mask_seen(scores, seen, target), target).item() == 2  # only item 2 stands above
    strict = rank_targets(mask_seen(scores, seen, target, repeats="miss"), target)
    assert strict.item() > 2


@pytest.fixture
def trained() -> tuple[ODMT, LeaveTwoOut]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 12, size=53)
    items = rng.integers(1, 41, size=lengths.sum()).astype(np.int32)
    split = LeaveTwoOut(np.concatenate([[0], np.cumsum(lengths)]), items, num_items=40, length=6)
    features = ItemFeatures.from_arrays(40, text=rng.normal(size=(40, 3, 5)).astype("float32"))
    torch.manual_seed(0)
    return ODMT(features, dim=8, length=6), split


@pytest.mark.parametrize("part", ["valid", "test"])
def test_ranks_depend_neither_on_the_tile_nor_on_the_number_of_processes(
    trained: tuple[ODMT, LeaveTwoOut], part: str
) -> None:
    model, split = trained
    tables = model.encode_catalogue()
    questions = split.questions(part)

    def evaluate(**how: int) -> dict[str, np.ndarray]:
        states = partial(model.states, tables=tables)
        return ranks(states, tables, questions, combine=model.ensemble, **how)

    whole = evaluate(tile=1000)
    assert list(whole) == ["id", "text", "ensemble"]
    for tile in (1, 7, 53):
        for head, found in evaluate(tile=tile).items():
            np.testing.assert_array_equal(found, whole[head])
    for world in (2, 3):
        shares = [evaluate(tile=7, rank=rank, world=world) for rank in range(world)]
        for head, found in evaluate(tile=7).items():
            np.testing.assert_array_equal(sum(share[head] for share in shares), found)


def test_ranks_equal_the_plain_way(trained: tuple[ODMT, LeaveTwoOut]) -> None:
    model, split = trained
    tables, questions = model.encode_catalogue(), split.questions("test")
    found = ranks(partial(model.states, tables=tables), tables, questions, combine=model.ensemble)
    for row, user in enumerate(questions.users):
        scores = model.ensemble(model.score(torch.from_numpy(questions.histories[row : row + 1]), tables))[0]
        events = split.items[split.starts[user] : split.stops[user]]
        target = events[-1]
        allowed = [i for i in range(1, 41) if i == target or i not in events[:-1]]
        better = sum(scores[i] > scores[target] for i in allowed)
        assert found["ensemble"][row] == 1 + better


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_popularity_ranks_as_a_model_that_scores_by_it_would(data: st.DataObject) -> None:
    counts = np.array([0, *(data.draw(st.integers(0, 3)) for _ in range(6))])
    users = data.draw(st.integers(1, 5))
    seen = np.array([[data.draw(st.integers(0, 6)) for _ in range(4)] for _ in range(users)])
    targets = np.array([data.draw(st.integers(1, 6)) for _ in range(users)])
    questions = Questions(np.arange(users), seen, seen, targets)
    for masks in (True, False):
        for repeats in ("rank", "miss"):
            expected = ranks(
                lambda histories: {"popular": torch.ones(len(histories), 1)},
                {"popular": torch.from_numpy(counts).float()[:, None]},
                questions,
                combine=lambda scores: scores["popular"],
                mask_history=masks,
                repeats=repeats,
            )["popular"]
            found = popularity_ranks(counts, questions, mask_history=masks, repeats=repeats, tile=2)
            np.testing.assert_array_equal(found, expected)


def test_popularity_needs_no_model(trained: tuple[ODMT, LeaveTwoOut]) -> None:
    _, split = trained
    counts, questions = split.item_counts(), split.questions("test")
    found = popularity_ranks(counts, questions)
    for row in range(5):
        target, seen = questions.targets[row], set(questions.seen[row].tolist())
        allowed = [i for i in range(1, 41) if i == target or i not in seen]
        higher = sum(counts[i] > counts[target] for i in allowed)
        ties = sum(counts[i] == counts[target] for i in allowed) - 1
        assert found[row] == 1 + higher + ties / 2

"""Weights of streams that make targets most likely: right ones are found, and worthless streams get none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from odmt import stacking
from odmt.ensembles import Fitted
from odmt.stacking import most_likely_weights
from odmt.types import Questions, Tensor

USERS, ITEMS = 4000, 40


def drawn(weights: list[float], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw scores of streams at random, and targets by the softmax of their weighted sum; give what they exceed the
    target's by, and which are not the target's own.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(weights), USERS, ITEMS, generator=generator)
    chance = torch.softmax(torch.einsum("s,suc->uc", torch.tensor(weights), scores), dim=1)
    target = torch.multinomial(chance, 1, generator=generator)
    behind = scores - scores.gather(2, target.expand(len(weights), -1, -1))
    return behind, torch.ones(USERS, ITEMS, dtype=torch.bool).scatter_(1, target, False)


def test_the_weights_that_made_the_targets_are_found() -> None:
    torch.testing.assert_close(
        most_likely_weights(*drawn([1.5, 0.5, 0.0])), torch.tensor([1.5, 0.5, 0.0]), atol=0.1, rtol=0.0
    )


def test_no_other_weights_make_the_targets_more_likely() -> None:
    behind, allowed = drawn([0.7, 1.1])
    weights = most_likely_weights(behind, allowed).double().requires_grad_()
    others = torch.einsum("s,suc->uc", weights, behind.double()).masked_fill(~allowed, -torch.inf)
    loss = torch.logsumexp(torch.cat([torch.zeros(USERS, 1), others], dim=1), dim=1).mean()
    (gradient,) = torch.autograd.grad(loss, weights)
    assert gradient.abs().max() < 1e-3  # what one event in all says against it
    for away in ([0.05, 0.0], [0.0, -0.05]):
        there = torch.einsum("s,suc->uc", weights + torch.tensor(away), behind.double()).masked_fill(~allowed, -1e9)
        assert torch.logsumexp(torch.cat([torch.zeros(USERS, 1), there], dim=1), dim=1).mean() > loss


def test_a_candidate_counts_for_as_many_items_as_it_stands_for() -> None:
    behind, allowed = drawn([1.0, 0.5])
    twice = most_likely_weights(torch.cat([behind, behind], 2), torch.cat([allowed, allowed], 1))
    torch.testing.assert_close(most_likely_weights(behind, allowed, times=2.0), twice, atol=1e-5, rtol=0.0)


def test_streams_that_say_the_same_share_their_weight() -> None:
    behind, allowed = drawn([1.2])
    found = most_likely_weights(behind.repeat(2, 1, 1), allowed)
    torch.testing.assert_close(found, torch.tensor([0.6, 0.6]), atol=0.05, rtol=0.0)


def test_a_stream_that_says_nothing_does_no_harm() -> None:
    behind, allowed = drawn([1.2])
    found = most_likely_weights(torch.cat([behind, torch.zeros_like(behind)]), allowed)
    assert found[0] == pytest.approx(1.2, abs=0.05)
    assert found[1] == 0.5


def test_few_users_leave_weights_of_a_size_that_can_be_added() -> None:
    """Three users whose targets are all on top would have infinite weights."""
    behind = -torch.rand(2, 3, 4)
    assert most_likely_weights(behind, torch.ones(3, 4, dtype=torch.bool)).abs().max() < 100


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_numbers_are_refused(value: float) -> None:
    behind, allowed = drawn([1.0, 1.0])
    behind[1, 5, 3] = value
    with pytest.raises(FloatingPointError, match="scores of stream 2 of 2 are not finite; lower --train"):
        most_likely_weights(behind, allowed)


def test_users_and_candidates_are_spread_and_histories_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a larger catalogue, against arguments built plainly; what users have had would otherwise rank first."""
    monkeypatch.setattr(stacking, "USERS", 9)
    monkeypatch.setattr(stacking, "CANDIDATES", 5)
    monkeypatch.setattr(stacking, "TILE", 4)
    rng = np.random.default_rng(0)
    users, items = np.arange(0, 41, 5), [1, 5, 10, 15, 20]
    tables = {name: torch.from_numpy(rng.normal(size=(21, 3))).float() for name in ("one", "other")}
    histories = rng.choice(np.arange(1, 21), (41, 2))
    histories[:, 0] = np.resize(items, 41)
    targets = rng.integers(1, 21, 41)

    def states(given: Tensor) -> Mapping[str, Tensor]:
        return {name: 9 * table[given[:, 0]] for name, table in tables.items()}

    for mask_history in (True, False):
        behind, allowed = torch.zeros(2, 9, 5), torch.zeros(9, 5, dtype=torch.bool)
        for u, user in enumerate(users):
            for s, table in enumerate(tables.values()):
                state = 9 * table[histories[user, 0]]
                behind[s, u] = torch.stack([state @ table[item] - state @ table[targets[user]] for item in items])
            had = set(histories[user]) if mask_history else set()
            allowed[u] = torch.tensor([item != targets[user] and item not in had for item in items])
        found = stacking.stacked_weights(
            states, tables, Questions(np.arange(41), histories, histories, targets), mask_history=mask_history
        )
        torch.testing.assert_close(found, most_likely_weights(behind, allowed, times=4.0), rtol=1e-3, atol=1e-4)


def test_the_ensemble_listens_to_the_stream_that_knows_the_targets() -> None:
    """Users of item i go on with item i + 1, which one stream says; the other is louder, and speaks of older events."""
    torch.manual_seed(0)
    items, users = 6, 600
    one_hot, noise = torch.eye(items + 1), 5 * torch.randn(items + 1, items + 1)
    tables = {"knows": one_hot, "guesses": noise}

    def states(histories: Tensor) -> Mapping[str, Tensor]:
        older, newest = histories.unbind(1)
        return {"knows": one_hot[newest % items + 1], "guesses": noise[older]}

    rng = np.random.default_rng(0)
    histories = rng.integers(1, items + 1, (users, 2))
    follows = histories[:, 1] % items + 1
    targets = np.where(rng.random(users) < 0.9, follows, rng.integers(1, items + 1, users))
    ensemble = Fitted(("knows", "guesses"))
    scores = {name: state @ tables[name].T for name, state in states(torch.from_numpy(histories)).items()}
    torch.testing.assert_close(ensemble(scores), (scores["knows"] + scores["guesses"]) / 2)
    ensemble.fit(states, tables, Questions(np.arange(users), histories, np.zeros((users, 1), dtype=int), targets))
    known, guessed = ensemble.weights.tolist()
    assert known > 2
    assert abs(guessed) < 0.01
    assert (ensemble(scores)[:, 1:].argmax(1).numpy() + 1 == follows).mean() > 0.95

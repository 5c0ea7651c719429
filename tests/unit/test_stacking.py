"""Weights of streams that make targets most likely: right ones are found, and worthless streams get none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from odmt.ensembles import Fitted
from odmt.stacking import most_likely_weights
from odmt.types import Questions, Tensor

USERS, ITEMS = 4000, 40


def drawn(weights: list[float], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Draw scores of streams at random, and targets by the softmax of their weighted sum."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(weights), USERS, ITEMS, generator=generator)
    chance = torch.softmax(torch.einsum("s,suc->uc", torch.tensor(weights), scores), dim=1)
    target = torch.multinomial(chance, 1, generator=generator)
    own = scores.gather(2, target.expand(len(weights), -1, -1)).squeeze(2)
    return own, scores, torch.ones(USERS, ITEMS, dtype=torch.bool).scatter_(1, target, False)


def test_the_weights_that_made_the_targets_are_found() -> None:
    torch.testing.assert_close(
        most_likely_weights(*drawn([1.5, 0.5, 0.0])), torch.tensor([1.5, 0.5, 0.0]), atol=0.1, rtol=0.0
    )


def test_no_other_weights_make_the_targets_more_likely() -> None:
    own, scores, allowed = drawn([0.7, 1.1])
    weights = most_likely_weights(own, scores, allowed).double().requires_grad_()
    others = torch.einsum("s,suc->uc", weights, scores.double()).masked_fill(~allowed, -torch.inf)
    both = torch.cat([(weights @ own.double())[:, None], others], dim=1)
    loss = -torch.log_softmax(both, dim=1)[:, 0].mean()
    (gradient,) = torch.autograd.grad(loss, weights)
    assert gradient.abs().max() < 1e-5


def test_a_candidate_counts_for_as_many_items_as_it_stands_for() -> None:
    own, scores, allowed = drawn([1.0, 0.5])
    twice = most_likely_weights(own, torch.cat([scores, scores], 2), torch.cat([allowed, allowed], 1))
    torch.testing.assert_close(most_likely_weights(own, scores, allowed, times=2.0), twice, atol=1e-5, rtol=0.0)


def test_streams_that_say_the_same_share_their_weight() -> None:
    own, scores, allowed = drawn([1.2])
    found = most_likely_weights(own.repeat(2, 1), scores.repeat(2, 1, 1), allowed)
    torch.testing.assert_close(found, torch.tensor([0.6, 0.6]), atol=0.05, rtol=0.0)


def test_a_stream_that_says_nothing_does_no_harm() -> None:
    own, scores, allowed = drawn([1.2])
    silent = torch.zeros_like(own), torch.zeros_like(scores)
    found = most_likely_weights(torch.cat([own, silent[0]]), torch.cat([scores, silent[1]]), allowed)
    assert found[0] == pytest.approx(1.2, abs=0.05)
    assert found.isfinite().all()


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

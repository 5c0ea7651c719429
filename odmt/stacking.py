"""Weigh the streams' scores by what they are worth on events that nothing was trained on.

Streams remember the events that they were trained on, some far better than others, so that weights trained there
belong to the stream that remembers most. Targets of validation users are new to all of them (stacked generalisation,
Wolpert 1992, doi 10.1016/S0893-6080(05)80023-1).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from odmt.types import Bool, Float, Int, Questions, Streams, Tensor

__all__ = ["most_likely_weights", "stacked_weights"]

USERS, CANDIDATES = 4096, 4096
"""Most users whose targets are asked for, and most items that each is compared with: a few weights need no more."""
STEPS, RIDGE = 50, 1e-6


@torch.inference_mode()
def stacked_weights(
    states: Callable[[Int[Tensor, "users length"]], Streams], tables: Streams, questions: Questions
) -> Float[Tensor, " streams"]:
    """Find the weights of the streams' scores under which the targets of `questions` are most likely.

    states, tables: as of `odmt.evaluate.ranks`. Users and candidates are evenly spaced among those there are, so that
    the same questions give the same weights.
    """
    device = next(iter(tables.values())).device
    some = np.unique(np.linspace(0, len(questions.targets) - 1, USERS).astype(np.int64))
    num_items = len(next(iter(tables.values()))) - 1
    items = torch.linspace(1, num_items, min(num_items, CANDIDATES), dtype=torch.double).long().to(device)
    histories, seen, targets = (
        torch.from_numpy(np.asarray(array[some]).astype(np.int64)).to(device)
        for array in (questions.histories, questions.seen, questions.targets)
    )
    users = states(histories)
    scores = torch.stack([users[name] @ tables[name][items].T for name in tables])
    own = torch.stack([(users[name] * tables[name][targets]).sum(1) for name in tables])
    # an item of a user's own history is no candidate, and the target is one already
    out = torch.cat([seen, targets[:, None]], dim=1)
    left = torch.ones(len(some), num_items + 1, dtype=torch.bool, device=device).scatter_(1, out, False)[:, items]
    return most_likely_weights(own, scores, left, times=num_items / len(items))


def most_likely_weights(
    targets: Float[Tensor, "streams users"],
    others: Float[Tensor, "streams users candidates"],
    allowed: Bool[Tensor, "users candidates"],
    *,
    times: float = 1.0,
) -> Float[Tensor, " streams"]:
    """Maximise the likelihood of the targets among the candidates by softmax of the weighted sum of the streams'
    scores: a conditional logit, which is concave, by Newton's method in float64.

    others: scores of candidates, each of which stands for `times` items. A little of a ridge keeps apart streams that
    say the same.
    """
    streams = len(targets)
    weights = torch.full((streams,), 1.0 / streams, dtype=torch.double, device=targets.device)

    def at(weights: Tensor) -> tuple[Tensor, Tensor]:
        """Give the mean negative log-likelihood and every candidate's probability, the target's first."""
        w = weights.to(others.dtype)
        z = torch.einsum("s,suc->uc", w, others) + math.log(times)
        z = torch.cat([(w @ targets)[:, None], z.masked_fill_(~allowed, -torch.inf)], dim=1)
        log_p = torch.log_softmax(z, dim=1)
        return -log_p[:, 0].double().mean(), log_p.exp_()

    loss, p = at(weights)
    for _ in range(STEPS):
        mean = torch.einsum("uc,suc->su", p[:, 1:], others) + p[:, 0] * targets
        square = torch.einsum("uc,suc,tuc->st", p[:, 1:], others, others) + (p[:, 0] * targets) @ targets.T
        gradient = (mean - targets).double().mean(1)
        curvature = square.double() / len(p) - (mean @ mean.T).double() / len(p)
        ridge = RIDGE * curvature.diagonal().mean().clamp(min=1e-12) * torch.eye(streams, device=p.device)
        step = torch.linalg.solve(curvature + ridge, gradient)
        while True:
            tried, tried_p = at(weights - step)
            if tried <= loss or step.abs().max() < 1e-9:
                break
            step = step / 2
        better = loss - tried
        weights, loss, p = weights - step, tried, tried_p
        if better < 1e-9:
            break
    return weights.to(targets.dtype)

"""Weigh the streams' scores by what they are worth on events that nothing was trained on.

Streams remember the events that they were trained on, some far better than others, so that weights trained there
belong to the stream that remembers most. Targets of validation users are new to all of them (stacked generalisation,
Wolpert 1992, doi 10.1016/S0893-6080(05)80023-1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch

from odmt.types import Bool, Float, Int, Questions, Streams, Tensor

__all__ = ["most_likely_weights", "stacked_weights"]

USERS, CANDIDATES = 2048, 4096
"""Most users whose targets are asked for, and most items that each is compared with: a few weights need no more."""
TILE = 256
"""Users whose scores are held in float64 at once."""
STEPS, HALVINGS = 50, 30


@torch.inference_mode()
def stacked_weights(
    states: Callable[[Int[Tensor, "users length"]], Streams],
    tables: Streams,
    questions: Questions,
    *,
    mask_history: bool = True,
) -> Float[Tensor, " streams"]:
    """Find the weights of the streams' scores under which the targets of `questions` are most likely.

    states, tables, mask_history: as of `odmt.evaluate.ranks`. Users and candidates are evenly spaced among those there
    are, so that the same questions give the same weights.
    """
    device = next(iter(tables.values())).device
    some = np.unique(np.linspace(0, len(questions.targets) - 1, USERS).astype(np.int64))
    num_items = len(next(iter(tables.values()))) - 1
    items = torch.linspace(1, num_items, min(num_items, CANDIDATES), dtype=torch.double).long()
    behind, allowed = [], []
    for users in np.array_split(some, math.ceil(len(some) / TILE)):
        histories, seen, targets = (
            torch.from_numpy(np.asarray(array[users]).astype(np.int64))
            for array in (questions.histories, questions.seen, questions.targets)
        )
        read = states(histories.to(device))
        behind.append(
            torch.stack(
                [
                    (
                        read[name] @ table[items.to(device)].T - (read[name] * table[targets.to(device)]).sum(1, True)
                    ).cpu()
                    for name, table in tables.items()
                ]
            )
        )
        # the target is no other candidate, and neither is what the user has had
        out = torch.cat([seen, targets[:, None]], dim=1) if mask_history else targets[:, None]
        left = torch.ones(len(users), num_items + 1, dtype=torch.bool)
        allowed.append(left.scatter_(1, out, False)[:, items])
    weights = most_likely_weights(torch.cat(behind, 1), torch.cat(allowed), times=num_items / len(items))
    return weights.to(device, next(iter(tables.values())).dtype)


def most_likely_weights(
    behind: Float[Tensor, "streams users candidates"],
    allowed: Bool[Tensor, "users candidates"],
    *,
    times: float = 1.0,
) -> Float[Tensor, " streams"]:
    """Maximise the likelihood of the targets by a softmax of the weighted sum of the streams' scores: a conditional
    logit, which is concave, by Newton's method in float64.

    behind: by how much a candidate's score exceeds that of its user's target; each stands for `times` items.

    One event in all speaks for the mean of the streams, so that weights stay finite where few users, or streams that
    say the same, would leave them free. Raises `FloatingPointError` where scores are not finite.
    """
    streams, users = behind.shape[:2]
    if broken := [number for number in range(streams) if not behind[number].isfinite().all()]:
        raise FloatingPointError(
            f"the scores of stream {broken[0] + 1} of {streams} are not finite; lower --train.lr or --train.clip, "
            "raise --train.warmup-steps, or train without --train.bf16"
        )
    mean = torch.full((streams,), 1.0 / streams, dtype=torch.double)
    weights = mean.clone()
    loss, gradient, curvature = _moments(behind, allowed, weights, times)
    spread = curvature.diagonal()
    prior = torch.where(spread > 0, spread, 1.0) / users
    for _ in range(STEPS):
        step = torch.linalg.solve(curvature + prior.diag(), gradient + prior * (weights - mean))
        for _ in range(HALVINGS):
            tried = weights - step
            found = _moments(behind, allowed, tried, times)
            better = _penalised(loss, weights - mean, prior) - _penalised(found[0], tried - mean, prior)
            if better >= 0:
                break
            step = step / 2
        else:
            break
        weights, (loss, gradient, curvature) = tried, found
        if better < 1e-10:
            break
    return weights.to(behind.dtype)


def _penalised(loss: Tensor, away: Tensor, prior: Tensor) -> float:
    return float(loss + 0.5 * (prior * away**2).sum())


def _moments(behind: Tensor, allowed: Tensor, weights: Tensor, times: float) -> tuple[Tensor, Tensor, Tensor]:
    """Give the mean negative log-likelihood, its gradient [streams], and its second derivative [streams, streams]."""
    users = behind.shape[1]
    loss, gradient = weights.new_zeros(()), torch.zeros_like(weights)
    curvature = weights.new_zeros(len(weights), len(weights))
    for x, left in _tiles(behind, allowed):
        z = (torch.einsum("s,suc->uc", weights, x) + math.log(times)).masked_fill(~left, -torch.inf)
        # the target's own score is 0
        total = torch.logsumexp(torch.cat([torch.zeros_like(z[:, :1]), z], dim=1), dim=1)
        p = (z - total[:, None]).exp()
        weighed = p * x
        mean = weighed.sum(2)
        loss += total.sum() / users
        gradient += mean.sum(1) / users
        curvature += (weighed.flatten(1) @ x.flatten(1).T - mean @ mean.T) / users
    return loss, gradient, curvature


def _tiles(behind: Tensor, allowed: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, behind.shape[1], TILE):
        yield behind[:, start : start + TILE].double(), allowed[start : start + TILE]

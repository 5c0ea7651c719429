"""Next-item ranking losses, for `model.loss`: softmax over the batch's items, over the catalogue, over drawn items, and
the binary cross entropy.

Candidates come once each, with the logarithm of their multiplicity: m. The ODMT release takes all batch*(length+1)
positions as candidates, subtracts log p(c) from their logits, and for a row of user b drops every candidate that
occurs in b's own sequence except the target's own position. A repeated candidate adds the same term to the softmax's
sum as often as it occurs, so that each distinct item once, with m = log count, or 0 for the target, or -inf for b's
other items, gives the same loss and gradients: loss = logsumexp_c(z_c + m_c) - z_target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from odmt.types import Batch, Bool, Float, Int, Tensor

__all__ = [
    "GBCE",
    "FullSoftmax",
    "InBatch",
    "LogWeights",
    "RankingLoss",
    "Rows",
    "SampledSoftmax",
    "candidate_logits",
    "draw_shares",
    "some_of",
]


LogWeights = Callable[[slice], Tensor]
"""Gives m of some rows, [rows, candidates]: a row of all candidates is long, and few are needed at once."""


@dataclass(frozen=True)
class Rows:
    """Hold what is predicted, and by whom: one row per prediction.

    users: which of the batch's users, [rows]; targets: [rows], own: [users, candidates], which of the candidates occur
    in the user's own sequence; both index the batch's items.
    """

    users: Int[Tensor, " rows"]
    targets: Int[Tensor, " rows"]
    own: Bool[Tensor, "users candidates"]

    @classmethod
    def of(
        cls,
        histories: Int[Tensor, "users length"],
        mask: Bool[Tensor, "users length"],
        predicted: Bool[Tensor, "users length"],
        num_items: int,
    ) -> Rows:
        """Take the events in `predicted` as targets, row by row in the order of users and time.

        Raises ValueError where there are none.
        """
        padding = histories.masked_fill(~mask, num_items)  # goes to a column of its own, cut off here
        own = torch.zeros(len(histories), num_items + 1, dtype=torch.bool, device=mask.device)
        own.scatter_(1, padding, True)
        users = torch.arange(len(histories), device=mask.device)[:, None].expand_as(predicted)[predicted]
        return cls(users, some_of(histories, predicted), own[:, :-1])


class RankingLoss(Protocol):
    """Compare the target's logit with those of a batch's candidates.

    draws: how many items the loader draws for a batch, to be candidates beside those in it.
    draw_popularity: items are drawn in proportion to their share of training events to this power.
    is_softmax: whether it is the cross entropy of the logits plus m, which need not be held at once then.
    """

    draws: int
    draw_popularity: float
    is_softmax: bool

    def correction(self, log_popularity: Float[Tensor, " candidates"]) -> Float[Tensor, " candidates"] | None:
        """Give what is subtracted from every candidate's logit, in the ranking loss and in what is distilled."""
        ...

    def log_weights(
        self, batch: Batch, rows: Rows, log_share: Float[Tensor, " candidates"], *, dtype: torch.dtype
    ) -> LogWeights:
        """Give m, how often a candidate counts for a row, for some rows or all; log_share: log of the chance to be
        drawn.
        """
        ...

    def __call__(
        self,
        logits: Float[Tensor, "rows candidates"],
        targets: Int[Tensor, " rows"],
        log_weights: Float[Tensor, "rows candidates"],
    ) -> Float[Tensor, ""]:
        """Average the loss over rows."""
        ...


class _Softmax:
    """Average the cross entropy of the logits plus m: loss = logsumexp_c(z_c + m_c) - z_target."""

    is_softmax = True

    def __call__(
        self,
        logits: Float[Tensor, "rows candidates"],
        targets: Int[Tensor, " rows"],
        log_weights: Float[Tensor, "rows candidates"],
    ) -> Float[Tensor, ""]:
        positive = logits.gather(1, targets[:, None]).squeeze(1)
        return (torch.logsumexp(logits + log_weights, dim=1) - positive).mean()


class InBatch(_Softmax):
    """Take the items of the batch as candidates, corrected for how often they turn up there: z = u . v - log p (logQ
    correction, arXiv 2308.04067).

    popularity: strength of that correction; 1 is the release's, 0 none.
    """

    draws = 0
    draw_popularity = 0.0

    def __init__(self, *, popularity: float = 1.0) -> None:
        if not 0 <= popularity < float("inf"):
            raise ValueError(f"popularity={popularity} is out of range; it is finite and at least 0")
        self.popularity = popularity

    def correction(self, log_popularity: Float[Tensor, " candidates"]) -> Float[Tensor, " candidates"] | None:
        return self.popularity * log_popularity if self.popularity else None

    def log_weights(
        self, batch: Batch, rows: Rows, log_share: Float[Tensor, " candidates"], *, dtype: torch.dtype
    ) -> LogWeights:
        per_user = batch.counts.to(dtype).log().masked_fill(rows.own, -torch.inf)
        return lambda some: per_user[rows.users[some]].scatter_(1, rows.targets[some, None], 0.0)


class SampledSoftmax(_Softmax):
    """Estimate the softmax over the catalogue from items drawn once for the batch, each weighed by the inverse of how
    often it is drawn on average (importance sampling, Bengio and Senecal 2008, doi 10.1109/TNN.2007.912312).

    The target itself is certain, and weighs 1. With every item drawn as often as expected this is the full softmax.

    draws: items drawn per batch, with replacement; draw_popularity: 0 draws uniformly, 1 in proportion to training
    events.
    """

    def __init__(self, *, draws: int = 512, draw_popularity: float = 0.5) -> None:
        self.draws, self.draw_popularity = _checked_draws(draws, draw_popularity)

    def correction(self, log_popularity: Float[Tensor, " candidates"]) -> Float[Tensor, " candidates"] | None:
        return None

    def log_weights(
        self, batch: Batch, rows: Rows, log_share: Float[Tensor, " candidates"], *, dtype: torch.dtype
    ) -> LogWeights:
        drawn = _drawn(batch)
        expected = log_share.to(dtype) + drawn.sum().to(dtype).log()
        weights = torch.where(drawn > 0, drawn.to(dtype).log() - expected, -torch.inf)
        return lambda some: _each(weights, rows.targets[some])


class GBCE:
    """Tell the target from drawn items by binary cross entropy, the target's probability to the power beta (gBCE of
    gSASRec, arXiv 2308.07192), which takes back the overconfidence that few negatives cause.

    beta = a (t (1 - 1/a) + 1/a), where a is the share of the catalogue that is drawn. t=0 is the plain BCE, t=1
    is calibrated to the softmax over the catalogue. Items are drawn once for the batch, and uniformly as published; the
    loss is the mean over the target and the drawn.
    """

    is_softmax = False

    def __init__(self, num_items: int, *, draws: int = 256, t: float = 0.75, draw_popularity: float = 0.0) -> None:
        if not 0 <= t <= 1:
            raise ValueError(f"t={t} is out of range; 0 is plain binary cross entropy, 1 calibrated to the softmax")
        self.draws, self.draw_popularity = _checked_draws(draws, draw_popularity)
        if num_items < 2:
            raise ValueError(f"gbce tells an item from others, and num_items={num_items}; take the loss 'full'")
        share = min(1.0, draws / (num_items - 1))
        self.beta = share * (t * (1 - 1 / share) + 1 / share)

    def correction(self, log_popularity: Float[Tensor, " candidates"]) -> Float[Tensor, " candidates"] | None:
        return None

    def log_weights(
        self, batch: Batch, rows: Rows, log_share: Float[Tensor, " candidates"], *, dtype: torch.dtype
    ) -> LogWeights:
        weights = _drawn(batch).to(dtype).log()
        return lambda some: _each(weights, rows.targets[some])

    def __call__(
        self,
        logits: Float[Tensor, "rows candidates"],
        targets: Int[Tensor, " rows"],
        log_weights: Float[Tensor, "rows candidates"],
    ) -> Float[Tensor, ""]:
        positive = logits.gather(1, targets[:, None]).squeeze(1)
        weights = log_weights.exp().scatter(1, targets[:, None], 0.0)
        negative = (weights * F.softplus(logits)).sum(1)
        return ((negative - self.beta * F.logsigmoid(positive)) / (1 + weights.sum(1))).mean()


class FullSoftmax:
    """Take every item of the catalogue as a candidate, uncorrected, as SASRec is best trained (arXiv 2309.07602).

    Every item is encoded at every step, which is for ids and small catalogues; no logits are left to distil.
    """

    draws = 0
    draw_popularity = 0.0


def some_of(histories: Int[Tensor, "users length"], predicted: Bool[Tensor, "users length"]) -> Int[Tensor, " rows"]:
    """Give the events that are predicted, row by row; raises ValueError where there are none."""
    targets = histories[predicted]
    if not len(targets):
        raise ValueError(
            f"nothing can be predicted of these {len(histories)} histories: each has fewer than two events, and an "
            "event is predicted from those before it; leave such users out"
        )
    return targets


def candidate_logits(
    states: Float[Tensor, "rows dim"],
    items: Float[Tensor, "candidates dim"],
    correction: Float[Tensor, " candidates"] | None = None,
) -> Float[Tensor, "rows candidates"]:
    """Score candidates: z = u . v - correction.

    Computed in float32 at least, also under bf16 autocast: eight bits of mantissa cannot tell close candidates apart.
    """
    precise = torch.promote_types(states.dtype, torch.float32)
    with torch.autocast(states.device.type, enabled=False):
        logits = states.to(precise) @ items.to(precise).T
        return logits if correction is None else logits - correction.to(precise)


def draw_shares(item_counts: np.ndarray, power: float) -> np.ndarray:
    """Give every item's chance to be drawn, [num_items + 1], in proportion to its training events to `power`; padding
    has none. With a power above 0, an item without training events is never drawn.
    """
    shares = item_counts.astype(np.float64) ** power
    shares[0] = 0.0
    return shares / shares.sum()


def _each(log_weights: Tensor, targets: Tensor) -> Tensor:
    """Repeat the weights of the candidates for rows of which each has one certain candidate, its target."""
    return log_weights.expand(len(targets), -1).scatter(1, targets[:, None], 0.0)


def _drawn(batch: Batch) -> Tensor:
    if batch.draws is None:
        raise ValueError("this loss needs items drawn for the batch; pass make_batch(..., drawn=...) some")
    return batch.draws


def _checked_draws(draws: int, draw_popularity: float) -> tuple[int, float]:
    if draws < 1:
        raise ValueError(
            f"draws={draws} is out of range; draw at least one item, or take the loss 'full' or 'in_batch'"
        )
    if not 0 <= draw_popularity < float("inf"):
        raise ValueError(f"draw_popularity={draw_popularity} is out of range; it is finite and at least 0")
    return draws, draw_popularity

"""Next-item ranking over the distinct items of a batch: the in-batch cross entropy with popularity correction.

The ODMT release takes all batch*(length+1) positions as candidates, subtracts log p(c) from their logits, and for a
row of user b drops every candidate that occurs in b's own sequence except the target's own position. A repeated
candidate adds the same term to the softmax's sum as often as it occurs, so each distinct item once, with the logarithm
of its multiplicity, gives the same loss and gradients: loss = logsumexp_c(z_c + m_c) - z_target, m = log count, or 0
for the target, or -inf for b's other items.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from odmt.types import Bool, Float, Int, Tensor

__all__ = ["full_softmax_loss", "in_batch_logits", "log_multiplicity", "next_item_loss", "next_item_rows"]


def next_item_rows(
    histories: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"]
) -> tuple[Bool[Tensor, "batch inputs"], Int[Tensor, " rows"]]:
    """Say which input positions (all but the newest event) predict something, and which items, row by row."""
    rows = mask[:, :-1]
    return rows, histories[:, 1:][rows]


def log_multiplicity(
    histories: Int[Tensor, "batch length"],
    mask: Bool[Tensor, "batch length"],
    counts: Int[Tensor, " candidates"],
    *,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "rows candidates"]:
    """Compute m of the module's formula for every row of `next_item_rows`."""
    rows, targets = next_item_rows(histories, mask)
    own = torch.zeros(len(histories), len(counts) + 1, dtype=torch.bool, device=mask.device)
    own.scatter_(
        1, histories.masked_fill(~mask, len(counts)), True
    )  # padding goes to a column of its own, cut off here
    per_user = counts.to(dtype).log().masked_fill(own[:, :-1], -torch.inf)
    user = torch.arange(len(histories), device=mask.device)[:, None].expand_as(rows)[rows]
    return per_user[user].scatter(1, targets[:, None], 0.0)


def in_batch_logits(
    states: Float[Tensor, "rows dim"],
    items: Float[Tensor, "candidates dim"],
    log_popularity: Float[Tensor, " candidates"],
) -> Float[Tensor, "rows candidates"]:
    """Score candidates, corrected for how often they turn up in batches: z = u . v - log p (logQ correction).

    Computed in float32 at least, also under bf16 autocast: eight bits of mantissa cannot tell close candidates apart.
    """
    precise = torch.promote_types(states.dtype, torch.float32)
    with torch.autocast(states.device.type, enabled=False):
        return states.to(precise) @ items.to(precise).T - log_popularity.to(precise)


def next_item_loss(
    logits: Float[Tensor, "rows candidates"],
    targets: Int[Tensor, " rows"],
    log_multiplicity: Float[Tensor, "rows candidates"],
) -> Float[Tensor, ""]:
    """Average the cross entropy of the targets over the rows."""
    positive = logits.gather(1, targets[:, None]).squeeze(1)
    return (torch.logsumexp(logits + log_multiplicity, dim=1) - positive).mean()


def full_softmax_loss(
    states: Float[Tensor, "rows dim"], items: Float[Tensor, "candidates dim"], targets: Int[Tensor, " rows"]
) -> Float[Tensor, ""]:
    """Average the cross entropy of the targets over rows, with every item a candidate: z = u . v, as in SASRec trained
    with the softmax over the catalogue (arXiv 2309.07602).

    The logits of all rows are never there at once: a few rows' are made, and turned into their share of the gradient
    while the caches hold them. Memory is that of states and items, and time that of three products.
    """
    precise = torch.promote_types(states.dtype, torch.float32)
    return _FullSoftmax.apply(states.to(precise), items.to(precise), targets)


_LOGITS = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Logits that are held at once: on a CPU what its caches hold, on a GPU what fills it."""
_ROWS = 32
"""Rows whose logits are held at once however large the catalogue."""


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        rows = max(_ROWS, _LOGITS.get(states.device.type, _LOGITS["cuda"]) // len(items))
        # the gradient of the targets' logits; the rest of it follows group by group
        to_states = -items[targets]
        to_items = torch.zeros_like(items).index_add_(0, targets, states, alpha=-1)
        loss = (states * to_states).sum()
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(states), rows):
                group = slice(start, start + rows)
                z = states[group] @ items.T
                highest = z.amax(1, keepdim=True)
                odds = z.sub_(highest).exp_()
                total = odds.sum(1, keepdim=True)
                loss += (highest + total.log()).sum()
                if any(ctx.needs_input_grad):  # the softmax is odds / total: dividing rows of length dim is less work
                    to_states[group] += (odds @ items).div_(total)
                    to_items.addmm_(odds.T, states[group] / total)
        ctx.save_for_backward(to_states, to_items)
        ctx.rows = len(states)
        return loss / len(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        to_states, to_items = ctx.saved_tensors
        scale = gradient / ctx.rows
        return to_states * scale, to_items * scale, None

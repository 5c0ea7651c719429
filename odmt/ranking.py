"""Next-item ranking over the distinct items of a batch: the in-batch cross entropy with popularity correction.

The ODMT release takes all batch*(length+1) positions as candidates, subtracts log p(c) from their logits, and for a
row of user b drops every candidate that occurs in b's own sequence except the target's own position. A repeated
candidate adds the same term to the softmax's sum as often as it occurs, so each distinct item once, with the logarithm
of its multiplicity, gives the same loss and gradients: loss = logsumexp_c(z_c + m_c) - z_target, m = log count, or 0
for the target, or -inf for b's other items.
"""

from __future__ import annotations

import torch

from odmt.types import Bool, Float, Int, Tensor

__all__ = ["in_batch_logits", "log_multiplicity", "next_item_loss", "next_item_rows"]


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

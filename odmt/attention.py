"""The post-norm transformer block that the item transformer and SASRec share, with cheap attention from few queries.

Block as in the ODMT release (arXiv 2308.04067): no bias in the four attention projections, feed-forward of 4*dim with
ReLU, LayerNorm eps 1e-6 after each residual. Rows that nobody reads need not be computed: a block takes the rows it
should return (`queries`) apart from the rows they look at (`context`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from odmt.types import Bool, Float, Tensor

__all__ = ["Attention", "Block"]


class Attention(nn.Module):
    """Attend from queries to a context; every query must be allowed at least one context row."""

    def __init__(self, dim: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim={dim} is not divisible by heads={heads}; choose heads among the divisors of dim")
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def forward(
        self,
        queries: Float[Tensor, "batch queries dim"],
        context: Float[Tensor, "batch rows dim"],
        allowed: Bool[Tensor, "#batch queries rows"],
    ) -> Float[Tensor, "batch queries dim"]:
        num_queries, num_rows, dim = queries.shape[1], context.shape[1], context.shape[2]
        # Multiplications per item: folding W_K into the queries and W_V behind the sum costs 2 q (dim + h rows) dim,
        # projecting every context row costs 2 rows (dim + q) dim. Both give the same numbers: (q W_K) x = q (W_K x),
        # W_V sum = sum W_V.
        fold = num_queries * (dim + self.heads * num_rows) < num_rows * (dim + num_queries)
        attend = self._folded if fold else self._projected
        return self.output(attend(self._split(self.query(queries)), context, allowed).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """Turn [batch, rows, heads * head_dim] into [batch, heads, rows, head_dim]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _projected(self, query: Tensor, context: Tensor, allowed: Tensor) -> Tensor:
        key, value = self._split(self.key(context)), self._split(self.value(context))
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed[:, None], dropout_p=dropout)

    def _folded(self, query: Tensor, context: Tensor, allowed: Tensor) -> Tensor:
        num_queries, head_dim = query.shape[2:]
        key = self.key.weight.unflatten(0, (self.heads, head_dim))  # [heads, head_dim, dim]
        value = self.value.weight.unflatten(0, (self.heads, head_dim)).transpose(1, 2)
        folded = (query @ key).flatten(1, 2)  # [batch, heads * queries, dim]
        scores = (folded @ context.transpose(1, 2)).unflatten(1, (self.heads, num_queries)) * head_dim**-0.5
        weights = torch.softmax(scores.masked_fill(~allowed[:, None], -torch.inf), dim=-1)
        weights = F.dropout(weights, self.dropout, self.training)
        mixed = (weights.flatten(1, 2) @ context).unflatten(1, (self.heads, num_queries))
        return mixed @ value


class Block(nn.Module):
    """Apply attention, then feed-forward, each followed by dropout, residual and LayerNorm."""

    def __init__(self, dim: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, heads=heads, dropout=dropout)
        self.attention_norm = nn.LayerNorm(dim, eps=1e-6)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))
        self.feed_forward_norm = nn.LayerNorm(dim, eps=1e-6)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        queries: Float[Tensor, "batch queries dim"],
        context: Float[Tensor, "batch rows dim"],
        allowed: Bool[Tensor, "#batch queries rows"],
    ) -> Float[Tensor, "batch queries dim"]:
        x = self.attention_norm(queries + self.dropout(self.attention(queries, context, allowed)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))

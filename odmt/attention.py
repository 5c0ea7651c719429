"""The transformer block that the item transformer and the attentive backbones share, with cheap attention from few
queries.

Block as in the ODMT release (arXiv 2308.04067): no bias in the four attention projections, feed-forward of 4*dim with
ReLU, LayerNorm eps 1e-6 after each residual, or before each branch where asked for. Rows that nobody reads need not be
computed: a block takes the rows it should return (`queries`) apart from the rows they look at (`context`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from odmt.dropout import Dropout, dropout, keep_mask
from odmt.types import Bool, Float, Tensor

__all__ = ["Attention", "Block", "compile_blocks"]

COMPILED_KINDS = 64
"""How many kinds of calls a block is compiled for at most: causal or not, some rows or all, trained or asked, ..."""


class Attention(nn.Module):
    """Attend from queries to a context; every query must be allowed at least one context row."""

    def __init__(self, dim: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
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
        return self.output(attend(self.query(queries), context, allowed))

    def _projected(self, query: Tensor, context: Tensor, allowed: Tensor) -> Tensor:
        key, value = self.key(context), self.value(context)
        rate = self.dropout if self.training else 0.0
        if context.device.type != "cpu":
            heads = [x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (query, key, value)]
            mixed = F.scaled_dot_product_attention(*heads, attn_mask=allowed[:, None], dropout_p=rate)
            return mixed.transpose(1, 2).flatten(2)
        return _ByHead.apply(query, key, value, _hidden(allowed, query), self.heads, rate)

    def _folded(self, query: Tensor, context: Tensor, allowed: Tensor) -> Tensor:
        batch, num_queries, dim = query.shape
        key, value = (layer.weight.unflatten(0, (self.heads, -1)) for layer in (self.key, self.value))
        by_head = query.reshape(-1, self.heads, dim // self.heads).transpose(0, 1)  # [heads, batch * queries, head_dim]
        folded = (by_head @ key).unflatten(1, (batch, num_queries)).transpose(0, 1).flatten(1, 2)
        hidden = _hidden(allowed, query).repeat(1, self.heads, 1)
        mixed = self._weights(folded, context, hidden) @ context  # [batch, heads * queries, dim]
        by_head = mixed.unflatten(1, (self.heads, num_queries)).transpose(0, 1).flatten(1, 2)
        return (by_head @ value.mT).transpose(0, 1).reshape(batch, num_queries, dim)

    def _weights(self, query: Tensor, key: Tensor, hidden: Tensor) -> Tensor:
        scale = (self.query.out_features // self.heads) ** -0.5
        hidden = hidden.expand(len(query), -1, -1)
        weights = torch.softmax(torch.baddbmm(hidden, query, key.mT, alpha=scale), dim=-1)
        return dropout(weights, self.dropout, self.training)


class _ByHead(torch.autograd.Function):
    """Compute softmax(Q K^T / sqrt(head_dim)) V one head after the other, with batched products and no other copies.

    Torch's fused kernel for CPUs is not made for dropout, and slower in bf16.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor, heads: int, rate: float) -> Tensor:
        mixed = torch.empty_like(query)
        hidden = hidden.expand(len(query), -1, -1)
        ctx.heads, ctx.scale = heads, (query.shape[2] // heads) ** -0.5
        saved = []
        with torch.autocast("cpu", enabled=False):
            for q, k, v, out in _heads(heads, query, key, value, mixed):
                weights = torch.baddbmm(hidden, q, k.mT, alpha=ctx.scale).softmax(-1)
                kept = keep_mask(weights, rate) if rate else None
                out.copy_(torch.bmm(weights if kept is None else weights * kept, v))
                saved += [weights, kept]
        ctx.save_for_backward(query, key, value, *saved)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, *saved = ctx.saved_tensors
        found = [torch.empty_like(x) for x in (query, key, value)]
        views = _heads(ctx.heads, query, key, value, gradient, *found)
        for (q, k, v, g, dq, dk, dv), weights, kept in zip(views, saved[::2], saved[1::2], strict=True):
            dw = torch.bmm(g, v.mT)
            dv.copy_(torch.bmm((weights if kept is None else weights * kept).mT, g))
            if kept is not None:
                dw *= kept
            # of the softmax: w (dw - sum(w dw))
            dw -= torch.linalg.vecdot(weights, dw).unsqueeze(-1)
            dw *= weights
            dw *= ctx.scale
            dq.copy_(torch.bmm(dw, k))
            dk.copy_(torch.bmm(dw.mT, q))
        return *found, None, None, None


def _heads(heads: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut [batch, rows, heads * head_dim] into views, head by head."""
    return zip(*(x.unflatten(2, (heads, -1)).unbind(2) for x in tensors), strict=True)


def _hidden(allowed: Bool[Tensor, "#batch queries rows"], like: Tensor) -> Float[Tensor, "#batch queries rows"]:
    """Give what to add to the scores: 0 where a row is allowed, -inf where it is not."""
    return torch.zeros(allowed.shape, dtype=like.dtype, device=like.device).masked_fill_(~allowed, -torch.inf)


class Block(nn.Module):
    """Apply attention, then feed-forward, each followed by dropout and residual; LayerNorm follows each, or with
    `pre_norm` stands before each and leaves the residual stream alone (arXiv 2002.04745).
    """

    def __init__(self, dim: int, *, heads: int, dropout: float, pre_norm: bool = False) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = Attention(dim, heads=heads, dropout=dropout)
        self.attention_norm = nn.LayerNorm(dim, eps=1e-6)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(inplace=True), nn.Linear(4 * dim, dim))
        self.feed_forward_norm = nn.LayerNorm(dim, eps=1e-6)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        queries: Float[Tensor, "batch queries dim"],
        context: Float[Tensor, "batch rows dim"],
        allowed: Bool[Tensor, "#batch queries rows"],
    ) -> Float[Tensor, "batch queries dim"]:
        if self.pre_norm:
            normed = self.attention_norm(context)
            asking = normed if queries is context else self.attention_norm(queries)
            x = queries + self.dropout(self.attention(asking, normed, allowed))
            return x + self.dropout(self._feed(self.feed_forward_norm(x)))
        x = self.attention_norm(queries + self.dropout(self.attention(queries, context, allowed)))
        return self.feed_forward_norm(x + self.dropout(self._feed(x)))

    def _feed(self, x: Tensor) -> Tensor:
        # Flat, as the product itself is: its result in three dimensions is a view, which a ReLU in place would copy.
        return self.feed_forward(x.flatten(0, 1)).view_as(x)


def compile_blocks(model: nn.Module) -> None:
    """Let `torch.compile` turn every block of a model into kernels of its own, for batches of any size.

    Blocks alone, because they are most of a step, are alike, and hold no decision that depends on the data. The numbers
    stay those of the eager blocks, to rounding. Raises `ValueError` where the model has no block; a block that torch
    would quietly leave as it is, because it is called in more than `COMPILED_KINDS` ways, raises when it is called.
    """
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    if not blocks:
        raise ValueError(
            "compiling is for transformer blocks (fusion 'imt', backbones 'sasrec', 'bert4rec'); this model has none"
        )
    settings = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, COMPILED_KINDS)
    settings.fail_on_recompile_limit_hit = True
    for block in blocks:
        block.compile(dynamic=True)

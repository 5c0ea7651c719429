"""HSTU (Zhai et al. 2024, arXiv 2402.17152): attention whose weights are SiLU(q k + bias) and need not sum to one,
gated by a fourth projection; no feed-forward.

The bias depends on how many events lie between two rows. The paper's second bias, by the time between them, is left
out, because our batches carry no times. Two more differences from the authors' code: weights are divided by `length`,
not by the width of the batch, so that padding changes nothing; and a LayerNorm ends the stack, where they scale states
and items to unit length.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from odmt.dropout import Dropout
from odmt.types import Bool, Float, Tensor

__all__ = ["HSTU"]

EPS = 1e-6


class HSTU(nn.Module):
    """Read histories of up to `length` events with causal gated attention."""

    def __init__(self, dim: int, *, length: int, layers: int = 2, heads: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers={layers}: HSTU needs at least one")
        if heads < 1 or dim % heads:
            raise ValueError(f"dim={dim} is not divisible by heads={heads}; choose heads among the divisors of dim")
        self.length = length
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(_Layer(dim, length=length, heads=heads, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(
        self, x: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        length = x.shape[1]
        if length > self.length:
            raise ValueError(
                f"a history of {length} events is longer than HSTU's length={self.length}; cut it to the newest "
                f"{self.length}"
            )
        row = torch.arange(length, device=x.device)
        distance = row[:, None] - row
        allowed = (distance >= 0) & mask[:, None, :]
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, distance.clamp(min=0), allowed)
        return self.norm(x)


class _Layer(nn.Module):
    def __init__(self, dim: int, *, length: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.length = length
        self.project = nn.Linear(dim, 4 * dim, bias=False)
        self.distance_bias = nn.Parameter(torch.empty(length))
        self.output = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)
        nn.init.xavier_normal_(self.project.weight)
        nn.init.normal_(self.distance_bias, std=0.02)
        nn.init.xavier_uniform_(self.output.weight)

    def forward(self, x: Tensor, distance: Tensor, allowed: Tensor) -> Tensor:
        gate, *others = F.silu(self.project(F.layer_norm(x, x.shape[2:], eps=EPS))).chunk(4, dim=2)
        value, query, key = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in others)
        weights = F.silu(query @ key.mT + self.distance_bias[distance]) * allowed[:, None] / self.length
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        return x + self.output(self.dropout(gate * F.layer_norm(mixed, mixed.shape[2:], eps=EPS)))

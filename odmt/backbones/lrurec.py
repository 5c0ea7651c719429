"""LRURec (Yue et al. 2024, arXiv 2310.02367): the linear recurrent unit (Orvieto et al. 2023, arXiv 2303.06349) and a
feed-forward, each with residual and LayerNorm.

The unit is h_t = lambda h_(t-1) + exp(gamma) B x_t, y_t = Re(C h_t), with complex numbers that decay and turn each by
its own lambda = exp(-exp(nu) + i exp(theta)). It is linear, so a GPU needs log2(length) steps for all rows.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from odmt.dropout import Dropout
from odmt.types import Bool, Float, Tensor

__all__ = ["LRURec", "by_doubling", "by_row", "linear_recurrence"]

RADII = 0.8, 0.99
"""Between these |lambda| starts, as in LRURec's code; so do the 2 dim complex numbers of the state."""


class LRURec(nn.Module):
    """Read histories of any length with diagonal linear recurrences."""

    def __init__(self, dim: int, *, layers: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers={layers}: LRURec needs at least one")
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(dim, dropout) for _ in range(layers))
        self.apply(self._initialise)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(
        self, x: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        x = self.dropout(self.norm(x))
        for block in self.blocks:
            x = block(x, mask)
        return x


class _Block(nn.Module):
    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.recurrence = _Recurrence(dim, 2 * dim)
        self.recurrence_norm = nn.LayerNorm(dim, eps=1e-6)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), Dropout(dropout), nn.Linear(4 * dim, dim))
        self.feed_forward_norm = nn.LayerNorm(dim, eps=1e-6)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.recurrence_norm(x + self.dropout(self.recurrence(x, mask)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class _Recurrence(nn.Module):
    """Compute y of the module's formula; B and C are real layers from and to pairs of real and imaginary part."""

    def __init__(self, dim: int, state: int) -> None:
        super().__init__()
        low, high = RADII
        squared = low**2 + torch.rand(state) * (high**2 - low**2)  # |lambda|^2, even over the ring
        self.nu = nn.Parameter(torch.log(-0.5 * torch.log(squared)))
        self.theta = nn.Parameter(torch.log(2 * math.pi * (1 - torch.rand(state))))
        self.gamma = nn.Parameter(0.5 * torch.log(1 - squared))  # so that the state keeps its input's scale
        self.into = nn.Linear(dim, 2 * state, bias=False)
        self.out = nn.Linear(2 * state, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        scaled = self.into.weight * self.gamma.exp().repeat_interleave(2).unsqueeze(1)
        parts = F.linear(x.masked_fill(~mask.unsqueeze(2), 0), scaled).unflatten(2, (-1, 2))
        # In single precision at least, also under autocast: there are no complex numbers of bf16.
        precise = torch.promote_types(self.nu.dtype, torch.float32)
        nu, theta = self.nu.to(precise), self.theta.to(precise)
        inputs = torch.view_as_complex(parts.to(precise))
        states = linear_recurrence(inputs, torch.complex(-nu.exp(), theta.exp()))
        return self.out(torch.view_as_real(states).flatten(2).to(self.nu.dtype))


def linear_recurrence(inputs: Tensor, log_factor: Tensor) -> Tensor:
    """Compute h_t = exp(log_factor) h_(t-1) + inputs_t for every row, complex [batch, length, state].

    On a CPU row by row, which is least arithmetic; elsewhere, where few large steps are faster, by doubling.
    """
    return (by_row if inputs.device.type == "cpu" else by_doubling)(inputs, log_factor)


def by_row(inputs: Tensor, log_factor: Tensor) -> Tensor:
    """Compute `linear_recurrence` in as many steps as there are rows."""
    first, *others = inputs.unbind(1)
    states, factor = [first], log_factor.exp()
    for row in others:
        states.append(torch.addcmul(row, factor, states[-1]))
    return torch.stack(states, dim=1)


def by_doubling(inputs: Tensor, log_factor: Tensor) -> Tensor:
    """Compute `linear_recurrence` in log2(length) steps.

    Once every row holds the sum over its own and the step - 1 rows before it, adding what the row `step` before it
    holds, decayed by `step` rows, makes that 2 step.
    """
    states, step = inputs, 1
    while step < states.shape[1]:
        grown = states[:, step:] + states[:, :-step] * torch.exp(step * log_factor)
        states, step = torch.cat([states[:, :step], grown], dim=1), 2 * step
    return states

"""NextItNet (Yuan et al. 2019, arXiv 1808.05163) as the ODMT and MicroLens releases build it: the paper's residual
block (b), two causal convolutions of which the second has twice the dilation, each followed by LayerNorm and ReLU.

A state sees 1 + 3 (kernel - 1) sum(dilations) events: 31 by default.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import nn

from odmt.dropout import Dropout
from odmt.types import Bool, Float, Tensor

__all__ = ["NextItNet"]


class NextItNet(nn.Module):
    """Read histories of any length with one residual block per entry of `dilations`.

    The releases repeat [1, 4]. Dropout falls on the item vectors; the releases have none.
    """

    def __init__(self, dim: int, *, dilations: Sequence[int] = (1, 4), kernel: int = 3, dropout: float = 0.1) -> None:
        super().__init__()
        if not dilations or min(dilations) < 1:
            raise ValueError(f"dilations={dilations}: NextItNet needs at least one, each at least 1; write [1, 4]")
        if kernel < 2:
            raise ValueError(f"kernel={kernel} sees no other event; NextItNet needs at least 2")
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(_ResidualBlock(dim, kernel, dilation) for dilation in dilations)
        self.output = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        padding = ~mask.unsqueeze(2)
        x = self.dropout(x).masked_fill(padding, 0)
        for block in self.blocks:
            x = block(x, padding)
        return self.output(x)


class _ResidualBlock(nn.Module):
    def __init__(self, dim: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Convolution(dim, kernel, dilation * times) for times in (1, 2))

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        y = x
        for layer in self.layers:
            # Biases make something of nothing, which the next convolution would see: padded rows are emptied again.
            y = layer(y).masked_fill(padding, 0)
        return x + y


class _Convolution(nn.Module):
    """Weigh rows t, t - dilation, t - 2 dilation, ...; then LayerNorm and ReLU."""

    def __init__(self, dim: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.before = (kernel - 1) * dilation
        self.weigh = nn.Conv1d(dim, dim, kernel, dilation=dilation)
        self.norm = nn.LayerNorm(dim, eps=1e-8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.weigh(F.pad(x.mT, (self.before, 0))).mT))

"""Dropout whose random numbers do not cost more than the products around them.

On a CPU torch draws one random number per element, one after the other, which becomes a large part of a training step.
Here 16 random bits decide, four elements per number. A GPU draws in parallel as it is.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from odmt.types import Float, Tensor

__all__ = ["Dropout", "dropout", "keep_mask"]

LEVELS = 1 << 16


def dropout(x: Float[Tensor, "..."], p: float, training: bool = True) -> Float[Tensor, "..."]:
    """Set elements to 0 with probability p, rounded to 1/65536, and scale the others so that the mean stays.

    Torch's generator decides, so that `torch.manual_seed` and a restored generator state give the same mask again.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout={p} is not in [0, 1)")
    if not training or p == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    return x * keep_mask(x, p)


def keep_mask(x: Float[Tensor, "..."], p: float) -> Float[Tensor, "..."]:
    """Draw what `dropout` multiplies x by on a CPU: 0 with probability p, else 1 / (1 - p)."""
    if torch.compiler.is_compiling():  # a compiled block draws by itself, and would be torn apart here
        return F.dropout(torch.ones_like(x), p)
    dropped = min(round(p * LEVELS), LEVELS - 1)
    seed = int(torch.randint(1 << 62, ()))
    bits = np.random.SFC64(seed).random_raw(-(-x.numel() // 4)).view(np.int16)[: x.numel()]
    kept = torch.empty_like(x, memory_format=torch.contiguous_format)
    torch.ge(torch.from_numpy(bits).view(x.shape), dropped - LEVELS // 2, out=kept)
    return kept.mul_(LEVELS / (LEVELS - dropped))


class Dropout(nn.Dropout):
    """Apply `dropout` in training."""

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return dropout(input, self.p, self.training)

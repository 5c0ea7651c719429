"""How the streams' scores become one recommendation, and one teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from odmt.distill import ensemble
from odmt.types import Tensor

__all__ = ["Mean", "Weighted"]


class Mean(nn.Module):
    """Average the streams' scores, as released (arXiv 2308.04067)."""

    trained = False

    def forward(self, scores: Mapping[str, Tensor]) -> Tensor:
        return ensemble(scores)


class Weighted(nn.Module):
    """Add the streams' scores, each times a positive weight of its own, which sets how much a stream counts and how
    sharp it is. Weights start at the mean and are trained by the ranking loss of the sum.

    joint: whether that loss trains the streams, too; by default only the weights.
    """

    trained = True

    def __init__(self, streams: Sequence[str], *, joint: bool = False) -> None:
        super().__init__()
        self.joint = joint
        start = torch.full((), 1.0 / len(streams)).log()
        self.log_weights = nn.ParameterDict({name: nn.Parameter(start.clone()) for name in streams})

    def forward(self, scores: Mapping[str, Tensor]) -> Tensor:
        (first, z), *others = [(name, z) for name, z in scores.items() if name != "ensemble"]
        total = self.log_weights[first].exp() * z
        for name, z in others:
            total = total + self.log_weights[name].exp() * z
        return total

"""From the vectors of a clip's frames to what stands for the clip; a layer that learns comes with the recommender."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from odmt.types import Float, Tensor

__all__ = ["FRAME_POOLS", "AttentionPool", "MeanPool", "TransformerPool"]


class MeanPool(nn.Module):
    """Average the frames: one token."""

    def forward(self, x: Float[Tensor, "clips frames width"]) -> Float[Tensor, "clips one width"]:
        return x.mean(dim=1, keepdim=True)


class AttentionPool(nn.Module):
    """Weigh the frames by what one learned query asks of them: one token. It starts as their mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "clips frames width"]) -> Float[Tensor, "clips one width"]:
        weights = torch.softmax(x @ self.query * x.shape[2] ** -0.5, dim=1)
        return (weights[..., None] * x).sum(dim=1, keepdim=True)


class TransformerPool(nn.Module):
    """Let the frames, which know their place in time, attend to each other in one layer, and average: one token.

    What the layer adds starts at 0, so that it, too, starts as the mean.
    """

    def __init__(self, width: int, frames: int, *, heads: int = 4) -> None:
        super().__init__()
        heads = heads if width % heads == 0 else 1
        self.position = nn.Parameter(torch.zeros(frames, width))
        self.layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        for last in (self.layer.self_attn.out_proj, self.layer.linear2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Float[Tensor, "clips frames width"]) -> Float[Tensor, "clips one width"]:
        return self.layer(x + self.position).mean(dim=1, keepdim=True)


FRAME_POOLS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "none": lambda _width, _frames: nn.Identity(),
    "mean": lambda _width, _frames: MeanPool(),
    "attention": lambda width, _frames: AttentionPool(width),
    "transformer": lambda width, frames: TransformerPool(width, frames),
}
"""By name, made for so wide and so many frames."""

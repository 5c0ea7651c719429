"""How alike a user's state and an item's vector are, for `model.similarity`: always their product, once both have gone
through one of these.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from odmt.types import Float, Tensor

__all__ = ["Cosine", "Product"]


class Product(nn.Module):
    """Take vectors as they are: z = u . v, as released."""

    def forward(self, x: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any dim"]:
        return x


class Cosine(nn.Module):
    """Stretch user states and item vectors to one length, so that z = scale cos(u, v) (NISER, arXiv 1909.04276).

    A long vector is how a model says that an item is popular; without it, items are told apart by what they are alone,
    and streams' scores have one scale. The backbone reads the stretched vectors, too.
    """

    def __init__(self, *, scale: float = 16.0) -> None:
        super().__init__()
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale={scale} is out of range; it is finite and above 0")
        self.scale = scale

    def forward(self, x: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any dim"]:
        # a little is added under the root, so that the gradient of a vector of zeros stays finite
        return (self.scale / x.shape[-1]) ** 0.5 * F.rms_norm(x, x.shape[-1:], eps=1e-8)

"""A user is the mean of what they saw, the newest most: no attention, no recurrence, one weight per place.

An item-to-item model with learned factors (FISM, Kabbur et al. 2013, doi 10.1145/2487575.2487589) whose history decays
(as in Fossil, arXiv 1609.09152). Over content vectors it is a nearest-neighbour search by content whose metric learns;
little can overfit in it, so it says what the large backbones do not.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from odmt.dropout import Dropout
from odmt.types import Bool, Float, Tensor

__all__ = ["Recency"]


class Recency(nn.Module):
    """Give states u_t = s n(sum_(j<=t) w_(t-j) x_j), where n stretches to length 1; w and s are learned.

    decay: w starts at decay^(t-j). scale: where s starts; of no effect with the similarity "cosine", which has its own.
    """

    def __init__(self, dim: int, *, length: int, decay: float = 0.7, scale: float = 8.0, dropout: float = 0.1) -> None:
        super().__init__()
        if not 0 < decay <= 1 or not 0 < scale < math.inf:
            raise ValueError(
                f"decay={decay}, scale={scale}: a decay is above 0 and at most 1, a scale finite and above 0"
            )
        self.length = length
        self.dropout = Dropout(dropout)
        self.log_weights = nn.Parameter(math.log(decay) * torch.arange(length, dtype=torch.get_default_dtype()))
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))  # of no dimension, DeepSpeed could not send it

    def forward(
        self, x: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        rows = x.shape[1]
        ago = torch.arange(rows, device=x.device)[:, None] - torch.arange(rows, device=x.device)
        weights = self._weights(rows)[ago.clamp(min=0)].masked_fill(ago < 0, 0.0)
        return self._stretched(weights.to(x.dtype) @ self.dropout(x * mask.unsqueeze(2)))

    def newest(
        self, x: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch dim"]:
        """Give the last row of `forward` alone."""
        weights = self._weights(x.shape[1]).flip(0).to(x.dtype)
        return self._stretched(torch.einsum("l,bld->bd", weights, self.dropout(x * mask.unsqueeze(2))))

    def _weights(self, rows: int) -> Float[Tensor, " rows"]:
        if rows > self.length:
            raise ValueError(
                f"a history of {rows} events is longer than Recency's length={self.length}; cut it to the newest "
                f"{self.length}"
            )
        return self.log_weights[:rows].exp()

    def _stretched(self, summed: Tensor) -> Tensor:
        # a little is added under the root, so that the gradient of a history without content stays small
        length = (summed.square().sum(-1, keepdim=True) + 1e-4).sqrt()
        return self.log_scale.exp().to(summed.dtype) * summed / length

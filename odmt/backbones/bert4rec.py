"""BERT4Rec (Sun et al. 2019, arXiv 1904.06690): a transformer that looks both ways, trained to name hidden events.

Its blocks, positions and first LayerNorm are those of our SASRec, so that the two differ in what they are
trained on and in nothing else; the paper has GELU where they have ReLU, and one more layer before the scores.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from odmt.backbones.sasrec import SASRec
from odmt.types import Bool, Float, Tensor

__all__ = ["BERT4Rec", "HideTrained"]


class HideTrained(nn.Module):
    """Put a learned mask vector in place of hidden events before a bidirectional `reader` of `(x, mask)` sees them.

    length: longest history; the reader must take one event more, which is hidden.
    hide_rate: share of a history's events to hide in training; who trains draws them.
    """

    def __init__(self, reader: nn.Module, dim: int, *, length: int, hide_rate: float) -> None:
        super().__init__()
        if not 0 < hide_rate < 1:
            raise ValueError(f"hide_rate={hide_rate} is not between 0 and 1; BERT4Rec's authors take 0.2 to 0.6")
        self.length = length
        self.hide_rate = hide_rate
        self.reader: Any = reader
        self.mask_vector = nn.Parameter(torch.empty(dim))
        nn.init.normal_(self.mask_vector, std=0.02)

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        mask: Bool[Tensor, "batch length"],
        hidden: Bool[Tensor, "batch length"],
    ) -> Float[Tensor, "batch length dim"]:
        """Read histories of which the `hidden` events are not seen; their rows' states are to predict them."""
        self._check(x.shape[1], self.length + 1)
        return self.reader(torch.where(hidden.unsqueeze(2), self.mask_vector.to(x.dtype), x), mask)

    def newest(
        self, x: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch dim"]:
        """Give the state that predicts the next event: that of a hidden one behind the newest."""
        self._check(x.shape[1], self.length)
        x = torch.cat([x, self.mask_vector.to(x.dtype).expand(len(x), 1, -1)], dim=1)
        mask = F.pad(mask, (0, 1), value=True)
        return self.reader.newest(x, mask) if hasattr(self.reader, "newest") else self.reader(x, mask)[:, -1]

    def _check(self, events: int, most: int) -> None:
        if events > most:
            raise ValueError(
                f"a history of {events} events is longer than length={self.length} with room for one that is hidden; "
                f"cut it to the newest {most}"
            )


class BERT4Rec(HideTrained):
    """Read histories of up to `length` events, and one more that is hidden."""

    def __init__(
        self,
        dim: int,
        *,
        length: int,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.1,
        hide_rate: float = 0.2,
    ) -> None:
        reader = _Bidirectional(dim, length=length + 1, layers=layers, heads=heads, dropout=dropout)
        super().__init__(reader, dim, length=length, hide_rate=hide_rate)


class _Bidirectional(SASRec):
    def _allowed(self, mask: Tensor) -> Tensor:
        return mask[:, None, :] | torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)

"""GRU4Rec (Hidasi et al. 2016, arXiv 1511.06939) as the ODMT and MicroLens releases build it: dropout on the item
vectors, then a GRU without biases, here with RecBole's dense layer behind it.

No biases means that padding leaves no trace: from a state of zero, a row of zeros gives a state of zero.
"""

from __future__ import annotations

from torch import nn

from odmt.dropout import Dropout
from odmt.types import Bool, Float, Tensor

__all__ = ["GRU4Rec"]


class GRU4Rec(nn.Module):
    """Read histories of any length event by event; `width` of the recurrent state is `dim` unless given."""

    def __init__(self, dim: int, *, layers: int = 1, width: int | None = None, dropout: float = 0.1) -> None:
        super().__init__()
        width = dim if width is None else width
        if layers < 1 or width < 1:
            raise ValueError(f"layers={layers}, width={width}: GRU4Rec needs at least one of each")
        self.dropout = Dropout(dropout)
        self.gru = nn.GRU(dim, width, num_layers=layers, bias=False, batch_first=True)
        self.dense = nn.Linear(width, dim)
        for weight in self.gru.parameters():
            nn.init.xavier_uniform_(weight)

    def forward(
        self, x: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        states, _ = self.gru(self.dropout(x).masked_fill(~mask.unsqueeze(2), 0))
        return self.dense(states)

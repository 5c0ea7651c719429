"""SASRec (Kang and McAuley 2018, arXiv 1808.09781) as the ODMT and MicroLens releases build it: post-norm blocks,
learned positions counted back from the newest event, LayerNorm and dropout before the blocks."""

from __future__ import annotations

import torch
from torch import nn

from odmt.attention import Block
from odmt.dropout import Dropout
from odmt.types import Bool, Float, Tensor

__all__ = ["SASRec"]


class SASRec(nn.Module):
    """Read histories of up to `length` events with causal self-attention."""

    def __init__(self, dim: int, *, length: int, layers: int = 2, heads: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers={layers}: SASRec needs at least one")
        self.position = nn.Embedding(length, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads=heads, dropout=dropout) for _ in range(layers))
        self.apply(self._initialise)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.xavier_normal_(module.weight)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(
        self, x: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        return self._read(x, mask, slice(None))

    def newest(
        self, x: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch dim"]:
        """Give the newest state alone: the last block computes no other."""
        return self._read(x, mask, slice(-1, None)).squeeze(1)

    def _read(self, x: Tensor, mask: Tensor, rows: slice) -> Tensor:
        length, longest = x.shape[1], self.position.num_embeddings
        if length > longest:
            raise ValueError(
                f"a history of {length} events is longer than SASRec's length={longest}; cut it to the newest {longest}"
            )
        # Histories are left-padded: the last position is always the newest event's, however far the batch was trimmed.
        x = self.dropout(self.norm(x + self.position.weight[longest - length :]))
        allowed = self._allowed(mask)
        for block in self.blocks[:-1]:
            x = block(x, x, allowed)
        return self.blocks[-1](x[:, rows], x, allowed[:, rows])

    def _allowed(self, mask: Tensor) -> Tensor:
        """Let a row look at itself, so that a padded row is never empty, and at the real rows before it."""
        causal = torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool, device=mask.device).tril()
        itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        return causal & mask[:, None, :] | itself

"""Item vectors made of content and id, in place of the `nn.Embedding` of somebody else's sequential model:

theirs.item_embedding = ItemEmbedding(features, dim=64)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from odmt.items import ItemEncoder, evaluating
from odmt.types import Features, Float, Fusion, Int, Tensor

__all__ = ["ItemEmbedding"]


class ItemEmbedding(nn.Module):
    """Give the vectors of items by number, as `nn.Embedding` does, with row 0 for padding.

    features, fusion and the rest: see `odmt.items.ItemEncoder`. Streams are joined into one vector by `join`; a single
    stream needs none, and `join` is then left aside.
    rows: [rows of their table] which item of `features` each of their numbers is, 0 for padding and for what is no item
        (mask or end tokens); without it their numbers are those of `features`.

    A call encodes each distinct item once. `weight` is the whole table, for models that score all items: encoded anew
    at every use while gradients are kept, once per change of a parameter while they are not.
    """

    def __init__(
        self,
        features: Features,
        dim: int,
        *,
        streams: tuple[str, ...] = (),
        fusion: str | Fusion = "independent",
        join: str = "sum(at='item')",
        rows: np.ndarray | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        alone = len(streams or ("id", *features.widths)) == 1
        self.items = ItemEncoder(
            features, streams=streams, dim=dim, fusion=fusion, join="none" if alone else join, **settings
        )
        if len(self.items.vectors) > 1:
            raise ValueError(
                f"join={join!r} leaves the streams {', '.join(self.items.vectors)}; an embedding has one vector per "
                "item, so join them at the item and keep none, as in sum(at='item')"
            )
        rows = np.arange(features.num_items + 1) if rows is None else rows
        if len(rows) < 1 or rows[0] != 0 or rows.min() < 0 or rows.max() > features.num_items:
            raise ValueError(
                f"rows must begin with 0 (padding) and hold items 0 to {features.num_items}, not {rows.min()} to "
                f"{rows.max()} beginning with {rows[:1]}"
            )
        self.rows: Tensor
        self.register_buffer("rows", torch.from_numpy(rows.astype(np.int64)))
        self.embedding_dim = dim
        self.padding_idx = 0
        self._kept: tuple[tuple[int, ...], Tensor] | None = None

    @property
    def num_embeddings(self) -> int:
        return len(self.rows)

    def forward(self, ids: Int[Tensor, "*places"]) -> Float[Tensor, "*places dim"]:
        if not torch.is_grad_enabled():
            return self.weight[ids]
        distinct, where = self.rows[ids].unique(return_inverse=True)
        return self._vectors(distinct)[where]

    @property
    def weight(self) -> Float[Tensor, "rows dim"]:
        """The vectors of all rows."""
        if torch.is_grad_enabled():
            return self._vectors(torch.arange(self.items.num_items + 1, device=self.rows.device))[self.rows]
        now = (self.training, *(parameter._version for parameter in self.parameters()))
        if self._kept is None or self._kept[0] != now or self._kept[1].device != self.rows.device:
            with evaluating(self.items):
                (table,) = self.items.encode_catalogue().values()
            self._kept = now, table[self.rows].clone()
        return self._kept[1]

    def _vectors(self, distinct: Int[Tensor, " items"]) -> Float[Tensor, "items dim"]:
        """Encode sorted distinct items; padding, which is the first if it is there, is zeros."""
        real = distinct[distinct > 0]
        (vectors,) = self.items.encode(real).values()
        return torch.cat([vectors.new_zeros(len(distinct) - len(real), self.embedding_dim), vectors])

"""Item vectors made of content and id, in place of the `nn.Embedding` of somebody else's sequential model:

theirs.item_embedding = ItemEmbedding(features, dim=64, rows=rows_of(their_names, our_names))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from odmt.components import JOINS
from odmt.items import ItemEncoder, build_component
from odmt.joins import Join
from odmt.types import Contents, Float, Fusion, FusionMaker, Int, Tensor

__all__ = ["ItemEmbedding", "TiedHead", "rows_of"]

CHUNK = 2048
"""Items encoded at a time where no gradients are kept, so that a large catalogue needs little more than its table."""


def rows_of(theirs: Sequence[object], ours: Sequence[object], *, special: Sequence[object] = ()) -> np.ndarray:
    """Say which of our items each row of their table is, [rows], for `ItemEmbedding(rows=...)`.

    theirs: names in the order of their numbers, the padding's first, whatever they call it; special: those of them
        that are no items either, such as a mask token, which get row 0. ours: entry i is the name of our item i + 1.
        Names are compared as text, because one side may have read numbers where the other read words.

    Raises:
        ValueError: where they have an item that we lack.
    """
    numbers = {str(name): number for number, name in enumerate(ours, start=1)}
    numbers.update({str(name): 0 for name in special})
    names = [str(name) for name in theirs[1:]]
    unknown = [name for name in names if name not in numbers]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of their {len(names)} items are none of our {len(ours)}, such as {unknown[0]!r} where "
            f"ours are like {str(ours[0])!r}; take features that cover them, or name what is no item by special="
        )
    return np.array([0, *(numbers[name] for name in names)], dtype=np.int64)


class ItemEmbedding(nn.Module):
    """Give the vectors of items by number, as `nn.Embedding` does, with row 0 for padding.

    features, fusion and the rest: see `odmt.items.ItemEncoder`. Streams are joined into one vector by `join`; where the
    fusion gives a single stream, that needs none, and `join` is left aside.
    rows: [rows of their table] which item of `features` each of their numbers is, 0 for padding and for what is no item
        (mask or end tokens); without it their numbers are those of `features`.

    A call encodes each distinct item once. `weight` is the whole table, for models that score all items. It is made
    anew at every use, so that it is never out of date: read it once per batch, as such models do.
    """

    def __init__(
        self,
        features: Contents,
        dim: int,
        *,
        streams: tuple[str, ...] = (),
        fusion: str | Fusion | FusionMaker = "independent",
        join: str = "sum(at='item')",
        rows: np.ndarray | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        counts = settings.get("item_counts")
        if counts is not None and len(counts) != features.num_items + 1:
            raise ValueError(
                f"item_counts has {len(counts)} entries, but {features.num_items} items need "
                f"{features.num_items + 1} (0 is padding)"
            )
        self.items = ItemEncoder(features, streams=streams, dim=dim, fusion=fusion, **settings)
        if len(self.items.vectors) > 1:
            self._join(join, dim)
        rows = np.arange(features.num_items + 1) if rows is None else np.asarray(rows)
        if len(rows) < 1 or rows[0] != 0 or rows.min() < 0 or rows.max() > features.num_items:
            raise ValueError(
                f"rows must begin with 0 (padding) and hold items 0 to {features.num_items}, not {rows.min()} to "
                f"{rows.max()} beginning with {rows[:1]}"
            )
        self.rows: Tensor
        self.register_buffer("rows", torch.from_numpy(rows.astype(np.int64)))
        self.embedding_dim = dim
        self.padding_idx = 0

    def _join(self, join: str, dim: int) -> None:
        """Let the encoder join its streams, which are known once its fusion is made."""
        streams = self.items.vectors
        if join != "none":
            made: Join = build_component(join, JOINS, "join", {"dim": dim, "streams": streams})
            self.items.join = made
            streams = (*(made.kept if made.at == "item" else streams), made.at)
        if len(streams) > 1:
            raise ValueError(
                f"join={join!r} leaves the streams {', '.join(streams)}; an embedding has one vector per item, so join "
                "them at the item and keep none, as in sum(at='item')"
            )
        self.items.vectors = streams

    @property
    def num_embeddings(self) -> int:
        return len(self.rows)

    def forward(self, ids: Int[Tensor, "*places"]) -> Float[Tensor, "*places dim"]:
        # as nn.Embedding, index_select refuses numbers below 0, which indexing would count from the end
        items = self.rows.index_select(0, ids.flatten()).view(ids.shape)
        distinct, where = items.unique(return_inverse=True)
        return self._vectors(distinct)[where]

    @property
    def weight(self) -> Float[Tensor, "rows dim"]:
        """The vectors of all rows."""
        return self(torch.arange(self.num_embeddings, device=self.rows.device))

    def _vectors(self, distinct: Int[Tensor, " items"]) -> Float[Tensor, "items dim"]:
        """Encode sorted distinct items; padding, which is the first if it is there, is zeros."""
        real = distinct[distinct > 0]
        # With gradients all at once: each look-up in the id table has a gradient of the table's size.
        parts = [real] if torch.is_grad_enabled() else real.split(CHUNK)
        vectors = torch.cat([vectors for part in parts for vectors in self.items.encode(part).values()])
        return torch.cat([vectors.new_zeros(len(distinct) - len(real), self.embedding_dim), vectors])


class TiedHead(nn.Module):
    """Score all rows of an `ItemEmbedding` by the product of states and vectors, as an output layer that shares its
    weights: theirs.lm_head = TiedHead(theirs.get_input_embeddings()). It holds no parameters of its own, and no bias.

    A model of transformers whose configuration ties its embeddings, as GPT-2's does, fails at its own `tie_weights()`,
    which FSDP calls; theirs.config.tie_word_embeddings = False says that there are no weights left to tie.
    """

    bias: nn.Parameter | None

    def __init__(self, embedding: ItemEmbedding) -> None:
        super().__init__()
        self._embedding = (embedding,)  # in a tuple it is no submodule, whose weights would be saved twice
        self.register_parameter("bias", None)  # which models ask an output layer for

    def forward(self, states: Float[Tensor, "*places dim"]) -> Float[Tensor, "*places rows"]:
        return states @ self._embedding[0].weight.T

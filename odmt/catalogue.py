"""The vectors of a whole catalogue, each item encoded once, by all processes together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import DataLoader

from odmt.data.loading import leave_signals
from odmt.data.tokens import by_length
from odmt.types import Contents, Raw, Streams, Tensor, Tokens

__all__ = ["encode_all"]

Content = Mapping[str, Tokens | Raw]


@runtime_checkable
class Encodes(Protocol):
    """Name what is needed of a model here."""

    features: Contents
    modalities: tuple[str, ...]
    num_items: int

    @property
    def device(self) -> torch.device: ...


def encode_all(
    model: Encodes,
    encode: Callable[[Tensor, Content], Streams],
    *,
    chunk: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    add: Callable[[Tensor], Tensor] = lambda table: table,
    progress: Callable[..., Iterable[Content]] | None = None,
) -> tuple[Streams, dict[str, dict[int, str]]]:
    """Encode every item once: per stream [num_items + 1, dim], row 0 (padding) zero; and what could not be read, as
    {modality: {item: reason}}.

    rank, world, add: of so many processes, this one encodes its share, and `add` adds up the tables of all, in which
        the others' rows are zero. Chunks are cut from the catalogue in the order of lengths, whoever encodes them, so
        that the numbers do not depend on it.
    workers: processes that read content while this one encodes. progress: wraps what is gone through, a bar of `total`.
    """
    ids = 1 + by_length(model.features, model.modalities, np.arange(1, model.num_items + 1))
    chunks = [ids[start : start + chunk] for start in range(0, len(ids), chunk)]
    shared = len(chunks) >= world > 1
    mine = chunks[rank::world] if shared else chunks
    gather = _Gather(model.features, model.modalities)
    how = {"num_workers": workers, "worker_init_fn": leave_signals}
    reading = DataLoader(mine, batch_size=None, collate_fn=gather, **how)  # pyright: ignore[reportArgumentType]
    tables: dict[str, Tensor] = {}
    broken: dict[str, dict[int, str]] = {}
    read = progress(reading, total=len(mine)) if progress else reading
    for some, content in zip(mine, read, strict=True):
        for name, given in content.items():
            if isinstance(given, Raw):
                broken.setdefault(name, {}).update({int(some[place]): why for place, why in given.broken.items()})
        items = torch.from_numpy(some).to(model.device)
        for name, vectors in encode(items, {name: one.to(model.device) for name, one in content.items()}).items():
            if name not in tables:  # filled as it comes: a large catalogue's is too large to hold twice
                tables[name] = vectors.new_zeros(model.num_items + 1, vectors.shape[1])
            tables[name][items] = vectors
    return {name: add(table) for name, table in tables.items()} if shared else tables, broken


class _Gather:
    """Read what some items are; can be pickled, for worker processes."""

    def __init__(self, features: Contents, modalities: Sequence[str]) -> None:
        self.features, self.modalities = features, tuple(modalities)

    def __call__(self, items: np.ndarray) -> Content:
        return {name: self.features.gather(name, items) for name in self.modalities}

"""Frozen token features of a catalogue: in memory, or as folders beside the dataset that are read without loading them.

A feature folder is `features/<modality>/<key>/` inside a dataset folder:

- `tokens.npy` [total tokens, width] fp16: the tokens of all items, one item's tokens side by side;
- `spans.npy` [num_items + 1, 2] int64: first row and number of rows per item; 0 rows for padding (row 0) and for items
  that lack the modality;
- `recipe.yaml`: what made them (encoder, layer, preprocessing, dataset), from which `key` follows.

A third party may write such a folder with numpy alone. Ours are written by `odmt.data.feature_writer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from odmt.types import Float, Tokens

__all__ = ["FeatureError", "ItemFeatures", "TokenTable"]

NOTHING: Mapping[str, int] = MappingProxyType({})


class FeatureError(ValueError):
    """Say what is wrong with the features of a dataset, and how to make or choose the right ones."""


@dataclass(frozen=True)
class TokenTable:
    """Hold the tokens of every item in one modality: all rows side by side, and where each item's rows are.

    `values` is [total tokens, width] fp16 or fp32, usually memory-mapped; `spans` is [num_items + 1, 2] (start, length).
    `folder` is where they were read from, so that a worker process maps the file again instead of receiving a copy.
    """

    values: np.ndarray
    spans: np.ndarray
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype not in (np.float16, np.float32):
            raise FeatureError(
                f"tokens must be [tokens, width] in float16 or float32, not {self.values.shape} {self.values.dtype}"
            )
        if self.spans.ndim != 2 or self.spans.shape[1] != 2 or len(self.spans) < 1:
            raise FeatureError(f"spans must be [items + 1, 2] (start, length), not {self.spans.shape}")
        starts, lengths = self.spans[:, 0], self.spans[:, 1]
        wrong = np.flatnonzero((lengths < 0) | (starts < 0) | (starts + lengths > len(self.values)))
        if len(wrong):
            item = int(wrong[0])
            raise FeatureError(
                f"item {item} claims rows {starts[item]} to {starts[item] + lengths[item]} of {len(self.values)} tokens: "
                "the two files do not belong together; remove the folder and encode again"
            )
        if lengths[0]:
            raise FeatureError(f"item 0 is padding and must have no tokens, but has {lengths[0]}")

    @classmethod
    def open(cls, folder: Path) -> TokenTable:
        """Map the two arrays of a feature folder; nothing but the spans is read. Raises `FeatureError` if damaged."""
        try:
            values = np.load(folder / "tokens.npy", mmap_mode="r", allow_pickle=False)
            spans = np.load(folder / "spans.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise FeatureError(f"{folder}: damaged ({error}); remove the folder and encode again") from error
        return cls(values, spans, folder)

    def __reduce__(self) -> tuple[object, ...]:
        if self.folder is not None:
            return TokenTable.open, (self.folder,)
        return TokenTable, (self.values, self.spans)

    @property
    def num_items(self) -> int:
        return len(self.spans) - 1

    @property
    def width(self) -> int:
        return self.values.shape[1]

    def gather(self, items: np.ndarray | Sequence[int], max_tokens: int | None = None) -> Tokens:
        """Read the first `max_tokens` tokens (None: all) of each item, padded to the longest and to at least one.

        Raises `FeatureError` for an id outside 0..num_items.
        """
        wanted = np.asarray(items, dtype=np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() <= self.num_items:
            raise FeatureError(
                f"items {wanted.min()} to {wanted.max()} asked for, but the table has 0 to {self.num_items}"
            )
        starts, lengths = self.spans[wanted, 0], self.spans[wanted, 1]
        if max_tokens is not None:
            lengths = np.minimum(lengths, max_tokens)
        columns = np.arange(max(1, lengths.max(initial=0)))
        mask = columns < lengths[:, None]
        rows = (starts[:, None] + columns)[mask]
        # A plain view: indexing the memmap class itself builds a memmap per call.
        found = np.take(np.asarray(self.values), rows, axis=0)
        if len(found) < mask.size:
            padded = np.zeros((mask.size, self.width), dtype=found.dtype)
            padded[np.flatnonzero(mask)] = found
            found = padded
        return Tokens(torch.from_numpy(found.reshape(*mask.shape, self.width)), torch.from_numpy(mask))


class ItemFeatures:
    """Give the model the stored tokens of any set of items, per modality (the `Features` protocol of `odmt.types`).

    `max_tokens` shortens a modality when it is read, so that one cache serves several lengths.
    """

    def __init__(
        self, tables: Mapping[str, TokenTable], *, num_items: int, max_tokens: Mapping[str, int] = NOTHING
    ) -> None:
        for modality, table in tables.items():
            if table.num_items != num_items:
                raise FeatureError(f"{modality} features cover {table.num_items} items, the catalogue has {num_items}")
        for modality, limit in max_tokens.items():
            if modality not in tables:
                raise FeatureError(f"max_tokens names {modality!r}; the modalities are {', '.join(tables) or 'none'}")
            if limit < 1:
                raise FeatureError(f"max_tokens of {modality} must be at least 1, not {limit}")
        self.tables = dict(tables)
        self.max_tokens = dict(max_tokens)
        self._num_items = num_items

    @classmethod
    def from_arrays(cls, num_items: int, **arrays: np.ndarray | Sequence[np.ndarray | None]) -> ItemFeatures:
        """Take features from memory: `ItemFeatures.from_arrays(2, text=np.ones((2, 5, 8)), image=[first, None])`.

        Entry i belongs to item i + 1. An entry is one token [width] or several [tokens, width]; None or zero tokens
        mean that the item lacks the modality. float16 stays; everything else is stored as float32.
        """
        return cls({name: _table_of(name, num_items, given) for name, given in arrays.items()}, num_items=num_items)

    @property
    def num_items(self) -> int:
        return self._num_items

    @property
    def widths(self) -> Mapping[str, int]:
        """Give the feature width of every modality, in the order in which they were asked for."""
        return {modality: table.width for modality, table in self.tables.items()}

    def gather(self, modality: str, items: np.ndarray | Sequence[int]) -> Tokens:
        """Read the tokens of `items` (ids 0..num_items), padded to the longest of them and to at least one."""
        return self._table(modality).gather(items, self.max_tokens.get(modality))

    def first_tokens(self, modality: str) -> Float[torch.Tensor, "items width"]:
        """Read everyone's first token (CLS of most encoders), [num_items + 1, width] float32; zeros where missing."""
        table = self._table(modality)
        present = np.flatnonzero(table.spans[:, 1])
        first = np.zeros((self.num_items + 1, table.width), dtype=np.float32)
        first[present] = np.asarray(table.values)[table.spans[present, 0]]
        return torch.from_numpy(first)

    def _table(self, modality: str) -> TokenTable:
        if modality not in self.tables:
            raise FeatureError(f"no {modality!r} features here; there are {', '.join(self.tables) or 'none'}")
        return self.tables[modality]


def _table_of(modality: str, num_items: int, given: np.ndarray | Sequence[np.ndarray | None]) -> TokenTable:
    if len(given) != num_items:
        raise FeatureError(f"{modality}: {len(given)} entries for {num_items} items; entry i must belong to item i + 1")
    if isinstance(given, np.ndarray) and given.ndim not in (2, 3):
        raise FeatureError(f"{modality}: expected [items, width] or [items, tokens, width], not {given.shape}")
    present = {i + 1: np.atleast_2d(np.asarray(entry)) for i, entry in enumerate(given) if entry is not None}
    if not present:
        raise FeatureError(f"{modality}: no item has any features, so that even their width is unknown")
    width = next(iter(present.values())).shape[-1]
    spans = np.zeros((num_items + 1, 2), dtype=np.int64)
    start = 0
    for item, tokens in present.items():
        if tokens.ndim != 2 or tokens.shape[1] != width:
            raise FeatureError(f"{modality}: item {item} has shape {tokens.shape}, expected [tokens, {width}]")
        if not np.isfinite(tokens).all():
            raise FeatureError(f"{modality}: item {item} holds NaN or infinity; give None where there is no content")
        spans[item] = start, len(tokens)
        start += len(tokens)
    stored = np.concatenate(list(present.values()))
    return TokenTable(stored if stored.dtype == np.float16 else stored.astype(np.float32), spans)

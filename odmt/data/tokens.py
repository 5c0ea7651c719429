"""The tokens of a whole catalogue in one modality, and the gathering of some items' tokens into a padded batch.

Rows of all items lie side by side without padding, so that a catalogue takes the space of its tokens, in memory or
mapped from a feature folder. A gather is two index operations, with no loop over items.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from odmt.types import Contents, Tokens

__all__ = ["FeatureError", "TokenTable", "by_length"]


class FeatureError(ValueError):
    """Say what is wrong with the features of a dataset, and how to make or choose the right ones."""


@dataclass(frozen=True)
class TokenTable:
    """Hold the tokens of every item in one modality: all rows side by side, and where each item's rows are.

    `values` is [total tokens, width] fp16 or fp32, usually memory-mapped; `spans` is [num_items + 1, 2] (start,
    length). `folder` is where they were read from, so that a worker process maps the file again instead of receiving a
    copy.
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
                f"item {item} claims rows {starts[item]} to {starts[item] + lengths[item]} of {len(self.values)} "
                "tokens: the two files do not belong together; remove the folder and encode again"
            )
        if lengths[0]:
            raise FeatureError(f"item 0 is padding and must have no tokens, but has {lengths[0]}")

    @classmethod
    def open(cls, folder: Path) -> TokenTable:
        """Map the two arrays of a feature folder; nothing but the spans is read. Raises `FeatureError` if damaged."""
        try:
            values = np.load(folder / "tokens.npy", mmap_mode="r", allow_pickle=False)
            spans = np.load(folder / "spans.npy", allow_pickle=False)
            _read_only_what_is_asked_for(values)
        except (OSError, ValueError, EOFError) as error:
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
        starts, lengths = self.spans[self._checked(items), 0], self.lengths(items, max_tokens)
        columns = np.arange(max(1, lengths.max(initial=0)))
        mask = columns < lengths[:, None]
        rows = (starts[:, None] + columns)[mask]
        _fetch(self.values, starts, lengths)
        # A plain view: indexing the memmap class itself builds a memmap per call.
        found = np.take(np.asarray(self.values), rows, axis=0)
        if len(found) < mask.size:
            padded = np.zeros((mask.size, self.width), dtype=found.dtype)
            padded[np.flatnonzero(mask)] = found
            found = padded
        return Tokens(torch.from_numpy(found.reshape(*mask.shape, self.width)), torch.from_numpy(mask))

    def lengths(self, items: np.ndarray | Sequence[int], max_tokens: int | None = None) -> np.ndarray:
        """Count the tokens that `gather` would read, [items]."""
        lengths = self.spans[self._checked(items), 1]
        return lengths if max_tokens is None else np.minimum(lengths, max_tokens)

    def _checked(self, items: np.ndarray | Sequence[int]) -> np.ndarray:
        wanted = np.asarray(items, dtype=np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() <= self.num_items:
            raise FeatureError(
                f"items {wanted.min()} to {wanted.max()} asked for, but the table has 0 to {self.num_items}"
            )
        return wanted


def by_length(features: Contents, modalities: Sequence[str], items: np.ndarray) -> np.ndarray:
    """Give the order of `items` by their number of tokens in all modalities together, equals as they come."""
    lengths = sum((features.count_tokens(name, items) for name in modalities), np.zeros(len(items), dtype=np.int64))
    return lengths.argsort(kind="stable")


def _read_only_what_is_asked_for(values: np.ndarray) -> None:
    # around every page that is missing the system reads a long stretch of the file, of which a batch needs little
    mapped = getattr(values, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)


def _fetch(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
    """Ask the system for the pages of all items at once, instead of waiting for one after the other."""
    mapped = getattr(values, "_mmap", None)
    if mapped is None or not hasattr(mmap, "MADV_WILLNEED"):
        return
    begin = getattr(values, "offset", 0) % mmap.ALLOCATIONGRANULARITY
    width = values.shape[1] * values.itemsize
    first = (begin + starts * width) // mmap.PAGESIZE * mmap.PAGESIZE
    last = begin + (starts + lengths) * width
    for start, size in zip(first.tolist(), (last - first).tolist(), strict=True):
        if size > 0:
            mapped.madvise(mmap.MADV_WILLNEED, start, size)

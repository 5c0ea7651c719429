"""Decoded pictures and frames on the disk, so that what was decoded in one epoch is read in the next.

A store holds as many items as its size allows, the most frequent first, each in a place of its own: any process may
write any of them at any time, and two that write the same item write the same bytes. A checksum tells whether an item
is there and whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from odmt.encoders import EncoderError

__all__ = ["PixelStore"]


class PixelStore:
    """Keep the pixels of items, all of one shape, in `folder`, which is made.

    identity: what decides them: the content and how it is prepared; another identity is another store. example: one
    item's, of whatever values. capacity: bytes that the store may take. counts: [num_items + 1] how often items are
    read; those that are read most are kept. Can be pickled: every process opens the files by itself.

    Raises `EncoderError` where the disk has no room for it.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], *, example: np.ndarray, capacity: int, counts: np.ndarray
    ) -> None:
        self.shape, self.dtype = example.shape, example.dtype
        text = json.dumps({**identity, "shape": self.shape, "type": str(self.dtype)}, sort_keys=True, default=str)
        self.slots = int(min(capacity // example.nbytes, (counts[1:] > 0).sum()))
        order = np.lexsort((np.arange(len(counts)), -counts))  # the most frequent first, equals by number
        order = order[(order > 0) & (counts[order] > 0)]
        self.slot_of = np.full(len(counts), -1)
        self.slot_of[order[: self.slots]] = np.arange(self.slots)
        # the order of all items decides where they are, so that a store that may grow goes on with what it has
        key = hashlib.sha256(f"{text} {hashlib.sha256(order.tobytes()).hexdigest()}".encode()).hexdigest()[:16]
        self.folder = folder / key
        self._make(text)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_pixels", "_sums")}

    def has(self, item: int) -> bool:
        """Say whether an item was written; whether it is whole shows when it is read."""
        slot = self.slot_of[item]
        return bool(slot >= 0 and self._sums[slot] != 0)

    def get(self, item: int, into: np.ndarray | None = None) -> np.ndarray | None:
        """Read an item, into an array of its shape if there is one; None where it is not there, or not whole."""
        if not self.has(item):
            return None
        slot = self.slot_of[item]
        found = np.empty(self.shape, self.dtype) if into is None else into
        found[...] = self._pixels[slot]
        return found if _sum_of(found) == self._sums[slot] else None

    def put(self, item: int, pixels: np.ndarray) -> bool:
        """Write an item, if it is one of those that are kept; say whether it is."""
        slot = self.slot_of[item]
        if slot >= 0:
            self._pixels[slot] = pixels
            self._sums[slot] = _sum_of(pixels)
        return bool(slot >= 0)

    @cached_property
    def _pixels(self) -> np.ndarray:
        return np.memmap(self.folder / "pixels", self.dtype, "r+", shape=(self.slots, *self.shape))

    @cached_property
    def _sums(self) -> np.ndarray:
        return np.memmap(self.folder / "sums", np.uint32, "r+", shape=(self.slots,))

    def _make(self, text: str) -> None:
        item = int(np.prod(self.shape)) * self.dtype.itemsize
        if not self.slots:
            raise EncoderError(f"a store of decoded pixels needs {item:,} bytes for one item; raise --data.store-gb")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "identity.json").write_text(text + "\n", encoding="utf-8")
        size = self.slots * item
        for name, wanted in (("pixels", size), ("sums", 4 * self.slots)):
            descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if os.fstat(descriptor).st_size < wanted:
                    # now, because a disk that fills up under a mapped file kills the process that writes there
                    _reserve(descriptor, wanted)
            except OSError as error:
                others = sorted(one.name for one in self.folder.parent.iterdir() if one != self.folder)
                beside = f", or remove stores of other settings beside it ({', '.join(others)})" if others else ""
                raise EncoderError(
                    f"{self.folder} cannot be made {size / 1e9:.1f} GB large: {error}; lower --data.store-gb, or leave "
                    f"it out{beside}"
                ) from error
            finally:
                os.close(descriptor)


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    for start in range(os.fstat(descriptor).st_size, size, 1 << 24):  # macOS has no such call
        os.pwrite(descriptor, bytes(min(1 << 24, size - start)), start)


def _sum_of(pixels: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(pixels).data) | 1  # never 0, which says that nothing is there

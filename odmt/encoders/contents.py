"""A catalogue's raw content, read when it is asked for, beside the features that are stored."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from odmt.data.features import ItemFeatures
from odmt.encoders import Content, EncoderError
from odmt.encoders.network import Preparation, Prepared
from odmt.encoders.pixel_store import PixelStore
from odmt.types import Int, Raw, Tensor, Tokens

__all__ = ["LiveContent", "LiveFeatures", "contents_of"]

DECODED = 32
"""Contents that are decoded at a time on their way into a store."""


@dataclass(frozen=True)
class LiveContent:
    """Hold what items have in one modality, [num_items] (None: nothing), how it is prepared, how wide its tokens will
    be, and where what was decoded is kept.
    """

    contents: Sequence[Content | None]
    preparation: Preparation
    width: int
    store: PixelStore | None = None

    def read(self, items: np.ndarray, draw: Sequence[int] | None = None, *, leave: bool = False) -> Raw:
        """Prepare the content of `items` (global ids).

        draw: what the random numbers of a preparation that varies follow from, beside each item's own number; without
        it nothing varies. leave: whether what is in the store stays there, and is named instead (`odmt.types.Raw`).
        """
        wanted = [(item, self.contents[item - 1] if item else None) for item in items.tolist()]
        having = [place for place, (_, content) in enumerate(wanted) if content is not None]
        found = [content for _, content in wanted if content is not None]
        numbers = [wanted[place][0] for place in having]
        rngs = None
        if draw is not None and self.preparation.varies:
            rngs = [np.random.default_rng([*draw, number]) for number in numbers]
        there = torch.zeros(len(wanted), dtype=torch.bool)
        if not found:
            return Raw({}, there, {})
        if self.store is None or rngs is not None:
            prepared, left = self.preparation(found, rngs), None
        else:
            prepared, left = self._stored(self.store, numbers, found)
        broken = {having[place]: reason for place, reason in prepared.broken.items()}
        there[[place for place in having if place not in broken]] = True
        raw = Raw(prepared.inputs, there, broken, left, self.left)
        return replace(raw, reader=None) if leave else Raw(raw.read(), there, broken)

    def left(self, items: Int[Tensor, " some"]) -> dict[str, Tensor]:
        """Read what is in the store, [items, ...]; decode again what turns out to be damaged there."""
        assert self.store is not None, "only what is in a store was left there"
        store, numbers = self.store, items.tolist()
        pixels = np.empty((len(numbers), *store.shape), store.dtype)

        def read(place: int) -> None:
            if store.get(numbers[place], into=pixels[place]) is None:
                content = self.contents[numbers[place] - 1]
                assert content is not None, "only items with content are in a store"
                again = self.preparation([content])
                if again.broken:
                    raise EncoderError(f"{content} could be read before, and now: {again.broken[0]}")
                pixels[place] = again.inputs["pixels"][0].numpy()
                store.put(numbers[place], pixels[place])

        # as with decoding: several at a time, but in a worker process, one of several
        with ThreadPoolExecutor(1 if get_worker_info() is not None else os.cpu_count()) as pool:
            list(pool.map(read, range(len(numbers))))
        return {"pixels": torch.from_numpy(pixels)}

    def _stored(
        self, store: PixelStore, items: Sequence[int], contents: Sequence[Content]
    ) -> tuple[Prepared, Int[Tensor, " readable"]]:
        """Prepare what the store lacks, and leave there what it has room for: say which items those are, 0 for others,
        whose rows are given.
        """
        lacking = [place for place, item in enumerate(items) if not store.has(item)]
        left, carried, broken = list(items), [], dict[int, str]()
        for first in range(0, len(lacking), DECODED):  # not all at once: in the first epoch a batch lacks all it has
            some = lacking[first : first + DECODED]
            new = self.preparation([contents[place] for place in some])
            broken |= {some[place]: reason for place, reason in new.broken.items()}
            read = [place for place in some if place not in broken]
            for place, pixels in zip(read, new.inputs.get("pixels", ()), strict=True):
                if not store.put(items[place], pixels.numpy()):
                    left[place] = 0
                    carried.append(pixels.clone())  # of its own, so that the others can go
        inputs = {"pixels": torch.stack(carried)} if carried else {}
        readable = [item for place, item in enumerate(left) if place not in broken]
        return Prepared(inputs, broken), torch.tensor(readable, dtype=torch.int64)


class LiveFeatures:
    """Give stored tokens of some modalities and raw content of others (`odmt.types.Contents`).

    draw: what random numbers of training follow from; see `in_training`.
    """

    def __init__(
        self,
        stored: ItemFeatures,
        live: Mapping[str, LiveContent],
        *,
        order: Sequence[str],
        draw: Sequence[int] | None = None,
    ) -> None:
        for modality, content in live.items():
            if len(content.contents) != stored.num_items:
                raise EncoderError(
                    f"{modality}: {len(content.contents)} contents for {stored.num_items} items; entry i must belong "
                    "to item i + 1"
                )
        self.stored, self.live = stored, dict(live)
        self.order, self.draw = tuple(order), draw

    @property
    def num_items(self) -> int:
        return self.stored.num_items

    @property
    def widths(self) -> Mapping[str, int]:
        """Width of the tokens of every modality, in stream order."""
        stored = self.stored.widths
        return {name: self.live[name].width if name in self.live else stored[name] for name in self.order}

    @property
    def keys(self) -> Mapping[str, str]:
        """Name the folder of each modality's stored features."""
        return self.stored.keys

    @property
    def recipes(self) -> Mapping[str, Mapping[str, Any]]:
        """Say what made each modality's stored features."""
        return self.stored.recipes

    def in_training(self, *draw: int) -> LiveFeatures:
        """Give the same as training reads it: with random numbers that follow from `draw`, such as seed and epoch, and
        from each item's own, and leaving on the disk what is decoded there.
        """
        return LiveFeatures(self.stored, self.live, order=self.order, draw=draw)

    def gather(self, modality: str, items: np.ndarray | Sequence[int]) -> Tokens | Raw:
        """Read the content of `items` (global ids; padding has none)."""
        if modality in self.live:
            wanted = np.asarray(items, dtype=np.int64)
            return self.live[modality].read(wanted, self.draw, leave=self.draw is not None)
        return self.stored.gather(modality, items)

    def left(self, modality: str, items: Int[Tensor, " some"]) -> Mapping[str, Tensor]:
        """Read what `odmt.types.Raw` has left on the disk, in the order of `items`."""
        return self.live[modality].left(items)

    def count_tokens(self, modality: str, items: np.ndarray | Sequence[int]) -> np.ndarray:
        """Say how many tokens each item has; of raw content, how many characters, or 1 for a file."""
        if modality not in self.live:
            return self.stored.count_tokens(modality, items)
        contents = self.live[modality].contents
        found = [contents[item - 1] if item else None for item in np.asarray(items).tolist()]
        return np.array(
            [0 if one is None else len(one) if isinstance(one, str) else 1 for one in found], dtype=np.int64
        )


def contents_of(dataset: Any, modality: str) -> list[Content | None]:
    """Give what the items of a dataset have in a modality, entry i for item i + 1; a text of blanks alone is none.

    Raises `EncoderError` where no item has any.
    """
    if modality == "text":
        found = [text if text is not None and text.strip() else None for text in dataset.texts()]
    else:
        found = list(dataset.media(modality))
    if not any(one is not None for one in found):
        raise EncoderError(f"no item of {dataset.path} has any {modality}: there is nothing to encode")
    return found

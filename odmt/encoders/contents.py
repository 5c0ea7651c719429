"""A catalogue's raw content, read when it is asked for, beside the features that are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from odmt.data.features import ItemFeatures
from odmt.encoders import Content, EncoderError
from odmt.encoders.network import Preparation, Prepared
from odmt.encoders.pixel_store import PixelStore
from odmt.types import Raw, Tokens

__all__ = ["LiveContent", "LiveFeatures", "contents_of"]


@dataclass(frozen=True)
class LiveContent:
    """Hold what items have in one modality, [num_items] (None: nothing), how it is prepared, how wide its tokens will
    be, and where what was decoded is kept.
    """

    contents: Sequence[Content | None]
    preparation: Preparation
    width: int
    store: PixelStore | None = None

    def read(self, items: np.ndarray, draw: Sequence[int] | None = None) -> Raw:
        """Prepare the content of `items` (global ids).

        draw: what the random numbers of a preparation that varies follow from, beside each item's own number; without
        it nothing varies.
        """
        wanted = [(item, self.contents[item - 1] if item else None) for item in items.tolist()]
        having = [place for place, (_, content) in enumerate(wanted) if content is not None]
        found = [content for _, content in wanted if content is not None]
        rngs = None
        if draw is not None and self.preparation.varies:
            rngs = [np.random.default_rng([*draw, wanted[place][0]]) for place in having]
        there = torch.zeros(len(wanted), dtype=torch.bool)
        if not found:
            return Raw({}, there, {})
        if self.store is not None and rngs is None:
            prepared = self._stored(self.store, [wanted[place][0] for place in having], found)
        else:
            prepared = self.preparation(found, rngs)
        broken = {having[place]: reason for place, reason in prepared.broken.items()}
        there[[place for place in having if place not in broken]] = True
        return Raw(prepared.inputs, there, broken)

    def _stored(self, store: PixelStore, items: Sequence[int], contents: Sequence[Content]) -> Prepared:
        """Prepare what the store lacks, and keep it there."""
        pixels = [store.get(item) for item in items]
        lacking = [place for place, one in enumerate(pixels) if one is None]
        if lacking:
            new = self.preparation([contents[place] for place in lacking])
            broken = {lacking[place]: reason for place, reason in new.broken.items()}
            read = [place for place in lacking if place not in broken]
            for place, one in zip(read, new.inputs.get("pixels", ()), strict=True):
                pixels[place] = one.numpy()
                store.put(items[place], one.numpy())
        else:
            broken = {}
        readable = [torch.from_numpy(one) for one in pixels if one is not None]
        return Prepared({"pixels": torch.stack(readable)} if readable else {}, broken)


class LiveFeatures:
    """Give stored tokens of some modalities and raw content of others (`odmt.types.Contents`).

    draw: what random numbers of training follow from; see `drawing`.
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
    def varies(self) -> bool:
        """Say whether training reads the same content differently each time."""
        return any(content.preparation.varies for content in self.live.values())

    def drawing(self, *draw: int) -> LiveFeatures:
        """Give the same with random numbers that follow from `draw`, such as seed and epoch, and each item's own."""
        return LiveFeatures(self.stored, self.live, order=self.order, draw=draw)

    def gather(self, modality: str, items: np.ndarray | Sequence[int]) -> Tokens | Raw:
        """Read the content of `items` (global ids; padding has none)."""
        if modality in self.live:
            return self.live[modality].read(np.asarray(items, dtype=np.int64), self.draw)
        return self.stored.gather(modality, items)

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

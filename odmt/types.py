"""What passes between the parts of odmt: batches, item tokens, and the protocols that third parties may implement.

Shapes are part of every signature (see `odmt.shapes`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from odmt.shapes import Bool, Float, Int, UInt8

__all__ = [
    "Backbone",
    "Batch",
    "Bool",
    "Contents",
    "Features",
    "Float",
    "Fusion",
    "FusionMaker",
    "Int",
    "LiveContents",
    "Part",
    "Questions",
    "Raw",
    "Streams",
    "Tensor",
    "Tokens",
    "UInt8",
]

Shared = TypeVar("Shared", Tensor, np.ndarray)

Streams = Mapping[str, Tensor]
"""One tensor per stream ("id", "text", "image", ...), in insertion order."""


@dataclass(frozen=True)
class Tokens:
    """Hold the token features of some items in one modality; an item whose mask is empty lacks that modality."""

    values: Float[Tensor, "items tokens width"]
    mask: Bool[Tensor, "items tokens"]

    def to(self, device: torch.device | str) -> Tokens:
        """Copy to `device`; the dtype stays as stored (fp16 in feature folders) and the model casts."""
        return Tokens(self.values.to(device), self.mask.to(device))


@dataclass(frozen=True)
class Raw:
    """Hold the content of some items in one modality as its encoder reads it, for models that train the encoder.

    inputs: arrays by name, with a row for each item that has content, in order; none where no item has.
    there: which items those are.
    broken: for items whose content could not be read, their place among the items, and the reason.
    left: for each item that has content, 0 where `inputs` has its row, else its number (global id): it lies decoded on
        the disk, where `reader` finds it, so that batches on their way are small; None where `inputs` has all.
    """

    inputs: Mapping[str, Tensor]
    there: Bool[Tensor, " items"]
    broken: Mapping[int, str]
    left: Int[Tensor, " content"] | None = None
    reader: Callable[[Int[Tensor, " some"]], Mapping[str, Tensor]] | None = None

    def to(self, device: torch.device | str) -> Raw:
        """Stay where it is: pixels go to a device as they are encoded, some items at a time."""
        del device
        return self

    def part(self, items: slice) -> Raw:
        """Give the content of consecutive items."""
        first, last, _ = items.indices(len(self.there))
        rows = slice(int(self.there[:first].sum()), int(self.there[:last].sum()))
        broken = {place - first: reason for place, reason in self.broken.items() if first <= place < last}
        left = None if self.left is None else self.left[rows]
        if self.left is not None:
            here = self.left == 0
            rows = slice(int(here[: rows.start].sum()), int(here[: rows.stop].sum()))
        # none, and not arrays without rows: many networks cannot read these
        inputs = {name: x[rows] for name, x in self.inputs.items()} if rows.stop > rows.start else {}
        return Raw(inputs, self.there[items], broken, left, self.reader)

    def read(self) -> Mapping[str, Tensor]:
        """Give `inputs` with a row for every item that has content, whether it was carried along or left."""
        if self.left is None or not self.left.any():
            return self.inputs
        assert self.reader is not None, "what a batch left on the disk is read by the model that has its features"
        found, here = self.reader(self.left[self.left > 0]), self.left == 0
        if not here.any():
            return found
        made = {name: x.new_empty(len(self.left), *x.shape[1:]) for name, x in found.items()}
        for name, x in made.items():
            x[here], x[~here] = self.inputs[name], found[name]
        return made


@dataclass(frozen=True)
class Part:
    """Say which part of a batch is this process's, where several share it: from `rank` on, every `world`-th of its
    items, which it encodes for all, and every `world`-th of its `users`.

    Where there are fewer than processes, the idle take the first, because all must take part; it is then not counted.
    """

    rank: int
    world: int
    users: int

    @property
    def idle(self) -> bool:
        return self.rank >= self.users

    def of(self, whole: Shared) -> Shared:
        """Take this process's part of a tensor or an array."""
        return whole[self.rank :: self.world] if self.rank < len(whole) else whole[:1]


@dataclass(frozen=True)
class Batch:
    """Hold some users' histories and each distinct item in them exactly once.

    `histories` index `items`, are left-padded, newest last; a padded slot holds 0 and is False in `mask`.
    Items may come in any order; like lengths side by side cost the least padding, and `make_batch` puts them so.
    `counts` say how many slots of the batch an item fills, which is all that in-batch losses need to know of repeats;
    it is 0 for an item that is there only because it was drawn as a candidate. `draws` say how often that was.

    part: where processes share a batch, which part is this one's: `histories` are those of its users, and `content` is
        that of the items it encodes, while `items`, `counts` and `draws` are of the whole batch.
    seed: of what is drawn at random for the whole batch, whoever draws it; without it, torch's generator decides.
    """

    items: Int[Tensor, " candidates"]
    counts: Int[Tensor, " candidates"]
    histories: Int[Tensor, "batch length"]
    mask: Bool[Tensor, "batch length"]
    content: Mapping[str, Tokens | Raw]
    draws: Int[Tensor, " candidates"] | None = None
    part: Part | None = None
    seed: int | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Copy every tensor to `device`."""
        moved: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in moved.items()}
        moved["content"] = {name: one.to(device) for name, one in self.content.items()}
        return Batch(**moved)


@dataclass(frozen=True)
class Questions:
    """Ask, for each of some users, which item follows a history.

    users: [users]; histories: [users, length], what the model reads; seen: [users, any], the events before the
        target that the cut history keeps; targets: [users].
    """

    users: np.ndarray
    histories: np.ndarray
    seen: np.ndarray
    targets: np.ndarray


@runtime_checkable
class Contents(Protocol):
    """Give what a catalogue's items are: stored tokens, or raw content where the model trains the encoder.

    Item 0 is padding and has none, real items are 1..num_items.
    """

    @property
    def num_items(self) -> int: ...

    @property
    def widths(self) -> Mapping[str, int]:
        """Width of the tokens of every modality, in stream order."""
        ...

    def gather(self, modality: str, items: np.ndarray | Sequence[int]) -> Tokens | Raw:
        """Read the content of `items` (global ids)."""
        ...

    def count_tokens(self, modality: str, items: np.ndarray | Sequence[int]) -> np.ndarray:
        """Say how many tokens each of `items` has, [items], without reading them; of raw content, a number that will do
        to sort by, 0 where there is none.
        """
        ...


@runtime_checkable
class Features(Contents, Protocol):
    """Give the stored token features of a catalogue."""

    def gather(self, modality: str, items: np.ndarray | Sequence[int]) -> Tokens:
        """Read the tokens of `items` (global ids), padded to the longest of them and to at least one."""
        ...


@runtime_checkable
class LiveContents(Contents, Protocol):
    """Name what raw content has in addition."""

    def in_training(self, *draw: int) -> Contents:
        """Give the same as training reads it: with random numbers that follow from `draw` and each item's own number,
        where content is read differently each time, and leaving on the disk what is decoded there.
        """
        ...

    def left(self, modality: str, items: Int[Tensor, " some"]) -> Mapping[str, Tensor]:
        """Read what `Raw` has left on the disk, in the order of `items`."""
        ...


@runtime_checkable
class Backbone(Protocol):
    """Turn the item vectors of a history into user states; causal: row t sees rows <= t.

    Histories are left-padded: a padded row has mask False and holds zeros.

    A backbone may also have a method `newest(x, mask) -> [batch, dim]` that gives the last row of its output for less
    work; evaluation calls it where it is there.

    One that looks both ways is trained by hiding events from it (Cloze, arXiv 1904.06690). It has a number `hide_rate`,
    the share of events to hide, is called with all events of a history as `(x, mask, hidden)`, hidden [batch, length]
    bool, and gives states at hidden rows that know everything but what is hidden; its `newest` gives the state of an
    event to come.
    """

    def __call__(
        self, x: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]: ...


@runtime_checkable
class Fusion(Protocol):
    """Turn the tokens of items, one entry per input stream, into one vector per output stream.

    Tokens are [items, tokens, width of that stream], masks [items, tokens] with True for a real token; the id stream is
    one token wide. Output streams may be fewer (an early fusion returns one) and each gets a backbone of its own.

    An item's vectors may depend on its own tokens alone, for it is encoded beside whatever others; a fusion that mixes
    the items of a call on purpose has `mixes_items = True`, and is not tried for it.

    A fusion may also have a method `start_from(features)`, which is called where a component call or its class makes
    it, so that its parameters may start from the catalogue's content.
    """

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the output streams."""
        ...

    def __call__(self, tokens: Streams, masks: Streams) -> Streams: ...


FusionMaker = Callable[[Mapping[str, int], int], Fusion]
"""Make a fusion, of the width of each input stream by name, and that of the vectors to be made: (widths, dim), as its
class may."""

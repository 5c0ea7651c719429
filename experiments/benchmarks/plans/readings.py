"""How a batch is read, put in place of what decides by values, which tensors without content have not.

A GPU reads a batch in one part, drops out by one byte per number and keeps no attention weights (torch's
memory-efficient kernel); a CPU reads it in parts (`odmt.parts`), and keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle, pairwise
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from odmt.attention import Attention
from odmt.fusion import IDAwareTransformer
from odmt.parts import PART_ROWS, user_parts
from odmt.sharing import gathered
from odmt.softmax import _LOGITS
from odmt.types import Part, Streams, Tokens

__all__ = ["BatchShape", "ItemTokens", "Reading", "as_read"]


@dataclass(frozen=True)
class ItemTokens:
    """Say what is stored of a modality: numbers per token, and tokens of some items that stand for all, ascending."""

    width: int
    lengths: np.ndarray

    @property
    def most(self) -> int:
        return max(1, int(self.lengths[-1]))

    @property
    def mean(self) -> float:
        return float(self.lengths.mean())

    def of(self, num_items: int) -> np.ndarray:
        """Give the tokens of so many items, ascending."""
        return self.lengths[((np.arange(num_items) + 0.5) / num_items * len(self.lengths)).astype(int)]


@dataclass(frozen=True)
class BatchShape:
    """Say what one step reads: events per user, targets included, ascending; distinct items, drawn ones included."""

    lengths: np.ndarray
    distinct: int
    draws: int = 0


class Reading:
    """Hold how a process' users are read: in one padded part by a GPU, in parts of like length by a CPU."""

    def __init__(self, lengths: np.ndarray, *, gpu: bool) -> None:
        self.users, self.width = len(lengths), int(lengths[-1])
        mask = torch.arange(self.width) >= self.width - torch.from_numpy(lengths)[:, None]
        self.parts = [(slice(None), 0)] if gpu else user_parts(mask)[1]
        self.rows: dict[tuple[int, ...], Iterator[int]] = {}
        """By the shape of a mask of events, how many predictions it picks, part by part: every event but the first."""
        for shape in {(self.users, self.width), *(self._shape(*part) for part in self.parts)}:
            whole = [lengths] if shape == (self.users, self.width) else []
            alike = [lengths[users] for users, first in self.parts if self._shape(users, first) == shape]
            self.rows[shape] = cycle(int((some - 1).sum()) for some in whole or alike)

    def _shape(self, users: slice, first: int) -> tuple[int, int]:
        return len(range(*users.indices(self.users))), self.width - first - 1

    def user_parts(self, mask: Tensor, *, at_once: bool) -> tuple[slice, list[tuple[slice, int]]]:
        del mask, at_once
        return slice(None), self.parts


@contextmanager
def as_read(
    made: Callable[[str], AbstractContextManager[None]],
    reading: Reading,
    tokens: Mapping[str, ItemTokens],
    *,
    gpu: bool,
    world: int = 1,
) -> Iterator[None]:
    """Put in place what decides by values or by the device, and what speaks to other processes.

    made: called with the name of what is made within the context that it gives.
    """

    def item_parts(given: Mapping[str, Tokens]) -> list[dict[str, Tokens]]:
        if gpu or all(x.mask.shape[1] == 1 for x in given.values()):
            return [dict(given)]
        num_items = len(next(iter(given.values())).mask)
        lengths = {name: tokens[name].of(num_items) if name in tokens else np.ones(num_items, int) for name in given}
        number = np.sum(list(lengths.values()), axis=0).cumsum() // PART_ROWS
        parts = []
        for a, b in pairwise([0, *(np.flatnonzero(np.diff(number)) + 1), num_items]):
            most = {name: max(1, int(lengths[name][a:b].max())) for name in given}
            parts.append(
                {name: Tokens(x.values[a:b, : most[name]], x.mask[a:b, : most[name]]) for name, x in given.items()}
            )
        return parts

    def keep_mask(x: Tensor, p: float) -> Tensor:
        del p
        return torch.empty_like(x, dtype=torch.bool if gpu else x.dtype)

    def in_one_kernel(self: Attention, query: Tensor, context: Tensor, allowed: Tensor) -> Tensor:
        key, value = self.key(context), self.value(context)
        heads = [x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (query, key, value)]
        mixed = F.scaled_dot_product_attention(*heads, attn_mask=allowed[:, None])
        return mixed.transpose(1, 2).flatten(2)

    def allowed_rows(self: IDAwareTransformer, seen: list[Tensor], *, has_id: bool) -> Tensor:
        rows = sum(mask.shape[1] for mask in seen)
        return torch.empty(len(seen[0]), rows, rows, dtype=torch.bool)

    def all_gathered(vectors: Streams, num_items: int, part: Part) -> Streams:
        with made("gathered"):
            return gathered(vectors, num_items, part)

    with ExitStack() as stack:
        change = [
            patch("odmt.items.item_parts", item_parts),
            patch("odmt.model.user_parts", reading.user_parts),
            patch("odmt.dropout.keep_mask", keep_mask),
            patch("odmt.attention.keep_mask", keep_mask),
            patch.object(IDAwareTransformer, "_allowed", allowed_rows),
            patch("odmt.model.gathered", all_gathered),
            patch("odmt.sharing.dist", _Alone(world)),
        ]
        if gpu:
            change += [
                patch.object(Attention, "_projected", in_one_kernel),
                patch.dict(_LOGITS, cpu=_LOGITS["cuda"]),
            ]
        for one in change:
            stack.enter_context(one)
        yield


class _Alone:
    """Stand for torch.distributed: what the other processes of `world` send is of no account."""

    def __init__(self, world: int) -> None:
        self.world = world

    def get_world_size(self) -> int:
        return self.world

    @staticmethod
    def all_gather(made: list[Tensor], own: Tensor) -> None: ...

    @staticmethod
    def all_reduce(value: Tensor) -> None: ...

"""A training step of any model of ours on tensors without content: what is held at its peak, and what it multiplies.

Torch's fake tensors have shapes and types, and no memory: the model's own code runs on them, forward and backward, at
full size, in seconds, and every storage it makes is counted from its making to its end. What the code decides by
values is decided by shapes instead: a mask of events picks as many rows as there are predictions.

A GPU reads a batch in one part, drops out by one byte per number and keeps no attention weights (torch's
memory-efficient kernel); a CPU reads it in parts (`odmt.parts`), and keeps them. Both are put in place here, because
fake tensors are tensors of the CPU. Autocast is the CPU's, too.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from odmt.attention import Attention
from odmt.config import Experiment
from odmt.data.features import ItemFeatures
from odmt.data.tokens import TokenTable
from odmt.fusion import IDAwareTransformer
from odmt.items import STORED_CHUNK, evaluating
from odmt.model import ODMT
from odmt.parts import PART_ROWS, user_parts
from odmt.pretrained import build_model
from odmt.sharing import gathered
from odmt.softmax import _LOGITS
from odmt.types import Batch, Part, Streams, Tokens

__all__ = ["BatchShape", "Held", "ItemTokens", "Step", "hollow_encoding", "hollow_model", "hollow_step", "table_names"]

aten = torch.ops.aten
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index_put)


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


@dataclass(frozen=True)
class Held:
    """Hold bytes at one moment of a step, beside parameters and the optimizer's states."""

    gradients: int
    logits: int
    gathered: int
    batch: int
    others: int

    @property
    def total(self) -> int:
        return self.gradients + self.logits + self.gathered + self.batch + self.others


@dataclass
class Step:
    """Hold what a step takes: at its peak, after the forward pass, and in operations of matrix products."""

    peak: Held
    kept: Held
    operations: int
    parameters: dict[str, int] = field(default_factory=dict)


def hollow_model(experiment: Experiment, num_items: int, tokens: Mapping[str, ItemTokens]) -> ODMT:
    """Build the model that an experiment describes over a catalogue of any size, without any memory."""
    spans = np.zeros((num_items + 1, 2), dtype=np.int64)
    tables = {name: TokenTable(np.zeros((0, one.width), np.float16), spans) for name, one in tokens.items()}
    features = ItemFeatures(tables, num_items=num_items)
    counts = np.ones(num_items + 1, dtype=np.int64)
    with FakeTensorMode(allow_non_fake_inputs=True):
        return build_model(experiment, features, item_counts=counts, start=False)


def table_names(model: nn.Module) -> set[str]:
    """Name the parameters that hold a row per item."""
    return {name for name, _ in model.named_parameters() if name.rpartition(".")[0].endswith("id_table")}


def hollow_step(
    model: ODMT,
    shape: BatchShape,
    tokens: Mapping[str, ItemTokens],
    *,
    world: int = 1,
    shared: bool = True,
    bf16: bool = False,
    gpu: bool = True,
    lazy: bool = False,
) -> Step:
    """Take one step of a process, the first of `world`, and follow what it holds.

    shared: whether processes share the batch's candidates (`--train.candidates global`); without, each has its users'
        own, of which `shape` then speaks. gpu: whether to read as a GPU does. lazy: whether tables get gradients of the
        batch's rows alone.
    """
    part = Part(0, world, len(shape.lengths)) if shared and world > 1 else None
    reading = _Reading(shape.lengths[::-1][::world][::-1] if part else shape.lengths, gpu=gpu)
    followed = _Followed(model, shape.distinct, reading)
    if lazy:
        followed.sparse = {tuple(model.get_parameter(name).shape) for name in table_names(model)}
    with ExitStack() as stack:
        stack.enter_context(_as_read(followed, reading, tokens, gpu=gpu))
        stack.enter_context(_fake_mode(model))
        stack.enter_context(followed)
        model.train()
        with followed.made("batch"):
            batch = _batch(shape, reading, tokens, part)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = torch.stack(list(model(batch).values())).sum()
        kept, followed.backward = followed.now(), True
        loss.backward()
    for parameter in model.parameters():
        parameter.grad = None
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return Step(followed.peak, kept, followed.operations, sizes)


def hollow_encoding(
    model: ODMT, tokens: Mapping[str, ItemTokens], *, items: int = STORED_CHUNK, gpu: bool = True
) -> Step:
    """Encode some items of the catalogue, as evaluation does."""
    lengths = np.full(2, 2)
    reading = _Reading(lengths, gpu=gpu)
    followed = _Followed(model, items, reading)
    with ExitStack() as stack:
        stack.enter_context(_as_read(followed, reading, tokens, gpu=gpu))
        stack.enter_context(_fake_mode(model))
        stack.enter_context(followed)
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluating(model))
        batch = _batch(BatchShape(lengths, items), reading, tokens, None)
        model.encode(batch.items, batch.content)
    return Step(followed.peak, followed.now(), followed.operations)


def _fake_mode(model: nn.Module) -> FakeTensorMode:
    return next(model.parameters()).fake_mode  # pyright: ignore[reportAttributeAccessIssue]


class _Reading:
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

    def user_parts(self, mask: Tensor) -> tuple[slice, list[tuple[slice, int]]]:
        del mask
        return slice(None), self.parts


class _Followed(TorchDispatchMode):
    """Follow every storage from the operation that makes it to its end, and count multiplications."""

    def __init__(self, model: nn.Module, candidates: int, reading: _Reading) -> None:
        super().__init__()
        self.candidates, self.reading = candidates, reading
        self.live: dict[str, int] = dict.fromkeys(("gradients", "logits", "gathered", "batch", "others"), 0)
        self.refs: dict[int, tuple[weakref.ref[Any], str, int]] = {}
        self.peak = self.now()
        self.operations = 0
        self.making = ""
        self.known = {id(tensor.untyped_storage()) for tensor in (*model.parameters(), *model.buffers())}
        self.kept_alive = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
        self.shapes = {tuple(parameter.shape) for parameter in model.parameters()}
        self.backward = False
        self.sparse: set[tuple[int, ...]] = set()
        """Shapes of parameters whose gradients are of the candidates' rows alone."""

    def now(self) -> Held:
        return Held(**self.live)

    @contextmanager
    def made(self, kind: str) -> Iterator[None]:
        """Say what is made meanwhile."""
        self.making = kind
        yield
        self.making = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            return 0  # what is asked of values: is anything masked by -inf? nothing is
        if func.overloadpacket in INDEXING:
            args = (args[0], self._places(args[1]), *args[2:])
        out = func(*args, **kwargs)
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.operations += count(*args, **kwargs, out_val=out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._follow(tensor)
        return out

    def _places(self, indices: list[Tensor | None]) -> list[Tensor | None]:
        """Put places where masks are, as many as they pick."""
        found: list[Tensor | None] = []
        for index in indices:
            if index is None or index.dtype != torch.bool:
                found.append(index)
            else:
                picked = next(self.reading.rows[tuple(index.shape)])
                found += [torch.empty(picked, dtype=torch.long) for _ in range(index.ndim)]
        return found

    def _kind(self, tensor: Tensor) -> str:
        if self.making:
            return self.making
        if self.backward and tuple(tensor.shape) in self.shapes:
            return "gradients"
        if tensor.ndim == 2 and tensor.shape[1] == self.candidates and tensor.shape[0] > 1:
            return "logits"
        return "others"

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self.known or key in self.refs:
            return
        size, kind = storage.nbytes(), self._kind(tensor)
        if kind == "gradients" and tuple(tensor.shape) in self.sparse:
            size = size // len(tensor) * self.candidates
        self.refs[key] = weakref.ref(storage, lambda _: self._end(key)), kind, size
        self._add(kind, size)

    def _add(self, kind: str, size: int) -> None:
        self.live[kind] += size
        if size > 0 and sum(self.live.values()) > self.peak.total:
            self.peak = self.now()

    def _end(self, key: int) -> None:
        _, kind, size = self.refs.pop(key)
        self._add(kind, -size)


def _batch(shape: BatchShape, reading: _Reading, tokens: Mapping[str, ItemTokens], part: Part | None) -> Batch:
    encoded = math.ceil(shape.distinct / part.world) if part else shape.distinct
    content = {
        name: Tokens(
            torch.empty(encoded, one.most, one.width, dtype=torch.float16),
            torch.empty(encoded, one.most, dtype=torch.bool),
        )
        for name, one in tokens.items()
    }
    items, counts = (torch.empty(shape.distinct, dtype=torch.long) for _ in range(2))
    histories = torch.empty(reading.users, reading.width, dtype=torch.long)
    draws = torch.empty(shape.distinct, dtype=torch.long) if shape.draws else None
    mask = torch.empty_like(histories, dtype=torch.bool)
    return Batch(items, counts, histories, mask, content=content, draws=draws, part=part)


@contextmanager
def _as_read(followed: _Followed, reading: _Reading, tokens: Mapping[str, ItemTokens], *, gpu: bool) -> Iterator[None]:
    """Put in place what decides by values or by the device, and what speaks to other processes."""

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
        with followed.made("gathered"):
            return gathered(vectors, num_items, part)

    with ExitStack() as stack:
        change = [
            patch("odmt.items.item_parts", item_parts),
            patch("odmt.model.user_parts", reading.user_parts),
            patch("odmt.dropout.keep_mask", keep_mask),
            patch("odmt.attention.keep_mask", keep_mask),
            patch.object(IDAwareTransformer, "_allowed", allowed_rows),
            patch("odmt.model.gathered", all_gathered),
            patch("odmt.sharing.dist", _Alone),
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
    """Stand for torch.distributed: what other processes send is of no account."""

    @staticmethod
    def all_gather(made: list[Tensor], own: Tensor) -> None: ...

    @staticmethod
    def all_reduce(value: Tensor) -> None: ...

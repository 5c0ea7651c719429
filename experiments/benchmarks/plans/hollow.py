"""A training step of any model of ours on tensors without content: what is held at its peak, and what it multiplies.

Torch's fake tensors have shapes and types, and no memory: the model's own code runs on them, forward and backward, at
full size, in seconds, and every storage it makes is counted from its making to its end. What the code decides by
values is decided by shapes instead: a mask of events picks as many rows as there are predictions.

Fake tensors are tensors of the CPU, and so is their autocast; `readings` has them read as a GPU reads.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from odmt.config import Experiment
from odmt.data.features import ItemFeatures
from odmt.data.tokens import TokenTable
from odmt.items import STORED_CHUNK, evaluating, id_tables
from odmt.model import ODMT
from odmt.pretrained import build_model
from odmt.types import Batch, Part, Tokens

from .readings import BatchShape, ItemTokens, Reading, as_read

__all__ = ["BatchShape", "Held", "ItemTokens", "Step", "hollow_encoding", "hollow_model", "hollow_step", "table_names"]

aten = torch.ops.aten
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index_put)


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
    return {f"{name}.weight" for name in id_tables(model)}


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
    reading = Reading(shape.lengths[::-1][::world][::-1] if part else shape.lengths, gpu=gpu)
    followed = _Followed(model, shape.distinct, reading)
    if lazy:
        followed.sparse = {tuple(model.get_parameter(name).shape) for name in table_names(model)}
    with ExitStack() as stack:
        stack.enter_context(as_read(followed.made, reading, tokens, gpu=gpu, world=world))
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
    reading = Reading(lengths, gpu=gpu)
    followed = _Followed(model, items, reading)
    with ExitStack() as stack:
        stack.enter_context(as_read(followed.made, reading, tokens, gpu=gpu))
        stack.enter_context(_fake_mode(model))
        stack.enter_context(followed)
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluating(model))
        batch = _batch(BatchShape(lengths, items), reading, tokens, None)
        model.encode(batch.items, batch.content)
    return Step(followed.peak, followed.now(), followed.operations)


def _fake_mode(model: nn.Module) -> FakeTensorMode:
    return next(model.parameters()).fake_mode  # pyright: ignore[reportAttributeAccessIssue]


class _Followed(TorchDispatchMode):
    """Follow every storage from the operation that makes it to its end, and count multiplications."""

    def __init__(self, model: nn.Module, candidates: int, reading: Reading) -> None:
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
                rows = self.reading.rows.get(tuple(index.shape))
                picked = index.numel() if rows is None else next(rows)
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


def _batch(shape: BatchShape, reading: Reading, tokens: Mapping[str, ItemTokens], part: Part | None) -> Batch:
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

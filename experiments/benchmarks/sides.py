"""The two sides of the comparison: the library and the plain reference, each with a model and an optimizer of its own.

Both find their batch's tokens ready (the suite `loader` times their reading): ours the distinct items', the reference
those of all positions. The reference uses AdamW as torch makes it, ours fused, as `odmt.training` does.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from odmt import ODMT
from odmt.attention import compile_blocks
from odmt.types import Batch, Tokens

from .workload import Workload, edges_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from tests.parity.plain_batch import PlainBatch, argsort_ranks

__all__ = ["Ours", "Positions", "Reference", "argsort_ranks", "plain_of"]

CLIP = 5.0


class Ours:
    """Step with the library."""

    def __init__(
        self,
        workload: Workload,
        device: torch.device,
        *,
        dropout: float,
        bf16: bool = False,
        compiled: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.workload, self.device, self.bf16 = workload, device, bf16
        self.model = workload.model(dropout).to(device, dtype)
        if compiled:
            torch.compiler.reset()  # past its limit of kernels, those of earlier sides included, torch runs eagerly
            compile_blocks(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)

    def load(self, number: int) -> Batch:
        return self.workload.batch(number).to(self.device)

    def backward(self, batch: Batch) -> Tensor:
        with _autocast(self.device, self.bf16):
            loss = torch.stack(list(self.model(batch).values())).sum()
        loss.backward()
        return loss.detach()

    def step(self, batch: Batch) -> None:
        self.backward(batch)
        _update(self.model, self.optimizer)


@dataclass(frozen=True)
class Positions:
    """Hold the reference's batch: histories of global ids, and the tokens of all positions in one or several pieces.

    `vectors` are there where there are several: the positions' vectors, from a pass that keeps nothing else.
    """

    histories: Tensor
    pieces: list[tuple[Tensor, dict[str, Tokens]]]
    vectors: Mapping[str, Tensor] | None


class Reference:
    """Step with the plain batch.

    Where all positions at once would not fit into memory they go in pieces: the loss is computed from `vectors`, and
    each piece is then encoded and given its share of the gradient. That is again one forward and one backward pass over
    everything, and the same gradient; the pass that made `vectors` belongs to `load` and is not timed.
    """

    def __init__(
        self,
        workload: Workload,
        device: torch.device,
        *,
        dropout: float,
        bf16: bool = False,
        pieces: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.workload, self.device, self.bf16, self.pieces = workload, device, bf16, pieces
        self.model = workload.model(dropout).to(device, dtype)
        self.plain = plain_of(self.model, workload, dropout=dropout)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.1)

    def load(self, number: int) -> Positions:
        histories = torch.from_numpy(self.workload.histories(number))
        flat = histories.flatten()
        pieces = []
        for items in flat.chunk(self.pieces):
            content = {name: self.workload.padded(name, items.numpy()) for name in self.workload.modalities}
            pieces.append((items.to(self.device), {name: t.to(self.device) for name, t in content.items()}))
        if len(pieces) == 1:
            return Positions(histories.to(self.device), pieces, None)
        with torch.no_grad(), _autocast(self.device, self.bf16):
            parts = [self.plain.encode(*piece) for piece in pieces]
        vectors = {name: torch.cat([part[name] for part in parts]).requires_grad_() for name in self.plain.streams}
        return Positions(histories.to(self.device), pieces, vectors)

    def backward(self, batch: Positions) -> Tensor:
        with _autocast(self.device, self.bf16):
            vectors = batch.vectors or self.plain.encode(*batch.pieces[0])
            loss = torch.stack(self.plain.losses(batch.histories, vectors)).sum()
        loss.backward()
        if batch.vectors is not None:
            self._encode_pieces(batch.pieces, batch.vectors)
        return loss.detach()

    def step(self, batch: Positions) -> None:
        self.backward(batch)
        _update(self.model, self.optimizer)

    def _encode_pieces(self, pieces: list[tuple[Tensor, dict[str, Tokens]]], vectors: Mapping[str, Tensor]) -> None:
        done = 0
        for items, content in pieces:
            with _autocast(self.device, self.bf16):
                encoded = self.plain.encode(items, content)
            gradients = [x.grad[done : done + len(items)] for x in vectors.values() if x.grad is not None]
            torch.autograd.backward(list(encoded.values()), gradients)
            done += len(items)


def plain_of(model: ODMT, workload: Workload, *, dropout: float = 0.0) -> PlainBatch:
    """Read a model's parameters into the plain batch."""
    return PlainBatch(
        dict(model.named_parameters()),
        model.log_popularity,
        model.streams,
        model.length,
        edges=edges_of(workload.shape.streams),
        dropout=dropout,
    )


def _update(model: ODMT, optimizer: torch.optim.Optimizer) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad()


def _autocast(device: torch.device, bf16: bool) -> AbstractContextManager[object]:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)

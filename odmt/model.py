"""ODMT: item streams, a fusion, one sequence model per stream, ranking losses, and distillation between the streams.

model = ODMT(features, dim=64, backbone=lambda: MyGRU(64),
             distill=DistillationGraph("id -> text", "id -> image", "ensemble -> id", temperature=2.0))
losses = model(batch)                  # {"ranking": ..., "distill": ...}: sum them, call backward
tables = model.encode_catalogue()      # {"id": [items + 1, dim], "text": ...}
scores = ensemble(model.score(histories, tables))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from odmt.backbones import BACKBONES
from odmt.data.tokens import by_length
from odmt.distill import DistillationGraph, ensemble
from odmt.fusion import FUSIONS
from odmt.parts import item_parts, user_parts
from odmt.ranking import full_softmax_loss, in_batch_logits, log_multiplicity, next_item_loss, next_item_rows
from odmt.spec import parse_call
from odmt.types import Backbone, Batch, Features, Float, Fusion, Int, Streams, Tensor, Tokens

__all__ = ["CONTEXT", "FIXED", "ODMT"]

CONTEXT = ("dim", "dropout", "length", "widths")
"""What a component's constructor may ask for beside its own arguments."""
FIXED = ("dim", "length", "widths")
"""Of these, what must be the same in all components, so that no call may set it."""


class ODMT(nn.Module):
    """Recommend from what items are and from who clicked what.

    features: token features of the catalogue; its modalities and, first, "id" are the streams unless `streams` picks
        some.
    dim: width of item vectors and user states.
    fusion: component string, or a module as in `odmt.types.Fusion`.
    backbone: component string, or a function without arguments that makes one; called once per output stream of the
        fusion.
    distill: teacher -> student edges among the output streams and "ensemble"; none by default.
    item_counts: [num_items + 1] how often each item occurs in training, for the popularity correction of the ranking
        loss; without it no correction is made.
    popularity: strength of that correction; 1 is the release's.
    candidates: what a target competes with in training: the items of the "batch", corrected for popularity, or the
        whole "catalogue", as it is. That encodes every item at every step, which is for ids and small catalogues, and
        it leaves no logits to distil.
    length: longest history that will be read.
    id_init: start of the id table: "random" (xavier), or the first tokens of one modality, or "mean" of all modalities
        (copied; their widths must agree, and the table takes that width).
    """

    def __init__(
        self,
        features: Features,
        *,
        streams: Sequence[str] = (),
        dim: int = 128,
        fusion: str | Fusion = "imt(layers=2, heads=2)",
        backbone: str | Callable[[], Backbone] = "sasrec(layers=2, heads=2)",
        distill: DistillationGraph | None = None,
        item_counts: np.ndarray | None = None,
        popularity: float = 1.0,
        candidates: Literal["batch", "catalogue"] = "batch",
        length: int = 10,
        dropout: float = 0.1,
        id_init: str = "random",
    ) -> None:
        super().__init__()
        self.features = features
        self.num_items = features.num_items
        self.length = length
        self.popularity = popularity
        self.inputs = _checked_streams(streams, features)
        self.modalities = tuple(name for name in self.inputs if name != "id")
        widths = {name: features.widths.get(name, 0) for name in self.inputs}
        if "id" not in self.inputs and id_init != "random":
            raise ValueError(f"id_init={id_init!r}, but 'id' is not among the streams {', '.join(self.inputs)}")
        if "id" in self.inputs:
            self.id_table = _id_table(id_init, features, dim)
            widths["id"] = self.id_table.embedding_dim
        context = {"widths": widths, "dim": dim, "dropout": dropout, "length": length}
        self.fusion: Fusion = _component(fusion, FUSIONS, "fusion", context) if isinstance(fusion, str) else fusion
        _module(self.fusion, "fusion")
        self.streams = tuple(self.fusion.streams)
        self.backbones = nn.ModuleDict({name: _backbone(backbone, context) for name in self.streams})
        if len({id(module) for module in self.backbones.values()}) < len(self.streams):
            raise ValueError("backbone() returned the same module twice; make a new one at each call")
        self.distill = distill or DistillationGraph()
        self.distill.check(self.streams)
        if candidates not in ("batch", "catalogue"):
            raise ValueError(f"candidates={candidates!r} is neither 'batch' nor 'catalogue'")
        if candidates == "catalogue" and self.distill.edges:
            raise ValueError("candidates='catalogue' leaves no logits to distil; empty the graph, or take 'batch'")
        self.candidates = candidates
        self.log_popularity: Tensor
        self.register_buffer("log_popularity", _log_popularity(item_counts, self.num_items))

    @property
    def device(self) -> torch.device:
        return self.log_popularity.device

    def forward(self, batch: Batch, distill_weight: float = 1.0) -> dict[str, Float[Tensor, ""]]:
        """Compute the losses of a batch whose histories hold inputs and targets: each position predicts the next.

        "ranking" is the sum of the streams' next-item losses, "distill" the graph's loss times `distill_weight`.
        """
        if self.candidates == "catalogue":
            everything = torch.arange(1, self.num_items + 1, device=self.device)
            return self._losses(batch, self.encode(everything), batch.items[batch.histories] - 1, distill_weight)
        return self._losses(batch, self.encode(batch.items, batch.content), batch.histories, distill_weight)

    def _losses(self, batch: Batch, vectors: Streams, histories: Tensor, distill_weight: float) -> dict[str, Tensor]:
        histories, mask, parts = user_parts(histories, batch.mask)
        rows, targets = next_item_rows(histories, mask)
        states = {name: [] for name in vectors}
        for name, items in vectors.items():
            for users, first in parts:
                inputs, seen = histories[users, first:-1], mask[users, first:-1]
                x = items[inputs] * seen.unsqueeze(-1)  # a padded slot points at some item, and must not carry it
                states[name].append(self.backbones[name](x, seen)[rows[users, first:]])
        if self.candidates == "catalogue":
            losses = [full_softmax_loss(torch.cat(states[name]), items, targets) for name, items in vectors.items()]
            ranking = torch.stack(losses).sum()
            return {"ranking": ranking, "distill": torch.zeros_like(ranking)}
        precise = torch.promote_types(self.log_popularity.dtype, torch.float32)
        multiplicity = log_multiplicity(histories, mask, batch.counts, dtype=precise)
        correction = self.popularity * self.log_popularity[batch.items]
        logits = {name: in_batch_logits(torch.cat(states[name]), vectors[name], correction) for name in vectors}
        ranking = torch.stack([next_item_loss(z, targets, multiplicity) for z in logits.values()]).sum()
        return {"ranking": ranking, "distill": distill_weight * self.distill(logits, multiplicity)}

    def encode(self, items: Int[Tensor, " items"], content: Mapping[str, Tokens] | None = None) -> Streams:
        """Turn items (global ids) into one vector per stream, [items, dim]; `content` saves reading their features
        again.
        """
        if content is None:
            wanted = items.cpu().numpy()
            content = {name: self.features.gather(name, wanted).to(self.device) for name in self.modalities}
        tokens = {name: self._ids(items) if name == "id" else content[name] for name in self.inputs}
        made = [self._fuse(part) for part in item_parts(tokens)]
        return {name: torch.cat([vectors[name] for vectors in made]) for name in made[0]}

    def _ids(self, items: Tensor) -> Tokens:
        # For all items at once, because every look-up has a gradient of the whole table's size.
        return Tokens(self.id_table(items)[:, None], torch.ones_like(items, dtype=torch.bool)[:, None])

    def _fuse(self, tokens: Mapping[str, Tokens]) -> Streams:
        values = {name: given.values.to(self.log_popularity.dtype) for name, given in tokens.items()}
        return self.fusion(values, {name: given.mask for name, given in tokens.items()})

    @torch.inference_mode()
    def encode_catalogue(self, chunk: int = 2048) -> Streams:
        """Encode every item once, without dropout: per stream [num_items + 1, dim], row 0 (padding) zero.

        Chunks are cut from the catalogue in the order of lengths, so the numbers do not depend on who asks for them.
        """
        ids = 1 + torch.from_numpy(by_length(self.features, self.modalities, np.arange(1, self.num_items + 1)))
        with _evaluating(self):
            parts = [self.encode(some) for some in ids.to(self.device).split(chunk)]
        zero = {name: torch.zeros_like(table[:1]) for name, table in parts[0].items()}
        tables = {name: torch.cat([zero[name], *(part[name] for part in parts)]) for name in self.streams}
        back = torch.cat([torch.zeros_like(ids[:1]), ids]).argsort().to(self.device)
        return {name: table[back] for name, table in tables.items()}

    @torch.inference_mode()
    def states(self, histories: Int[Tensor, "batch length"], tables: Streams) -> Streams:
        """Read histories of global ids (left-padded with 0, newest last): one user state per stream, [batch, dim]."""
        histories, mask = histories.to(self.device), histories.to(self.device) > 0
        with _evaluating(self):
            return {name: _newest(self.backbones[name], tables[name][histories], mask) for name in self.streams}

    def score(self, histories: Int[Tensor, "batch length"], tables: Streams) -> Streams:
        """Score the whole catalogue for each history: per stream [batch, num_items + 1], without popularity
        correction.
        """
        return {name: state @ tables[name].T for name, state in self.states(histories, tables).items()}

    def ensemble(self, scores: Streams) -> Tensor:
        """Combine the streams' scores into the recommendation: their mean."""
        return ensemble(scores)


def _newest(backbone: Any, x: Tensor, mask: Tensor) -> Tensor:
    return backbone.newest(x, mask) if hasattr(backbone, "newest") else backbone(x, mask)[:, -1]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off, and leave every submodule as it was, whatever happens in between."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _component(text: str, known: Mapping[str, str], kind: str, context: Mapping[str, object]) -> Any:
    call = parse_call(text, known=known, kind=kind)
    call.check(context, fixed=FIXED)
    return call.build(**context)


def _backbone(backbone: str | Callable[[], Backbone], context: Mapping[str, object]) -> nn.Module:
    if isinstance(backbone, str):
        return _module(_component(backbone, BACKBONES, "backbone", context), "backbone")
    if isinstance(backbone, nn.Module):
        raise ValueError("backbone is a module, but every stream needs its own; pass what makes one: lambda: ...")
    return _module(backbone(), "what backbone() returns")


def _module(made: object, what: str) -> nn.Module:
    if not isinstance(made, nn.Module):
        raise ValueError(f"{what} is a {type(made).__name__}, not a torch module: it would not be trained or saved")
    return made


def _checked_streams(streams: Sequence[str], features: Features) -> tuple[str, ...]:
    known = ("id", *features.widths)
    for name in streams:
        if name not in known:
            raise ValueError(f"stream {name!r} has no features; there are: {', '.join(known)}")
    return tuple(streams) or known


def _id_table(init: str, features: Features, dim: int) -> nn.Embedding:
    if init == "random":
        table = nn.Embedding(features.num_items + 1, dim, padding_idx=0)
        nn.init.xavier_normal_(table.weight)
    else:
        names = list(features.widths) if init == "mean" else [init]
        missing = [name for name in names if name not in features.widths]
        if missing or not names:
            raise ValueError(
                f"id_init={init!r} needs features of {', '.join(missing) or 'some modality'}; 'random' needs none"
            )
        if len({features.widths[name] for name in names}) > 1:
            raise ValueError(
                f"id_init='mean' needs features of one width, but they are {dict(features.widths)}; name one modality"
            )
        start = torch.stack([_first_tokens(features, name) for name in names]).mean(0)
        table = nn.Embedding.from_pretrained(start, freeze=False, padding_idx=0)
    with torch.no_grad():
        table.weight[0].zero_()
    return table


def _first_tokens(features: Features, modality: str) -> Tensor:
    start = torch.zeros(features.num_items + 1, features.widths[modality])
    for ids in np.array_split(np.arange(1, features.num_items + 1), max(1, features.num_items // 4096)):
        tokens = features.gather(modality, ids)
        start[torch.from_numpy(ids)] = tokens.values[:, 0].float() * tokens.mask[:, :1]
    return start


def _log_popularity(item_counts: np.ndarray | None, num_items: int) -> Tensor:
    if item_counts is None:
        return torch.zeros(num_items + 1)
    if len(item_counts) != num_items + 1:
        raise ValueError(
            f"item_counts has {len(item_counts)} entries, but {num_items} items need {num_items + 1} (0 is padding)"
        )
    counts = torch.from_numpy(
        np.maximum(item_counts, 1)
    ).double()  # an item that never occurs in training is no candidate there
    return (counts / float(item_counts.sum())).log().float()

"""Items as vectors: by id and by content, through a fusion, each item of a call encoded once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from odmt.catalogue import encode_all
from odmt.components import FIXED, FUSIONS, JOINS, RESERVED
from odmt.fusion import mean_of_tokens
from odmt.id_table import start_of_ids
from odmt.joins import Join
from odmt.live import EncodedFeatures, encoded_once, in_chunks, tokens_of
from odmt.own import checked_fusion, fused_vectors, made_fusion
from odmt.parts import item_parts
from odmt.spec import parse_call
from odmt.types import Contents, Fusion, FusionMaker, Int, LiveContents, Raw, Streams, Tensor, Tokens

__all__ = ["ItemEncoder", "build_component", "evaluating", "id_tables", "items_apart"]


STORED_CHUNK, LIVE_CHUNK = 2048, 64
"""Items of a catalogue that are encoded at a time, from stored features and from pixels."""


class ItemEncoder(nn.Module):
    """Turn items into one vector per stream.

    features: stored token features of the catalogue; without any modality, only the id stream exists.
    streams: what enters the fusion, a subset of "id" and the features' modalities; by default all of them.
    fusion: a component call, "imt(layers=2)", or a module of your own, or what makes it (see `odmt.types.Fusion`).
    join: "none", or a component call of `odmt.joins`, "sum(at='item')", which makes one stream of all.
    id_init: start of the id table: "random" (xavier), or the first tokens of one modality, or "mean" of all modalities
        (copied; the table takes their width, the smallest where they differ, by PCA).
    hide: per stream, the share of items of a batch that training shows without it (modality dropout); never all that an
        item has.
    id_min_count: ids of items with fewer training events are hidden, in training and after it. At 1, `hide` has to hide
        ids of others, too: nothing else would train what stands in.
    item_counts: [num_items + 1] how often each item occurs in training; `id_min_count` needs it.
    encoders: per modality whose content `features` gives raw, what makes tokens of it (`odmt.encoders.policies`).
    chunk: items that pass the encoders at a time in training; see `odmt.live`. 0 lets all of a batch pass at once.
    start: whether parameters that start from content are set so, which reads the catalogue's; without it the model is
        good for nothing but to load weights into.

    Where an id is hidden, a vector made of the item's content stands in for it: a learned one, plus one linear map per
    modality of the mean of its tokens. With `hide` of ids or `id_min_count`, that is what the id stream knows of an
    item that training never saw; without, it has the numbers that were drawn for it at the start.
    """

    def __init__(
        self,
        features: Contents,
        *,
        streams: Sequence[str] = (),
        dim: int = 128,
        fusion: str | Fusion | FusionMaker = "imt(layers=2, heads=2)",
        join: str = "none",
        id_init: str = "random",
        hide: Mapping[str, float] | None = None,
        id_min_count: int = 0,
        item_counts: np.ndarray | None = None,
        dropout: float = 0.1,
        encoders: Mapping[str, nn.Module] | None = None,
        chunk: int = 0,
        start: bool = True,
    ) -> None:
        super().__init__()
        self.inputs = _checked_streams(streams, features)
        self.modalities = tuple(name for name in self.inputs if name != "id")
        self.features = features
        self.encoders = nn.ModuleDict(encoders or {})
        self.chunk = chunk
        self.dim = dim
        if further := self.encoders.keys() - set(self.modalities):
            raise ValueError(f"there is an encoder of {min(further)!r}, but the streams are: {', '.join(self.inputs)}")
        starting = EncodedFeatures(features, self.encoders)
        self.num_items = features.num_items
        self.hide = _checked_rates(hide or {}, self.inputs)
        if "id" in self.inputs:
            self.id_table = start_of_ids(id_init, starting, dim, start=start)
        elif id_init != "random":
            raise ValueError(f"id_init={id_init!r}, but 'id' is not among the streams {', '.join(self.inputs)}")
        self.unreadable: dict[str, dict[int, str]] = {}
        self.in_parts = True
        """Whether a CPU reads items, and users, in parts (see `odmt.parts`)."""
        self.stands_in = bool(self.hide.get("id") or id_min_count)
        if self.stands_in:
            self._make_stand_in(id_min_count, start=start)
        self.id_known: Tensor
        at_least = max(1, id_min_count) if self.stands_in else 0
        self.register_buffer("id_known", _known(item_counts, at_least, self.num_items, asked=id_min_count))
        widths = {
            name: self.id_table.weight.shape[1] if name == "id" else features.widths[name] for name in self.inputs
        }
        context = {"dim": dim, "dropout": dropout, "widths": widths}
        made = build_component(fusion, FUSIONS, "fusion", context) if isinstance(fusion, str) else fusion
        self.fusion = checked_fusion(made_fusion(made, widths, dim), widths, dim, tried=start)
        if start and isinstance(fusion, str | type) and (start_from := getattr(self.fusion, "start_from", None)):
            start_from(starting)  # a module of the caller's may be trained already
        fused: tuple[str, ...] = tuple(self.fusion.streams)  # pyright: ignore[reportArgumentType]
        self.join: Join | None = (
            None if join == "none" else build_component(join, JOINS, "join", {"dim": dim, "streams": fused})
        )
        self.vectors = fused
        """Streams that a call of `encode` gives."""
        if self.join is not None:
            # users are joined from the states of all streams, which are read whether they stay heads or not
            self.vectors = (*(self.join.kept if self.join.at == "item" else fused), self.join.at)

    @property
    def device(self) -> torch.device:
        return self.id_known.device

    def encode(self, items: Int[Tensor, " items"], content: Mapping[str, Tokens | Raw] | None = None) -> Streams:
        """Turn items (global ids) into one vector per stream, [items, dim]; `content` saves reading it again."""
        if content is None:
            wanted = items.cpu().numpy()
            content = {name: self.features.gather(name, wanted).to(self.device) for name in self.modalities}
        if isinstance(self.features, LiveContents):
            content = {name: _whole(given, name, self.features) for name, given in content.items()}
        raw = any(isinstance(given, Raw) for given in content.values())
        if raw and self.chunk and torch.is_grad_enabled():
            encoders: Mapping[str, nn.Module] = dict(self.encoders.items())
            content = {
                name: encoded_once(given, encoders.get(name), self.device, self.chunk)
                for name, given in content.items()
            }
            content |= self._looked_up(items)
            return in_chunks(self._encoded, items, content, self.chunk)
        return self._encoded(items, content)

    def _tokens(self, content: Mapping[str, Tokens | Raw]) -> dict[str, Tokens]:
        encoders: Mapping[str, nn.Module] = dict(self.encoders.items())
        return {name: tokens_of(given, encoders.get(name), self.device) for name, given in content.items()}

    def _encoded(self, items: Tensor, content: Mapping[str, Tokens | Raw]) -> Streams:
        dtype = next(parameter.dtype for name, parameter in self.named_parameters() if not name.startswith("encoders."))
        tokens = {name: Tokens(given.values.to(dtype), given.mask) for name, given in self._tokens(content).items()}
        tokens = {name: tokens[name] if name in tokens else self._ids(items) for name in self.inputs}
        if self.training and self.hide:
            tokens = self._hidden(tokens)
        if self.stands_in:
            tokens["id"] = self._stand_in(tokens)
        made = [self._fuse(part) for part in (item_parts(tokens) if self.in_parts else [tokens])]
        return {name: torch.cat([vectors[name] for vectors in made]) for name in self.vectors}

    @torch.inference_mode()
    def encode_catalogue(self, chunk: int = 0, **sharing: Any) -> Streams:
        """Encode every item once, without dropout: per stream [num_items + 1, dim], row 0 (padding) zero.

        chunk: items encoded at a time; by default as many as memory bears. sharing: as of `odmt.catalogue.encode_all`.
        What could not be read is kept in `unreadable`.
        """
        chunk = chunk or (LIVE_CHUNK if self.encoders else STORED_CHUNK)
        with evaluating(self):
            tables, self.unreadable = encode_all(self, self._encoded, chunk=chunk, **sharing)
        return tables

    def _looked_up(self, items: Tensor) -> dict[str, Tokens]:
        """Look up ids for all items of a step at once: every look-up has a gradient of the whole table's size, and
        processes that split tables make it together.
        """
        return {"id": self._ids(items)} if "id" in self.inputs else {}

    def _ids(self, items: Tensor) -> Tokens:
        return Tokens(self.id_table(items)[:, None], self.id_known[items][:, None])

    def _fuse(self, tokens: Mapping[str, Tokens]) -> Streams:
        values, masks = ({name: getattr(given, what) for name, given in tokens.items()} for what in ("values", "mask"))
        vectors = fused_vectors(self.fusion, values, masks, self.dim)
        return vectors if self.join is None else {**vectors, self.join.at: self.join(vectors)}

    def _hidden(self, tokens: Mapping[str, Tokens]) -> dict[str, Tokens]:
        """Hide streams of items at random, each by its rate, unless nothing of an item would be left."""
        there = {name: given.mask.any(1) for name, given in tokens.items()}
        chance = {name: torch.rand(len(mask), device=mask.device) for name, mask in there.items() if name in self.hide}
        shown = {
            name: mask & (chance[name] >= self.hide[name]) if name in chance else mask for name, mask in there.items()
        }
        nothing = ~torch.stack(list(shown.values())).any(0)
        return {
            name: Tokens(given.values, given.mask & (shown[name] | nothing)[:, None]) for name, given in tokens.items()
        }

    def _make_stand_in(self, id_min_count: int, *, start: bool) -> None:
        if "id" not in self.inputs or not self.modalities:
            raise ValueError(
                f"hide={dict(self.hide)}, id_min_count={id_min_count}: where an id is hidden content stands in, so "
                f"that 'id' and a modality are needed among the streams, which are {', '.join(self.inputs)}"
            )
        if id_min_count == 1 and not self.hide.get("id") and start:
            raise ValueError(
                "id_min_count=1 hides ids of items without training events, and nothing would train what stands in for "
                "them: hide some ids of others, too, as hide={'id': 0.1} (--model.hide id=0.1)"
            )
        width = self.id_table.weight.shape[1]
        self.id_unknown = nn.Parameter(torch.zeros(width))
        self.id_of_content = nn.ModuleDict(
            {name: nn.Linear(self.features.widths[name], width, bias=False) for name in self.modalities}
        )

    def _stand_in(self, tokens: Mapping[str, Tokens]) -> Tokens:
        ids = tokens["id"]
        made = self.id_unknown
        for name, layer in self.id_of_content.items():
            made = made + layer(mean_of_tokens(tokens[name].values, tokens[name].mask))
        values = torch.where(ids.mask[..., None], ids.values, made.to(ids.values.dtype)[:, None])
        return Tokens(values, torch.ones_like(ids.mask))


def items_apart(
    features: Contents, settings: Mapping[str, Any], read: Mapping[str, str], encoders: nn.ModuleDict
) -> dict[str, ItemEncoder]:
    """Make an encoder of its own for each head, of the same settings, and check that nothing of it is left unread.

    read: which stream each head reads. encoders: of raw content, which all heads share.
    """
    if not isinstance(settings["fusion"], str):
        raise ValueError(
            "own_items: every head makes its fusion once more; name it as a component call, as 'imt(layers=2)'"
        )
    starting = EncodedFeatures(features, encoders)
    made = {head: ItemEncoder(starting, **settings) for head in read}
    for head, encoder in made.items():
        whole = encoder.vectors if len(encoder.vectors) == 1 else ()
        if encoder.join is not None:
            whole = (encoder.join.at,) if encoder.join.at == "item" else ()
        if read[head] not in whole:
            raise ValueError(
                f"own_items: {head!r} reads {read[head]!r}, and would leave what it makes of other streams unread; "
                "join them all with sum(at='item'), and let it read 'item'"
            )
    return made


def id_tables(model: nn.Module) -> dict[str, nn.Embedding]:
    """Find the id tables of a model, by name."""
    encoders = [(name, made) for name, made in model.named_modules() if isinstance(made, ItemEncoder)]
    return {f"{name}.id_table".lstrip("."): made.id_table for name, made in encoders if "id" in made.inputs}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off, and leave every submodule as it was, whatever happens in between."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def build_component(text: str, known: Mapping[str, str], kind: str, context: Mapping[str, object]) -> Any:
    """Build what a component call names; arguments that it leaves out and its constructor asks for are of `context`."""
    call = parse_call(text, known=known, kind=kind)
    call.check(context, fixed=FIXED)
    return call.build(**context)


def _whole(given: Tokens | Raw, name: str, features: LiveContents) -> Tokens | Raw:
    """Say how what a batch left in a store is read, once it is needed."""
    return given if isinstance(given, Tokens) else replace(given, reader=partial(features.left, name))


def _checked_streams(streams: Sequence[str], features: Contents) -> tuple[str, ...]:
    known = ("id", *features.widths)
    for name in streams or known:
        if name not in known:
            raise ValueError(f"stream {name!r} has no features; there are: {', '.join(known)}")
        if name in RESERVED or hasattr(nn.ModuleDict, name) or not name.isidentifier():
            raise ValueError(
                f"features are called {name!r}, which is taken or is no name; use letters, digits and _, as in my_text"
            )
    return tuple(streams) or known


def _checked_rates(rates: Mapping[str, float], streams: Sequence[str]) -> dict[str, float]:
    for name, rate in rates.items():
        if name not in streams:
            raise ValueError(f"hide names the stream {name!r}, but the streams are: {', '.join(streams)}")
        if not 0 <= rate < 1:
            raise ValueError(f"hide: {name}={rate} is out of range; it is at least 0 and below 1")
    return {name: rate for name, rate in rates.items() if rate}


def _known(item_counts: np.ndarray | None, at_least: int, num_items: int, *, asked: int) -> Tensor:
    if item_counts is None and asked:
        raise ValueError(f"id_min_count={asked} needs item_counts, how often each item occurs in training")
    if item_counts is None or at_least == 0:
        return torch.ones(num_items + 1, dtype=torch.bool)
    return torch.from_numpy(item_counts >= at_least)

"""Batches as MicroLens-50k would give them: its popularity, its lengths of histories and titles, or its real histories.

Synthetic users follow the empirical laws below (ids and titles of the release are not needed): 50,000 users, 19,220
items, 359,708 events. A user does not repeat an item there; here one may, rarely. Tokens are random numbers: a step's
time does not depend on their values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from odmt import ODMT, DistillationGraph, ItemFeatures, make_batch
from odmt.data.features import open_features
from odmt.data.format import open_dataset
from odmt.data.splits import LeaveTwoOut
from odmt.data.tokens import TokenTable
from odmt.types import Batch, Tokens

__all__ = ["Shape", "Workload", "customary_width", "edges_of", "make_features", "make_workload", "real_workload"]

POPULARITY = {
    0: 342,
    0.0003: 306,
    0.001: 224,
    0.003: 153,
    0.01: 99,
    0.03: 69,
    0.06: 55,
    0.1: 44,
    0.15: 36,
    0.2: 30,
    0.3: 21,
    0.4: 15,
    0.5: 11,
    0.6: 8,
    0.7: 6,
    0.8: 4,
    0.9: 2,
    0.95: 1,
    1: 1,
}
"""Events of the item that so large a part of the catalogue is more popular than."""
USER_EVENTS = np.array([0.4069, 0.2149, 0.1202, 0.0750, 0.0479, 0.0338, 0.0223, 0.0165, 0.0125, 0.0086, 0.0414])
"""Shares of users with 5, 6, ... 14 events, and with 15 or more."""
TITLE_TOKENS = {
    0: 3,
    0.01: 7,
    0.05: 11,
    0.1: 14,
    0.2: 18,
    0.3: 21,
    0.4: 24,
    0.5: 27,
    0.6: 29,
    0.62: 30,
    1: 30,
}
"""Tokens of the title that so large a part of the titles is shorter than, cut to 30 (MiniLM's tokenizer)."""
POOL = 512
"""Different contents in a synthetic catalogue: items share them, so that any catalogue fits into memory."""


@dataclass(frozen=True)
class Shape:
    """Say what is trained: one point of a suite."""

    dim: int = 128
    batch: int = 128
    length: int = 12
    width: int = 0
    num_items: int = 19_220
    streams: tuple[str, ...] = ("id", "text", "image")
    tokens: tuple[tuple[str, int], ...] = (("text", 30), ("image", 50))
    full: bool = False
    dropout: float = 0.0
    users: int = 4096

    @property
    def widths(self) -> dict[str, int]:
        """Feature width of every modality in use."""
        width = self.width or customary_width(self.dim)
        return {name: width for name, _ in self.tokens if name in self.streams}

    def but(self, **changes: object) -> Shape:
        """Change some of it."""
        return replace(self, **changes)  # pyright: ignore[reportArgumentType]


def customary_width(dim: int) -> int:
    """Give the width of the features that go with a model's width: a small encoder's 384, or a base model's 768."""
    return 384 if dim <= 384 else 768


@dataclass(frozen=True)
class Workload:
    """Hold a catalogue's features and its users."""

    name: str
    shape: Shape
    features: ItemFeatures
    split: LeaveTwoOut
    item_counts: np.ndarray

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        return tuple(name for name in self.shape.streams if name != "id")

    def histories(self, number: int) -> np.ndarray:
        """Give the training histories of batch `number`, [batch, length + 1], left-padded."""
        users = np.random.default_rng([1, number]).choice(self.split.num_users, self.shape.batch, replace=False)
        found = self.split.training(users)
        return np.pad(found, ((0, 0), (self.shape.length + 1 - found.shape[1], 0)))

    def batch(self, number: int) -> Batch:
        """Give batch `number` as the loader makes it."""
        return make_batch(self.histories(number), self.features, self.modalities)

    def padded(self, modality: str, items: np.ndarray) -> Tokens:
        """Give items' tokens padded to the most that any item may have, as an implementation without trimming does."""
        tokens = self.features.gather(modality, items)
        missing = dict(self.shape.tokens)[modality] - tokens.mask.shape[1]
        return Tokens(F.pad(tokens.values, (0, 0, 0, missing)), F.pad(tokens.mask, (0, missing)))

    def model(self, dropout: float | None = None) -> ODMT:
        """Build the paper's model over it: two layers everywhere, the release's distillation edges."""
        torch.manual_seed(0)
        return ODMT(
            self.features,
            streams=self.shape.streams,
            dim=self.shape.dim,
            fusion="imt(layers=2, heads=2)",
            backbone="sasrec(layers=2, heads=2)",
            distill=DistillationGraph(*(f"{a} -> {b}" for a, b in edges_of(self.shape.streams)), detach=False),
            item_counts=self.item_counts,
            length=self.shape.length,
            dropout=self.shape.dropout if dropout is None else dropout,
        )


def edges_of(streams: Sequence[str]) -> list[tuple[str, str]]:
    """Give the release's edges: the id teaches every modality, and the ensemble teaches the id."""
    modalities = [name for name in streams if name != "id"]
    return [*(("id", name) for name in modalities), ("ensemble", "id")] if modalities and "id" in streams else []


def make_workload(shape: Shape) -> Workload:
    """Draw users and items by the laws of MicroLens-50k; with `shape.full`, all users fill the whole history."""
    rng = np.random.default_rng(0)
    fractions = (np.arange(shape.num_items) + 0.5) / shape.num_items
    popularity = np.exp(np.interp(fractions, list(POPULARITY), np.log(list(POPULARITY.values()))))
    longest = shape.length + 3
    events = np.minimum(5 + rng.choice(len(USER_EVENTS), size=shape.users, p=USER_EVENTS), longest)
    if shape.full:
        events[:] = longest
    offsets = np.concatenate([[0], np.cumsum(events)])
    items = 1 + np.searchsorted(np.cumsum(popularity) / popularity.sum(), rng.random(offsets[-1]))
    split = LeaveTwoOut(offsets, items, num_items=shape.num_items, length=shape.length)
    counts = np.concatenate([[0], np.maximum(popularity, 1).astype(np.int64)])
    return Workload("synthetic", shape, make_features(shape), split, counts)


def make_features(shape: Shape) -> ItemFeatures:
    """Give every item one of `POOL` random contents; a text has the length of a title, an image all its tokens."""
    rng = np.random.default_rng(1)
    tables = {}
    for name, most in shape.tokens:
        if name in shape.streams:
            lengths = np.full(POOL, most)
            if name == "text":
                titles = np.interp(rng.random(POOL), list(TITLE_TOKENS), list(TITLE_TOKENS.values()))
                lengths = np.maximum(1, titles * most / 30).astype(np.int64)
            values = rng.standard_normal((lengths.sum(), shape.widths[name]), dtype=np.float32).astype(np.float16)
            pool = np.stack([np.cumsum(lengths) - lengths, lengths], axis=1)
            spans = np.concatenate([np.zeros((1, 2), np.int64), pool[rng.integers(0, POOL, shape.num_items)]])
            tables[name] = TokenTable(values, spans)
    return ItemFeatures(tables, num_items=shape.num_items)


def real_workload(path: Path, shape: Shape) -> Workload:
    """Take users and, where there are any, text features from a dataset folder; the rest as in `make_workload`."""
    dataset = open_dataset(path)
    shape = shape.but(num_items=dataset.num_items)
    split = LeaveTwoOut(dataset.offsets, dataset.items, num_items=dataset.num_items, length=shape.length)
    features = make_features(shape)
    if "text" in shape.streams and (path / "features" / "text").is_dir():
        limit: Mapping[str, int] = {"text": dict(shape.tokens)["text"]}
        found = open_features(dataset, ["text"], max_tokens=limit)
        tables = {**features.tables, "text": found.tables["text"]}
        features = ItemFeatures(tables, num_items=dataset.num_items, max_tokens=limit)
    return Workload(dataset.name, shape, features, split, split.item_counts())

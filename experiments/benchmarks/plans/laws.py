"""How large a dataset is, and what a batch of it holds: events per user and distinct items, by laws that are stated.

    distinct   = sum over items of 1 - (1 - p)^E (1 - q)^D: E events of the batch fall on an item with chance p, and D
                 draws of a loss that draws candidates with chance q, each by itself
    p          = rank^-s / sum of all (Zipf), or the shares of a dataset folder's own training events, stretched over as
                 many items as are planned for
    events     = 5 + a geometric number, whose mean makes interactions / users (the protocol keeps users of at least
                 five), or a dataset folder's own; training reads min(events, length + 3) - 2 of them

How full MicroLens is distributed we do not know; `plan.py --check --dataset NAME` sets the laws beside batches that a
dataset folder really gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from odmt.config import ConfigError
from odmt.data.format import Dataset
from odmt.data.splits import LeaveTwoOut
from odmt.spec import did_you_mean

from .readings import BatchShape, ItemTokens

__all__ = ["DatasetShape", "Laws", "read_shape", "same_tokens"]

LEAST_EVENTS = 5
"""Events of a user that the protocol keeps at least (README.md, "The protocol")."""
ZIPF = 0.6
COUNTED = ("users", "items", "interactions")
EXAMPLE = "users=34e6 items=1.1e6 interactions=1e9, and per modality text=30x768, tokens per item times width"


@dataclass(frozen=True)
class DatasetShape:
    """Say how much there is; tokens: (tokens per item, width) of modalities."""

    users: int
    items: int
    interactions: int
    tokens: dict[str, tuple[int, int]]

    @property
    def events(self) -> float:
        """Average events per user."""
        return self.interactions / self.users


def read_shape(entries: Sequence[str]) -> DatasetShape:
    """Read `users=34e6 items=1.1e6 interactions=1e9 text=30x768`; raises ConfigError naming what is wrong."""
    found: dict[str, int] = {}
    tokens: dict[str, tuple[int, int]] = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        if name in found or name in tokens:
            raise ConfigError(f"--dataset-shape: {name!r} is given twice; give it once")
        if name in COUNTED:
            found[name] = _whole(name, value)
            continue
        most, times, width = value.partition("x")
        if not (name.isidentifier() and times and most.isdecimal() and width.isdecimal() and int(most) * int(width)):
            hint = did_you_mean(name, COUNTED) if not times else f"write {name}=30x768"
            raise ConfigError(f"--dataset-shape: {entry!r} is neither a count nor tokens x width; {hint}")
        tokens[name] = int(most), int(width)
    if missing := [name for name in COUNTED if name not in found]:
        raise ConfigError(f"--dataset-shape lacks {' and '.join(missing)}; write {EXAMPLE}")
    shape = DatasetShape(**found, tokens=tokens)
    if shape.events < LEAST_EVENTS:
        raise ConfigError(
            f"--dataset-shape: interactions={shape.interactions} of users={shape.users} are {shape.events:.1f} each, "
            f"and the protocol keeps users of at least {LEAST_EVENTS}; give the counts of those"
        )
    return shape


def _whole(name: str, value: str) -> int:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (number >= 1 and number == int(number)):
        raise ConfigError(f"--dataset-shape: {name}={value!r} is no whole number above 0; write {EXAMPLE}")
    return int(number)


@dataclass(frozen=True)
class Laws:
    """Hold popularity and activity: shares [items] of training events, in any order; events per user, ascending."""

    shares: np.ndarray
    events: np.ndarray
    told: str
    """In words, where they come from."""

    @classmethod
    def stated(cls, shape: DatasetShape, zipf: float = ZIPF) -> Laws:
        """Take Zipf's law and geometric numbers of events."""
        shares = np.arange(1, shape.items + 1, dtype=np.float64) ** -zipf
        further = shape.events - LEAST_EVENTS
        # the quantiles of a geometric number from 0 on with that mean
        places = (np.arange(10_000) + 0.5) / 10_000
        events = LEAST_EVENTS + np.floor(np.log1p(-places) / np.log(further / (1 + further)) if further else 0 * places)
        told = f"assumed: popularity as rank^-{zipf:g}, users' events 5 + geometric, {shape.events:.1f} on average"
        return cls(shares / shares.sum(), events.astype(np.int64), told)

    @classmethod
    def of_dataset(cls, dataset: Dataset, length: int) -> Laws:
        """Measure both on a dataset folder."""
        split = LeaveTwoOut(dataset.offsets, dataset.items, num_items=dataset.num_items, length=length)
        counts = np.sort(split.item_counts()[1:]).astype(np.float64)
        told = f"measured on {dataset.name}: {dataset.num_users:,} users, {dataset.num_items:,} items"
        return cls(counts / counts.sum(), np.sort(np.diff(dataset.offsets)), told)

    def stretched(self, items: int) -> Laws:
        """Give the same law of popularity over so many items."""
        if items == len(self.shares):
            return self
        places = ((np.arange(items) + 0.5) / items * len(self.shares)).astype(int)
        shares = np.sort(self.shares)[places]
        return replace(self, shares=shares / shares.sum(), told=f"{self.told}, stretched over {items:,} items")

    def training_lengths(self, users: int, length: int) -> np.ndarray:
        """Give the training events of so many users that stand for all, ascending: inputs and last target."""
        places = ((np.arange(users) + 0.5) / users * len(self.events)).astype(int)
        return np.minimum(self.events[places], length + 3) - 2

    def batch(self, users: int, length: int, *, draws: int = 0, draw_popularity: float = 0.0) -> BatchShape:
        """Say what a batch of so many users holds, on average."""
        lengths = self.training_lengths(users, length)
        missed = lengths.sum() * np.log1p(-np.minimum(self.shares, 1 - 1e-12))
        if draws:
            drawn = self.shares**draw_popularity
            missed = missed + draws * np.log1p(-np.minimum(drawn / drawn.sum(), 1 - 1e-12))
        return BatchShape(lengths, max(2, round(float(-np.expm1(missed).sum()))), draws)


def same_tokens(shape: DatasetShape) -> dict[str, ItemTokens]:
    """Give every item the same tokens: those that are stored at most."""
    return {name: ItemTokens(width, np.array([most])) for name, (most, width) in shape.tokens.items()}

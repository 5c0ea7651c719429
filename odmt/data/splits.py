"""Leave two out: the last event of a user is the test target, the one before it the validation target, the rest trains.

Protocol of MicroLens (arXiv 2309.15379) and ODMT: histories are cut to the newest `length` + 3 events before the
split, so a user trains on at most `length` + 1 events. All arrays are of global item ids, left-padded with 0, newest
last.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from odmt.types import Questions

__all__ = ["LeaveTwoOut"]

AT_ONCE = 1 << 16
"""Users whose events are looked up at a time."""


class LeaveTwoOut:
    """Split histories given as `offsets` [users + 1] and `items` [events], memory-mapped or not."""

    def __init__(self, offsets: np.ndarray, items: np.ndarray, *, num_items: int, length: int) -> None:
        self.items = items
        self.num_items = num_items
        self.length = length
        self.stops = np.asarray(offsets[1:], dtype=np.int64)
        self.starts = np.maximum(offsets[:-1], self.stops - (length + 3))
        shortest = int((self.stops - self.starts).min()) if len(self.stops) else 0
        if shortest < 4:
            raise ValueError(
                f"a user has {shortest} events, but leave-two-out needs at least 4 (two to train on, one each to "
                "validate and test); prepare the dataset with --min-events 5"
            )

    @property
    def num_users(self) -> int:
        return len(self.stops)

    def training(self, users: np.ndarray) -> np.ndarray:
        """Give the training events of `users`, inputs and targets in one: [users, at most length + 1]."""
        return self._windows(self.starts[users], self.stops[users] - 2)

    def questions(self, part: Literal["valid", "test"], users: np.ndarray | None = None) -> Questions:
        """Give the evaluation of `users` (all of them by default); histories have exactly `length` columns, and ids the
        type that they are stored in: there may be many millions of users.
        """
        users = np.arange(self.num_users) if users is None else users
        target = self.stops[users] - (1 if part == "test" else 2)
        first, kept = np.maximum(self.starts[users], target - self.length), self.items.dtype
        histories = self._windows(first, target, width=self.length, kept=kept)
        seen = self._windows(self.starts[users], target, kept=kept)
        return Questions(users, histories, seen, np.asarray(self.items[target]))

    def item_counts(self) -> np.ndarray:
        """Count how often each item occurs in the training events: [num_items + 1]."""
        counts = np.zeros(self.num_items + 1, dtype=np.int64)
        for users in np.array_split(np.arange(self.num_users), 1 + self.num_users // 100_000):
            found = np.bincount(self.training(users).ravel(), minlength=self.num_items + 1)
            if len(found) > len(counts):
                raise ValueError(f"item {len(found) - 1} occurs in a history, but items are 1..{self.num_items}")
            counts += found
        counts[0] = 0
        return counts

    def _windows(
        self, starts: np.ndarray, stops: np.ndarray, *, width: int = 0, kept: np.dtype | type = np.int64
    ) -> np.ndarray:
        width = width or int((stops - starts).max(initial=0))
        found = np.empty((len(stops), width), kept)
        for first in range(0, len(stops), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            index = stops[some, None] - np.arange(width, 0, -1)
            found[some] = np.where(index >= starts[some, None], self.items[np.maximum(index, 0)], 0)
        return found

"""One task for several libraries, each in an environment of its own: what to learn from, and proof that it arrived.

Every environment imports this module, with numpy and torch and no library that is compared. The parent writes a `Task`
into a folder; each library's script reads it there, hands the sequences to the library in the library's own way, and
has `check_training` and `check_questions` compare what the library then holds with what it was given.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from odmt.data.splits import LeaveTwoOut

__all__ = [
    "DisagreementError",
    "Events",
    "Settings",
    "Task",
    "check_questions",
    "check_training",
    "examples",
    "lookup_of",
]


class DisagreementError(Exception):
    """Report that a library would train or answer on something else than it was given."""


@dataclass(frozen=True)
class Settings:
    """Say what is trained, the same in every library, and for how long.

    budget_s: seconds of training, without validation, after which no epoch begins: all train equally long, up to the
        rest of their last epoch. epochs: end after so many even if there is time left.
    """

    dim: int = 128
    layers: int = 2
    heads: int = 2
    length: int = 10
    dropout: float = 0.1
    lr: float = 1e-3
    seed: int = 1
    threads: int = 2
    epochs: int | None = None
    budget_s: float = 600.0
    batch: int = 256


@dataclass(frozen=True, eq=False)
class Events:
    """Hold events in rows: users from 0, items from 1, and an event's place in its user's history as its time."""

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray


class Task:
    """Hold the newest events of every user, as many as the split reads, and the settings.

    offsets [users + 1] and items [events] as in a dataset folder, cut to the newest `length` + 3 events.
    """

    def __init__(self, offsets: np.ndarray, items: np.ndarray, *, num_items: int, settings: Settings) -> None:
        self.settings = settings
        self.num_items = num_items
        whole = LeaveTwoOut(offsets, items, num_items=num_items, length=settings.length)
        lengths = whole.stops - whole.starts
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])
        self.items = np.concatenate([items[a:b] for a, b in zip(whole.starts, whole.stops, strict=True)])
        self.split = LeaveTwoOut(self.offsets, self.items, num_items=num_items, length=settings.length)

    def save(self, folder: Path) -> None:
        """Write the task where `Task.read` finds it."""
        np.savez(folder / "task.npz", offsets=self.offsets, items=self.items, num_items=self.num_items)
        (folder / "task.json").write_text(json.dumps(asdict(self.settings)))

    @classmethod
    def read(cls, folder: Path) -> Task:
        """Read what `save` wrote."""
        settings = Settings(**json.loads((folder / "task.json").read_text()))
        with np.load(folder / "task.npz") as file:
            return cls(file["offsets"], file["items"], num_items=int(file["num_items"]), settings=settings)

    def events(self, *, leave_out: int = 0) -> Events:
        """Give every user's events but the newest `leave_out`."""
        lengths = np.diff(self.offsets)
        users = np.repeat(np.arange(len(lengths)), lengths)
        times = np.arange(len(users)) - self.offsets[users]
        kept = times < lengths[users] - leave_out
        return Events(users[kept], self.items[kept], times[kept])


def examples(histories: np.ndarray) -> np.ndarray:
    """Unfold training events [users, length + 1], left-padded, to rows of [up to length inputs, target].

    One row for each event that has another before it, which is what every library here learns to predict.
    """
    length = histories.shape[1] - 1
    padded = np.pad(histories, ((0, 0), (length, 0)))
    windows = [padded[:, end : end + length + 1] for end in range(1, length + 1)]
    rows = np.concatenate([window[(window[:, -1] > 0) & (window[:, -2] > 0)] for window in windows])
    return rows.astype(np.int64)


def check_training(task: Task, found: np.ndarray) -> None:
    """Compare the rows of `examples` that a library trains on with the task's, in whatever order.

    Raises:
        DisagreementError: naming the first row that only one of them has.
    """
    given = task.split.training(np.arange(task.split.num_users))
    width = task.settings.length + 1
    given = examples(np.pad(given, ((0, 0), (width - given.shape[1], 0))))
    _compare(_sorted(given), _sorted(found), "training examples (inputs, target)")


def check_questions(task: Task, users: np.ndarray, histories: np.ndarray, targets: np.ndarray | None = None) -> None:
    """Compare the validation questions that a library answers with the task's, in whatever order of users.

    Raises:
        DisagreementError: naming the first user who differs.
    """
    asked = task.split.questions("valid")
    columns = [asked.users[:, None], asked.histories] + ([] if targets is None else [asked.targets[:, None]])
    theirs = [users[:, None], histories] + ([] if targets is None else [targets[:, None]])
    _compare(_sorted(np.hstack(columns)), _sorted(np.hstack(theirs)), "validation questions (user, history, target)")


def lookup_of(names: Sequence[object], num_items: int) -> np.ndarray:
    """Turn a library's list of item names (its internal order; what is no number is padding) into [num_items + 1]:
    the internal index of each item, -1 where the library does not know the item.
    """
    lookup = np.full(num_items + 1, -1, dtype=np.int64)
    for index, name in enumerate(names):
        if str(name).isdecimal():
            lookup[int(str(name))] = index
    return lookup


def _sorted(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T[::-1])]


def _compare(given: np.ndarray, found: np.ndarray, what: str) -> None:
    if given.shape != found.shape:
        raise DisagreementError(f"{what}: {given.shape} were given, and the library holds {found.shape}")
    differ = np.flatnonzero((given != found).any(1))
    if len(differ):
        row = differ[0]
        raise DisagreementError(f"{what}: {given[row].tolist()} was given, and the library holds {found[row].tolist()}")

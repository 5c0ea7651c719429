"""Count what histories hold: lengths, ties where the split falls, repeats, popularity; a chunk of users at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from odmt.data.format import Dataset

__all__ = ["LENGTH", "LONGEST", "HistoryFacts", "walk"]

CHUNK = 1 << 21
"""Events at a time, so that a billion of them need no memory."""
LONGEST = 10_000
"""Longer histories are counted together."""
LENGTH = 10
"""What training takes for --data.length where it is not told: of each history it sees the newest LENGTH + 3 events."""


@dataclass
class HistoryFacts:
    """Hold counts over all histories."""

    lengths: np.ndarray
    """[LONGEST + 1]: how many users have that many events."""
    counts: np.ndarray
    """[num_items + 1]: how many events an item has."""
    trained: np.ndarray
    """[num_items + 1]: how many of them train: of each user's newest `length` + 3 all but the last two, which validate
    and test."""
    length: int = LENGTH
    first_time: int | None = None
    """Unix milliseconds, None where the dataset has no times."""
    last_time: int | None = None
    tied_test: int = 0
    """Users whose last two events have equal times: the tie rule decides which one is tested."""
    tied_valid: int = 0
    """Users whose second and third event from the end have equal times: it decides which one validates."""
    backwards: int = 0
    """Users whose times go back, against the format."""
    repeats: int = 0
    """Events with an item that the user had before."""
    repeaters: int = 0
    """Users with such events."""
    exact: int = 0
    """Those of the repeats whose time is the same too."""
    cold_tests: int = 0
    """Users whose last item occurs in nobody's training events."""

    def quantile(self, share: float) -> int:
        """Return the length that `share` of the users do not exceed, for 0 the shortest."""
        total = np.cumsum(self.lengths)
        return int(np.searchsorted(total, max(1, share * total[-1])))


def walk(dataset: Dataset, *, length: int = LENGTH) -> HistoryFacts:
    """Count over all histories, in two passes: the second knows which items training sees at that `length`."""
    empty = np.zeros(dataset.num_items + 1, np.int64)
    facts = HistoryFacts(np.zeros(LONGEST + 1, np.int64), counts=empty, trained=empty.copy(), length=length)
    with tqdm(total=dataset.num_interactions, desc="histories", unit="events", disable=None, delay=1) as bar:
        for first, last in _chunks(dataset.offsets):
            offsets = np.asarray(dataset.offsets[first : last + 1])
            events = slice(offsets[0], offsets[-1])
            items = np.asarray(dataset.items[events])
            times = None if dataset.times is None else np.asarray(dataset.times[events])
            _count(facts, np.diff(offsets), items, times)
            bar.update(len(items))
    for first, last in _chunks(dataset.offsets):
        tested = dataset.items[np.asarray(dataset.offsets[first + 1 : last + 1]) - 1]
        facts.cold_tests += int((facts.trained[tested] == 0).sum())
    return facts


def _chunks(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    first, users = 0, len(offsets) - 1
    while first < users:
        last = int(np.searchsorted(offsets, offsets[first] + CHUNK, side="right")) - 1
        last = min(users, max(last, first + 1))
        yield first, last
        first = last


def _count(facts: HistoryFacts, lengths: np.ndarray, items: np.ndarray, times: np.ndarray | None) -> None:
    facts.lengths += np.bincount(np.minimum(lengths, LONGEST), minlength=LONGEST + 1)
    ends = np.cumsum(lengths)
    facts.counts += np.bincount(items, minlength=len(facts.counts))
    owners = np.repeat(np.arange(len(lengths)), lengths)
    from_end = ends[owners] - np.arange(len(items))  # 1 is a user's newest
    trains = (from_end > 2) & (from_end <= facts.length + 3)
    facts.trained += np.bincount(items[trains], minlength=len(facts.counts))
    # stable, so that of equal user and item the events stay in order of time, and equal times lie side by side
    key = owners * len(facts.counts) + items
    order = np.argsort(key, kind="stable")
    again = key[order[1:]] == key[order[:-1]]
    facts.repeats += int(again.sum())
    facts.repeaters += len(np.unique(owners[order[1:][again]]))
    if times is None:
        return
    earliest, latest = int(times.min()), int(times.max())
    facts.first_time = earliest if facts.first_time is None else min(earliest, facts.first_time)
    facts.last_time = latest if facts.last_time is None else max(latest, facts.last_time)
    facts.exact += int((again & (times[order[1:]] == times[order[:-1]])).sum())
    two, three = ends[lengths > 1], ends[lengths > 2]
    facts.tied_test += int((times[two - 1] == times[two - 2]).sum())
    facts.tied_valid += int((times[three - 2] == times[three - 3]).sum())
    back = (np.diff(times) < 0) & (owners[1:] == owners[:-1])
    facts.backwards += len(np.unique(owners[1:][back]))

"""Write a dataset folder from memory; `odmt.data.folder_writer` takes what does not fit there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from odmt.data.folder_writer import DatasetWriter
from odmt.data.manifest import DatasetError, FileRecord
from odmt.data.reading import Dataset
from odmt.shapes import Int

__all__ = ["Histories", "write_dataset"]


@dataclass(frozen=True, eq=False)
class Histories:
    """Hold the events of users, each user's oldest first, as flat arrays (see `Dataset`)."""

    users: Sequence[str]
    """The vendor's user ids."""
    offsets: Int[np.ndarray, " users_and_one"]
    items: Int[np.ndarray, " interactions"]
    """Items 1..num_items."""
    times: Int[np.ndarray, " interactions"] | None = None
    """Unix milliseconds, where the vendor gives times."""

    @classmethod
    def of(cls, rows: Iterable[tuple[str, Sequence[int], Sequence[int] | None]]) -> Histories:
        """Collect (user id, items, times or None) per user."""
        users, items, times, lengths = [], [], [], []
        for user, user_items, user_times in rows:
            if user_times is not None and len(user_times) != len(user_items):
                raise DatasetError(f"user '{user}' has {len(user_items)} events but {len(user_times)} times")
            users.append(user)
            lengths.append(len(user_items))
            items.extend(user_items)
            times.extend(() if user_times is None else user_times)
        if times and len(times) != len(items):
            raise DatasetError("some users have times and others none; give times for all users or for none")
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
        return cls(users, offsets, np.array(items, np.int64), np.array(times, np.int64) if times else None)


def write_dataset(
    path: str | Path,
    *,
    name: str,
    histories: Histories | Iterable[tuple[str, Sequence[int], Sequence[int] | None]],
    items: Mapping[str, Sequence[Any]],
    tie_rule: str,
    media_root: str | Path = ".",
    licence: str = "",
    citation: str = "",
    made_by: str = "",
    dropped: Mapping[str, int] | None = None,
    sources: Sequence[FileRecord] = (),
    overwrite: bool = False,
) -> Dataset:
    """Write a dataset folder and open it.

    `items` holds the columns of items.parquet, row i for item i + 1: `id` (the vendor's, as text, unique), and any of
    `text`, `image`, `video`, `audio` (None where an item has none; media as a path relative to `media_root`), and any
    further column.
    Feature caches of an overwritten folder are kept where the content they were made from is the same: of media, where
    paths and sizes are.

    Raises:
        DatasetError: where the input contradicts itself, `path` is taken, or the disk refuses; nothing is left then.
    """
    rows = histories if isinstance(histories, Histories) else Histories.of(histories)
    if not len(items.get("id", ("none",))):
        raise DatasetError("no items; a dataset needs at least one")
    if len(rows.offsets) != len(rows.users) + 1 or rows.offsets[0] != 0:
        found = f"{len(rows.offsets) - 1} users and events from {rows.offsets[0]}"
        raise DatasetError(f"offsets tell of {found}, but there are {len(rows.users)} users and events from 0")
    with DatasetWriter(path, overwrite=overwrite) as writer:
        writer.add_items(items)
        if len(rows.users):
            writer.add_users(rows.users, np.diff(rows.offsets))
            writer.add_events(rows.items, rows.times)
        writer.seal(
            name=name,
            tie_rule=tie_rule,
            media_root=media_root,
            licence=licence,
            citation=citation,
            made_by=made_by,
            dropped=dict(dropped or {}),
            sources=tuple(sources),
        )
        return writer.publish()

"""Write a dataset folder piece by piece, whole or not at all, in memory that does not grow with the interactions.

Everything goes into a sibling folder, is flushed to the disk, and takes its final name by one rename, so that a crash
or a full disk leaves no folder that `open_dataset` would read. However the process dies, a small child process that
waits for its end removes the sibling; where that dies too, the next writer does.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from odmt.data.folder_name import LOCK, check_free, clear_leftovers, flush, lock, removed_at_last, take_name
from odmt.data.growing import GrowingArray, GrowingTable, check_items
from odmt.data.manifest import MODALITIES, DatasetError, DatasetInfo, FileRecord, hash_media
from odmt.data.reading import ARRAYS, CHUNK, Dataset, open_dataset
from odmt.shapes import Int

__all__ = ["DatasetWriter"]

WRITERS = itertools.count()
MILLISECONDS = "ms since 1970-01-01 UTC"


class DatasetWriter:
    """Collect users, events and items in pieces, each in the order of its rows; `seal`, then `publish`.

    Use as a context manager. Events are those of user 0, oldest first, then of user 1, and so on.

    Raises:
        DatasetError: where the input contradicts itself, `path` is taken, or the disk refuses; nothing is left then.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = Path(path)
        if self.path.name in ("", ".."):
            raise DatasetError(f"{path} has no name of its own; name the folder to write, such as data/NAME")
        self.overwrite = overwrite
        self.lost: Mapping[Path, str] = {}
        self._end = ExitStack()
        self.partial = self.path.with_name(f".{self.path.name}.partial-{os.getpid()}-{next(WRITERS)}")

    def __enter__(self) -> DatasetWriter:
        clear_leftovers(self.path)
        check_free(self.path, overwrite=self.overwrite)
        try:
            (self.partial / "histories").mkdir(parents=True)
            self._lock = lock(self.partial / LOCK)
            self._end.enter_context(removed_at_last(self.partial))
            self._arrays = {name: GrowingArray(self.partial / f"histories/{name}.npy", name) for name in ARRAYS}
            self._arrays["offsets"].append(np.zeros(1))
            self._users = GrowingTable(self.partial / "users.parquet", "user")
            self._items = GrowingTable(self.partial / "items.parquet", "item")
        except OSError as error:
            self._end.close()
            raise self._failed(error) from error
        self._num_events = self._largest = 0
        self._smallest = 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in (*self._arrays.values(), self._users, self._items):
            part.abandon()
        self._lock.close()
        self._end.close()
        if isinstance(error, OSError) and self._is_ours(error):
            raise self._failed(error) from error

    @property
    def scratch(self) -> Path:
        """A folder for work files on the same disk; it is gone when the dataset is there."""
        return self.partial / "scratch"

    def add_users(self, ids: Sequence[str], lengths: Int[np.ndarray, " users"]) -> None:
        """Add the vendor's ids of users and how many events each of them has."""
        lengths = np.asarray(lengths, np.int64)
        if len(lengths) != len(ids):
            raise DatasetError(f"{len(lengths)} history lengths for {len(ids)} users; give one per user")
        if len(lengths) and lengths.min() < 1:
            raise DatasetError(f"user '{ids[int(lengths.argmin())]}' has no events; leave such users out")
        self._users.append({"id": ids})
        self._arrays["offsets"].append(self._num_events + np.cumsum(lengths))
        self._num_events += int(lengths.sum())

    def add_events(self, items: Int[np.ndarray, " events"], times: Int[np.ndarray, " events"] | None = None) -> None:
        """Add events: items 1..num_items, and unix milliseconds, of all events or of none."""
        if times is not None and len(times) != len(items):
            raise DatasetError(f"there are {len(times)} times for {len(items)} events; give one per event")
        if len(items):
            self._largest, self._smallest = max(self._largest, int(items.max())), min(self._smallest, int(items.min()))
        self._arrays["items"].append(items)
        self._arrays["times"].append(np.zeros(0) if times is None else times)

    def add_items(self, columns: Mapping[str, Sequence[Any] | pa.Array]) -> None:
        """Add items: `id`, and any of `text`, `image`, `video`, `audio`, and further columns (see `write_dataset`)."""
        arrays: dict[str, Any] = {name: v for name, v in columns.items() if isinstance(v, pa.Array)}
        given = {name: arrays[name].to_pylist() if name in arrays else v for name, v in columns.items()}
        check_items(given)
        self._items.append(given, {name: v.type for name, v in arrays.items()})

    def seal(self, *, name: str, tie_rule: str, media_root: str | Path = ".", **about: Any) -> Dataset:
        """Check the whole, write dataset.yaml (`about`: further fields of `DatasetInfo`) and open it where it lies.

        Features may be written into what this returns before it is published.
        """
        try:
            has_times = self._check_counts()
            for part in (*self._arrays.values(), self._users, self._items):
                part.close()
            if not has_times:
                (self.partial / "histories/times.npy").unlink()
            self._users.check_unique()
            self._items.check_unique()
            self._check_order(has_times=has_times)
            self._check_kept_media(media_root)
            info = DatasetInfo(
                name=name,
                num_users=self._users.rows,
                num_items=self._items.rows,
                num_interactions=self._arrays["items"].rows,
                tie_rule=tie_rule,
                time_unit=MILLISECONDS if has_times else "",
                modalities={m: self._items.present[m] for m in MODALITIES if m in self._items.present},
                media_root=str(media_root),
                content=self._content_hashes(media_root),
                **about,
            )
            self._write_info(info, has_times=has_times)
            return open_dataset(self.partial)
        except OSError as error:
            raise self._failed(error) from error

    def publish(self) -> Dataset:
        """Give the sealed folder its name; of a folder that it replaces, keep features of the same content.

        `lost` then names the feature folders that were not kept, and why.
        """
        check_free(self.path, overwrite=self.overwrite)  # another writer may have been faster
        try:
            shutil.rmtree(self.partial / "scratch", ignore_errors=True)
            self.lost = take_name(self.partial, self.path, overwrite=self.overwrite)
        except OSError as error:
            raise self._failed(error) from error
        return open_dataset(self.path)

    def _check_counts(self) -> bool:
        if not self._users.rows:
            raise DatasetError("no users; a dataset needs at least one")
        if not self._items.rows:
            raise DatasetError("no items; a dataset needs at least one")
        events, times = self._arrays["items"].rows, self._arrays["times"].rows
        if events != self._num_events:
            raise DatasetError(
                f"offsets tell of {self._users.rows} users and {self._num_events} events, but there are {events} events"
            )
        if times not in (0, events):
            raise DatasetError(f"there are {times} times for {events} events; give times for all events or for none")
        if self._smallest < 1 or self._largest > self._items.rows:
            raise DatasetError(
                f"events name items {self._smallest}..{self._largest}, the item table has 1..{self._items.rows}"
            )
        return bool(times)

    def _check_order(self, *, has_times: bool) -> None:
        if not has_times:
            return
        offsets = np.load(self.partial / "histories/offsets.npy", mmap_mode="r")
        before, begin = np.zeros(0, np.int64), 0
        for times in _chunks(self.partial / "histories/times.npy"):
            joined = np.concatenate([before, times])
            back = np.flatnonzero(np.diff(joined) < 0) + begin - len(before) + 1  # events earlier than the one before
            users = np.searchsorted(offsets, back, side="right") - 1
            wrong = users[offsets[users] != back]  # the first event of a user has none before
            if len(wrong):
                name = pq.read_table(self.partial / "users.parquet").column("id")[int(wrong[0])].as_py()
                raise DatasetError(f"times of user '{name}' go back; order each user's events oldest first")
            before, begin = times[-1:], begin + len(times)

    def _check_kept_media(self, media_root: str | Path) -> None:
        here, root = self.path.resolve(), (self.path / media_root).resolve()
        if not self.path.exists():
            return
        if not root.is_relative_to(here):
            self._check_packed_media()
            return
        for _, file in self._media():
            if (root / file).exists() and not (self.partial / root.relative_to(here) / file).exists():
                raise DatasetError(
                    f"{self.path / media_root / file} lies inside the folder that would be replaced and is not part of "
                    "the new one; move the media elsewhere and name that place as media_root, or copy them in anew"
                )

    def _check_packed_media(self) -> None:
        try:
            old = open_dataset(self.path)
        except DatasetError:
            return  # a damaged folder cannot say which media are its own
        if not old.media_root.resolve().is_relative_to(self.path.resolve()):
            return
        for modality in old.info.modalities.keys() - {"text"}:
            for file in old.media(modality):
                if file is not None and file.is_file():
                    raise DatasetError(
                        f"{file} lies inside the folder that would be replaced and may be the only copy; copy media "
                        f"into the new one as well (--pack), or remove {self.path} first"
                    )

    def _media(self) -> Iterator[tuple[str, str]]:
        names = [m for m in MODALITIES if m != "text" and m in self._items.present]
        for batch in pq.ParquetFile(self.partial / "items.parquet").iter_batches(columns=names):
            for name in names:
                yield from ((name, file) for file in batch.column(name).to_pylist() if file is not None)

    def _content_hashes(self, media_root: str | Path) -> dict[str, str]:
        hashes = {f"users.{c}": h for c, h in self._users.hashes()} | {f"items.{c}": h for c, h in self._items.hashes()}
        root = self.partial / media_root
        if root.is_dir():  # else the files come later, and are looked at when asked for
            for m in (m for m in MODALITIES if m != "text" and m in self._items.present):
                files = pq.read_table(self.partial / "items.parquet", columns=[m]).column(0).to_pylist()
                hashes[f"media.{m}"] = hash_media(files, root)
        return hashes

    def _write_info(self, info: DatasetInfo, *, has_times: bool) -> None:
        arrays = [name for name in ARRAYS if name != "times" or has_times]
        names = [*(f"histories/{name}.npy" for name in arrays), "items.parquet", "users.parquet"]
        recorded = replace(info, files=tuple(FileRecord.of(self.partial / n, name=n) for n in names))
        (self.partial / "dataset.yaml").write_text(recorded.dump(), encoding="utf-8")
        for name in [*names, "dataset.yaml", "histories", "."]:
            flush(self.partial / name)

    def _is_ours(self, error: OSError) -> bool:
        # a file that the caller could not read is none of our failures
        return error.filename is None or Path(os.fsdecode(error.filename)).absolute().is_relative_to(
            self.partial.absolute()
        )

    def _failed(self, error: OSError) -> DatasetError:
        return DatasetError(
            f"{self.path}: writing failed ({error}); nothing was kept. "
            "Free some space or name another folder, then run the command again"
        )


def _chunks(path: Path) -> Iterator[np.ndarray]:
    # read, not mapped: mapped pages would count as this process's memory
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        _, _, dtype = np.lib.format.read_array_header_1_0(file)
        while len(part := np.fromfile(file, dtype, CHUNK)):
            yield part

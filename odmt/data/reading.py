"""Open a dataset folder: validate it in milliseconds, map its arrays into memory, read its columns when asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from odmt.data.manifest import ANEW, MODALITIES, DatasetError, DatasetInfo, hash_column, hash_file, hash_media
from odmt.shapes import Int

__all__ = ["ARRAYS", "CHUNK", "Dataset", "open_dataset"]

ARRAYS = {"offsets": np.dtype(np.int64), "items": np.dtype(np.int32), "times": np.dtype(np.int64)}
CHUNK = 1 << 22
"""Entries read at a time where a whole array is checked, so that a billion interactions need no memory."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Hold an opened dataset folder. Users are 0..num_users-1, items 1..num_items; 0 is padding.

    User u's events are items[offsets[u]:offsets[u + 1]], oldest first; `times` [interactions] are unix milliseconds.
    """

    path: Path
    info: DatasetInfo
    offsets: Int[np.ndarray, " users_and_one"]
    items: Int[np.ndarray, " interactions"]
    times: Int[np.ndarray, " interactions"] | None

    @property
    def name(self) -> str:
        """The dataset's name, for runs and reports."""
        return self.info.name

    @property
    def num_users(self) -> int:
        """Number of users."""
        return self.info.num_users

    @property
    def num_items(self) -> int:
        """Number of real items; tables have one row more, for padding."""
        return self.info.num_items

    @property
    def num_interactions(self) -> int:
        """Number of events of all users."""
        return self.info.num_interactions

    def history(self, user: int) -> Int[np.ndarray, " events"]:
        """Return the items of `user`, oldest first, as a view of the file."""
        if not 0 <= user < self.num_users:
            raise DatasetError(f"user {user} is not in {self.path}, which has users 0..{self.num_users - 1}")
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def users(self) -> list[str]:
        """Return the vendor's user ids; entry u is user u."""
        return _read_ids(self.path / "users.parquet")

    def column(self, name: str) -> list[Any]:
        """Return a column of items.parquet; entry i is item i + 1."""
        return _read_column(self.path / "items.parquet", name)

    def ids(self) -> list[str]:
        """Return the vendor's item ids; entry i is item i + 1."""
        return _read_ids(self.path / "items.parquet")

    def texts(self) -> list[str | None]:
        """Return the items' texts; entry i is item i + 1, None where it has none."""
        return self.column("text")

    @property
    def media_root(self) -> Path:
        """The folder that media paths start from."""
        return self.path / self.info.media_root

    def media(self, modality: str) -> list[Path | None]:
        """Return the items' media files; entry i is item i + 1, None where it has none.

        Raises:
            DatasetError: where there is no such column, or the folder of the media is gone.
        """
        paths = self.column(modality)
        if any(p is not None for p in paths) and not self.media_root.is_dir():
            raise DatasetError(
                f"{self.path / 'dataset.yaml'}: field 'media_root' names {self.media_root}, which is not there; "
                "put the folder back, or edit the field (absolute, or relative to the dataset folder)"
            )
        return [None if p is None else self.media_root / p for p in paths]

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of interactions, users' and items' columns: the same data gives the same value on any machine.

        Media count by their paths; what is in the files is for `content_fingerprint`.
        """
        recorded = {record.name: record.sha256 for record in self.info.files}
        names = [f"histories/{name}.npy" for name in ARRAYS if name != "times" or self.times is not None]
        parts = [f"{name} {recorded.get(name) or hash_file(self.path / name)}" for name in names]
        columns = ["users.id", *(f"items.{name}" for name in _column_names(self.path / "items.parquet"))]
        parts += [f"{name} {self._content_hash(name)}" for name in columns]
        return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()

    def content_fingerprint(self, modality: str) -> str:
        """Return the sha256 of the item ids and one kind of content: what features of that modality are made from.

        Media count by path and by size in bytes, as they were when the folder was written (as they are now where
        dataset.yaml does not say), so that the same files in another place give the same value. A modality of your own,
        of which a folder never holds the content, counts as made from the item ids alone.
        """
        if modality not in MODALITIES:
            return hashlib.sha256(self._content_hash("items.id").encode()).hexdigest()
        if modality not in self.info.modalities:
            raise DatasetError(
                f"{self.path}: no modality '{modality}'; it has {', '.join(self.info.modalities) or 'none'}"
            )
        content = self._content_hash("items.text") if modality == "text" else self._media_hash(modality)
        return hashlib.sha256(f"{self._content_hash('items.id')} {content}".encode()).hexdigest()

    def check_media(self, modality: str) -> None:
        """Compare the media files with those that were there when the folder was written, by path and size.

        Where `media_root` is gone, or dataset.yaml does not record them, there is nothing to compare.

        Raises:
            DatasetError: where one was replaced, added or removed since.
        """
        recorded = self.info.content.get(f"media.{modality}")
        if recorded is None or not self.media_root.is_dir():
            return
        if hash_media(self.column(modality), self.media_root) != recorded:
            raise DatasetError(
                f"{self.media_root}: {modality} files were replaced, added or removed since {self.path} was written, "
                "so that features of the old ones would pass for theirs; write the folder again with its adapter "
                "(--overwrite), then encode again"
            )

    def _content_hash(self, name: str) -> str:
        table, column = name.split(".", 1)
        return self.info.content.get(name) or hash_column(_read_column(self.path / f"{table}.parquet", column))

    def _media_hash(self, modality: str) -> str:
        recorded = self.info.content.get(f"media.{modality}")
        return recorded or hash_media(self.column(modality), self.media_root)

    def verify(self) -> None:
        """Read everything and compare with dataset.yaml: hashes of files and columns, item range, counts, media sizes.

        Raises:
            DatasetError: naming the first file and field that differ.
        """
        for record in self.info.files:
            _expect(hash_file(self.path / record.name), record.sha256, f"{self.path / record.name}: sha256")
        for name, recorded in self.info.content.items():
            table, column = name.split(".", 1)
            if table == "media":
                self.check_media(column)
                continue
            found = hash_column(_read_column(self.path / f"{table}.parquet", column))
            _expect(found, recorded, f"{self.path / table}.parquet: sha256 of column '{column}'")
        _check_offsets(self.path / "histories/offsets.npy", self.offsets, self.num_interactions, users=self.num_users)
        for begin in range(0, len(self.items), CHUNK):
            part = self.items[begin : begin + CHUNK]
            wrong = np.flatnonzero((part < 1) | (part > self.num_items))
            if len(wrong):
                where = f"{self.path / 'histories/items.npy'}: entry {begin + int(wrong[0])}"
                raise DatasetError(f"{where} is {int(part[wrong[0]])}, must be 1..{self.num_items}; {ANEW}")
        for modality, count in self.info.modalities.items():
            present = sum(value is not None for value in self.column(modality))
            _expect(present, count, f"{self.path / 'items.parquet'}: items with {modality}")


def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset folder: check that its parts are there and agree, and map its arrays without reading them.

    Every hash is recomputed by `Dataset.verify`, which reads the whole folder; this does not.

    Raises:
        DatasetError: where the folder is missing, foreign or damaged; names the file, the field and the way out.
    """
    path = Path(path)
    if not path.is_dir():
        raise DatasetError(f"no dataset folder at {path}; an adapter writes one, see: python -m data_adapters --help")
    if not (path / "dataset.yaml").is_file():
        raise DatasetError(
            f"{path} has no dataset.yaml, so it is no dataset folder; if it holds a vendor's files, convert it with "
            "an adapter, see: python -m data_adapters --help"
        )
    info = DatasetInfo.parse(path / "dataset.yaml")
    for record in info.files:
        _expect(_size(path / record.name), record.size, f"{path / record.name}: size in bytes")
    offsets = _map_array(path, "offsets", info.num_users + 1)
    items = _map_array(path, "items", info.num_interactions)
    has_times = (path / "histories/times.npy").exists() or bool(info.time_unit)
    times = _map_array(path, "times", info.num_interactions) if has_times else None
    _check_offsets(path / "histories/offsets.npy", offsets, info.num_interactions, users=CHUNK)
    _check_table(path / "users.parquet", info.num_users, ["id"])
    _check_table(path / "items.parquet", info.num_items, ["id", *info.modalities])
    for name in info.modalities:
        if name not in MODALITIES:
            raise DatasetError(
                f"{path / 'dataset.yaml'}: field 'modalities' names '{name}', must be of {', '.join(MODALITIES)}"
            )
    return Dataset(path, info, offsets, items, times)


def _expect(found: object, recorded: object, what: str) -> None:
    if found != recorded:
        raise DatasetError(f"{what} is {found}, dataset.yaml records {recorded}; {ANEW}")


def _size(path: Path) -> int:
    if not path.is_file():
        raise DatasetError(f"{path} is missing; {ANEW}")
    return path.stat().st_size


def _map_array(folder: Path, name: str, length: int) -> np.ndarray:
    path = folder / "histories" / f"{name}.npy"
    _size(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DatasetError(f"{path}: not a readable .npy array ({error}); {ANEW}") from error
    if not isinstance(array, np.ndarray) or array.dtype != ARRAYS[name] or array.shape != (length,):
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise DatasetError(f"{path}: holds {found}, dataset.yaml asks for {ARRAYS[name]} ({length},); {ANEW}")
    return array


def _check_offsets(path: Path, offsets: np.ndarray, num_interactions: int, *, users: int) -> None:
    """Check the two ends, and the histories of so many `users`: all of them would take long to open."""
    if offsets[0] != 0 or offsets[-1] != num_interactions:
        raise DatasetError(
            f"{path}: runs from {offsets[0]} to {offsets[-1]}, must run from 0 to {num_interactions}; {ANEW}"
        )
    for begin in range(0, min(len(offsets) - 1, users), CHUNK):
        part = offsets[begin : begin + CHUNK + 1]
        wrong = np.flatnonzero(part[1:] <= part[:-1])
        if len(wrong):
            user = begin + int(wrong[0])
            raise DatasetError(
                f"{path}: user {user} runs from {offsets[user]} to {offsets[user + 1]}, must have an event; {ANEW}"
            )


def _check_table(path: Path, rows: int, columns: Iterable[str]) -> None:
    _size(path)
    try:
        schema, found = pq.read_schema(path), pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: not a readable parquet file ({error}); {ANEW}") from error
    for name in columns:
        if name not in schema.names:
            raise DatasetError(f"{path}: no column '{name}', it has {', '.join(schema.names)}; {ANEW}")
    if found != rows:
        raise DatasetError(f"{path}: has {found} rows, dataset.yaml asks for {rows}; {ANEW}")


def _column_names(path: Path) -> list[str]:
    return list(pq.read_schema(path).names)


def _read_ids(path: Path) -> list[str]:
    """Read ids as texts, which a table that was not written by us may have as numbers."""
    return [one if isinstance(one, str) else str(one) for one in _read_column(path, "id")]


def _read_column(path: Path, name: str) -> list[Any]:
    names = _column_names(path)
    if name not in names:
        raise DatasetError(f"{path}: no column '{name}', it has {', '.join(names)}")
    try:
        return pq.read_table(path, columns=[name]).column(0).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: column '{name}' cannot be read ({error}); {ANEW}") from error

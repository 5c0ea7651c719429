"""Write a dataset folder whole or not at all.

Everything goes into a sibling folder, is flushed to the disk, and takes its final name by one rename, so that a crash
or a full disk leaves no folder that `open_dataset` would read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from odmt.data.manifest import MODALITIES, DatasetError, DatasetInfo, FileRecord, hash_column, hash_media
from odmt.data.reading import ARRAYS, Dataset, open_dataset
from odmt.types import Int

__all__ = ["Histories", "write_dataset"]

MILLISECONDS = "ms since 1970-01-01 UTC"


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
    path = Path(path)
    rows = histories if isinstance(histories, Histories) else Histories.of(histories)
    _check_items(items)
    _check_histories(rows, num_items=len(items["id"]))
    _check_free(path, overwrite=overwrite)
    info = DatasetInfo(
        name=name,
        num_users=len(rows.users),
        num_items=len(items["id"]),
        num_interactions=len(rows.items),
        tie_rule=tie_rule,
        time_unit="" if rows.times is None else MILLISECONDS,
        modalities={m: sum(value is not None for value in items[m]) for m in MODALITIES if m in items},
        media_root=str(media_root),
        licence=licence,
        citation=citation,
        made_by=made_by,
        dropped=dict(dropped or {}),
        sources=tuple(sources),
        content=_content_hashes(rows.users, items, media_root=path / media_root),
    )
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        _write_folder(partial, info, rows, items)
        _take_name(partial, path)
    except OSError as error:
        raise DatasetError(
            f"{path}: writing failed ({error}); nothing was kept. "
            "Free some space or name another folder, then run the command again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_dataset(path)


def _content_hashes(users: Sequence[str], items: Mapping[str, Sequence[Any]], *, media_root: Path) -> dict[str, str]:
    hashes = {"users.id": hash_column(users)} | {f"items.{column}": hash_column(items[column]) for column in items}
    if media_root.is_dir():  # else the files come later, and are looked at when asked for
        hashes |= {f"media.{m}": hash_media(items[m], media_root) for m in MODALITIES if m in items and m != "text"}
    return hashes


def _check_items(items: Mapping[str, Sequence[Any]]) -> None:
    if "id" not in items:
        raise DatasetError(
            f"items have no column 'id', only {', '.join(items) or 'none'}; give the vendor's ids as text"
        )
    ids = items["id"]
    if not len(ids):
        raise DatasetError("no items; a dataset needs at least one")
    for column, values in items.items():
        if len(values) != len(ids):
            raise DatasetError(
                f"items: column '{column}' has {len(values)} rows, column 'id' has {len(ids)}; give a row per item"
            )
    _check_ids(ids, "item")
    for modality in MODALITIES:
        for row, value in enumerate(items.get(modality, ())):
            if value is not None and (not isinstance(value, str) or not value):
                raise DatasetError(
                    f"items: {modality} of item '{ids[row]}' is {value!r}, must be text, or None where it has none"
                )
            if value is not None and modality != "text" and not _is_inside(value):
                raise DatasetError(
                    f"items: {modality} of item '{ids[row]}' is {value!r}, must be a path inside media_root"
                )


def _is_inside(path: str) -> bool:
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts


def _check_ids(ids: Sequence[Any], what: str) -> None:
    seen = set()
    for value in ids:
        if not isinstance(value, str):
            raise DatasetError(f"{what} id {value!r} is {type(value).__name__}, must be text; write str({value!r})")
        if value in seen:
            raise DatasetError(f"{what} id '{value}' occurs twice; merge its rows")
        seen.add(value)


def _check_histories(rows: Histories, *, num_items: int) -> None:
    if not len(rows.users):
        raise DatasetError("no users; a dataset needs at least one")
    _check_ids(rows.users, "user")
    lengths = np.diff(rows.offsets)
    if len(lengths) != len(rows.users) or rows.offsets[0] != 0 or rows.offsets[-1] != len(rows.items):
        found = f"{len(lengths)} users and {rows.offsets[-1]} events from {rows.offsets[0]}"
        raise DatasetError(
            f"offsets tell of {found}, but there are {len(rows.users)} users and {len(rows.items)} events"
        )
    if lengths.min() < 1:
        raise DatasetError(f"user '{rows.users[int(lengths.argmin())]}' has no events; leave such users out")
    if rows.times is not None and len(rows.times) != len(rows.items):
        raise DatasetError(f"there are {len(rows.times)} times for {len(rows.items)} events; give one per event")
    if rows.items.min() < 1 or rows.items.max() > num_items:
        raise DatasetError(
            f"events name items {rows.items.min()}..{rows.items.max()}, the item table has 1..{num_items}"
        )
    if rows.times is not None:
        steps = np.diff(rows.times)
        steps[rows.offsets[1:-1] - 1] = 0
        if len(steps) and steps.min() < 0:
            user = int(np.searchsorted(rows.offsets, int(steps.argmin()), side="right")) - 1
            raise DatasetError(f"times of user '{rows.users[user]}' go back; order each user's events oldest first")


def _check_free(path: Path, *, overwrite: bool) -> None:
    if not path.exists():
        return
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
    elif not overwrite:
        raise DatasetError(f"{path} exists; name another folder, or overwrite it (--overwrite)")
    elif not (path / "dataset.yaml").is_file():
        raise DatasetError(
            f"{path} exists and is no dataset folder (no dataset.yaml), so it is not overwritten; name another folder"
        )


def _write_folder(folder: Path, info: DatasetInfo, rows: Histories, items: Mapping[str, Sequence[Any]]) -> None:
    (folder / "histories").mkdir()
    arrays = {"offsets": rows.offsets, "items": rows.items} | ({} if rows.times is None else {"times": rows.times})
    for name, array in arrays.items():
        with (folder / "histories" / f"{name}.npy").open("wb") as file:
            np.lib.format.write_array(
                file, np.ascontiguousarray(array, ARRAYS[name]), version=(1, 0), allow_pickle=False
            )
    # one item or user per row; content columns are text even where every entry is None
    columns = {c: pa.array(v, pa.string()) if c == "id" or c in MODALITIES else pa.array(v) for c, v in items.items()}
    pq.write_table(pa.table(columns), folder / "items.parquet")
    pq.write_table(pa.table({"id": pa.array(rows.users, pa.string())}), folder / "users.parquet")
    names = [*(f"histories/{name}.npy" for name in arrays), "items.parquet", "users.parquet"]
    recorded = replace(info, files=tuple(FileRecord.of(folder / n, name=n) for n in names))
    (folder / "dataset.yaml").write_text(recorded.dump(), encoding="utf-8")
    for name in [*names, "dataset.yaml", "histories", "."]:
        _flush(folder / name)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_name(partial: Path, path: Path) -> None:
    open_dataset(partial)  # what cannot be opened must not replace what can
    if not path.exists():
        os.rename(partial, path)
    else:
        replaced = path.with_name(f".{path.name}.replaced-{os.getpid()}")
        os.rename(path, replaced)
        try:
            os.rename(partial, path)
        except OSError:
            os.rename(replaced, path)
            raise
        _keep_features(replaced, path)
        shutil.rmtree(replaced)
    _flush(path.parent)


def _keep_features(replaced: Path, path: Path) -> None:
    try:
        old, new = open_dataset(replaced), open_dataset(path)
    except DatasetError:
        return  # a damaged folder cannot say what its features were made from
    for modality in old.info.modalities.keys() & new.info.modalities.keys():
        cache = replaced / "features" / modality
        if cache.is_dir() and old.content_fingerprint(modality) == new.content_fingerprint(modality):
            (path / "features").mkdir(exist_ok=True)
            os.rename(cache, path / "features" / modality)

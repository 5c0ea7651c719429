"""Stream what was chosen into the dataset folder: histories in order, items with their text and media."""

from __future__ import annotations

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from data_adapters.content import MediaFinder, Template, clean_html
from data_adapters.engine import Engine
from data_adapters.options import Options
from data_adapters.release import Release
from data_adapters.text_files import ReleaseError
from odmt.data.format import MODALITIES, DatasetWriter

__all__ = ["Catalogue", "Told", "media_root", "write_histories"]

ROWS = 1 << 14
"""Items handled at a time."""
DAY = 86_400_000


@dataclass
class Told:
    """Hold what was seen of the events while they were written."""

    resolution: str = ""
    repeats: int = 0
    """Events of the same item at the same time as the user's event before."""


def write_histories(engine: Engine, writer: DatasetWriter, *, keep_times: bool, repeats: str) -> Told:
    """Stream users and events into the folder; repeats are counted where they are all kept, and there are times."""
    users = "SELECT user::VARCHAR AS user, n FROM kept_users JOIN user_ids USING (u) ORDER BY u"
    for batch in engine.stream(users):
        writer.add_users(batch.column("user").to_pylist(), batch.column("n").to_numpy())
    (num_items,) = engine.one("SELECT count(*) FROM item_ids")
    (num_events,) = engine.one("SELECT sum(n)::BIGINT FROM kept_users")
    row_of = np.zeros(num_items, np.int32)
    for row, batch in _counted(engine.stream("SELECT i FROM kept_items ORDER BY i")):
        row_of[batch.column("i").to_numpy()] = np.arange(row + 1, row + 1 + batch.num_rows)
    whole = {"whole days": DAY, "whole seconds": 1000}
    told = Told()
    last = np.zeros((3, 0), np.int64)
    events = "SELECT i, time, u FROM chosen ORDER BY u, time, place"
    with tqdm(total=num_events, desc="sorting", unit=" events", unit_scale=True, disable=None) as bar:
        for batch in engine.stream(events):
            times = batch.column("time").to_numpy(zero_copy_only=False) if keep_times else None
            writer.add_events(row_of[batch.column("i").to_numpy()], times)
            if times is not None:
                whole = {name: step for name, step in whole.items() if not (times % step).any()}
                if repeats == "keep":
                    rows = np.stack([batch.column("u").to_numpy(), batch.column("i").to_numpy(), times], dtype=np.int64)
                    rows = np.concatenate([last, rows], axis=1)
                    told.repeats += int((rows[:, 1:] == rows[:, :-1]).all(axis=0).sum())
                    last = rows[:, -1:]
            bar.update(batch.num_rows)
    told.resolution = next(iter(whole), "milliseconds") if keep_times else ""
    return told


def _counted(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
    row = 0
    for batch in batches:
        yield row, batch
        row += batch.num_rows


def media_root(release: Release) -> Path:
    """The folder above all media: the release, unless some lie elsewhere."""
    folders = [folder for media in release.media.values() for folder in media.folders]
    return Path(os.path.commonpath([os.path.abspath(path) for path in (release.media_root, *folders)]))


class Catalogue:
    """Join the fields of catalogues with the kept items and write them as rows of items.parquet."""

    def __init__(
        self,
        release: Release,
        options: Options,
        text: Template | None,
        finders: Mapping[str, MediaFinder],
    ) -> None:
        self.release, self.options, self.text, self.finders = release, options, text, finders
        needed = [*(text.names if text else ()), *(n for f in finders.values() for n in f.names), *options.columns]
        self.fields = [name for name in dict.fromkeys(needed) if name != "id"]
        self.needed = [
            c for c in release.catalogues if not {*c.fields}.isdisjoint(self.fields) or (self.fields and not c.fields)
        ]
        """The files to read."""
        if options.all_items and not self.needed:
            raise ReleaseError(
                "--all-items: no catalogue of items is read; name one that the adapter takes, and what to read of it "
                "(--text or --columns)"
            )
        self._examples = ["", ""]
        self._found: Counter[str] = Counter()
        self.warnings: list[str] = []
        """What is suspicious of the content, such as a catalogue none of whose items has events."""
        self.notes: dict[str, str] = {}
        self.columns = [m for m in MODALITIES if m in finders or (m == "text" and text)]
        self.columns += [f.modality for f in release.features if f.modality not in self.columns]

    def write(self, engine: Engine, writer: DatasetWriter) -> dict[str, int]:
        """Write the kept items; return what was not used of the catalogues."""
        unmatched = self._collect(engine)
        listed = ", ".join(
            f"arg_min(f{k}, place) FILTER (WHERE f{k} IS NOT NULL) AS f{k}" for k in range(len(self.fields))
        )
        (total,) = engine.one("SELECT count(*) FROM kept_items")
        queries = [
            f"SELECT item::VARCHAR AS id{', ' if listed else ''}{listed} FROM kept_items JOIN item_ids USING (i) "
            "LEFT JOIN content ON content.id = item_ids.item::VARCHAR GROUP BY i, item ORDER BY i"
        ]
        if self.options.all_items:
            others = "content ANTI JOIN wanted USING (id) WHERE id <> ''"
            (more,) = engine.one(f"SELECT count(DISTINCT id) FROM {others}")
            order = "TRY_CAST(id AS BIGINT) NULLS LAST, id" if self.release.integer_ids else "id"
            queries.append(f"SELECT id{', ' if listed else ''}{listed} FROM {others} GROUP BY id ORDER BY {order}")
            self.notes["items without a kept event"] = f"{more:,}, the last ones (--all-items)"
            total += more
        with tqdm(total=total, desc="items", unit=" items", disable=None) as bar:
            for batch in itertools.chain.from_iterable(map(engine.stream, queries)):
                for begin in range(0, batch.num_rows, ROWS):
                    rows = batch.slice(begin, ROWS)
                    self._write_rows(rows, writer)
                    bar.update(rows.num_rows)
        for modality, finder in self.finders.items():
            if finder.listed and not self._found[modality]:
                example = f"{finder.example}, where items are called {self._examples[1]}"
                self.warnings.append(f"none of the {finder.listed:,} {modality} files belongs to an item: {example}")
        left_out = self.needed and not self.options.all_items
        dropped = {"catalogue rows of items without a kept event": unmatched} if left_out else {}
        dropped |= {
            f"{m} files that items name but are not there": f.absent for m, f in self.finders.items() if f.names
        }
        return dropped | {
            f"{m} files whose names are not UTF-8": f.unnameable for m, f in self.finders.items() if f.unnameable
        }

    def _collect(self, engine: Engine) -> int:
        columns = "".join(f", f{k} VARCHAR" for k in range(len(self.fields)))
        engine.run(f"CREATE TABLE content (place BIGINT, id VARCHAR{columns})")
        engine.run("CREATE TABLE wanted AS SELECT item::VARCHAR AS id FROM kept_items JOIN item_ids USING (i)")
        place = 0
        for catalogue in self.needed:
            rows = catalogue.read()
            while piece := list(itertools.islice(rows, ROWS)):
                table = {
                    "place": pa.array(range(place, place + len(piece)), pa.int64()),
                    "id": pa.array([_storable(self._id(item)) for item, _ in piece], pa.string()),
                } | {
                    f"f{k}": pa.array(
                        [_storable(values.get(name) or "").strip() or None for _, values in piece], pa.string()
                    )
                    for k, name in enumerate(self.fields)
                }
                among = "" if self.options.all_items else " SEMI JOIN wanted USING (id)"
                engine.run(f"INSERT INTO content SELECT * FROM batches{among}", batches=pa.table(table))
                place += len(piece)
                self._examples[0] = piece[0][0]
        (kept,) = engine.one("SELECT count(*) FROM content SEMI JOIN wanted USING (id)")
        self._look_for_doubles(engine)
        (self._examples[1],) = engine.one("SELECT min(id) FROM wanted")
        if place and not kept:
            example = f"they are called such as {self._examples[0]!r} there, and {self._examples[1]!r} in the events"
            self.warnings.append(
                f"none of the {place:,} rows of the catalogue belongs to an item with events: {example}"
            )
        return place - kept

    def _look_for_doubles(self, engine: Engine) -> None:
        if not self.fields:
            return
        unlike = " OR ".join(f"min(f{k}) < max(f{k})" for k in range(len(self.fields)))
        count, example = engine.one(
            f"SELECT count(*), min(id) FROM (SELECT id FROM content GROUP BY id HAVING {unlike})"
        )
        if count:
            self.warnings.append(
                f"{count:,} items are described in several ways, such as {example!r}; of each field the first was taken"
            )

    def _id(self, item: str) -> str:
        item = item.strip()
        if self.release.integer_ids and item.isdecimal():
            return str(int(item))
        return item.rjust(self.release.item_width, "0")

    def _write_rows(self, rows: pa.RecordBatch, writer: DatasetWriter) -> None:
        ids = rows.column("id").to_pylist()
        given = [
            dict(zip(self.fields, values, strict=True))
            for values in zip(*(c.to_pylist() for c in rows.columns[1:]), strict=True)
        ]
        texts = self.text.names if self.text else ()
        given = given or [{} for _ in ids]
        cleaned = [{k: v and clean_html(v, self.options.html) for k, v in row.items() if k in texts} for row in given]
        columns: dict[str, pa.Array] = {"id": pa.array(ids, pa.string())}
        for column in self.columns:
            values: list[str | None] = [None] * len(ids)
            if column == "text" and self.text:
                values = [self.text.render({**row, "id": i}) for i, row in zip(ids, cleaned, strict=True)]
            elif column in self.finders:
                finder = self.finders[column]
                values = [
                    self._packed(finder.find(i, row), finder, column, writer) for i, row in zip(ids, given, strict=True)
                ]
            columns[column] = pa.array(values, pa.string())
            self._found[column] += len(values) - columns[column].null_count
        if "frames" in self.finders:
            finder = self.finders["frames"]
            series = [
                [path for p in finder.find_series(i) or () if (path := self._packed(p, finder, "frames", writer))]
                or None
                for i in ids
            ]
            columns["frames"] = pa.array(series, pa.list_(pa.string()))
            self._found["frames"] += len(series) - columns["frames"].null_count
        for name in self.options.columns:
            columns[name] = pa.array([row[name] for row in given], pa.string())
        writer.add_items(columns)

    def _packed(self, path: str | None, finder: MediaFinder, modality: str, writer: DatasetWriter) -> str | None:
        if path is None or not self.options.pack:
            return path
        packed = f"{modality}/{path}"
        target = writer.partial / "media" / packed
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(finder.check_inside(path), target)
        return packed


def _storable(text: str) -> str:
    # half of a character that JSON may hold ("\\ud83d") is none in UTF-8
    return text if text.isascii() else text.encode(errors="replace").decode()

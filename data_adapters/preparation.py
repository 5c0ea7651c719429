"""Prepare a release: read its events out of core, choose, number and sort them, and write the dataset folder.

Every vendor goes through here. Memory is bounded by `memory` and by the number of users and items, not by the number
of interactions: DuckDB keeps tables and sorts on the disk of the output, and results stream into the folder.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import shutil
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from data_adapters.content import MediaFinder, Template, clean_html
from data_adapters.engine import Engine
from data_adapters.events import EventFacts, load_events
from data_adapters.filtering import number_events, select_events
from data_adapters.options import Options
from data_adapters.ready_features import write_features
from data_adapters.release import Adapter, Release
from data_adapters.text_files import ReleaseError
from odmt.data.format import MODALITIES, Dataset, DatasetError, DatasetWriter, FileRecord, open_dataset

__all__ = ["Prepared", "prepare"]

ROWS = 1 << 14
"""Items handled at a time."""
DAY = 86_400_000


class Prepared:
    """Hold the dataset and whether it was there already, made from the same files with the same options."""

    def __init__(self, dataset: Dataset, *, was_there: bool) -> None:
        self.dataset, self.was_there = dataset, was_there


def prepare(
    adapter: Adapter,
    raw: Path,
    out: Path,
    *,
    options: Options,
    name: str,
    arguments: Namespace,
    memory: str = "2GB",
    overwrite: bool = False,
    made_by: str = "",
) -> Prepared:
    """Make the dataset folder `out` of the release in `raw`, or find that it is there.

    `name` is the adapter's, `arguments` hold the vendor's own options.

    Raises:
        ReleaseError: where the release is not what the adapter reads; names file, line and field.
        DatasetError: where `out` is taken by something else, or cannot be written.
    """
    release = adapter.read(raw, arguments)
    text, finders = _content(release, options)
    sources = _sources(release, finders, raw)
    preparation = {"adapter": name, "odmt": importlib.metadata.version("odmt")} | options.recorded() | _own(arguments)
    preparation["text"] = options.text or release.text
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]) and not overwrite:
        _refuse_other(out, preparation, sources)
        return Prepared(open_dataset(out), was_there=True)
    with (
        DatasetWriter(out, overwrite=overwrite) as writer,
        Engine(writer.scratch, memory=memory) as engine,
    ):
        facts = load_events(engine, release)
        number_events(engine)
        where = str(release.events[0].path)
        dropped = dict(release.dropped) | select_events(engine, options, facts, where=where)
        resolution = _write_histories(engine, writer, facts)
        catalogue = _Catalogue(engine, release, options, text, finders)
        dropped |= catalogue.write(writer)
        media_root = Path("media") if options.pack else _media_root(release)
        sealed = writer.seal(
            name=out.name,
            tie_rule=_tie_rule(facts, len(release.events)),
            media_root=media_root,
            licence=adapter.licence,
            citation=adapter.citation,
            made_by=made_by,
            dropped=dropped,
            preparation=preparation,
            notes=dict(release.notes) | _notes(facts, resolution),
            sources=sources,
        )
        write_features(sealed, release.features)
        return Prepared(writer.publish(), was_there=False)


def _own(arguments: Namespace) -> dict[str, str]:
    common = {*Options().recorded(), "raw", "out", "overwrite", "memory", "command"}
    return {key: "" if value is None else str(value) for key, value in vars(arguments).items() if key not in common}


def _content(release: Release, options: Options) -> tuple[Template | None, dict[str, MediaFinder]]:
    for column in options.columns:
        if column not in release.fields:
            raise ReleaseError(f"--columns {column}: no such field; there are {', '.join(release.fields) or 'none'}")
    template = options.text or release.text
    text = Template(template, release.fields, option="--text") if template else None
    root = _media_root(release)
    return text, {
        modality: MediaFinder(media, root, release.fields, modality=modality)
        for modality, media in release.media.items()
    }


def _media_root(release: Release) -> Path:
    """The folder above all media: the release, unless some lie elsewhere."""
    folders = [folder for media in release.media.values() for folder in media.folders]
    return Path(os.path.commonpath([path.resolve() for path in (release.media_root, *folders)]))


def _sources(release: Release, finders: Mapping[str, MediaFinder], raw: Path) -> tuple[FileRecord, ...]:
    files = [file.path for file in (*release.events, *release.catalogues, *release.features)]
    records: dict[str, FileRecord] = {}
    for path in tqdm(dict.fromkeys(files), desc="hashing", unit=" files", disable=None, delay=1):
        for one in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            name = one.relative_to(raw).as_posix() if one.is_relative_to(raw) else one.name
            records[name] = FileRecord.of(one, name=name)
    records |= {record.name: record for finder in finders.values() for record in finder.sources}
    return tuple(records.values())


def _refuse_other(out: Path, preparation: Mapping[str, str], sources: Sequence[FileRecord]) -> None:
    """Return where `out` is what would be written; else say what differs."""
    if not (out / "dataset.yaml").is_file():
        raise DatasetError(f"{out} exists and is no dataset folder (no dataset.yaml); name another folder")
    info = open_dataset(out).info
    differ = [
        f"{key} was {info.preparation.get(key, '')!r}, now {preparation.get(key, '')!r}"
        for key in {**info.preparation, **preparation}
        if info.preparation.get(key, "") != preparation.get(key, "")
    ]
    old, new = ({record.name: record for record in records} for records in (info.sources, sources))
    differ += [f"source {key} is {_change(old, new, key)}" for key in {**old, **new} if old.get(key) != new.get(key)]
    if differ:
        raise DatasetError(
            f"{out} exists, made differently: {'; '.join(differ[:5])}; name another folder, or overwrite it (--overwrite)"
        )


def _change(old: Mapping[str, FileRecord], new: Mapping[str, FileRecord], name: str) -> str:
    return "new" if name not in old else "gone" if name not in new else "changed"


def _write_histories(engine: Engine, writer: DatasetWriter, facts: EventFacts) -> str:
    """Stream users and events into the folder; return the resolution of times."""
    users = "SELECT user::VARCHAR AS user, n FROM kept_users JOIN user_ids USING (u) ORDER BY u"
    for batch in engine.stream(users):
        writer.add_users(batch.column("user").to_pylist(), batch.column("n").to_numpy())
    (num_items,) = engine.one("SELECT count(*) FROM item_ids")
    (num_events,) = engine.one("SELECT sum(n)::BIGINT FROM kept_users")
    row_of = np.zeros(num_items, np.int32)
    for row, batch in _counted(engine.stream("SELECT i FROM kept_items ORDER BY i")):
        row_of[batch.column("i").to_numpy()] = np.arange(row + 1, row + 1 + batch.num_rows)
    whole = {"whole days": DAY, "whole seconds": 1000}
    events = "SELECT i, time FROM numbered SEMI JOIN kept_users USING (u) ORDER BY u, time, place"
    with tqdm(total=num_events, desc="sorting", unit=" events", unit_scale=True, disable=None) as bar:
        for batch in engine.stream(events):
            times = batch.column("time").to_numpy(zero_copy_only=False) if facts.keeps_times else None
            writer.add_events(row_of[batch.column("i").to_numpy()], times)
            if times is not None:
                whole = {name: step for name, step in whole.items() if not (times % step).any()}
            bar.update(batch.num_rows)
    return next(iter(whole), "milliseconds") if facts.keeps_times else ""


def _counted(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
    row = 0
    for batch in batches:
        yield row, batch
        row += batch.num_rows


class _Catalogue:
    """Join the fields of catalogues with the kept items and write them as rows of items.parquet."""

    def __init__(
        self,
        engine: Engine,
        release: Release,
        options: Options,
        text: Template | None,
        finders: Mapping[str, MediaFinder],
    ) -> None:
        self.engine, self.release, self.options, self.text, self.finders = engine, release, options, text, finders
        needed = [*(text.names if text else ()), *(n for f in finders.values() for n in f.names), *options.columns]
        self.fields = [name for name in dict.fromkeys(needed) if name != "id"]
        self.columns = [m for m in MODALITIES if m in finders or (m == "text" and text)]
        self.columns += [f.modality for f in release.features if f.modality not in self.columns]

    def write(self, writer: DatasetWriter) -> dict[str, int]:
        unmatched = self._collect()
        listed = ", ".join(
            f"arg_min(f{k}, place) FILTER (WHERE f{k} IS NOT NULL) AS f{k}" for k in range(len(self.fields))
        )
        (total,) = self.engine.one("SELECT count(*) FROM kept_items")
        sql = (
            f"SELECT item::VARCHAR AS id{', ' if listed else ''}{listed} FROM kept_items JOIN item_ids USING (i) "
            "LEFT JOIN content ON content.id = item_ids.item::VARCHAR GROUP BY i, item ORDER BY i"
        )
        with tqdm(total=total, desc="items", unit=" items", disable=None) as bar:
            for batch in self.engine.stream(sql):
                for begin in range(0, batch.num_rows, ROWS):
                    rows = batch.slice(begin, ROWS)
                    self._write_rows(rows, writer)
                    bar.update(rows.num_rows)
        dropped = {"catalogue rows of items without a kept event": unmatched} if self.release.catalogues else {}
        return dropped | {
            f"{m} files that items name but are not there": f.absent for m, f in self.finders.items() if f.names
        }

    def _collect(self) -> int:
        columns = "".join(f", f{k} VARCHAR" for k in range(len(self.fields)))
        self.engine.run(f"CREATE TABLE content (place BIGINT, id VARCHAR{columns})")
        self.engine.run("CREATE TABLE wanted AS SELECT item::VARCHAR AS id FROM kept_items JOIN item_ids USING (i)")
        place = 0
        for catalogue in self.release.catalogues if self.fields else ():
            rows = catalogue.read()
            while piece := list(itertools.islice(rows, ROWS)):
                table = {
                    "place": pa.array(range(place, place + len(piece)), pa.int64()),
                    "id": pa.array([self._id(item) for item, _ in piece], pa.string()),
                } | {
                    f"f{k}": pa.array([(values.get(name) or "").strip() or None for _, values in piece], pa.string())
                    for k, name in enumerate(self.fields)
                }
                self.engine.run(
                    "INSERT INTO content SELECT * FROM batches SEMI JOIN wanted USING (id)", batches=pa.table(table)
                )
                place += len(piece)
        (kept,) = self.engine.one("SELECT count(*) FROM content")
        return place - kept

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
        given = given or [{} for _ in ids]
        cleaned = [{k: v and clean_html(v, self.options.html) for k, v in row.items()} for row in given]
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
        if "frames" in self.finders:
            finder = self.finders["frames"]
            series = [
                [path for p in finder.find_series(i) or () if (path := self._packed(p, finder, "frames", writer))]
                or None
                for i in ids
            ]
            columns["frames"] = pa.array(series, pa.list_(pa.string()))
        for name in self.options.columns:
            columns[name] = pa.array([row[name] for row in cleaned], pa.string())
        writer.add_items(columns)

    def _packed(self, path: str | None, finder: MediaFinder, modality: str, writer: DatasetWriter) -> str | None:
        if path is None or not self.options.pack:
            return path
        packed = f"{modality}/{path}"
        target = writer.partial / "media" / packed
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(finder.root / path, target)
        return packed


def _tie_rule(facts: EventFacts, files: int) -> str:
    several = "the order of files by name and of lines in each" if files > 1 else "the order of lines in the file"
    if not facts.time_unit:
        return "the vendor's order in the file, oldest first"
    return f"time, then {several}"


def _notes(facts: EventFacts, resolution: str) -> dict[str, str]:
    if not facts.time_unit:
        return {}
    return {"times": f"{facts.time_unit}, {resolution}" if resolution else "a number that only orders, not kept"}


def summarise(dataset: Dataset) -> str:
    """Tell of a dataset in a few lines: counts, content, what was left out."""
    info = dataset.info
    lines = [
        f"{dataset.path}: {info.num_users:,} users, {info.num_items:,} items, {info.num_interactions:,} interactions"
    ]
    for modality, count in info.modalities.items():
        missing = f" ({info.num_items - count:,} items have none)" if count < info.num_items else ""
        lines.append(f"  {modality}: {count:,}{missing}")
    lines += [f"  {key}: {value}" for key, value in info.notes.items()]
    lines += [f"  left out: {count:,} {reason}" for reason, count in info.dropped.items() if count]
    return "\n".join(lines)

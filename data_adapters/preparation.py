"""Prepare a release: read its events out of core, choose, number and sort them, and write the dataset folder.

Every vendor goes through here. Memory is bounded by `memory` and by the number of users and items, not by the number
of interactions: DuckDB keeps tables and sorts on the disk of the output, and results stream into the folder.
"""

from __future__ import annotations

import importlib.metadata
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import duckdb
from tqdm import tqdm

from data_adapters.content import MediaFinder, Template
from data_adapters.engine import Engine
from data_adapters.events import EventFacts, load_events
from data_adapters.extraction import removed_on_failure
from data_adapters.filtering import number_events, select_events
from data_adapters.options import FEWEST_EVENTS, Options
from data_adapters.output import Catalogue, Told, media_root, write_histories
from data_adapters.release import Adapter, Batches, Release
from data_adapters.text_files import ReleaseError
from odmt.data.format import MODALITIES, Dataset, DatasetError, DatasetWriter, FileRecord, hash_file, open_dataset

__all__ = ["Prepared", "prepare", "summarise"]


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
    _warn_of_short_histories(options)
    release = adapter.read(raw, arguments)
    with removed_on_failure(release.extracted):
        text, finders = _content(release, options)
        catalogue = Catalogue(release, options, text, finders)
        hashes = _hash_sources(release, catalogue)
        sources = tuple(
            FileRecord(path.relative_to(raw).as_posix() if path.is_relative_to(raw) else path.name, *facts)
            for path, facts in hashes.items()
        ) + tuple(record for finder in finders.values() for record in finder.sources)
        preparation = (
            {"adapter": name, "odmt": importlib.metadata.version("odmt")} | options.recorded() | _own(arguments)
        )
        preparation["text"] = options.text or release.text
        if out.exists() and any(out.iterdir() if out.is_dir() else [out]) and not overwrite:
            _refuse_other(out, preparation, sources, root=None if options.pack or not finders else media_root(release))
            return Prepared(open_dataset(out), was_there=True)
        try:
            with (
                DatasetWriter(out, overwrite=overwrite) as writer,
                Engine(writer.scratch, memory=memory) as engine,
            ):
                facts = load_events(engine, release)
                number_events(engine, integer_ids=release.integer_ids, item_width=release.item_width)
                chosen = select_events(engine, options, facts, where=str(release.events[0].path))
                told = write_histories(engine, writer, keep_times=facts.has_times, repeats=options.repeats)
                unused = catalogue.write(engine, writer)
                for warning in catalogue.warnings:
                    print(f"warning: {warning}", file=sys.stderr)
                sealed = writer.seal(
                    name=out.name,
                    tie_rule=_tie_rule(facts, [file.path.name for file in release.events]),
                    media_root=Path("media") if options.pack else media_root(release),
                    licence=release.licence or adapter.licence,
                    citation=release.citation or adapter.citation,
                    made_by=made_by,
                    dropped={**release.dropped, **chosen, **unused},
                    preparation=preparation,
                    notes={
                        **release.notes,
                        **_notes(facts, told),
                        **catalogue.notes,
                        **({"warnings": "; ".join(catalogue.warnings)} if catalogue.warnings else {}),
                    },
                    sources=sources,
                )
                if release.features:
                    from data_adapters.ready_features import write_features  # brings torch

                    write_features(sealed, release.features, {path: sha256 for path, (_, sha256) in hashes.items()})
                dataset = writer.publish()
                for folder, why in writer.lost.items():
                    print(f"warning: removed {folder}: {why}; encode again if you need them", file=sys.stderr)
                return Prepared(dataset, was_there=False)
        except duckdb.Error as error:
            raise DatasetError(
                f"{out}: writing failed ({str(error).splitlines()[0]}); nothing was kept. "
                "Free some space, give --memory another size or name another folder, then run the command again"
            ) from error


def _warn_of_short_histories(options: Options) -> None:
    if options.min_events < FEWEST_EVENTS:
        print(
            f"warning: --min-events {options.min_events}: a folder with histories of fewer than {FEWEST_EVENTS} "
            "events is to recommend from alone; training refuses it",
            file=sys.stderr,
        )


def _own(arguments: Namespace) -> dict[str, str]:
    common = {*(spec.name for spec in fields(Options)), "raw", "out", "overwrite", "memory", "command"}
    return {key: "" if value is None else str(value) for key, value in vars(arguments).items() if key not in common}


def _content(release: Release, options: Options) -> tuple[Template | None, dict[str, MediaFinder]]:
    for column in options.columns:
        if column in ("id", "frames", *MODALITIES):
            raise ReleaseError(
                f"--columns {column}: items.parquet has a column of that name for something else; a text is named by "
                f"--text {column!r}"
            )
        if column not in release.fields:
            raise ReleaseError(f"--columns {column}: no such field; there are {', '.join(release.fields) or 'none'}")
        if column in release.leaks:
            print(f"warning: column '{column}' {release.leaks[column]}; do not train on it", file=sys.stderr)
    template = options.text or release.text
    text = Template(template, release.fields, option="--text") if template else None
    root = media_root(release)
    return text, {
        modality: MediaFinder(media, root, release.fields, modality=modality)
        for modality, media in release.media.items()
    }


def _hash_sources(release: Release, catalogue: Catalogue) -> dict[Path, tuple[int, str]]:
    files = [file.path for file in (*release.events, *catalogue.needed, *release.features)]
    files += [path for file in release.events if isinstance(file, Batches) for path in file.also]
    files = [
        f for path in files for f in (sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path])
    ]
    found: dict[Path, tuple[int, str]] = {}
    for path in tqdm(dict.fromkeys(files), desc="hashing", unit=" files", disable=None, delay=1):
        if not path.is_file():
            raise ReleaseError(f"no file at {path}; download it again")
        found[path] = path.stat().st_size, hash_file(path)
    return found


def _refuse_other(
    out: Path, preparation: Mapping[str, str], sources: Sequence[FileRecord], *, root: Path | None
) -> None:
    """Return where `out` is what would be written; else say what differs."""
    if not (out / "dataset.yaml").is_file():
        raise DatasetError(f"{out} exists and is no dataset folder (no dataset.yaml); name another folder")
    info = open_dataset(out).info
    differ = [
        f"{key} was {info.preparation.get(key, '')!r}, now {preparation.get(key, '')!r}"
        for key in {**info.preparation, **preparation}
        if info.preparation.get(key, "") != preparation.get(key, "")
    ]
    if root is not None and info.media_root != str(root):
        differ.append(f"media_root was {info.media_root}, now {root}")
    old, new = _by_name(info.sources), _by_name(sources)
    differ += [f"source {key} is {_change(old, new, key)}" for key in {**old, **new} if old.get(key) != new.get(key)]
    if differ:
        raise DatasetError(
            f"{out} exists, made differently: {'; '.join(differ[:5])}; name another folder, or overwrite it "
            "(--overwrite)"
        )


def _by_name(records: Sequence[FileRecord]) -> dict[str, list[FileRecord]]:
    """Collect records; a folder of pictures and of clips is listed once for each."""
    found: dict[str, list[FileRecord]] = {}
    for record in records:
        found.setdefault(record.name, []).append(record)
    return found


def _change(old: Mapping[str, object], new: Mapping[str, object], name: str) -> str:
    return "new" if name not in old else "no longer read" if name not in new else "changed"


def _tie_rule(facts: EventFacts, files: Sequence[str]) -> str:
    if not facts.has_times:
        return "the vendor's order in the file, oldest first"
    if len(files) == 1:
        return "time, then the order of lines in the file"
    return f"time, then the order of the files {', '.join(files)} and of the lines in each"


def _notes(facts: EventFacts, told: Told) -> dict[str, str]:
    if not facts.has_times:
        return {}
    notes = {"times": f"{facts.time_unit}, {told.resolution}"}
    if told.repeats:
        events = "events are" if told.repeats > 1 else "event is"
        notes["repeats"] = f"{told.repeats:,} {events} of the same item at the same time as the one before; " + (
            "--repeats exact leaves such out"
        )
    return notes


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
    lines.append(f"  fingerprint: {dataset.fingerprint[:16]} (equal ones mean equal data, prepared alike)")
    lines += [f"  left out: {count:,} {reason}" for reason, count in info.dropped.items() if count]
    return "\n".join(lines)

"""Any dataset that Hugging Face's `datasets` opens: saved, as a folder of data files, or by name from the hub."""

from __future__ import annotations

import hashlib
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from data_adapters.extraction import add_extract_argument, extract, extract_folder
from data_adapters.hub_files import HUB_NAME, Rows, near, open_hub, open_local
from data_adapters.named_columns import (
    add_column_arguments,
    add_media_arguments,
    event_columns,
    item_column,
    media_of,
)
from data_adapters.release import Adapter, Batches, Catalogue, Media, Release
from data_adapters.table_files import as_text, holds_bytes
from data_adapters.text_files import ReleaseError
from data_adapters.vendor_files import SUFFIXES, check_id
from odmt.data.format import hash_file

__all__ = ["ADAPTER", "LAYOUT", "read", "read_events", "read_items", "read_pictures"]

LAYOUT = """\
The events, as what --raw says:
  a folder that `Dataset.save_to_disk` wrote (of several splits: --split train+test)
  a folder of .parquet, .csv, .tsv or .jsonl files, or one file
  ORG/NAME                  a dataset of https://huggingface.co/datasets, with --config, --split and --revision
The items, if they are not in the events' own rows, as what --items says: a folder or file in --raw, or a name on the
hub; another configuration of the same dataset with --items-config alone.
  python -m data_adapters hub --raw ORG/NAME --out data/shop --user customer --item sku --time bought_at \\
    --items-config products --text "{name} by {brand}" --image photo
Text: none, unless --text names fields; pictures and so on likewise as --image, ... say. Pictures that a column holds
(datasets.Image) are written to OUT-images (see --extract)."""
BEGINNINGS = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}
OTHER = ".bin"
"""Of what is no picture as far as its first bytes tell; `check` will say so."""
LONGEST_STEM = 150


def read(raw: Path, arguments: Namespace) -> Release:
    """Describe the datasets that `raw` and the options name; pictures in columns are written out first."""
    events, items = _open_events(raw, arguments), _open_items(raw, arguments)
    columns = event_columns(arguments, events[0].columns, events[0].path)
    item = item_column(arguments, items[0].columns, columns["item"], items[0].path) if items else columns["item"]
    fields = (items or events)[0].columns
    folder = extract_folder(arguments)
    was_there = folder.exists()
    media, root, notes = _media(raw, arguments, items or events, item, fields)
    return Release(
        events=[Batches(rows.path, partial(read_events, rows, columns), tuple(columns)) for rows in events],
        catalogues=[Catalogue(rows.path, partial(read_items, rows, item, fields)) for rows in items or events],
        fields=fields,
        media=media,
        media_root=root,
        extracted=None if was_there or root != folder else folder,
        notes={
            "dataset": str(raw) if not raw.exists() else raw.name,
            "columns": ", ".join(f"{role} {name}" for role, name in columns.items()),
            **notes,
        },
    )


def read_events(rows: Rows, columns: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    """Yield events with columns named by role.

    Raises:
        ReleaseError: where rows cannot be read.
    """
    for table in rows.batches(list(columns.values())):
        # ids as text: number columns of several files may differ in type
        arrays = [
            pc.cast(column, pa.string()) if role in ("user", "item") else column
            for role, column in zip(columns, table.columns, strict=True)
        ]
        yield from pa.table(arrays, names=list(columns)).to_batches()


def read_items(rows: Rows, item: str, fields: Sequence[str]) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    """Yield (item, fields) per row; numbers of labels become the labels.

    Raises:
        ReleaseError: where a row has no item, or rows cannot be read.
    """
    number = 0
    for table in rows.batches([item, *fields]):
        ids = pc.cast(table.column(0), pa.string()).to_pylist()
        values = [_texts(table.column(place), rows.labels.get(name)) for place, name in enumerate(fields, start=1)]
        for name, *row in zip(ids, *values, strict=True):
            number += 1
            yield check_id(name, f"{rows.path}, row {number}", item), dict(zip(fields, row, strict=True))


def read_pictures(parts: Sequence[Rows], item: str, column: str) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of the first picture of each item.

    Raises:
        ReleaseError: where a picture is only the path of a file that is elsewhere.
    """
    seen: set[str] = set()
    for rows in parts:
        for table in rows.batches([item, column], size=100):
            ids = pc.cast(table.column(0), pa.string()).to_pylist()
            for name, value in zip(ids, table.column(1).to_pylist(), strict=True):
                content = value["bytes"] if isinstance(value, dict) else value
                if content is None and isinstance(value, dict) and value["path"]:
                    raise ReleaseError(
                        f"{rows.path}, item '{name}', field '{column}': a path without the picture "
                        f"({value['path']}); save the dataset with its pictures, or give --image a folder"
                    )
                stem = _stem(name or "")
                if content and stem not in seen:
                    seen.add(stem)
                    yield f"{stem}{_suffix(content)}", content


def _open_events(raw: Path, arguments: Namespace) -> list[Rows]:
    if raw.exists():
        if arguments.config or arguments.revision:
            raise ReleaseError(f"--config and --revision are of datasets on the hub, but {raw} is here; leave them out")
        return open_local(raw, split=arguments.split)
    return open_hub(
        _hub_name(str(raw), "--raw"), config=arguments.config, split=arguments.split, revision=arguments.revision
    )


def _hub_name(name: str, option: str) -> str:
    if not HUB_NAME.fullmatch(name):
        raise ReleaseError(
            f"{option} {name}: no file or folder at {name}{near(Path(name))}, and it is no name of a dataset on the "
            f"hub, which has an owner: ORG/NAME\n{LAYOUT}"
        )
    return name


def _open_items(raw: Path, arguments: Namespace) -> list[Rows]:
    if not (arguments.items or arguments.items_config or arguments.items_split):
        return []
    if not raw.exists():
        name = _hub_name(arguments.items or str(raw), "--items")
        revision = arguments.revision if name == str(raw) else None
        return open_hub(name, config=arguments.items_config, split=arguments.items_split, revision=revision)
    given = Path(arguments.items or ".")
    place = (raw if raw.is_dir() else raw.parent) / given
    if given.is_absolute() or ".." in given.parts or not place.exists():
        raise ReleaseError(f"--items {given}: no such file or folder in {raw}")
    return open_local(place, split=arguments.items_split)


def _media(
    raw: Path, arguments: Namespace, parts: Sequence[Rows], item: str, fields: Sequence[str]
) -> tuple[dict[str, Media], Path, dict[str, str]]:
    root = raw if raw.is_dir() else raw.parent
    column = arguments.image
    if column not in parts[0].schema.names or not holds_bytes(parts[0].schema.field(column).type):
        return media_of(arguments, fields, root), root, {}
    if arguments.video or arguments.audio:
        raise ReleaseError(f"--image {column} is written out, so --video and --audio cannot be files elsewhere")
    folder = extract_folder(arguments)
    made_of = {"column": column, "item": item, "sha256": _content_of(rows.path for rows in parts)}
    count = extract(folder, made_of, lambda: read_pictures(parts, item, column))
    media = Media([folder], (*SUFFIXES["image"], OTHER), stem=_stem)
    return {"image": media}, folder, {"pictures": f"{count:,} of column {column}, written to {folder.name}"}


def _texts(column: pa.ChunkedArray, labels: Sequence[str] | None) -> list[str | None]:
    values = column.to_pylist()
    if labels is None:
        return [as_text(value) for value in values]
    return [None if value is None or value < 0 else labels[int(value)] for value in values]


def _content_of(paths: Iterable[Path]) -> str:
    """Return a hash of files and of what folders hold, wherever they lie."""
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return hashlib.sha256("".join(hash_file(file) for file in files if file.is_file()).encode()).hexdigest()


def _stem(item: str) -> str:
    """Return a file name that an id stands for, whatever characters it has."""
    name = quote(item.strip(), safe="").replace(".", "%2E")
    return name if len(name) <= LONGEST_STEM else hashlib.sha256(item.strip().encode()).hexdigest()


def _suffix(content: bytes) -> str:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    if content[4:12] == b"ftypavif":
        return ".avif"
    return next((suffix for start, suffix in BEGINNINGS.items() if content.startswith(start)), OTHER)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--raw", type=Path, required=True, metavar="PATH", help="folder or file, or ORG/NAME on the hub"
    )
    add = parser.add_argument_group("which dataset").add_argument
    add("--config", metavar="NAME", help="configuration of the dataset on the hub")
    add("--split", metavar="NAME", help="split with the events, several joined by +")
    add("--revision", metavar="COMMIT", help="commit, tag or branch of the dataset on the hub")
    add("--items", metavar="PATH", help="dataset of the items: in --raw, or ORG/NAME on the hub")
    add("--items-config", metavar="NAME", help="its configuration")
    add("--items-split", metavar="NAME", help="its split")
    add("--item-id", metavar="COLUMN", help="column of the items' ids there (default: as in the events)")
    add_column_arguments(parser)
    add_media_arguments(parser)
    add_extract_argument(parser)


ADAPTER = Adapter(
    help="any dataset of Hugging Face's `datasets`, local or by name, columns named by options",
    layout=LAYOUT,
    read=read,
    licence="the dataset's own: see its page",
    add_arguments=_add_arguments,
)

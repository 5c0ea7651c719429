"""Any table of events, with the items' content in a table of its own or in the rows of the events."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from data_adapters.named_columns import (
    add_column_arguments,
    add_media_arguments,
    event_columns,
    item_column,
    media_of,
)
from data_adapters.release import Adapter, Catalogue, Release
from data_adapters.table_files import KINDS, Table, open_table
from data_adapters.text_files import ReleaseError
from data_adapters.vendor_files import check_id, held

__all__ = ["ADAPTER", "LAYOUT", "read", "read_items"]

LAYOUT = """\
DIR is a table of events, or a folder with one (--events) and perhaps a table of items (--items):
  .csv .tsv .txt .jsonl .parquet    text also as .gz; a pattern such as "part-*.parquet" joins several files
A csv or tsv has a header; without one, columns are named by number from 0: --user 0 --item 1 --time 3.
Text: none, unless --text names fields; pictures and so on likewise as --image, ... say. Where there is no --items, what
they name is taken from the events' own rows. For pictures that a parquet column holds, see `hub`.
  python -m data_adapters table --raw DIR --out data/shop --events clicks.csv --items products.parquet \\
    --user visitor --item sku --time clicked_at --text "{name} by {brand}" --image "photos/{id}.jpg\""""


def read(raw: Path, arguments: Namespace) -> Release:
    """Describe the tables that `raw` and the options name."""
    folder = raw if raw.is_dir() else raw.parent
    headed = not all((getattr(arguments, role) or "").isdecimal() for role in ("user", "item"))
    events = [_open(path, arguments, headed=headed) for path in _events(raw, arguments)]
    columns = event_columns(arguments, events[0].columns, events[0].path)
    headed = not (arguments.item_id or "").isdecimal()
    items = [_open(path, arguments, headed=headed) for path in _matching(folder, arguments.items, "--items")]
    item = item_column(arguments, items[0].columns, columns["item"], items[0].path) if items else columns["item"]
    fields = (items or events)[0].columns
    media = media_of(arguments, fields, folder)
    if items and not (media or arguments.text or arguments.columns):
        print(
            f"warning: --items {arguments.items} is not read: nothing names a field of it (--text, --image, --columns)",
            file=sys.stderr,
        )
    return Release(
        events=[table.events(columns) for table in events],
        catalogues=[Catalogue(table.path, partial(read_items, table, item, fields)) for table in items or events],
        fields=fields,
        media=media,
        media_root=folder,
        licence=arguments.licence,
        citation=arguments.citation,
        notes={"columns": ", ".join(f"{role} {name}" for role, name in columns.items())},
    )


def read_items(table: Table, item: str, fields: Sequence[str]) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    """Yield (item, fields) per row.

    Raises:
        ReleaseError: where a row has no item, or as the table's reader.
    """
    for number, row in table.rows(list(dict.fromkeys([item, *fields]))):
        what = "row" if table.kind == "parquet" else "line"
        yield check_id(row[item], f"{table.path}, {what} {number}", item), {field: row[field] for field in fields}


def _events(raw: Path, arguments: Namespace) -> list[Path]:
    if raw.is_file():
        if arguments.events:
            raise ReleaseError(f"--raw {raw} is the table of events, so --events {arguments.events} names another")
        return [raw]
    if not raw.is_dir():
        raise ReleaseError(f"no file or folder at {raw}\n{LAYOUT}")
    if arguments.events:
        return _matching(raw, arguments.events, "--events")
    tables = sorted(p for p in raw.iterdir() if p.is_file() and not KINDS.keys().isdisjoint(p.suffixes[-2:]))
    if len(tables) == 1:
        return tables
    raise ReleaseError(f"{raw}: name the table of events with --events; it holds {held(raw)}\n{LAYOUT}")


def _matching(folder: Path, pattern: str | None, option: str) -> list[Path]:
    if pattern is None:
        return []
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise ReleaseError(f"{option} {pattern}: must be a name or pattern of files inside {folder}")
    paths = sorted(path for path in folder.glob(pattern) if path.is_file())
    if not paths:
        raise ReleaseError(f"{option} {pattern}: no such file in {folder}, which holds {held(folder)}")
    return paths


def _open(path: Path, arguments: Namespace, *, headed: bool) -> Table:
    delimiter = arguments.delimiter and arguments.delimiter.replace("\\t", "\t")
    return open_table(path, delimiter=delimiter, quote=arguments.quote, headed=headed)


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("which files").add_argument
    add("--events", metavar="FILE", help="table of events in DIR (default: the only one)")
    add("--items", metavar="FILE", help="table of items in DIR")
    add("--item-id", metavar="COLUMN", help="column of the items' ids there (default: as in the events)")
    add("--delimiter", metavar="CHAR", help="what separates fields (default: , in .csv and tabs in other text)")
    add("--quote", metavar="CHAR", default='"', help='what encloses fields that hold delimiters; "" for nothing')
    add_column_arguments(parser)
    add_media_arguments(parser)
    add = parser.add_argument_group("what dataset.yaml says of the data").add_argument
    add("--licence", metavar="TEXT", default="", help="how they may be used, such as CC-BY-4.0")
    add("--citation", metavar="TEXT", default="", help="what to cite")


ADAPTER = Adapter(
    help="any csv, tsv, parquet or JSON-lines table, columns named by options",
    layout=LAYOUT,
    read=read,
    add_arguments=_add_arguments,
)

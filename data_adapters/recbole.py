"""RecBole's atomic files: a table of interactions and one of items, each column with its type in the header.

RecBole's catalogue offers some two hundred datasets in this form. Columns go by many names there (`business_id`,
`tracks_id`, `stars`, ...): the usual ones are known, and any can be named. Files of its session and sequence benchmarks
(`item_id_list`) hold every prefix of a history as a row of its own; each user's longest row is the history.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from data_adapters.named_columns import add_column_arguments, choose, event_columns, item_column
from data_adapters.release import Adapter, Batches, Catalogue, Delimited, EventFile, Release
from data_adapters.text_files import ReleaseError, first_record, read_rows
from data_adapters.vendor_files import add_images_argument, check_folder, held, pictures_of

__all__ = ["ADAPTER", "LAYOUT", "read", "read_items", "read_sequences"]

LAYOUT = """\
DIR holds one dataset of https://recbole.io/dataset_list.html (https://github.com/RUCAIBox/RecSysDatasets), unpacked:
  NAME.inter                 tab-separated; header such as user_id:token, item_id:token, timestamp:float; or
  NAME.train.inter ...       its parts train, valid (dev) and test, joined; with item_id_list:token_seq, each user's
                             longest history
  NAME.item                  optional: item_id:token and any fields
  posters/ITEM.jpg           optional; or images/, covers/, or what --images names
Text: titles, names, brands, authors, categories, genres and fields of type token_seq, in the file's order"""
PARTS = ("train", "valid", "dev", "test")
PICTURES = ("posters", "images", "covers")
TELLING = ("title", "name", "brand", "author", "categor", "genre")
"""What a field's name contains that holds words although its type is `token`."""
MISSING = {"nan", "NaN", "None"}
"""What RecBole's conversion writes where a field is empty."""
LIST = "_list"
ROWS = 10_000


def read(raw: Path, arguments: Namespace) -> Release:
    """Describe the release in `raw`."""
    interactions = _find(raw)
    fields = [_fields(path) for path in interactions]
    columns = [_event_columns(arguments, names, path) for names, path in zip(fields, interactions, strict=True)]
    items = sorted(raw.glob("*.item"))
    if len(items) > 1:
        raise ReleaseError(f"{raw}: holds {', '.join(p.name for p in items)}; keep the items of one dataset per folder")
    catalogues, content = _catalogue(items[0], columns[0]["item"]) if items else ([], {})
    sequences = f"{columns[0]['item']}{LIST}" in fields[0]
    if any(one != columns[0] for one in columns):
        raise ReleaseError(f"{raw}: {', '.join(p.name for p in interactions)} have different columns: {columns}")
    return Release(
        events=_sequence_events(interactions, columns[0])
        if sequences
        else [_events(path, names, chosen) for path, names, chosen in zip(interactions, fields, columns, strict=True)],
        catalogues=catalogues,
        fields=tuple(content),
        text=". ".join(f"{{{name}}}" for name, kind in content.items() if _is_telling(name, kind)),
        media=pictures_of(arguments, raw, _pictures(raw)),
        media_root=raw,
        notes={
            "layout": "sequences: the longest of each user" if sequences else "interactions",
            "columns": ", ".join(f"{role} {name}" for role, name in columns[0].items()),
        },
    )


def read_items(path: Path, item: str) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    """Yield (item, other fields without their types) per row of a .item file, whose item column is `item`.

    Raises:
        ReleaseError: as `read_rows`.
    """
    for _, row in read_rows(path, delimiter="\t", quote=""):
        values = {name.rpartition(":")[0]: _value(text) for name, text in row.items()}
        yield values.pop(item) or "", values


def read_sequences(path: Path, later: Sequence[Path], columns: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    """Yield histories (user, items) from a file whose rows hold a history and the item that follows it.

    Users that are in one of the `later` files as well are left to it: the test row of a user ends with the whole
    history. Of a user's rows the longest counts.

    Raises:
        ReleaseError: as `read_rows`, and where a user's rows are scattered over the file.
    """
    elsewhere = {user for other in later for _, user, _ in _longest(other, columns)}
    here: set[str] = set()
    histories: dict[str, list[str]] = {}
    for number, user, history in _longest(path, columns):
        if user in here:
            raise ReleaseError(
                f"{path}, line {number}: user '{user}' again, after rows of others; sort the file by "
                f"{columns['user']}, so that the longest of each user's histories can be told"
            )
        here.add(user)
        if user not in elsewhere:
            histories[user] = history
        if len(histories) == ROWS:
            yield _batch(histories)
            histories = {}
    yield _batch(histories)


def _batch(histories: Mapping[str, list[str]]) -> pa.RecordBatch:
    users, items = pa.array(histories, pa.string()), pa.array(histories.values(), pa.list_(pa.string()))
    return pa.RecordBatch.from_arrays([users, items], ["user", "items"])


def _longest(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, str, list[str]]]:
    names = {name.rpartition(":")[0]: name for name in first_record(path, delimiter="\t", quote="")}
    user, item, before = (names[name] for name in (columns["user"], columns["item"], f"{columns['item']}{LIST}"))
    current: tuple[int, str, list[str]] | None = None
    for number, row in read_rows(path, delimiter="\t", quote=""):
        history = [*row[before].split(), row[item].strip()]
        if current and row[user] == current[1]:
            current = max(current, (number, row[user], history), key=lambda one: len(one[2]))
            continue
        if current:
            yield current
        current = number, row[user], history
    if current:
        yield current


def _find(raw: Path) -> list[Path]:
    check_folder(raw, LAYOUT)
    whole = [p for p in sorted(raw.glob("*.inter")) if p.suffixes[-2:-1] not in [[f".{part}"] for part in PARTS]]
    parts = [p for part in PARTS for p in sorted(raw.glob(f"*.{part}.inter"))]
    if not whole and not parts:
        raise ReleaseError(f"{raw}: no file named *.inter; it holds {held(raw)}\n{LAYOUT}")
    names = {p.name.removesuffix(".inter") for p in whole} or {p.name.rsplit(".", 2)[0] for p in parts}
    if len(names) > 1:
        raise ReleaseError(f"{raw}: holds the interactions of {', '.join(sorted(names))}; keep one dataset per folder")
    return whole or parts


def _fields(path: Path) -> dict[str, str]:
    """Return the types of a file's columns by name."""
    header = first_record(path, delimiter="\t", quote="")
    for place, column in enumerate(header, start=1):
        if ":" not in column:
            raise ReleaseError(
                f"{path}, line 1, field {place}: {column[:40]!r} is no name:type, such as user_id:token; is the file "
                "one of RecBole's, separated by tabs, with its header?"
            )
    return {name: kind for name, _, kind in (column.rpartition(":") for column in header)}


def _event_columns(arguments: Namespace, fields: Mapping[str, str], path: Path) -> dict[str, str]:
    item = choose("item", arguments.item, list(fields), path)
    if item is None or f"{item}{LIST}" not in fields:
        return event_columns(arguments, list(fields), path)
    # the time of a sequence's last item says nothing of the others, which stand oldest first
    in_order = Namespace(**vars(arguments) | {"in_order": True, "time": None, "rating": None})
    return {r: c for r, c in event_columns(in_order, list(fields), path).items() if r in ("user", "item")}


def _events(path: Path, fields: Mapping[str, str], columns: Mapping[str, str]) -> EventFile:
    named = {role: (f"{name}:{fields[name]}",) for role, name in columns.items()}
    return Delimited(path, named, delimiter="\t", quote="")


def _sequence_events(paths: Sequence[Path], columns: Mapping[str, str]) -> list[EventFile]:
    def batches(place: int) -> Batches:
        return Batches(
            paths[place], lambda: read_sequences(paths[place], paths[place + 1 :], columns), ("user", "items")
        )

    return [batches(place) for place in range(len(paths))]


def _catalogue(path: Path, item: str) -> tuple[list[Catalogue], dict[str, str]]:
    fields = _fields(path)
    name = item_column(Namespace(item_id=None), list(fields), item, path)
    content = {field: kind for field, kind in fields.items() if field != name}
    return [Catalogue(path, lambda: read_items(path, name))], content


def _is_telling(name: str, kind: str) -> bool:
    return kind == "token_seq" or (kind == "token" and any(part in name.lower() for part in TELLING))


def _value(text: str) -> str | None:
    text = text.strip()
    if text in MISSING:
        return None
    # some conversions quote as pandas does, others not at all: only what can be nothing but a quoted field is undone
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1].replace('""', ""):
        return text[1:-1].replace('""', '"')
    return text


def _pictures(raw: Path) -> list[Path]:
    return [raw / name for name in PICTURES if (raw / name).is_dir()]


def _add_arguments(parser: ArgumentParser) -> None:
    add_column_arguments(parser)
    add_images_argument(parser, "folders of DIR named posters, images or covers")


ADAPTER = Adapter(
    help="RecBole's atomic files: the datasets of its catalogue",
    layout=LAYOUT,
    read=read,
    licence="each dataset's own: see https://github.com/RUCAIBox/RecSysDatasets",
    citation=(
        "Zhao et al. 2021, RecBole: Towards a Unified, Comprehensive and Efficient Framework for Recommendation "
        "Algorithms, CIKM, arXiv:2011.01731; and the dataset's own"
    ),
    add_arguments=_add_arguments,
)

"""PixelRec: clicks and comments on a video platform, with covers, titles, tags and descriptions.

Interactions and item information are csv files of the same name in two folders (Pixel200K.csv twice): they are told
apart by their columns.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_adapters.release import Adapter, Catalogue, Delimited, Release
from data_adapters.text_files import ReleaseError, first_record, read_rows
from data_adapters.vendor_files import check_folder, find_files, folders_in, pictures_in

__all__ = ["ADAPTER", "read"]

LAYOUT = """PixelRec, from https://github.com/westlake-repl/PixelRec: PixelRec50K, Pixel200K, Pixel1M, Pixel8M, all.
In one folder, or in folders of it whatever their names:

  Pixel200K.csv   interactions: item_id,user_id,timestamp
  Pixel200K.csv   item information: item_id,view_number,...,barrage_number,title,tag,description
  cover/i12.jpg   covers, named by item; any folder whose name has "cover" or "image" in it

Where interactions of several sets are there, choose with --subset. Text: {title}. {tag}. {description}"""

EVENT_COLUMNS = ("item_id", "user_id", "timestamp")
COUNTERS = (
    "view_number", "comment_number", "thumbup_number", "share_number", "coin_number", "favorite_number",
    "barrage_number",
)  # fmt: skip
TEXTS = ("title", "tag", "description")


def read(raw: Path, arguments: Namespace) -> Release:
    """Tell interactions and item information apart by their headers, and choose one set of them.

    Raises:
        ReleaseError: where either is missing, or several sets are there and none is chosen.
    """
    check_folder(raw, LAYOUT)
    headers = {path: first_record(path) for path in find_files([raw, *folders_in(raw)], "*.csv")}
    events = [path for path, header in headers.items() if {*header} == {*EVENT_COLUMNS}]
    catalogues = [path for path, header in headers.items() if {"item_id", "title"} <= {*header}]
    for what, paths, columns in (("interactions", events, EVENT_COLUMNS), ("titles", catalogues, ("item_id", "title"))):
        if not paths:
            present = ", ".join(f"{p.relative_to(raw)} ({', '.join(h[:3])})" for p, h in headers.items())
            raise ReleaseError(
                f"{raw}: no csv of {what}, with columns {', '.join(columns)}; it holds {present or 'no csv'}\n{LAYOUT}"
            )
    chosen = _chosen(events, arguments.subset, raw)
    items = next((p for p in catalogues if _subset(p) == _subset(chosen)), None)
    if items is None and len(catalogues) > 1:
        names = ", ".join(str(p.relative_to(raw)) for p in catalogues)
        raise ReleaseError(f"{raw}: none of {names} is named like {chosen.name}; keep the one that goes with it")
    items = items or catalogues[0]
    return Release(
        events=[Delimited(chosen, {"item": ("item_id", 0), "user": ("user_id", 1), "time": ("timestamp", 2)})],
        catalogues=[Catalogue(items, lambda: _read_items(items))],
        fields=[name for name in headers[items] if name != "item_id"],
        text=". ".join(f"{{{name}}}" for name in TEXTS if name in headers[items]),
        media=pictures_in(folders_in(raw, "cover", "image")),
        media_root=raw,
        leaks=dict.fromkeys(COUNTERS, "counted when the items were crawled, later than the events"),
        notes={"subset": _subset(chosen)},
    )


def _chosen(events: list[Path], subset: str, raw: Path) -> Path:
    names = {_subset(path): path for path in reversed(events)}
    if subset and subset not in names:
        raise ReleaseError(f"--subset {subset}: {raw} has interactions of {', '.join(sorted(names))}")
    if not subset and len(names) > 1:
        raise ReleaseError(f"{raw} has interactions of {', '.join(sorted(names))}: choose one with --subset")
    return names[subset] if subset else events[0]


def _subset(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".csv")


def _read_items(path: Path) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    for _, row in read_rows(path):
        yield row["item_id"], {name: value for name, value in row.items() if name != "item_id"}


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--subset", default="", metavar="NAME", help="which set, where several are there: Pixel200K")


ADAPTER = Adapter(
    help="PixelRec: Pixel200K, Pixel1M, Pixel8M and the whole",
    layout=LAYOUT,
    read=read,
    add_arguments=_add_arguments,
    licence="see https://github.com/westlake-repl/PixelRec: research; modified copies may not be offered for download",
    citation="Cheng et al., An Image Dataset for Benchmarking Recommender Systems with Raw Pixels, SDM 2024",
)

"""What an adapter finds in a vendor's directory: files of events, catalogues of items, folders of media.

An adapter only describes: `read(raw, arguments)` looks at names, headers and first lines and returns a `Release`
without reading the files through. `data_adapters.preparation` reads them, the same way for every vendor.

    def read(raw: Path, arguments: Namespace) -> Release:
        return Release(
            events=[Delimited(raw / "ratings.csv", {"user": ("userId", 0), "item": ("movieId", 1),
                                                    "rating": ("rating", 2), "time": ("timestamp", 3)})],
            catalogues=[Catalogue(raw / "movies.csv", lambda: read_movies(raw / "movies.csv"))],
            fields=("title", "genres"),
            text="{title} ({genres})",
        )
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

__all__ = [
    "ROLES",
    "Adapter",
    "Batches",
    "Catalogue",
    "Columns",
    "Delimited",
    "EventFile",
    "JsonLines",
    "Media",
    "Parquet",
    "ReadyFeatures",
    "Release",
]

ROLES = ("user", "item", "items", "time", "rating")
"""What a column of an event file can be. `items` is a whole history in one field, oldest first, in place of `item`."""

Columns = Mapping[str, tuple[str | int, ...]]
"""Per role, the header names that mean it, and the position (from 0) where it stands in files without a header."""

TimeUnit = Literal["auto", "s", "ms", "us", "ns", "date"]


@dataclass(frozen=True)
class Delimited:
    """Describe a delimited text file of events, plain or .gz, with or without a header, LF or CRLF.

    The first line is a header where it holds a name of every role, or where its time or rating is no number; then
    roles that it does not name count by position. `items` of one user are separated by spaces.
    """

    path: Path
    columns: Columns
    delimiter: str = ","
    quote: str = '"'
    """"" where quotes are plain characters."""


@dataclass(frozen=True)
class JsonLines:
    """Describe a file with one JSON object of one event per line, plain or .gz; columns are keys of the object."""

    path: Path
    columns: Columns


@dataclass(frozen=True)
class Parquet:
    """Describe a parquet file of events; `items` is a list column, or text with spaces."""

    path: Path
    columns: Columns
    padding: str = ""
    """An entry of `items` that is no item, such as "0"."""


@dataclass(frozen=True)
class Batches:
    """Describe events that only Python can read: batches whose columns are named by role, as text or numbers."""

    path: Path
    """The file or folder they come from."""
    read: Callable[[], Iterator[pa.RecordBatch]]
    roles: Sequence[str]
    """The names of their columns."""
    also: Sequence[Path] = ()
    """Further files that they come from."""


EventFile = Delimited | JsonLines | Parquet | Batches


@dataclass(frozen=True)
class Catalogue:
    """Describe a file of items: `read` yields (vendor's item id, fields by name), None or "" where a field is empty.

    An item that comes again fills the fields that are empty so far, so that the first file of several wins.
    """

    path: Path
    read: Callable[[], Iterator[tuple[str, Mapping[str, str | None]]]]
    fields: Sequence[str] = ()
    """Where given, the file is left alone unless one of them is needed."""


@dataclass(frozen=True)
class Media:
    """Say where the pictures, clips or sounds of items are: in `folders` by name, or at the path that `field` holds.

    A file belongs to the item whose id is its name without suffix; of several the first folder and suffix win.
    """

    folders: Sequence[Path] = ()
    """Searched with everything below them."""
    suffixes: Sequence[str] = ()
    field: str = ""
    """A template over the item's fields and `{id}` that gives the path from the release's folder."""
    stem: Callable[[str], str] = str
    """The file name without suffix that an item id stands for."""


@dataclass(frozen=True)
class ReadyFeatures:
    """Describe extracted features that a vendor published: one vector per item, row i of `load()` for `ids[i]`."""

    modality: str
    encoder: str
    """The name to choose them by, such as "CLIPRN50"."""
    path: Path
    load: Callable[[], np.ndarray]
    """Gives [rows, width], mapped rather than read where the file allows."""
    ids: Sequence[str]


@dataclass(frozen=True)
class Release:
    """Describe a vendor's directory, so that it can be prepared like any other."""

    events: Sequence[EventFile]
    """Read in this order, which decides between equal times."""
    catalogues: Sequence[Catalogue] = ()
    fields: Sequence[str] = ()
    """Names of the fields that catalogues yield."""
    text: str = ""
    """The template that makes an item's text of its fields: "{title}. {brand}" (see `data_adapters.content`)."""
    media: Mapping[str, Media] = field(default_factory=dict)
    """Per `image`, `video`, `audio`; and `frames`, whose files are named ITEM-1, ITEM-2, ..."""
    media_root: Path = Path()
    """What media paths are relative to: the folder of the release."""
    time_unit: TimeUnit = "auto"
    integer_ids: bool = False
    """Whether ids are whole numbers; others are refused then, and 007 is 7."""
    item_width: int = 0
    """Pad item ids with zeros on the left to so many characters, where spreadsheets strip them."""
    features: Sequence[ReadyFeatures] = ()
    leaks: Mapping[str, str] = field(default_factory=dict)
    """Fields that tell of the future (such as total likes) and why: kept on request only, with a warning."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """What the adapter itself left out, and why."""
    extracted: Path | None = None
    """The folder of pictures that `read` has just written, which goes if the preparation fails."""
    licence: str = ""
    """Of this release, where it is not the adapter's."""
    citation: str = ""
    """Likewise."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What the adapter decided by looking at the files, for dataset.yaml: {"layout": "2018, 5-core"}."""


@dataclass(frozen=True)
class Adapter:
    """Name a vendor's format: what `python -m data_adapters NAME --help` shows, and how to read it."""

    help: str
    """One line."""
    layout: str
    """The files that are expected, and where to get them."""
    read: Callable[[Path, Namespace], Release]
    licence: str = ""
    citation: str = ""
    add_arguments: Callable[[ArgumentParser], None] = lambda parser: None
    """Adds the vendor's own options; they are recorded in dataset.yaml with the common ones."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Common options whose default differs for this vendor (see `data_adapters.options`)."""

"""A toy vendor, whose release is events*.csv, titles and pictures, and its preparation."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_adapters.options import Options
from data_adapters.preparation import Prepared, prepare
from data_adapters.release import Adapter, Catalogue, Columns, Delimited, Media, Release
from odmt.data.format import Dataset

Histories = dict[str, list[tuple[str, int]]]

COLUMNS: Columns = {"user": ("user", 0), "item": ("item", 1), "time": ("time", 2), "rating": ("rating", 3)}
START = 1_600_000_000
LOOSE = Options(min_events=4)


def write_events(path: Path, events: Sequence[Sequence[Any]]) -> Path:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("user", "item", "time", "rating"), *events])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


def adapter(**about: Any) -> Adapter:
    """Describe every events*.csv of a folder, and what `about` says."""

    def read(raw: Path, arguments: Namespace) -> Release:
        events = [Delimited(path, COLUMNS) for path in sorted(raw.glob("events*.csv"))]
        return Release(events, media_root=raw, **{k: v(raw) if callable(v) else v for k, v in about.items()})

    return Adapter("toy", "LAYOUT", read, licence="free", citation="none")


def run(raw: Path, out: Path, options: Options = LOOSE, *, toy: Adapter | None = None, **more: Any) -> Prepared:
    given = {"name": "toy", "arguments": Namespace(flavour=None), "memory": "500MB", **more}
    return prepare(toy or adapter(), raw, out, options=options, **given)


def histories_of(dataset: Dataset) -> Histories:
    ids, times = dataset.ids(), dataset.times
    assert times is not None
    return {
        user: [
            (ids[dataset.items[place] - 1], int(times[place]) // 1000)
            for place in range(dataset.offsets[row], dataset.offsets[row + 1])
        ]
        for row, user in enumerate(dataset.users())
    }


def titles(raw: Path) -> list[Catalogue]:
    def read() -> Iterator[tuple[str, dict[str, str | None]]]:
        for n in range(1, 9):
            yield (
                f" i{n} ",
                {"title": f"<b>Title</b> &amp;amp; {n}", "brand": f"A &amp; {n}" if n % 2 else "", "id": "x"},
            )
        yield "i2", {"title": "second", "brand": "late"}
        yield "i3", {"title": "half \ud83d", "brand": None}
        yield "i0", {"title": "half \ud83d", "brand": None}

    return [Catalogue(raw / "items.txt", read)]


FULL: dict[str, Any] = {
    "catalogues": titles,
    "fields": ("title", "brand", "id", "text"),
    "text": "{title} by {brand}",
    "media": lambda raw: {"image": Media([raw / "covers"], [".jpg"])},
}

"""Files of events written by tests, and what the engine loads of them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_adapters.engine import Engine
from data_adapters.events import load_events
from data_adapters.filtering import number_events
from data_adapters.release import Columns, EventFile, Release
from data_adapters.text_files import ReleaseError

Row = tuple[Any, Any, int | None, float | None]

COLUMNS: Columns = {"user": ("user", 0), "item": ("item", 1), "time": ("time", 2)}
RATED: Columns = {**COLUMNS, "rating": ("rating", 3)}
PAIRS: Columns = {"user": ("user", 0), "item": ("item", 1)}
SECONDS = 1_600_000_000
MILLISECONDS = SECONDS * 1000


def load(engine: Engine, *files: EventFile, **about: Any) -> list[Row]:
    """Read the files as one release and return its events in order."""
    for table in ("events", "numbered", *(f"{what}_{kind}" for what in ("user", "item") for kind in ("ranks", "ids"))):
        engine.run(f"DROP TABLE IF EXISTS {table}")
    release = Release(files, **about)
    load_events(engine, release)
    number_events(engine, integer_ids=release.integer_ids, item_width=release.item_width)
    named = "numbered JOIN user_ids USING (u) JOIN item_ids USING (i)"
    rows = engine.stream(f"SELECT user, item, time, rating FROM {named} ORDER BY place")
    return [tuple(row.values()) for batch in rows for row in batch.to_pylist()]


def written(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def reason(engine: Engine, *files: EventFile, **about: Any) -> str:
    with pytest.raises(ReleaseError) as caught:
        load(engine, *files, **about)
    return str(caught.value)


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


EXPECTED = [("u1", "a", MILLISECONDS, None), ("u 2", "b,c", MILLISECONDS + 1000, None)]
LINES = f'u1,a,{SECONDS}\nu 2,"b,c",{SECONDS + 1}\n'

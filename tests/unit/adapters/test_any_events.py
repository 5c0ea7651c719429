"""Any file of events: both passes agree on it, and whatever it holds survives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_adapters.engine import Engine
from data_adapters.event_files import open_events
from data_adapters.events import _explain, _guess_unit
from data_adapters.release import Delimited, EventFile, JsonLines, Parquet, Release, TimeUnit
from data_adapters.text_files import ReleaseError
from tests.unit.adapters.loading import MILLISECONDS, RATED, SECONDS, Row, load, parquet, written

any_example = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


fragments = st.sampled_from(
    ["u", "i", "007", "1.5", "1e2", "0xFFFFF", "+7", " ", "\t", "\xa0", '"', '""', "'", ",", "\n", "\r\n", "\r", "é",
     "x y", "4", "-", "nan", "1_0", str(SECONDS), f"{SECONDS}.5", str(MILLISECONDS), "1.6e9", "2020-09-13",
     "2020-09-13 12:26:40+01"]
)  # fmt: skip
fields = st.one_of(fragments, st.lists(fragments, max_size=3).map("".join))
rows = st.tuples(fields, fields, st.one_of(st.just(str(SECONDS)), st.just("2020-09-13"), fields), fields)


def slow_pass(file: EventFile, release: Release) -> str:
    """Return what the slow pass alone says of a file, "" where it finds no fault."""
    try:
        reader = open_events(file)
        unit: TimeUnit | str = _guess_unit(reader)
        _explain(reader, release, unit)
    except ReleaseError as error:
        return str(error)
    return ""


def fast_pass(engine: Engine, file: EventFile, **about: Any) -> str:
    try:
        load(engine, file, **about)
    except ReleaseError as error:
        return str(error)
    return ""


@settings(any_example, max_examples=150)
@given(
    rows=st.lists(rows, min_size=1, max_size=4),
    quote=st.sampled_from(['"', ""]),
    end=st.sampled_from(["\n", "\r\n"]),
    mended=st.booleans(),
    numbers=st.booleans(),
)
def test_both_passes_agree_on_any_file(
    engine: Engine, tmp_path: Path, rows: Sequence[tuple[str, ...]], quote: str, end: str, mended: bool, numbers: bool
) -> None:
    def field(text: str) -> str:
        return f'"{text.replace(chr(34), chr(34) * 2)}"' if mended and quote else text

    good = ("1", "2", str(SECONDS), "3")
    text = "".join(",".join(map(field, row)) + end for row in (good, *rows))
    file = Delimited(written(tmp_path / "e.csv", text), RATED, quote=quote)
    fast = fast_pass(engine, file, integer_ids=numbers)
    slow = slow_pass(file, Release([file], integer_ids=numbers))
    assert fast == slow


@any_example
@given(
    events=st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip),
            st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip),
            st.integers(31_536_000_000, 7_258_118_399_999),
            st.floats(allow_nan=False, allow_infinity=False),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_any_events_survive_in_any_format(engine: Engine, tmp_path: Path, events: list[Row]) -> None:
    expected = [(user.strip(), item.strip(), time, rating) for user, item, time, rating in events]
    names = ("user", "item", "time", "rating")
    records = [dict(zip(names, event, strict=True)) for event in events]
    lines = written(tmp_path / "e.jsonl", "\n".join(json.dumps(record, ensure_ascii=False) for record in records))
    table = parquet(tmp_path / "e.parquet", **{name: [record[name] for record in records] for name in names})
    quoted = [[f'"{str(value).replace(chr(34), chr(34) * 2)}"' for value in event] for event in events]
    csv = written(tmp_path / "e.csv.gz", ",".join(names) + "\n" + "".join(",".join(row) + "\n" for row in quoted))
    for file in (JsonLines(lines, RATED), Parquet(table, RATED), Delimited(csv, RATED)):
        assert load(engine, file, time_unit="ms") == expected

"""Times, whole numbers and blanks in files of events: how each way to write them is read."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data_adapters.engine import Engine
from data_adapters.event_files import BLANK, stripped
from data_adapters.release import Batches, Delimited, JsonLines, Parquet
from tests.unit.adapters.loading import COLUMNS, MILLISECONDS, PAIRS, SECONDS, load, parquet, reason, written

TIMES = {
    "seconds": ([SECONDS, SECONDS + 1], [0, 1000]),
    "milliseconds": ([MILLISECONDS, MILLISECONDS + 1], [0, 1]),
    "microseconds": ([MILLISECONDS * 1000, MILLISECONDS * 1000 + 1999], [0, 1]),
    "nanoseconds": ([MILLISECONDS * 10**6, MILLISECONDS * 10**6 + 1_500_000], [0, 1]),
    "fractions": ([float(SECONDS), SECONDS + 0.25], [0, 250]),
    "1e9 notation": (["1.6e9", "1.600000001E+9"], [0, 1000]),
    "dates": (["2020-09-13", "2020-09-14"], [-44_800_000, 41_600_000]),
    "date and time": (["2020-09-13 12:26:40", "2020-09-13T12:26:40.125"], [0, 125]),
    "zones": (["2020-09-13T12:26:40Z", "2020-09-13 14:26:40+02:00"], [0, 0]),
    "more zones": (["2020-09-13 12:26:40 UTC", "2020-09-13 12:26:40-0130"], [0, 5_400_000]),
    "nine digits": (["2020-09-13 12:26:40.123456789", "2020-09-13 12:26"], [123, -40_000]),
}


@pytest.mark.parametrize(("values", "expected"), TIMES.values(), ids=TIMES)
def test_tells_the_unit_of_times(engine: Engine, tmp_path: Path, values: list[Any], expected: list[int]) -> None:
    expected = [MILLISECONDS + time for time in expected]
    csv = written(tmp_path / "e.csv", "".join(f"u,i,{value}\n" for value in values))
    lines = "\n".join(json.dumps({"user": "u", "item": "i", "time": value}) for value in values)
    table = {"user": ["u", "u"], "item": ["i", "i"], "time": values}
    batch = pa.RecordBatch.from_pydict(table)
    for file in (
        Delimited(csv, COLUMNS),
        JsonLines(written(tmp_path / "e.jsonl", lines), COLUMNS),
        Parquet(parquet(tmp_path / "e.parquet", **table), COLUMNS),
        Batches(csv, lambda: iter([batch]), ("user", "item", "time")),
    ):
        assert [row[2] for row in load(engine, file)] == expected


NATIVE = {
    "timestamp": (pa.array([datetime(2020, 9, 13, 12, 26, 40)], pa.timestamp("us")), 0),
    "nanoseconds": (pa.array([MILLISECONDS * 10**6 + 7], pa.timestamp("ns")), 0),
    "with zone": (pa.array([datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC)], pa.timestamp("ms", "Asia/Tokyo")), 0),
    "date": (pa.array([date(2020, 9, 13)]), -44_800_000),
    "int64": (pa.array([SECONDS]), 0),
    "int32": (pa.array([SECONDS], pa.int32()), 0),
    "uint64": (pa.array([MILLISECONDS], pa.uint64()), 0),
    "float64": (pa.array([SECONDS + 0.5]), 500),
    "large text": (pa.array([str(SECONDS)], pa.large_string()), 0),
    "dictionary": (pa.array([str(SECONDS)]).dictionary_encode(), 0),
}


@pytest.mark.parametrize(("times", "expected"), NATIVE.values(), ids=NATIVE)
def test_reads_native_types(engine: Engine, tmp_path: Path, times: pa.Array, expected: int) -> None:
    table = parquet(tmp_path / "e.parquet", user=pa.array([7], pa.int32()), item=["a"], time=times)
    assert load(engine, Parquet(table, COLUMNS)) == [("7", "a", MILLISECONDS + expected, None)]
    batch = pa.RecordBatch.from_pydict({"user": [7], "item": ["a"], "time": times})
    file = Batches(table, lambda: iter([batch]), ("user", "item", "time"))
    assert load(engine, file) == [("7", "a", MILLISECONDS + expected, None)]


INTEGERS = {"7": 7, "007": 7, " 7\t": 7, "9223372036854775807": 2**63 - 1, "0": 0, "000000000000000000000000012": 12}
NO_INTEGERS = [
    "1.5",
    "1e3",
    "1e2",
    "9e2",
    "+7",
    "-7",
    "0x10",
    "0xFFFFF",
    "1_000",
    "9223372036854775808",
    "7.0",
    "x",
    "٣",
    "７",
]


@pytest.mark.parametrize("time", ["", f",{SECONDS}"], ids=["pairs", "timed"])
def test_whole_numbers_are_told_from_what_only_looks_so(engine: Engine, tmp_path: Path, time: str) -> None:
    columns = COLUMNS if time else PAIRS
    for text, number in INTEGERS.items():
        path = written(tmp_path / "e.csv", f"1,5{time}\n{text},5{time}\n")
        assert load(engine, Delimited(path, columns), integer_ids=True)[1][0] == number
        assert load(engine, Delimited(path, columns))[1][0] == text.strip()
    for text in NO_INTEGERS:
        path = written(tmp_path / "e.csv", f"1,5{time}\n2,{text}{time}\n")
        assert f"e.csv, line 2: item is '{text}', must be" in reason(engine, Delimited(path, columns), integer_ids=True)
        table = parquet(tmp_path / "e.parquet", user=[1, 2], item=["5", text])
        assert f"e.parquet, row 2: item is '{text}'" in reason(engine, Parquet(table, PAIRS), integer_ids=True)


def test_long_numbers_in_columns_that_nobody_needs_do_no_harm(engine: Engine, tmp_path: Path) -> None:
    path = written(tmp_path / "e.csv", f"user,item,time,session\n1,2,{SECONDS},{10**30}\n")
    assert load(engine, Delimited(path, COLUMNS), integer_ids=True) == [(1, 2, MILLISECONDS, None)]


def test_item_ids_are_padded(engine: Engine, tmp_path: Path) -> None:
    path = written(tmp_path / "e.csv", "u,7\nu, 0000000012 \nu,123456789012\n")
    items = [row[1] for row in load(engine, Delimited(path, PAIRS), item_width=10)]
    assert items == ["0000000007", "0000000012", "123456789012"]


def test_dates_that_are_none_are_refused(engine: Engine, tmp_path: Path) -> None:
    for bad in (
        "2020-02-30", "20200913", "2020/09/13", "2020-9-3", "13.09.2020", "infinity", "epoch", "1600000000",
        "1970-01-01", "2300-01-01", "2020-09-13 (BC)", "2020-09-13 25:00:00", "2020-W01-1", "0000-01-01",
    ):  # fmt: skip
        path = written(tmp_path / "e.csv", f"u,i,2020-09-13\nu,i,{bad}\n")
        assert f"e.csv, line 2: time is '{bad}', must be" in reason(engine, Delimited(path, COLUMNS))


def test_strips_what_python_strips(engine: Engine) -> None:
    assert {chr(code) for code in BLANK} == {c for c in map(chr, range(0x110000)) if c.isspace()}
    for code in BLANK:
        (found,) = engine.one(
            f"SELECT {stripped('x')} FROM (SELECT chr({code}) || 'a' || chr({code}) || 'b' || chr({code}) AS x)"
        )
        assert found == f"a{chr(code)}b"


def test_whole_numbers_that_became_floats_are_whole_again(engine: Engine, tmp_path: Path) -> None:
    table = parquet(tmp_path / "e.parquet", user=[7.0, 8.5], item=[1e15, 2.0], time=[SECONDS, SECONDS])
    assert [row[:2] for row in load(engine, Parquet(table, COLUMNS))] == [("7", "1000000000000000"), ("8.5", "2")]


def test_a_date_of_another_country_is_told_what_is_read(engine: Engine, tmp_path: Path) -> None:
    path = written(tmp_path / "e.csv", "user,item,time\nu,i,1/2/2020\n")
    assert "ISO date" in reason(engine, Delimited(path, COLUMNS))

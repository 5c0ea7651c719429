"""Files of events in every format: what is read, what is refused and where, and that both passes agree."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_adapters.engine import Engine
from data_adapters.event_files import BLANK, open_events, stripped
from data_adapters.events import _explain, _guess_unit, load_events
from data_adapters.filtering import number_events
from data_adapters.release import Batches, Columns, Delimited, EventFile, JsonLines, Parquet, Release, TimeUnit
from data_adapters.text_files import ReleaseError

Row = tuple[Any, Any, int | None, float | None]

COLUMNS: Columns = {"user": ("user", 0), "item": ("item", 1), "time": ("time", 2)}
RATED: Columns = {**COLUMNS, "rating": ("rating", 3)}
PAIRS: Columns = {"user": ("user", 0), "item": ("item", 1)}
SECONDS = 1_600_000_000
MILLISECONDS = SECONDS * 1000
any_example = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("engine"), memory="500MB") as engine:
        yield engine


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


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        "user,item,time\n" + LINES,
        "\ufeffuser,item,time\n" + LINES,
        "\ufeff" + LINES,
        " user , item , time \n" + LINES,
        "user,item,time\r\n" + LINES.replace("\n", "\r\n"),
        "user,item,time\r\n" + LINES,
        "user,item,time\n" + LINES.replace("\n", "\r\n", 1),
        "user,item,time\n\n" + LINES.replace("\n", "\n\n") + "\n\n",
        "\nuser,item,time\n" + LINES,
        "\r\n" + LINES.replace("\n", "\r\n"),
        LINES.removesuffix("\n"),
        LINES.replace("u1", '"u1"').replace("u 2", "  u 2\t"),
        f'time,user,x,item\n{SECONDS},u1,9,a\n{SECONDS + 1},u 2,,"b,c"\n',
        LINES.replace(str(SECONDS), f"{SECONDS}.0"),
        LINES.replace(str(SECONDS), f"  {SECONDS} "),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_reads_delimited_text(engine: Engine, tmp_path: Path, content: str, suffix: str) -> None:
    path = written(tmp_path / f"events{suffix}", content)
    assert load(engine, Delimited(path, COLUMNS)) == EXPECTED


def test_reads_delimiters_of_one_or_several_characters(engine: Engine, tmp_path: Path) -> None:
    for delimiter in ("\t", "::", "|", ";", " ", "@#@"):
        path = written(tmp_path / "events", delimiter.join(["u1", "a", str(SECONDS), "4.5"]) + "\n")
        assert load(engine, Delimited(path, RATED, delimiter=delimiter, quote="")) == [("u1", "a", MILLISECONDS, 4.5)]


def test_quotes_are_plain_characters_where_told(engine: Engine, tmp_path: Path) -> None:
    path = written(tmp_path / "events.tsv", f'"u1\ta"b"\t{SECONDS}\n')
    assert load(engine, Delimited(path, COLUMNS, delimiter="\t", quote=""))[0][:2] == ('"u1', 'a"b"')


def test_quoted_fields_hold_line_ends_and_quotes(engine: Engine, tmp_path: Path) -> None:
    path = written(tmp_path / "events.csv", f'u1,"a ""b""\nc",{SECONDS}\nu2,d"e,{SECONDS}\n')
    assert [row[1] for row in load(engine, Delimited(path, COLUMNS))] == ['a "b"\nc', 'd"e']


@pytest.mark.parametrize(
    "name",
    ["it's.csv", "two words.csv", "日本 é.csv", "part-*.csv", "what?.csv", "raw[1].csv", "[ab].csv", "{a,b}.csv",
     'q".csv', "back\\slash.csv", "%41.csv", "; DROP TABLE events --.csv"],
)  # fmt: skip
def test_names_of_files_are_names_and_no_patterns(engine: Engine, tmp_path: Path, name: str) -> None:
    written(tmp_path / "part-0.csv", "other,other,1\n")
    written(tmp_path / "raw1.csv", "other,other,1\n")
    folder = tmp_path / name.removesuffix(".csv")
    folder.mkdir()
    path = written(folder / name, f"u1,a,{SECONDS}\n")
    assert load(engine, Delimited(path, COLUMNS)) == EXPECTED[:1]
    lines = written(folder / f"{name}.jsonl", json.dumps({"user": "u1", "item": "a"}))
    assert load(engine, JsonLines(lines, PAIRS))[0][:2] == ("u1", "a")
    table = parquet(folder / f"{name}.parquet", user=["u1"], item=["a"])
    assert load(engine, Parquet(table, PAIRS))[0][:2] == ("u1", "a")


NASTY = [
    "it's",
    'a"b',
    "'); DROP TABLE events; --",
    "1 OR 1=1",
    "\\",
    "%",
    "{id}",
    "$1",
    "NULL",
    "\\N",
    "nan",
    "true",
    "a\x00b",
]


@pytest.mark.parametrize("column", ["user's", 'us"er', "user; --", "ユーザー", "select"])
def test_text_that_looks_like_sql_is_data(engine: Engine, tmp_path: Path, column: str) -> None:
    columns: Columns = {"user": (column,), "item": ("item",)}
    table = parquet(tmp_path / "events.parquet", **{column: NASTY, "item": NASTY})
    assert [row[0] for row in load(engine, Parquet(table, columns))] == NASTY
    lines = written(tmp_path / "e.jsonl", "\n".join(json.dumps({column: n, "item": n}) for n in NASTY))
    assert [row[0] for row in load(engine, JsonLines(lines, columns))] == NASTY
    quoted = [f'"{n.replace(chr(34), chr(34) * 2)}"' for n in (column, *NASTY)]
    text = written(tmp_path / "e.csv", "\n".join([f"{quoted[0]},item", *(f"{n},{n}" for n in quoted[1:])]))
    assert [row[1] for row in load(engine, Delimited(text, columns))] == NASTY
    lines = written(tmp_path / "bad.jsonl", json.dumps({column: "u", "item": "i"}) + "\n" + json.dumps({column: "u"}))
    assert "bad.jsonl, line 2: item is ''" in reason(engine, JsonLines(lines, columns))


def test_reads_json_lines(engine: Engine, tmp_path: Path) -> None:
    records = [
        {"user": "u1", "item": 7, "time": SECONDS, "rating": 4},
        {"rating": 4.5, "time": str(SECONDS), "item": "007", "user": 12345678901234567890, "more": [1, {"a": None}]},
    ]
    text = "\r\n\n".join(map(json.dumps, records))
    expected = [("u1", "7", MILLISECONDS, 4.0), ("12345678901234567890", "007", MILLISECONDS, 4.5)]
    for name in ("e.jsonl", "e.json.gz"):
        assert load(engine, JsonLines(written(tmp_path / name, text), RATED)) == expected
        assert load(engine, JsonLines(written(tmp_path / name, "\ufeff" + text), RATED)) == expected


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


def test_reads_sequences(engine: Engine, tmp_path: Path) -> None:
    columns: Columns = {"user": ("user", 0), "items": ("items", 1)}
    expected = [("1", item) for item in "abca"] + [("2", "x")]
    text = written(tmp_path / "e.tsv", "1\ta b  c\ta \n2\tx\n3\t\n".replace("c\ta", "c a"))
    lists = pa.array([["a", "b", None, "c", " ", "a"], ["x"], [], None])
    table = parquet(tmp_path / "e.parquet", user=[1, 2, 3, 4], items=lists)
    written_out = parquet(tmp_path / "t.parquet", user=[1, 2, 3], items=["a b  c a ", " x", None])
    numbers = parquet(tmp_path / "n.parquet", user=[1], items=pa.array([[5, 0, 6, 0]]))
    batch = pa.RecordBatch.from_pydict({"user": ["1", "2", "3", "4"], "items": lists})
    files = (
        Delimited(text, columns, delimiter="\t", quote=""),
        Parquet(table, columns),
        Parquet(written_out, columns),
        Batches(table, lambda: iter([batch]), ("user", "items")),
    )
    for file in files:
        assert [row[:2] for row in load(engine, file)] == expected
    assert [row[1] for row in load(engine, Parquet(numbers, columns, padding="0"), integer_ids=True)] == [5, 6]


def test_a_line_longer_than_any_buffer_is_read(engine: Engine, tmp_path: Path) -> None:
    long = [str(number) * 10**6 for number in range(9)]
    path = written(tmp_path / "e.tsv", f"1\t{' '.join(long)}\n2\t3\n")
    columns: Columns = {"user": (0,), "items": (1,)}
    assert [row[1] for row in load(engine, Delimited(path, columns, delimiter="\t", quote=""))] == [*long, "3"]


def test_a_user_with_two_histories_is_refused(engine: Engine, tmp_path: Path) -> None:
    columns: Columns = {"user": ("user", 0), "items": ("items", 1)}
    text = Delimited(written(tmp_path / "e.tsv", "1\ta b\n2\tc\n1 \td\n"), columns, delimiter="\t", quote="")
    assert "e.tsv, line 3: user 1 was on line 1 already" in reason(engine, text)
    table = Parquet(parquet(tmp_path / "e.parquet", user=[1, 2, 1], items=[["a"], ["b"], ["c"]]), columns)
    assert "e.parquet, row 3: user 1 was on row 1 already" in reason(engine, table)


def test_several_files_follow_each_other(engine: Engine, tmp_path: Path) -> None:
    first = Delimited(written(tmp_path / "b.csv", f"u,1,{SECONDS}\n"), COLUMNS)
    second = Delimited(written(tmp_path / "a.tsv", f"time\titem\tuser\n{SECONDS}\t2\tu\n"), COLUMNS, delimiter="\t")
    assert [row[1] for row in load(engine, first, second)] == ["1", "2"]
    assert [row[1] for row in load(engine, second, first)] == ["2", "1"]
    untimed = Delimited(written(tmp_path / "c.csv", "u,3\n"), PAIRS)
    assert "c.csv: has item, user, but" in reason(engine, first, untimed)
    other = Delimited(written(tmp_path / "d.csv", f"u,1,{SECONDS}\nu,4,{MILLISECONDS}\n"), COLUMNS)
    assert "d.csv, line 2: time is '1600000000000', no unix time in seconds" in reason(engine, first, other)


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


GOOD = f"u,i,{SECONDS},4\n"
BAD = {
    "empty user": (f",i,{SECONDS},4", "user is '', must not be empty"),
    "blank user": (f" \t,i,{SECONDS},4", "user is ' \\t', must not be empty"),
    "no-break space": (f"u,\xa0,{SECONDS},4", "item is '\\xa0', must not be empty"),
    "no time": ("u,i,,4", "time is '', must be a number"),
    "text as time": ("u,i,soon,4", "time is 'soon', must be a number"),
    "time in milliseconds": (f"u,i,{MILLISECONDS},4", "(it looks like milliseconds)"),
    "time 0": ("u,i,0,4", "time is '0', no unix time in seconds between 1971 and 2200"),
    "negative time": (f"u,i,-{SECONDS},4", "no unix time in seconds"),
    "endless time": ("u,i,inf,4", "time is 'inf', must be a number"),
    "huge time": (f"u,i,{10**40},4", "no unix time in seconds"),
    "date among numbers": ("u,i,2020-09-13,4", "time is '2020-09-13', must be a number"),
    "no rating": (f"u,i,{SECONDS},", "rating is '', must be a number"),
    "text as rating": (f"u,i,{SECONDS},good", "rating is 'good', must be a number"),
    "nan": (f"u,i,{SECONDS},nan", "rating is 'nan', must be a number"),
    "infinite": (f"u,i,{SECONDS},1e999", "rating is '1e999', must be a number"),
    "underscore": (f"u,i,{SECONDS},1_0", "rating is '1_0', must be a number"),
    "comma": (f'u,i,{SECONDS},"4,5"', "rating is '4,5', must be a number"),
    "short": (f"u,i,{SECONDS}", "3 fields separated by ',' where 4 are expected"),
    "long": (f"u,i,{SECONDS},4,5", "5 fields separated by ',' where 4 are expected"),
    "open quote": (f'"u,i,{SECONDS},4', "broken quotes in the record that starts here"),
    "text after quote": (f'"u"x,i,{SECONDS},4', "broken quotes in the record that starts here"),
    "only blanks": ("   ", "1 fields separated by ','"),
    "not UTF-8": (f"u\xff,i,{SECONDS},4", "byte 2: 0xff is not UTF-8"),
}


@pytest.mark.parametrize(("line", "why"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("header", ["", "user,item,time,rating\n"], ids=["bare", "headed"])
@pytest.mark.parametrize("suffix", ["", ".gz"], ids=["plain", "gz"])
def test_names_line_field_and_value(
    engine: Engine, tmp_path: Path, line: str, why: str, header: str, suffix: str
) -> None:
    encoded = line.encode("latin-1") if "\xff" in line else line.encode()
    path = written(tmp_path / f"e.csv{suffix}", header.encode() + GOOD.encode() * 3 + encoded)
    message = reason(engine, Delimited(path, RATED))
    assert f"{path}, line {5 if header else 4}" in message
    assert why in message


def test_names_the_last_line_of_a_long_gz(engine: Engine, tmp_path: Path) -> None:
    path = written(tmp_path / "e.csv.gz", GOOD * 30_000 + f"u,,{SECONDS},4")
    assert f"{path}, line 30001: item is ''" in reason(engine, Delimited(path, RATED))


def test_a_cut_gz_is_said_to_be_cut(engine: Engine, tmp_path: Path) -> None:
    path = written(tmp_path / "e.csv.gz", "".join(f"u{n * 7919 % 1013},{n},{SECONDS + n},4\n" for n in range(9000)))
    whole = path.read_bytes()
    for cut in (len(whole) - 4, len(whole) // 2, 20):
        path.write_bytes(whole[:cut])
        assert "e.csv.gz: the gzip file is cut off or damaged" in reason(engine, Delimited(path, RATED))
    path.write_bytes(b"PK\x03\x04 no gzip")
    assert "cut off or damaged" in reason(engine, Delimited(path, RATED))


def test_bad_json_parquet_and_batches_are_named(engine: Engine, tmp_path: Path) -> None:
    good = json.dumps({"user": "u", "item": "i", "time": SECONDS}) + "\n"
    for bad, why in {
        '{"user": "u"': "no JSON",
        "[1]": "is no JSON object",
        "null": "is no JSON object",
        '{"user": null, "item": "i", "time": 1600000000}': "user is ''",
        '{"user": "u", "item": "i", "time": "x"}': "time is 'x', must be a number",
        '{"user": "u", "item": "i", "time": true}': "time is 'true', must be a number",
    }.items():
        path = written(tmp_path / "e.jsonl", good + "\n" + bad)
        message = reason(engine, JsonLines(path, COLUMNS))
        assert "e.jsonl, line 3" in message
        assert why in message
    table = Parquet(parquet(tmp_path / "e.parquet", user=["u", "u"], item=["i", None], time=[SECONDS] * 2), COLUMNS)
    assert "e.parquet, row 2: item is '', must not be empty" in reason(engine, table)
    assert "no column 'no' (item); it has user, item, time" in reason(
        engine, Parquet(table.path, {"user": ("user",), "item": ("no",)})
    )
    damaged = written(tmp_path / "d.parquet", table.path.read_bytes()[:-9])
    assert "d.parquet: not a readable parquet file" in reason(engine, Parquet(damaged, COLUMNS))
    batch = pa.RecordBatch.from_pydict({"user": ["u", "u"], "item": ["i", "i"], "time": [SECONDS, MILLISECONDS]})
    assert "row 2: time is '1600000000000'" in reason(
        engine, Batches(table.path, lambda: iter([batch]), ("user", "item", "time"))
    )


def test_dates_that_are_none_are_refused(engine: Engine, tmp_path: Path) -> None:
    for bad in (
        "2020-02-30", "20200913", "2020/09/13", "2020-9-3", "13.09.2020", "infinity", "epoch", "1600000000",
        "1970-01-01", "2300-01-01", "2020-09-13 (BC)", "2020-09-13 25:00:00", "2020-W01-1", "0000-01-01",
    ):  # fmt: skip
        path = written(tmp_path / "e.csv", f"u,i,2020-09-13\nu,i,{bad}\n")
        assert f"e.csv, line 2: time is '{bad}', must be" in reason(engine, Delimited(path, COLUMNS))


def test_refuses_what_has_no_events(engine: Engine, tmp_path: Path) -> None:
    assert "no events" in reason(engine, Delimited(written(tmp_path / "e.csv", "user,item,time\n"), COLUMNS))
    assert "is empty" in reason(engine, Delimited(written(tmp_path / "e.csv", ""), COLUMNS))
    assert "is empty" in reason(engine, JsonLines(written(tmp_path / "e.jsonl.gz", ""), COLUMNS))
    assert "no file at" in reason(engine, Delimited(tmp_path / "none.csv", COLUMNS))
    empty = Parquet(parquet(tmp_path / "e.parquet", user=[], item=[], time=[]), COLUMNS)
    assert "no events" in reason(engine, empty)
    roles = ("user", "item", "time")
    assert "no events" in reason(engine, Batches(tmp_path, lambda: iter([]), roles))
    nothing = pa.RecordBatch.from_pydict({role: pa.array([], pa.string()) for role in roles})
    assert "no events" in reason(engine, Batches(tmp_path, lambda: iter([nothing]), roles))
    some = pa.RecordBatch.from_pydict({"user": ["u"], "item": ["i"], "time": [str(SECONDS)]})
    assert load(engine, Batches(tmp_path, lambda: iter([nothing, some, nothing]), roles)) == [
        ("u", "i", MILLISECONDS, None)
    ]


def test_a_header_that_lacks_a_role_is_shown(engine: Engine, tmp_path: Path) -> None:
    columns: Columns = {"user": ("uid", "user"), "item": ("iid",)}
    message = reason(engine, Delimited(written(tmp_path / "e.csv", "user;iid\nu;i\n"), columns))
    assert "line 1: 1 fields separated by ',' (user;iid), none of which is 'uid' or 'user' (user)" in message


def test_strips_what_python_strips(engine: Engine) -> None:
    assert {chr(code) for code in BLANK} == {c for c in map(chr, range(0x110000)) if c.isspace()}
    for code in BLANK:
        (found,) = engine.one(
            f"SELECT {stripped('x')} FROM (SELECT chr({code}) || 'a' || chr({code}) || 'b' || chr({code}) AS x)"
        )
        assert found == f"a{chr(code)}b"


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


@pytest.mark.parametrize("header", ["who,what,when", "user,what,time", "user,item,stars"])
def test_a_header_without_the_column_is_no_header_by_position(engine: Engine, tmp_path: Path, header: str) -> None:
    said = reason(engine, Delimited(written(tmp_path / "e.csv", f"{header}\n{LINES}"), COLUMNS))
    assert f"{tmp_path / 'e.csv'}, line 1" in said
    assert header.replace(",", ", ") in said


def test_columns_without_a_name_stand_where_they_stand(engine: Engine, tmp_path: Path) -> None:
    columns: Columns = {"user": (0,), "item": (1,), "time": (2,)}
    assert load(engine, Delimited(written(tmp_path / "e.csv", "who,what,when\n" + LINES), columns)) == EXPECTED


def test_whole_numbers_that_became_floats_are_whole_again(engine: Engine, tmp_path: Path) -> None:
    table = parquet(tmp_path / "e.parquet", user=[7.0, 8.5], item=[1e15, 2.0], time=[SECONDS, SECONDS])
    assert [row[:2] for row in load(engine, Parquet(table, COLUMNS))] == [("7", "1000000000000000"), ("8.5", "2")]


def test_a_date_of_another_country_is_told_what_is_read(engine: Engine, tmp_path: Path) -> None:
    path = written(tmp_path / "e.csv", "user,item,time\nu,i,1/2/2020\n")
    assert "ISO date" in reason(engine, Delimited(path, COLUMNS))

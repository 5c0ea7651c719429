"""Files of events in every format: what is read of them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from data_adapters.engine import Engine
from data_adapters.release import Batches, Columns, Delimited, JsonLines, Parquet
from tests.unit.adapters.loading import (
    COLUMNS,
    EXPECTED,
    LINES,
    MILLISECONDS,
    PAIRS,
    RATED,
    SECONDS,
    load,
    parquet,
    reason,
    written,
)


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


def test_several_files_follow_each_other(engine: Engine, tmp_path: Path) -> None:
    first = Delimited(written(tmp_path / "b.csv", f"u,1,{SECONDS}\n"), COLUMNS)
    second = Delimited(written(tmp_path / "a.tsv", f"time\titem\tuser\n{SECONDS}\t2\tu\n"), COLUMNS, delimiter="\t")
    assert [row[1] for row in load(engine, first, second)] == ["1", "2"]
    assert [row[1] for row in load(engine, second, first)] == ["2", "1"]
    untimed = Delimited(written(tmp_path / "c.csv", "u,3\n"), PAIRS)
    assert "c.csv: has item, user, but" in reason(engine, first, untimed)
    other = Delimited(written(tmp_path / "d.csv", f"u,1,{SECONDS}\nu,4,{MILLISECONDS}\n"), COLUMNS)
    assert "d.csv, line 2: time is '1600000000000', no unix time in seconds" in reason(engine, first, other)


def test_columns_without_a_name_stand_where_they_stand(engine: Engine, tmp_path: Path) -> None:
    columns: Columns = {"user": (0,), "item": (1,), "time": (2,)}
    assert load(engine, Delimited(written(tmp_path / "e.csv", "who,what,when\n" + LINES), columns)) == EXPECTED

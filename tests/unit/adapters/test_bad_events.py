"""Files of events that are refused: where the fault is, and what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from data_adapters.engine import Engine
from data_adapters.release import Batches, Columns, Delimited, JsonLines, Parquet
from tests.unit.adapters.loading import COLUMNS, LINES, MILLISECONDS, RATED, SECONDS, load, parquet, reason, written


def test_a_user_with_two_histories_is_refused(engine: Engine, tmp_path: Path) -> None:
    columns: Columns = {"user": ("user", 0), "items": ("items", 1)}
    text = Delimited(written(tmp_path / "e.tsv", "1\ta b\n2\tc\n1 \td\n"), columns, delimiter="\t", quote="")
    assert "e.tsv, line 3: user 1 was on line 1 already" in reason(engine, text)
    table = Parquet(parquet(tmp_path / "e.parquet", user=[1, 2, 1], items=[["a"], ["b"], ["c"]]), columns)
    assert "e.parquet, row 3: user 1 was on row 1 already" in reason(engine, table)


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


@pytest.mark.parametrize("header", ["who,what,when", "user,what,time", "user,item,stars"])
def test_a_header_without_the_column_is_no_header_by_position(engine: Engine, tmp_path: Path, header: str) -> None:
    said = reason(engine, Delimited(written(tmp_path / "e.csv", f"{header}\n{LINES}"), COLUMNS))
    assert f"{tmp_path / 'e.csv'}, line 1" in said
    assert header.replace(",", ", ") in said

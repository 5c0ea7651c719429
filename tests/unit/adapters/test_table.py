"""Any table: kinds of files, columns by option, content beside the events or in them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_adapters.__main__ import main
from odmt.data.format import Dataset, open_dataset

EVENTS = [
    ("ann", "007", "2020-01-01 10:00:00", 4.0),
    ("bob", "8", "2020-01-01 10:00:00", 3.0),
    ("ann", "8", "2020-01-03 10:00:00", 2.0),
    ("ann", "007", "2020-01-02 10:00:00", 5.0),
    ("ann", "x/9", "2020-01-03 10:00:00", 1.0),
    ("bob", "x/9", "2020-01-01 09:00:00", 5.0),
    ("bob", "007", "2020-01-04 10:00:00", 5.0),
    ("bob", "8", "2020-01-05 10:00:00", 5.0),
]
HISTORIES = {"ann": ["007", "007", "8", "x/9"], "bob": ["x/9", "8", "007", "8"]}
ITEMS = [
    ("007", 'Watch, 5" wide', "Omega", "covers/a.jpg", ["spy", "gold"]),
    ("8", "Line\nbreak", None, "covers/missing.jpg", []),
    ("x/9", "", "Nobody", None, None),
    ("77", "Never bought", "", "", []),
]
NAMES = ("who", "sku", "at", "stars")
FIELDS = ("sku", "name", "brand", "photo", "tags")
TABLES = (("events", EVENTS, NAMES), ("items", ITEMS, FIELDS))
COLUMNS = ["--user", "who", "--item", "sku", "--time", "at"]


def quoted(value: object, delimiter: str) -> str:
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in f'\n"{delimiter}') else text


def delimited(rows: list[tuple], names: tuple[str, ...], delimiter: str = ",") -> str:
    lines = [names, *([", ".join(v) if isinstance(v, list) else v for v in row] for row in rows)]
    return "".join(delimiter.join(quoted(value, delimiter) for value in line) + "\n" for line in lines)


def write(path: Path, rows: list[tuple], names: tuple[str, ...]) -> str:
    """Write a table of the kind that the path's suffixes tell, and return its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = [dict(zip(names, row, strict=True)) for row in rows]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(objects), path)
        return path.name
    if ".jsonl" in path.suffixes:
        # keys that are null are left out, as many programs do
        text = "".join(json.dumps({k: v for k, v in one.items() if v is not None}) + "\n" for one in objects)
    else:
        text = delimited(rows, names, "\t" if ".tsv" in path.suffixes else ",")
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path.name


def prepared(raw: Path, *options: str, columns: list[str] = COLUMNS) -> Dataset:
    out = raw.parent / "out"
    assert main(["table", "--raw", str(raw), "--out", str(out), "--min-events", "4", *columns, *options]) == 0
    return open_dataset(out)


def refused(raw: Path, capsys: pytest.CaptureFixture[str], *options: str, columns: list[str] = COLUMNS) -> str:
    out = raw.parent / "out"
    assert main(["table", "--raw", str(raw), "--out", str(out), "--min-events", "4", *columns, *options]) == 1
    assert not out.exists()
    return capsys.readouterr().err


def histories(dataset: Dataset) -> dict[str, list[str]]:
    ids = dataset.ids()
    return {user: [ids[item - 1] for item in dataset.history(u)] for u, user in enumerate(dataset.users())}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    write(folder / "events.csv", EVENTS, NAMES)
    write(folder / "items.csv", ITEMS, FIELDS)
    (folder / "covers").mkdir()
    (folder / "covers/a.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "tsv.gz", "jsonl", "jsonl.gz", "parquet"])
def test_kinds_of_tables_give_the_same(tmp_path: Path, kind: str) -> None:
    raw = tmp_path / "raw"
    events, items = (write(raw / f"{name}.{kind}", *rows) for name, *rows in TABLES)
    files = ["--events", events, "--items", items]
    dataset = prepared(raw, *files, "--text", "{name} by {brand}", "--columns", "tags", "--rating", "stars")
    assert histories(dataset) == HISTORIES
    assert dataset.texts()[:2] == ['Watch, 5" wide by Omega', "Line\nbreak"]
    assert dataset.column("tags") == ["spy, gold", None, None]
    assert dataset.times is not None
    assert dataset.times[0] == 1577872800000
    assert dataset.info.notes["columns"] == "user who, item sku, time at, rating stars"


def test_files_and_media_by_column_template_and_folder(raw: Path) -> None:
    (raw / "clips/deep").mkdir(parents=True)
    (raw / "clips/deep/8.mp4").touch()
    (raw / "clips/8.json").touch()
    (raw / "sound").mkdir()
    (raw / "sound/007.x.mp3").touch()
    files = ["--events", "events.csv", "--items", "items.csv"]
    media = ["--image", "photo", "--video", "clips", "--audio", "sound/{id}.x.mp3"]
    dataset = prepared(raw, *files, *media, "--text", "name")
    assert dataset.column("image") == ["covers/a.jpg", None, None]
    assert dataset.column("video") == [None, "clips/deep/8.mp4", None]
    assert dataset.column("audio") == ["sound/007.x.mp3", None, None]
    assert dataset.texts() == ['Watch, 5" wide', "Line\nbreak", None]
    assert dataset.info.dropped["image files that items name but are not there"] == 1


def test_content_in_the_events_own_rows(tmp_path: Path) -> None:
    fields = {row[0]: row[1:4] for row in ITEMS}
    rows = [(*event, *fields[event[1]]) for event in EVENTS]
    raw = tmp_path / "raw"
    write(raw / "log.csv", rows, (*NAMES, *FIELDS[1:4]))
    (raw / "covers").mkdir()
    (raw / "covers/a.jpg").touch()
    dataset = prepared(raw, "--text", "{name}", "--image", "photo")
    assert histories(dataset) == HISTORIES
    assert dataset.texts() == ['Watch, 5" wide', "Line\nbreak", None]
    assert dataset.column("image") == ["covers/a.jpg", None, None]
    alone = raw.parent / "log.csv"
    (raw / "log.csv").rename(alone)
    assert histories(prepared(alone, "--overwrite")) == HISTORIES


def test_several_files_are_joined_in_the_order_of_their_names(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for place, row in enumerate(EVENTS):
        write(raw / f"part-{place}.jsonl", [row], NAMES)
    write(raw / "items/1.parquet", ITEMS[:1], FIELDS)
    write(raw / "items/2.parquet", ITEMS[2:], FIELDS)
    dataset = prepared(raw, "--events", "part-*.jsonl", "--items", "items/*.parquet", "--text", "name")
    assert histories(dataset) == HISTORIES
    assert dataset.texts() == ['Watch, 5" wide', None, None]
    assert len(dataset.info.sources) == 10


def test_names_of_columns_that_are_usual_need_no_option(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write(raw / "log.csv", EVENTS, ("user_id", "product_id", "timestamp", "rating"))
    write(raw / "things/items.csv", ITEMS, ("id", *FIELDS[1:]))
    dataset = prepared(raw, "--items", "things/items.csv", "--text", "name", "--min-rating", "1", columns=[])
    assert histories(dataset) == HISTORIES
    assert dataset.texts()[0] == 'Watch, 5" wide'


@pytest.mark.parametrize("stamp", ["2020-01-01 10:00:00", "1577872800", "1577872800000"])
def test_columns_by_number_where_there_is_no_header(tmp_path: Path, stamp: str) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "log.csv").write_text("".join(f"{stamp};u;{item};{item}.jpg\n" for item in ("7", "07", "7", "8")))
    (raw / "07.jpg").touch()
    columns = ["--user", "1", "--item", "2", "--time", "0", "--delimiter", ";", "--image", "3"]
    dataset = prepared(raw, columns=columns)
    assert histories(dataset) == {"u": ["7", "07", "7", "8"]}
    assert dataset.column("image") == ["07.jpg", None, None]


def test_rows_in_order(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "log.txt").write_bytes(b'\xef\xbb\xbfuser\titem\ttime\r\nu\t"7\t9\r\nu\t8"\tnever\r\nu\t"7\t3\r\nu\t9\t\r\n')
    dataset = prepared(raw, "--in-order", "--quote", "", columns=[])
    assert histories(dataset) == {"u": ['"7', '8"', '"7', "9"]}
    assert dataset.times is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--events", "events.csv", "--user", "whom"], ["events.csv: no column 'whom' (--user)", "mean 'who'?"]),
        (["--events", "event.csv"], ["--events event.csv: no such file", "covers, events.csv, items.csv"]),
        (["--events", "../raw/events.csv"], ["inside"]),
        ([], ["name the table of events with --events"]),
        (["--events", "covers/a.jpg"], ["suffix '.jpg' tells of no table"]),
        (
            ["--events", "events.csv", "--delimiter", ";"],
            ["events.csv, line 1: one field where fields are separated by ';': 'who,sku,at", "--delimiter ,"],
        ),
        (["--events", "events.csv", "--in-order"], ["--in-order takes no time"]),
        (["--events", "events.csv", "--text", "{title}"], ["no field 'title'"]),
        (["--events", "events.csv", "--items", "items.csv", "--item-id", "key"], ["items.csv: no column 'key'"]),
        (["--events", "events.csv", "--items", "items.csv", "--text", "{names}"], ["did you mean 'name'?"]),
        (["--events", "events.csv", "--items", "items.csv", "--image", "{cover}.jpg"], ["no field 'cover'"]),
        (
            ["--events", "events.csv", "--items", "items.csv", "--image", "cover"],
            ["--image cover: no field 'cover', and no folder there or at ", "raw/cover; did you mean 'covers'?"],
        ),
        (
            ["--events", "events.csv", "--items", "items.csv", "--image", "photo", "--video", ".."],
            ["--video .. is outside", "where the paths of --image start"],
        ),
    ],
)  # fmt: skip
def test_says_which_option_is_wrong(
    raw: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: list[str]
) -> None:
    message = refused(raw, capsys, *options)
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/passwd", "covers/../../x.jpg"])
def test_paths_that_lead_out_are_refused(raw: Path, capsys: pytest.CaptureFixture[str], path: str) -> None:
    write(raw / "items.csv", [("8", "x", "y", path, [])], FIELDS)
    message = refused(raw, capsys, "--events", "events.csv", "--items", "items.csv", "--image", "photo")
    assert f"image of item '8' is '{path}'" in message


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("events.csv", "who,sku,at\nu,1,2020-01-01\nu,2\n", ["events.csv, line 3", "2 fields"]),
        ("events.csv", "who,sku,at\nu,1,2020-01-01\nu,2,later\n", ["events.csv, line 3", "'later'"]),
        ("events.csv", "who,sku,at\n,1,2020-01-01\n", ["events.csv, line 2", "user"]),
        ("events.csv", "who,sku,sku\n", ["line 1", "'sku' twice"]),
        ("events.csv", "", ["events.csv: the file is empty"]),
        ("events.csv", "who;sku;at\nu;1;2020-01-01\n", ["events.csv, line 1", "semicolons, say --delimiter ';'"]),
        ("events.csv", "who sku at\nu 1 2020-01-01\n", ["events.csv, line 1", "blanks, say --delimiter ' '"]),
        ("items.csv", "sku\tname\n7\ta\n", ["items.csv, line 1", "tabs, say --delimiter '\\t'"]),
        ("events.csv", "who,sku,at\ru,1,2020-01-01\r", ["events.csv: lines end with CR (0x0D) alone", "tr '\\r'"]),
        ("items.csv", "sku,name\n7,a\rb\n", ["items.csv, line 2: a CR (0x0D) that ends no line, outside quotes"]),
        ("items.csv", 'sku,name\n7,"open\n', ["items.csv, line 2: broken quotes"]),
        ("items.csv", "sku,name\n7,a\n ,b\n", ["items.csv, line 3, field 'sku': empty"]),
    ],
)
def test_says_what_is_wrong(
    raw: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, words: list[str]
) -> None:
    (raw / name).write_text(text)
    message = refused(raw, capsys, "--events", "events.csv", "--items", "items.csv", "--text", "name")
    assert [word for word in words if word not in message] == [], message


def test_damaged_parquet_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "log.parquet").write_bytes(b"PAR1")
    assert "log.parquet: not a readable parquet file" in refused(raw, capsys)
    (raw / "log.parquet").rename(raw / "log.json")
    (raw / "log.json").write_text('[{"who": 1}]')
    assert "log.json, line 1" in refused(raw, capsys)


def test_licence_and_citation_are_those_that_the_options_say(tmp_path: Path) -> None:
    write(tmp_path / "raw/events.csv", EVENTS, NAMES)
    given = ["--licence", "CC BY 4.0", "--citation", "Shop et al. 2024"]
    info = prepared(tmp_path / "raw", *given).info
    assert (info.licence, info.citation) == ("CC BY 4.0", "Shop et al. 2024")
    assert prepared(tmp_path / "raw", *given).info == info  # nothing to do
    info = prepared(tmp_path / "raw", "--overwrite").info
    assert (info.licence, info.citation) == ("", "")

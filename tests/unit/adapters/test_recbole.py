"""RecBole's atomic files: the names of its catalogue, its benchmark layouts, and the real ml-100k."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_adapters.__main__ import main
from data_adapters.recbole import read_items, read_sequences
from data_adapters.text_files import ReleaseError
from odmt.data.format import Dataset, open_dataset

REAL = os.environ.get("ODMT_REAL_DATA")
# u2 before u1, and a tie of u1 at 13 that the file's order decides
INTER = """user_id:token\titem_id:token\trating:float\ttimestamp:float
u2\ti9\t5\t881250001
u1\ti10\t3\t881250013
u1\ti9\t3\t881250013.0
u2\ti10\t2\t881250004
u1\ti2\t1\t881250011
u2\ti2\t4\t881250003
u1\ti10\t4\t881250014
u2\ti9\t4\t881250002
"""
ITEM = '''item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq
i2\tToy "Story" 5" tall\t1995\tAnimation Children's
i9\t"Say ""Hi"""\t1990\tnan
i10\tnan\t1991\tNone
i404\tNever seen\t\t
'''
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n"


def prepared(raw: Path, *options: str) -> Dataset:
    out = raw.parent / "out"
    assert main(["recbole", "--raw", str(raw), "--out", str(out), "--min-events", "4", *options]) == 0
    return open_dataset(out)


def histories(dataset: Dataset) -> dict[str, list[str]]:
    ids = dataset.ids()
    return {user: [ids[item - 1] for item in dataset.history(u)] for u, user in enumerate(dataset.users())}


def refused(raw: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    out = raw.parent / "out"
    assert main(["recbole", "--raw", str(raw), "--out", str(out), "--min-events", "4", *options]) == 1
    assert not out.exists()
    return capsys.readouterr().err


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "ml"
    (folder / "posters").mkdir(parents=True)
    (folder / "ml.inter").write_text(INTER)
    (folder / "ml.item").write_text(ITEM)
    (folder / "ml.user").write_text("user_id:token\tage:token\nu1\t24\n")
    (folder / "posters/i2.jpg").write_bytes(PNG)
    (folder / "posters/i9.JPG").write_bytes(JPEG)
    return folder


@pytest.mark.parametrize("change", ["as released", "crlf", "bom"])
def test_reads_interactions_items_and_posters(raw: Path, change: str) -> None:
    for name, text in (("ml.inter", INTER), ("ml.item", ITEM)):
        text = text.replace("\n", "\r\n") if change == "crlf" else text
        (raw / name).write_bytes((b"\xef\xbb\xbf" if change == "bom" else b"") + text.encode())
    dataset = prepared(raw)
    assert histories(dataset) == {"u1": ["i2", "i10", "i9", "i10"], "u2": ["i9", "i9", "i2", "i10"]}
    assert dataset.ids() == ["i10", "i2", "i9"]
    # quotes are plain characters, except where a whole field is quoted as pandas does; "nan" is nothing
    assert dataset.texts() == [None, 'Toy "Story" 5" tall. Animation Children\'s', 'Say "Hi"']
    assert dataset.column("image") == [None, "posters/i2.jpg", "posters/i9.JPG"]
    assert dataset.times is not None
    assert dataset.times[:2].tolist() == [881250011000, 881250013000]
    assert dataset.info.notes["columns"] == "user user_id, item item_id, time timestamp"
    assert {"ml.inter", "ml.item", "posters/"} == {source.name for source in dataset.info.sources}


def test_fields_are_named_without_their_types(raw: Path) -> None:
    dataset = prepared(raw, "--text", "{movie_title} ({release_year})", "--columns", "release_year")
    assert dataset.texts()[1:] == ['Toy "Story" 5" tall (1995)', 'Say "Hi" (1990)']
    assert dataset.column("release_year") == ["1991", "1995", "1990"]


def test_ratings_are_read_where_they_are_asked_for(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (raw / "ml.inter").write_text(INTER.replace("i9\t5", "i9\t").replace("i2\t1", "i2\tnan"))
    assert prepared(raw).info.num_interactions == 8
    (raw / "ml.inter").write_text(INTER)
    assert prepared(raw, "--min-rating", "2", "--overwrite").info.dropped["events rated below 2"] == 1


@pytest.mark.parametrize(
    ("header", "item_header", "chosen"),
    [
        ("user_id artist_id weight tag_value", "id name url", "user user_id, item artist_id"),  # lastfm
        ("anonymous_user_id artist_id rating", "artist_id name", "user anonymous_user_id, item artist_id"),
    ],
)
def test_catalogue_without_times_needs_to_be_told_its_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], header: str, item_header: str, chosen: str
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    named = "\t".join(f"{name}:token" for name in header.split())
    rows = [f"{u}\t{a}" + "\tx" * (len(header.split()) - 2) for u in "12" for a in ("30", "4", "30", "5")]
    (raw / "music.inter").write_text("\n".join([named, *rows]))
    named = "\t".join(f"{name}:token" for name in item_header.split())
    links = "\tu" if "url" in item_header else ""
    (raw / "music.item").write_text("\n".join([named, *(f"{a}\tBand {a}{links}" for a in "345")]))
    message = refused(raw, capsys)
    assert "no column of times" in message
    assert "--in-order" in message
    dataset = prepared(raw, "--in-order")
    assert dataset.info.notes["columns"] == chosen
    assert histories(dataset) == {"1": ["30", "4", "30", "5"], "2": ["30", "4", "30", "5"]}
    assert dataset.texts() == [None, "Band 4", "Band 5"]
    assert dataset.times is None


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        ("review_id user_id business_id stars useful date", "user user_id, item business_id, time date"),  # yelp
        ("timestamp visitor_id item_id", "user visitor_id, item item_id, time timestamp"),  # retailrocket
        ("transaction_date customer_id product_id amount", "user customer_id, item product_id, time transaction_date"),
        ("session_id item_id timestamp repeat_times", "user session_id, item item_id, time timestamp"),  # diginetica
        ("user_id tracks_id timestamp num_repeat", "user user_id, item tracks_id, time timestamp"),  # lfm1b
        ("user_id venue_id latitude timestamp", "user user_id, item venue_id, time timestamp"),  # foursquare
    ],
)
def test_knows_the_names_of_the_catalogue(tmp_path: Path, header: str, chosen: str) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    values = dict.fromkeys(header.split(), "nan")
    lines = ["\t".join(f"{name}:{'float' if 'time' in name else 'token'}" for name in values)]
    for step, item in enumerate("abca"):
        row = dict(zip(["user", "item", "time"], ["1", item, str(1_500_000_000 - step)], strict=True))
        roles = dict(pair.split()[::-1] for pair in chosen.split(", "))
        lines.append("\t".join(row[roles[name]] if name in roles else "nan" for name in values))
    (raw / "x.inter").write_text("\n".join(lines))
    dataset = prepared(raw)
    assert histories(dataset) == {"1": ["a", "c", "b", "a"]}
    assert dataset.info.notes["columns"] == chosen


def test_any_column_can_be_named(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = INTER.replace("user_id", "who").replace("item_id", "what").replace("timestamp", "when")
    (raw / "ml.inter").write_text(text.replace("rating", "score"))
    message = refused(raw, capsys)
    assert f"{raw / 'ml.inter'}: no column of times" in message
    assert "among who, what, score, when" in message
    assert "did you mean 'when'?" in refused(raw, capsys, "--time", "wen")
    named = ["--user", "who", "--item", "what", "--time", "when", "--rating", "score", "--min-rating", "1"]
    assert histories(prepared(raw, *named))["u1"] == ["i2", "i10", "i9", "i10"]


def test_parts_of_a_benchmark_are_joined(raw: Path) -> None:
    header, *rows = INTER.splitlines()
    (raw / "ml.inter").unlink()
    for part, some in (("train", rows[:5]), ("valid", rows[5:6]), ("test", rows[6:])):
        (raw / f"ml.{part}.inter").write_text("\n".join([header, *some]))
    assert histories(prepared(raw)) == {"u1": ["i2", "i10", "i9", "i10"], "u2": ["i9", "i9", "i2", "i10"]}


def test_sequences_give_each_user_the_longest_history(raw: Path) -> None:
    header = "session_id:token\titem_id_list:token_seq\titem_id:token"
    parts = {
        "train": ["1\ti2\ti9", "1\ti2 i9\ti9", "2\ti9 i2\ti10", "2\ti9\ti2", "3\ti2 i2 i9\ti10"],
        "valid": ["1\ti2 i9 i9\ti10", "2\ti9 i2 i10\ti10"],
        "test": ["1\ti2 i9 i9 i10\ti2", "4\ti9\ti2", "4\ti9 i2 i9\ti2"],
    }
    (raw / "ml.inter").unlink()
    for part, rows in parts.items():
        (raw / f"ml.{part}.inter").write_text("\n".join([header, *rows]))
    dataset = prepared(raw)
    assert histories(dataset) == {
        "1": ["i2", "i9", "i9", "i10", "i2"],
        "2": ["i9", "i2", "i10", "i10"],
        "3": ["i2", "i2", "i9", "i10"],
        "4": ["i9", "i2", "i9", "i2"],
    }
    assert dataset.info.notes["layout"] == "sequences: the longest of each user"
    assert {"ml.train.inter", "ml.valid.inter", "ml.test.inter"} <= {s.name for s in dataset.info.sources}


def test_scattered_sequences_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.inter"
    path.write_text("user_id:token\titem_id_list:token_seq\titem_id:token\n1\t7\t8\n2\t7\t8\n1\t7 8\t9\n")
    with pytest.raises(ReleaseError, match=r"x\.inter, line 4: user '1' again.*sort the file by user_id"):
        list(read_sequences(path, [], {"user": "user_id", "item": "item_id"}))


def test_images_elsewhere(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/i10.webp").write_bytes(b"RIFF")
    dataset = prepared(raw, "--images", str(tmp_path / "elsewhere"))
    assert [path and Path(path).name for path in dataset.column("image")] == ["i10.webp", None, None]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("ml.inter", INTER.replace(":float", ""), ["ml.inter, line 1, field 3", "'rating'", "name:type"]),
        ("ml.inter", INTER.replace("u1\ti2\t1\t881250011", "u1\ti2"), ["ml.inter, line 6", "2 fields"]),
        ("ml.inter", INTER.replace("881250011", "soon"), ["ml.inter, line 6", "time", "'soon'"]),
        ("ml.inter", INTER.replace("u1\ti2\t1", "u1\t\t1"), ["ml.inter, line 6", "item", "must not be empty"]),
        ("ml.item", ITEM.replace("\t1990", ""), ["ml.item, line 3", "3 fields where 4"]),
        ("ml.item", ITEM.replace("item_id", "key"), ["ml.item", "no column 'item_id'", "key, movie_title"]),
        ("other.inter", INTER, ["holds the interactions of ml, other"]),
        ("other.item", ITEM, ["ml.item, other.item"]),
    ],
)
def test_says_what_is_wrong(
    raw: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, words: list[str]
) -> None:
    (raw / name).write_text(content)
    message = refused(raw, capsys)
    assert [word for word in words if word not in message] == [], message


def test_says_what_a_foreign_folder_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "ratings.csv").touch()
    message = refused(raw, capsys)
    assert "no file named *.inter; it holds ratings.csv" in message
    assert "https://recbole.io" in message


def test_items_stream(raw: Path) -> None:
    rows = read_items(raw / "ml.item", "item_id")
    fields = {"movie_title": 'Toy "Story" 5" tall', "release_year": "1995", "class": "Animation Children's"}
    assert next(rows) == ("i2", fields)


@pytest.mark.skipif(REAL is None, reason="ODMT_REAL_DATA is not set: the real ml-100k is not here")
def test_ml_100k(tmp_path: Path) -> None:
    out = tmp_path / "ml-100k"
    assert main(["recbole", "--raw", f"{REAL}/ml-100k", "--out", str(out)]) == 0
    info = open_dataset(out).info
    assert (info.num_users, info.num_items, info.num_interactions) == (943, 1682, 100_000)
    assert info.modalities == {"text": 1682, "image": 1617}
    assert open_dataset(out).texts()[0]

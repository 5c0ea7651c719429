"""Amazon 2014, 2018 and 2023 as released: which column holds items, literals that never run, texts of nested lists."""

from __future__ import annotations

import gzip
import json
import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_adapters.__main__ import main
from data_adapters.amazon import ADAPTER, read
from data_adapters.amazon_events import POSITIONS
from data_adapters.amazon_items import ENCODER, FIELDS, RECORD, read_meta
from data_adapters.release import Delimited, JsonLines, Release
from data_adapters.text_files import ReleaseError
from odmt.data.features import open_features
from odmt.data.format import Dataset, open_dataset

DAY = 86_400
USERS = ["A1YJEY40YUW4SE", "A3Z74TDRGD0HU", "A60XNB876KYML"]
BOOK, ASINS = "0205616461", ["B000052YAN", "B001MA0QY2", "B0000530HU", "B00021DJ32"]
ITEMS = [BOOK, *ASINS]
# (user, item, rating, day): the first user ends in a tie, the second rated an item twice, lines are in no order
EVENTS = [
    (USERS[0], ITEMS[0], 5.0, 16_001),
    (USERS[1], ITEMS[1], 1.0, 16_000),
    (USERS[0], ITEMS[2], 3.0, 16_005),
    (USERS[0], ITEMS[1], 4.0, 16_005),
    (USERS[0], ITEMS[3], 2.0, 16_002),
    (USERS[1], ITEMS[2], 1.0, 16_001),
    (USERS[1], ITEMS[1], 2.0, 16_003),
    (USERS[1], ITEMS[0], 5.0, 16_004),
    (USERS[2], ITEMS[4], 5.0, 16_004),
]
HISTORIES = {
    USERS[0]: [ITEMS[0], ITEMS[3], ITEMS[2], ITEMS[1]],
    USERS[1]: [ITEMS[1], ITEMS[2], ITEMS[1], ITEMS[0]],
}

META_2014 = [
    {
        "asin": BOOK,
        "title": "Bio-Active Anti-Aging Serum &amp; Cream",
        "categories": [["Beauty", "Skin Care", "Face"], ["Beauty", "Gifts"]],
        "description": 'It\'s a <b>serum</b>,\nnot a "book".',
        "price": 12.99,
        "imUrl": "http://ecx.images-amazon.com/images/I/1.jpg",
        "related": {"also_bought": ["B000052YAN"]},
        "salesRank": {"Beauty": 461765},
    },
    {"asin": ASINS[0], "brand": "Bosch", "title": "Sonne \ud83d\ude00", "categories": [["Beauty"]]},
    {"asin": ASINS[0], "brand": "Second", "title": "Second", "price": 3},
    {"asin": ASINS[1], "brand": "", "categories": [[]], "title": None},
]


def write(path: Path, lines: list[str], *, end: str = "\n") -> Path:
    data = "".join(line + end for line in lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def parsed(*words: str) -> Namespace:
    parser = ArgumentParser()
    ADAPTER.add_arguments(parser)
    return parser.parse_args(words)


def described(raw: Path, *words: str) -> Release:
    return read(raw, parsed(*words))


def prepared(raw: Path, *words: str) -> Dataset:
    out = raw.parent / "out"
    assert main(["amazon", "--raw", str(raw), "--out", str(out), "--min-events", "4", *words]) == 0
    return open_dataset(out)


def histories(dataset: Dataset) -> dict[str, list[str]]:
    ids = dataset.ids()
    return {user: [ids[i - 1] for i in dataset.history(n)] for n, user in enumerate(dataset.users())}


def failed(raw: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["amazon", "--raw", str(raw), "--out", str(raw.parent / "out"), "--min-events", "4"]) == 1
    assert not (raw.parent / "out").exists()
    return capsys.readouterr().err


def ratings(order: str, events: list[tuple[str, str, float, int]] = EVENTS) -> list[str]:
    factor = DAY * 1000 if order == "2023" else DAY
    place = sorted(range(4), key=lambda i: POSITIONS[order][i])
    rows = [(user, item, str(rating), str(day * factor)) for user, item, rating, day in events]
    return [",".join(row[i] for i in place) for row in rows]


def reviews(year: str) -> list[str]:
    extra: dict[str, Any] = {"verified": True, "vote": "2"} if year == "2018" else {"helpful": [0, 1]}
    return [
        json.dumps(
            {
                "user_id": user,
                "parent_asin": item,
                "asin": "B0VARIANT0",
                "rating": rating,
                "timestamp": day * DAY * 1000,
                "text": 'A "quote",\nand more',
            }
            if year == "2023"
            else {
                "reviewerID": user,
                "asin": item,
                "overall": rating,
                "unixReviewTime": day * DAY,
                "reviewText": "It's fine",
                **extra,
            }
        )
        for user, item, rating, day in EVENTS
    ]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("year", "name"), [("2014", "ratings_Beauty.csv"), ("2018", "Luxury_Beauty.csv"), ("2023", "Baby_Products.csv")]
)
def test_columns_of_csv_without_header_are_told_by_their_content(
    tmp_path: Path, year: str, name: str, end: str, suffix: str
) -> None:
    write(tmp_path / (name + suffix), ratings(year), end=end)
    release = described(tmp_path)
    (file,) = release.events
    assert isinstance(file, Delimited)
    assert file.columns == {r: (at,) for r, at in zip(("user", "item", "rating", "time"), POSITIONS[year], strict=True)}
    assert release.notes["release"] == year
    assert "look of its ids" in release.notes["columns"]
    assert release.fields == ()


@pytest.mark.parametrize(
    ("year", "header"),
    [("2023", "\ufeffuser_id,parent_asin,rating,timestamp"), ("2014", "UserId,ProductId,Rating,Timestamp")],
)
def test_a_header_tells_the_columns(tmp_path: Path, year: str, header: str) -> None:
    write(tmp_path / "ratings.csv", [header, *ratings(year)])
    release = described(tmp_path)
    (file,) = release.events
    assert isinstance(file, Delimited)
    assert file.columns["item"] == (header.split(",")[1],)
    assert release.notes["release"] == year


@pytest.mark.parametrize("year", ["2014", "2018", "2023"])
def test_reviews_are_told_by_their_fields(tmp_path: Path, year: str) -> None:
    write(tmp_path / "anything.json.gz", reviews(year))
    release = described(tmp_path, "--year", year)
    (file,) = release.events
    assert isinstance(file, JsonLines)
    assert file.columns["user"] == ("user_id" if year == "2023" else "reviewerID",)
    assert release.notes["release"] == year
    with pytest.raises(ReleaseError, match=rf"line 1: its fields are those of {year}, --year is 20"):
        described(tmp_path, "--year", "2018" if year != "2018" else "2014")


def test_ids_that_do_not_tell_are_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "ratings.csv", [f"{i},{i + 7},5.0,{16_000 * DAY}" for i in range(20)])
    with pytest.raises(ReleaseError, match=r"ratings\.csv: cannot tell .* 0% look like user,item .*say --year 2014"):
        described(tmp_path)
    (file,) = described(tmp_path, "--year", "2018").events
    assert file.columns["item"] == (0,)  # type: ignore[union-attr]
    assert described(tmp_path, "--year", "2018").notes["columns"] == "ratings.csv: as --year says"


def test_one_odd_id_among_many_does_not_change_the_answer(tmp_path: Path) -> None:
    odd = [(USERS[0], "A000ODDONE", 5.0, 16_000), ("#oc-R11D9D7SHXIJB9", BOOK, 5.0, 16_000)]
    write(tmp_path / "ratings.csv", ratings("2014", odd[:1] + EVENTS * 3 + odd))
    assert described(tmp_path).notes["release"] == "2014"


def test_the_parts_of_a_split_are_put_together_in_their_order(tmp_path: Path) -> None:
    header = "user_id,parent_asin,rating,timestamp,history"
    for part in ("valid", "test", "train"):
        write(tmp_path / "last_out_w_his" / f"Baby.{part}.csv.gz", [header, *(f"{row}," for row in ratings("2023"))])
    paths = [file.path.name for file in described(tmp_path).events]
    assert paths == ["Baby.train.csv.gz", "Baby.valid.csv.gz", "Baby.test.csv.gz"]
    (tmp_path / "last_out_w_his" / "Baby.test.csv.gz").unlink()
    with pytest.raises(ReleaseError, match=r"whose test part is missing"):
        described(tmp_path)


def test_several_files_of_events_are_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "ratings_Beauty.csv", ratings("2014"))
    write(tmp_path / "reviews_Beauty_5.json", reviews("2014"))
    with pytest.raises(ReleaseError, match=r"ratings_Beauty\.csv, reviews_Beauty_5\.json\); name those to read: --ev"):
        described(tmp_path)
    (file,) = described(tmp_path, "--events", "reviews_Beauty_5.json").events
    assert file.path == tmp_path / "reviews_Beauty_5.json"
    with pytest.raises(ReleaseError, match=r"--events other\.csv: no file at"):
        described(tmp_path, "--events", "other.csv")
    write(tmp_path / "Baby.csv", ratings("2023"))
    with pytest.raises(ReleaseError, match=r"Baby\.csv is of 2023; .* files of one release"):
        described(tmp_path, "--events", "ratings_Beauty.csv", "Baby.csv")


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("ratings.csv", ["A1,B000000000,5.0"], r"ratings\.csv, line 1: 3 fields where user, item, rating and time"),
        ("ratings.csv", ["a,b,c,d"], r"line 1: field 4 is 'd', neither a time nor .* adapter `table`"),
        ("ratings.csv", [f"{USERS[0]},{BOOK},5,1400000000", "A1"], r"ratings\.csv, line 2: 1 fields"),
        ("reviews.json", ['{"user": 1}'], r"reviews\.json, line 1: the fields user are of no release"),
        ("reviews.json", ["{'reviewerID': 'A1'}"], r"reviews\.json, line 1, column 2: no JSON"),
        ("readme.txt", ["hello"], r"no file of reviews or ratings; it holds readme\.txt\nDIR holds one category"),
    ],
)
def test_what_is_no_release_is_refused(tmp_path: Path, name: str, lines: list[str], message: str) -> None:
    write(tmp_path / name, lines)
    with pytest.raises(ReleaseError, match=message):
        described(tmp_path)
    with pytest.raises(ReleaseError, match="no folder at"):
        described(tmp_path / "absent")


def test_metadata_of_2014_are_read_as_literals_or_json(tmp_path: Path) -> None:
    literals = write(tmp_path / "meta_Beauty.json.gz", [repr(record) for record in META_2014])
    strict = write(tmp_path / "meta_strict.json", [json.dumps(record) for record in META_2014])
    items = list(read_meta(literals))
    assert items == list(read_meta(strict))
    assert [asin for asin, _ in items] == [BOOK, ASINS[0], ASINS[0], ASINS[1]]
    assert items[0][1] == {
        "title": "Bio-Active Anti-Aging Serum &amp; Cream",
        "brand": None,
        "categories": "Beauty, Skin Care, Face, Gifts",
        "description": 'It\'s a <b>serum</b>,\nnot a "book".',
        "features": None,
        "price": "12.99",
        "image_url": "http://ecx.images-amazon.com/images/I/1.jpg",
    }
    assert items[1][1]["title"] == "Sonne 😀"
    assert set(items[3][1].values()) == {None}
    assert tuple(items[0][1]) == FIELDS


def test_metadata_of_2018_and_2023(tmp_path: Path) -> None:
    of_2018 = {
        "asin": BOOK,
        "title": '<span class="a">Serum</span>',
        "category": ["Luxury Beauty", "Skin Care"],
        "main_cat": "Luxury Beauty",
        "description": ["One.", "", "Two.", "One."],
        "feature": ["Soft", "Light"],
        "brand": "Borghese",
        "price": "$30.00",
        "imageURL": ["https://a/small.jpg"],
        "imageURLHighRes": ["https://a/large.jpg"],
    }
    of_2023 = {
        "parent_asin": ASINS[0],
        "asin": "B0VARIANT0",
        "main_category": "Baby",
        "title": "Bib",
        "store": "Acme",
        "categories": [],
        "description": [],
        "features": ["Soft"],
        "price": None,
        "images": [{"thumb": "https://a/t.jpg", "large": "https://a/l.jpg", "variant": "MAIN", "hi_res": None}],
        "details": {"Brand": "Acme"},
    }
    path = write(tmp_path / "meta.jsonl", [json.dumps(of_2018), json.dumps(of_2023), '{"asin": "B1", "price": NaN}'])
    items = dict(read_meta(path))
    assert items[BOOK]["categories"] == "Luxury Beauty, Skin Care"
    assert items[BOOK]["description"] == "One. Two."
    assert items[BOOK]["features"] == "Soft Light"
    assert items[BOOK]["image_url"] == "https://a/large.jpg"
    assert items[ASINS[0]] == {
        "title": "Bib",
        "brand": "Acme",
        "categories": "Baby",
        "description": None,
        "features": "Soft",
        "price": None,
        "image_url": "https://a/l.jpg",
    }
    assert items["B1"]["price"] is None


@pytest.mark.parametrize(
    "code",
    [
        "__import__('os').system('touch {path}')",
        "{{'asin': __import__('os').system('touch {path}')}}",
        "(lambda: open('{path}', 'w'))()",
        "{{'asin': [open('{path}', 'w') for _ in (1,)]}}",
        "exec(\"open('{path}', 'w')\")",
        "{{'asin': 'B1'.upper()}}",
        "{{'asin': f\"{{open('{path}', 'w')}}\"}}",
        "{{[]: 1}}",
        "(" * 5000,
        "[" * 100_000,
        "not a record",
        "{{'asin': 'B1'",
    ],
)
def test_a_line_that_is_code_is_refused_and_never_run(tmp_path: Path, code: str) -> None:
    ran = tmp_path / "ran"
    path = write(tmp_path / "meta_Beauty.json.gz", ["{'asin': 'B1'}", code.format(path=ran)])
    with pytest.raises(ReleaseError, match=r"meta_Beauty\.json\.gz, line 2: neither JSON nor a Python literal"):
        list(read_meta(path))
    assert not ran.exists()


def test_a_line_without_an_item_is_refused(tmp_path: Path) -> None:
    for line, message in (
        ("{'title': 'x'}", r"line 1: field asin is None, must be an item's id"),
        ('{"parent_asin": ""}', r"line 1: field parent_asin is '', must be"),
        ("['B1']", r"line 1: \"\['B1'\]\" is no record"),
    ):
        with pytest.raises(ReleaseError, match=message):
            list(read_meta(write(tmp_path / "meta.json", [line])))


def test_visual_features_are_mapped_and_their_ids_read_when_asked(tmp_path: Path) -> None:
    write(tmp_path / "ratings.csv", ratings("2014"))
    records = np.zeros(3, RECORD)
    records["asin"] = [b"B000052YAN", b"B001MA0QY2", b"0205616461"]
    records["vector"] = np.arange(3)[:, None]
    path = tmp_path / "image_features_Beauty.b"
    records.tofile(path)
    assert path.stat().st_size == 3 * (10 + 4 * 4096)
    (features,) = described(tmp_path).features
    assert (features.modality, features.encoder) == ("image", ENCODER)
    assert list(features.ids) == ["B000052YAN", "B001MA0QY2", "0205616461"]
    assert (features.ids[-1], len(features.ids)) == ("0205616461", 3)
    assert features.ids[1:] == ["B001MA0QY2", "0205616461"]
    loaded = features.load()
    assert isinstance(loaded, np.memmap)
    assert loaded.shape == (3, 4096)
    assert loaded[2, 4095] == 2.0
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ReleaseError, match=r"image_features_Beauty\.b: 49181 bytes are no whole number of records"):
        described(tmp_path)


def test_pictures_are_found_by_name_beside_the_release_or_elsewhere(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write(raw / "ratings.csv", ratings("2014"))
    assert described(raw).media == {}
    for folder in (raw / "Images", tmp_path / "elsewhere"):
        folder.mkdir()
    assert described(raw).media["image"].folders == [raw / "Images"]
    assert described(raw, "--images", str(tmp_path / "elsewhere")).media["image"].folders == [tmp_path / "elsewhere"]
    with pytest.raises(ReleaseError, match=r"--images .*absent: no folder there"):
        described(raw, "--images", str(raw / "absent"))


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("ratings_Beauty.csv", ratings("2014")),
        ("ratings_Beauty.csv.gz", ratings("2014")),
        ("Luxury_Beauty.csv", ratings("2018")),
        ("Baby.csv.gz", ["user_id,parent_asin,rating,timestamp", *ratings("2023")]),
        ("reviews_Beauty_5.json.gz", reviews("2014")),
        ("Luxury_Beauty_5.json", reviews("2018")),
        ("Baby.jsonl.gz", reviews("2023")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_release_gives_the_same_histories(tmp_path: Path, name: str, lines: list[str]) -> None:
    write(tmp_path / "raw" / name, lines, end="\r\n")
    dataset = prepared(tmp_path / "raw")
    assert histories(dataset) == HISTORIES
    assert dataset.num_items == 4
    assert dataset.times is not None
    assert dataset.times[:4].tolist() == [day * DAY * 1000 for day in (16_001, 16_002, 16_005, 16_005)]
    assert dataset.info.dropped["users with fewer than 4 events"] == 1
    assert "day" in dataset.info.notes["times"]


def test_a_split_with_histories_gives_every_event_once(tmp_path: Path) -> None:
    header = "user_id,parent_asin,rating,timestamp,history"
    rows = [f"{row},{'' if n == 0 else BOOK + ' ' + ASINS[0]}" for n, row in enumerate(ratings("2023"))]
    for part, lines in (("train", rows[:4]), ("valid", rows[4:6]), ("test", rows[6:])):
        write(tmp_path / "raw" / f"Baby.{part}.csv", [header, *lines])
    assert histories(prepared(tmp_path / "raw")) == HISTORIES


def test_texts_pictures_and_columns_of_2014(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write(raw / "reviews_Beauty_5.json.gz", reviews("2014"))
    write(raw / "meta_Beauty.json.gz", [repr(record) for record in META_2014])
    write(raw / "images" / f"{BOOK}.jpg", ["any bytes"])
    write(raw / "images" / "more" / f"{ASINS[0]}.PNG", ["any bytes"])
    records = np.zeros(2, RECORD)
    records["asin"] = [BOOK.encode(), b"B00UNKNOWN"]
    records["vector"] = 0.5
    records.tofile(raw / "image_features_Beauty.b")
    dataset = prepared(raw, "--columns", "image_url", "price")
    texts = dict(zip(dataset.ids(), dataset.texts(), strict=True))
    assert texts == {
        BOOK: 'Bio-Active Anti-Aging Serum & Cream. Beauty, Skin Care, Face, Gifts. It\'s a serum , not a "book".',
        ASINS[0]: "Sonne 😀. Bosch. Beauty",
        ASINS[1]: None,
        ASINS[2]: None,
    }
    assert dict(zip(dataset.ids(), dataset.column("price"), strict=True))[ASINS[0]] == "3"
    assert dataset.column("image_url").count(None) == 3
    pictures = [path and path.relative_to(raw).as_posix() for path in dataset.media("image")]
    assert pictures == [f"images/{BOOK}.jpg", f"images/more/{ASINS[0]}.PNG", None, None]
    tokens = open_features(dataset, ["image"]).gather("image", np.arange(1, 5))
    assert tokens.mask.any(axis=1).tolist() == [True, False, False, False]
    assert dataset.info.notes["release"] == "2014"
    assert {record.name for record in dataset.info.sources} >= {"meta_Beauty.json.gz", "image_features_Beauty.b"}


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_wrong_line_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    path = tmp_path / "raw" / f"ratings.csv{suffix}"
    good = ratings("2014", EVENTS * 100)
    for line, message in (
        (f"{USERS[0]},{BOOK},5.0,yesterday", "ratings.csv{}, line 701: time is 'yesterday', must be a number"),
        (f"{USERS[0]},{BOOK},five,1400000000", "ratings.csv{}, line 701: rating is 'five', must be a number"),
        (f",{BOOK},5.0,1400000000", "ratings.csv{}, line 701: user is '', must not be empty"),
        (f"{USERS[0]},{BOOK},5.0", "ratings.csv{}, line 701: 3 fields"),
        (f"{USERS[0]},{BOOK},5.0,1400000000,x", "ratings.csv{}, line 701: 5 fields"),
        (f"{USERS[0]},{BOOK},5.0,1400000000000", "ratings.csv{}, line 701: time is '1400000000000', no unix time"),
    ):
        write(path, [*good[:700], line, *good[700:]])
        assert message.format(suffix) in failed(path.parent, capsys)


def test_a_wrong_review_and_a_cut_download_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "raw" / "reviews_Beauty_5.json.gz"
    good = reviews("2014") * 50
    write(path, [*good[:300], good[0][:40], *good[300:]])
    assert "reviews_Beauty_5.json.gz, line 301, column" in failed(path.parent, capsys)
    write(path, [*good[:300], '{"reviewerID": "A1", "overall": 5, "unixReviewTime": 1400000000}'])
    assert "reviews_Beauty_5.json.gz, line 301: item is '', must not be empty" in failed(path.parent, capsys)
    write(path, good)
    path.write_bytes(path.read_bytes()[:-100])
    assert "reviews_Beauty_5.json.gz: the gzip file is cut off or damaged" in failed(path.parent, capsys)
    write(path, good)
    meta = write(path.with_name("meta_Beauty.json.gz"), [repr(record) for record in META_2014 * 100])
    meta.write_bytes(meta.read_bytes()[:-60])
    assert "meta_Beauty.json.gz: the gzip file is cut off or damaged" in failed(path.parent, capsys)


def test_interactions_and_items_as_a_pair(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    rows = [f"{user}\t{item}\t{day * DAY}" for user, item, _, day in EVENTS]
    write(raw / "interactions.tsv.gz", ["user_id\titem_id\ttimestamp", *rows])
    write(raw / "items.tsv", ["item_id\ttitle", f'{BOOK}\tL&#39;Or&eacute;al 5" &amp; "more', f"{ASINS[0]}\t"])
    dataset = prepared(raw)
    assert histories(dataset) == HISTORIES
    assert dataset.texts()[:2] == ['L\'Oréal 5" & "more', None]
    with pytest.raises(ReleaseError, match="its columns have names, leave --year out"):
        described(raw, "--year", "2014")
    write(raw / "items.tsv", ["id\ttitle"])
    with pytest.raises(ReleaseError, match=r"items\.tsv, line 1: the header .* does not name item_id"):
        described(raw)
    (raw / "items.tsv").unlink()
    with pytest.raises(ReleaseError, match=r"there is no items\.tsv beside it"):
        described(raw)


@pytest.mark.skipif("ODMT_REAL_DATA" not in os.environ, reason="ODMT_REAL_DATA names no folder of real data")
def test_amazon_beauty_has_its_counts(tmp_path: Path) -> None:
    out = tmp_path / "out"
    raw = Path(os.environ["ODMT_REAL_DATA"]) / "amazon2014-beauty"
    assert main(["amazon", "--raw", str(raw), "--out", str(out)]) == 0
    dataset = open_dataset(out)
    assert (dataset.num_users, dataset.num_items, dataset.num_interactions) == (22_332, 12_086, 198_215)
    assert dataset.info.modalities["text"] == 12_086
    assert not any("&amp;" in text or "&#" in text for text in dataset.texts() if text)
    assert dataset.times is not None
    last = dataset.offsets[1:] - 1
    assert int((dataset.times[last] == dataset.times[last - 1]).sum()) == 9_704
    assert "days" in dataset.info.notes["times"]

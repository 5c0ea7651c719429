"""Amazon 2014, 2018 and 2023 as released, prepared: the same histories of each, texts, and the line at fault."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from data_adapters.__main__ import main
from data_adapters.amazon_items import RECORD
from data_adapters.text_files import ReleaseError
from odmt.data.features import open_features
from odmt.data.format import Dataset, open_dataset
from tests.unit.adapters.amazon_release import (
    ASINS,
    BOOK,
    DAY,
    EVENTS,
    HISTORIES,
    META_2014,
    USERS,
    described,
    ratings,
    reviews,
    write,
)


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

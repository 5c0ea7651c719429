"""Amazon's files: which hold the events, which column holds items, features and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_adapters.amazon_events import POSITIONS
from data_adapters.amazon_items import ENCODER, RECORD
from data_adapters.release import Delimited, JsonLines
from data_adapters.text_files import ReleaseError
from tests.unit.adapters.amazon_release import BOOK, DAY, EVENTS, USERS, described, ratings, reviews, write


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
    assert isinstance(file, Delimited)
    assert file.columns["item"] == (0,)
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

"""ODMT's own release: three layouts, their pictures, and what is wrong with a folder."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_adapters.__main__ import main
from data_adapters.odmt_release import read
from odmt.data.format import Dataset
from tests.unit.adapters.odmt_release import BEHAVIOURS, TITLES, amazon, database, noise, pickled, prepared


def normalised(picture: np.ndarray) -> np.ndarray:
    """Do what ToTensor and Normalize(0.5, 0.5) do."""
    return ((picture.transpose(2, 0, 1).astype(np.float32) / 255) - np.float32(0.5)) / np.float32(0.5)


def histories(dataset: Dataset) -> dict[str, list[str]]:
    ids = dataset.ids()
    return {user: [ids[item - 1] for item in dataset.history(u)] for u, user in enumerate(dataset.users())}


def pixels(dataset: Dataset) -> list[np.ndarray | None]:
    root = Path(dataset.info.media_root)
    return [path and np.asarray(Image.open(root / path)) for path in dataset.column("image")]


def test_amazon_with_pictures_in_an_lmdb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = amazon(tmp_path / "raw")
    first, second = noise(1, 30, 20, 3), noise(2, 7, 9, 3)
    database(raw / "Arts_image.lmdb", {"B001": pickled(first, "B001"), "B003": pickled(second, "B003")})
    dataset = prepared(raw)
    assert histories(dataset) == {"A1": ["B001", "B002", "B001", "B003"], "A2": ["B002", "B003", "B001", "B002"]}
    assert dataset.texts() == ['Soft "5 mm" brush set, red', "Paper", None]
    assert dataset.times is None
    found = pixels(dataset)
    assert np.array_equal(found[0], first)
    assert found[1] is None
    assert np.array_equal(found[2], second)
    assert Path(dataset.info.media_root) == tmp_path / "out-images"
    assert dataset.info.notes["pictures"] == "2 of Arts_image.lmdb, written to out-images as PNG"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out-images", "raw"]
    # again: the pictures are taken as they are, and the folder too
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out-images").iterdir()}
    capsys.readouterr()
    assert prepared(raw).ids() == dataset.ids()
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out-images").iterdir()} == before


def test_amazon_with_pictures_as_files(tmp_path: Path) -> None:
    raw = amazon(tmp_path / "raw")
    (raw / "images").mkdir()
    (raw / "images/B002.jpg").write_bytes(b"\x89PNG")
    (raw / "Arts_image.lmdb").write_bytes(b"not needed")
    assert prepared(raw).column("image") == [None, "images/B002.jpg", None]


def test_hm_keys_are_the_numbers_of_its_ids(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "hm_pick_users_5W.tsv").write_bytes(b"u7\tv12 v007 v12 v12\r\n")
    (raw / "hm_pick_items_5W.tsv").write_bytes(b"v12\tTop, black\r\nv007\tHat\r\n")
    picture = noise(3, 5, 5, 3)
    (raw / "hm_image_20W.lmdb").mkdir()
    database(raw / "hm_image_20W.lmdb", {"7": pickled(picture, "7"), "99": pickled(picture, "99")}, subdir=True)
    dataset = prepared(raw, "--extract", str(tmp_path / "hats"))
    assert histories(dataset) == {"u7": ["v12", "v007", "v12", "v12"]}
    assert dataset.texts() == ["Hat", "Top, black"]
    assert dataset.column("image") == ["7.png", None]
    assert Path(dataset.info.media_root) == tmp_path / "hats"


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_stream_pictures_lose_their_normalisation_and_nothing_else(tmp_path: Path, protocol: int) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "10wu_ks_pairs.tsv").write_text("1\t10 2 10 3\n")
    (raw / "10wu_ks_title.csv").write_text('10,a "dance", at home\n2,\n3,三\n', encoding="utf-8")
    picture = noise(4, 224, 224, 3)
    picture[0, :86] = np.arange(258).reshape(86, 3)  # every level there is
    entry = pickled(normalised(picture), module="lmdb_build", protocol=protocol)
    database(raw / "10wu_ks_cover.lmdb", {"10": entry})
    dataset = prepared(raw)
    assert histories(dataset) == {"1": ["10", "2", "10", "3"]}
    assert dataset.texts() == ['a "dance", at home', None, "三"]
    assert np.array_equal(pixels(dataset)[0], picture)


def test_only_pictures_that_this_run_wrote_are_named_as_such(tmp_path: Path) -> None:
    raw = amazon(tmp_path / "raw")
    arguments = Namespace(out=tmp_path / "out", extract=None)
    assert read(raw, arguments).extracted is None
    database(raw / "Arts_image.lmdb", {"B001": pickled(noise(1, 4, 4, 3), "B001")})
    assert read(raw, arguments).extracted == tmp_path / "out-images"
    assert read(raw, arguments).extracted is None


def test_pictures_of_another_lmdb_are_not_taken_for_these(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = amazon(tmp_path / "raw")
    database(raw / "Arts_image.lmdb", {"B001": pickled(noise(1, 4, 4, 3), "B001")})
    prepared(raw)
    (raw / "Arts_image.lmdb").unlink()
    database(raw / "Arts_image.lmdb", {"B001": pickled(noise(2, 4, 4, 3), "B001")})
    command = ["odmt-release", "--raw", str(raw), "--out", str(tmp_path / "two"), "--min-events", "4"]
    assert main([*command, "--extract", str(tmp_path / "out-images")]) == 1
    message = capsys.readouterr().err
    assert f"{tmp_path / 'out-images'} holds pictures of" in message
    assert "--extract" in message
    assert main([*command, "--extract", str(tmp_path / "raw")]) == 1
    assert "is taken" in capsys.readouterr().err
    assert main(command) == 0


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ["no file of users' behaviours; it holds nothing"]),
        ({"Arts_user_behaviours.tsv": BEHAVIOURS}, ["Arts_user_behaviours.tsv but no Arts_text.tsv"]),
        (
            {"Arts_user_behaviours.tsv": BEHAVIOURS, "Arts_text.tsv": "B001 no tab\n"},
            ["Arts_text.tsv, line 1: no tab between item and title: 'B001 no tab'"],
        ),
        (
            {"Arts_user_behaviours.tsv": BEHAVIOURS, "hm_pick_users_5W.tsv": "u\tv1\n"},
            ["Arts_user_behaviours.tsv, hm_pick_users_5W.tsv", "one per folder"],
        ),
        (
            {"Arts_user_behaviours.tsv": BEHAVIOURS, "Arts_text.tsv": TITLES, "a.lmdb": "", "b.lmdb": ""},
            ["a.lmdb, b.lmdb"],
        ),
        (
            {"Arts_user_behaviours.tsv": BEHAVIOURS, "Arts_text.tsv": TITLES, "a.lmdb": "no database" * 999},
            ["a.lmdb: no LMDB that can be read"],
        ),
        (
            {"Arts_user_behaviours.tsv": "A1\tB001\nA2 B001\n", "Arts_text.tsv": TITLES},
            ["Arts_user_behaviours.tsv, line 2"],
        ),
    ],
)
def test_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, str], words: list[str]
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, content in files.items():
        (raw / name).write_text(content)
    assert main(["odmt-release", "--raw", str(raw), "--out", str(tmp_path / "out"), "--min-events", "4"]) == 1
    message = capsys.readouterr().err
    assert [word for word in words if word not in message] == [], message
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]

"""PixelRec as released: two csv of one name, item before user, counters that leak, covers by item."""

from __future__ import annotations

import gzip
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import pytest

from data_adapters.__main__ import main
from data_adapters.pixelrec import read
from odmt.data.format import Dataset, open_dataset

EVENTS = (
    "item_id,user_id,timestamp\r\n"
    "i10,u2,1600000030\r\n"
    "i9,u2,1600000010\r\n"
    "i408373,u2,1600000030\r\n"
    "i9,u2,1600000040\r\n"
    "i10,u10,1600000001\r\n"
    "i10,u10,1600000001\r\n"  # released twice
    "i9,u10,1600000003\r\n"
    "i77,u10,1600000002\r\n"
    "i77,u1,1600000000\r\n"
)
ITEMS = (
    "\ufeffitem_id,view_number,comment_number,thumbup_number,share_number,coin_number,favorite_number,barrage_number,"
    "title,tag,description\n"
    'i9,100,1,2,3,4,5,6,"Duck, ""spicy""",food,"line one\nline two"\n'
    "i10,7,1,2,3,4,5,6,Tom &amp; Jerry,,\n"
    "i408373,7,1,2,3,4,5,6,,,\n"
    "i5,7,1,2,3,4,5,6,never seen,tag,text\n"
)
RELEASE: Mapping[str, str | bytes] = {
    "pixelrec_interaction/Pixel200K.csv": EVENTS,
    "pixelrec_iteminfo/Pixel200K.csv": ITEMS,
    "cover/i9.jpg": b"\x89PNG named jpg",
    "cover/i10.jpg": b"\xff\xd8",
    "cover/i5.jpg": b"of no event",
}


def write(raw: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return raw


def prepare(raw: Path, *words: str) -> Dataset:
    out = raw.with_name("out")
    assert main(["pixelrec", "--raw", str(raw), "--out", str(out), "--min-events", "4", *words]) == 0
    return open_dataset(out)


def histories(dataset: Dataset) -> dict[str, list[str]]:
    ids = dataset.ids()
    return {user: [ids[i - 1] for i in dataset.history(row).tolist()] for row, user in enumerate(dataset.users())}


def texts(dataset: Dataset) -> dict[str, str | None]:
    """Return texts with blanks and line ends as one blank."""
    return {i: text and " ".join(text.split()) for i, text in zip(dataset.ids(), dataset.texts(), strict=True)}


def test_tells_the_two_files_of_one_name_apart(tmp_path: Path) -> None:
    dataset = prepare(write(tmp_path / "raw", RELEASE))
    assert histories(dataset) == {"u10": ["i10", "i10", "i77", "i9"], "u2": ["i9", "i10", "i408373", "i9"]}
    assert texts(dataset) == {
        "i9": 'Duck, "spicy". food. line one line two',
        "i10": "Tom & Jerry",
        "i408373": None,
        "i77": None,
    }
    assert dict(zip(dataset.ids(), dataset.column("image"), strict=True)) == {
        "i9": "cover/i9.jpg",
        "i10": "cover/i10.jpg",
        "i408373": None,
        "i77": None,
    }
    assert dataset.info.modalities == {"text": 2, "image": 2}
    assert dataset.info.notes["subset"] == "Pixel200K"
    assert dataset.times is not None
    assert dataset.times[0] == 1600000001000


def test_without_covers_there_is_no_column_of_pictures(tmp_path: Path) -> None:
    files = {name: content for name, content in RELEASE.items() if not name.startswith("cover/")}
    assert prepare(write(tmp_path / "raw", files)).info.modalities == {"text": 2}


def test_leaves_out_what_was_released_twice_on_request(tmp_path: Path) -> None:
    dataset = prepare(write(tmp_path / "raw", RELEASE), "--repeats", "exact")
    assert histories(dataset) == {"u2": ["i9", "i10", "i408373", "i9"]}


def test_plain_and_gzipped_and_one_folder_are_the_same(tmp_path: Path) -> None:
    plain = prepare(write(tmp_path / "a" / "raw", RELEASE))
    flat = {"Pixel200K.csv.gz": gzip.compress(EVENTS.encode()), "Pixel200K_info.csv": ITEMS.replace("\n", "\r\n")}
    packed = prepare(write(tmp_path / "b" / "raw", flat))
    assert histories(packed) == histories(plain)
    assert texts(packed) == texts(plain)


def test_counters_are_kept_on_request_and_known_to_leak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write(tmp_path / "raw", RELEASE)
    dataset = prepare(raw, "--columns", "view_number", "tag")
    assert dataset.column("view_number")[dataset.ids().index("i9")] == "100"
    assert dataset.column("tag")[dataset.ids().index("i9")] == "food"
    assert "warning: column 'view_number' counted when the items were crawled" in capsys.readouterr().err
    release = read(raw, Namespace(subset=""))
    assert len(release.leaks) == 7
    assert {*release.leaks} < {*release.fields}
    assert not any(name in release.text for name in release.leaks)


def test_several_sets_are_refused_unless_one_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = {"pixelrec_interaction/Pixel1M.csv": EVENTS.replace("u2", "u3"), "pixelrec_iteminfo/Pixel1M.csv": ITEMS}
    raw = write(tmp_path / "raw", {**RELEASE, **other})
    assert main(["pixelrec", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 1
    assert "Pixel1M, Pixel200K: choose one with --subset" in capsys.readouterr().err
    assert main(["pixelrec", "--raw", str(raw), "--out", str(tmp_path / "out"), "--subset", "Pixel8M"]) == 1
    assert "--subset Pixel8M" in capsys.readouterr().err
    dataset = prepare(raw, "--subset", "Pixel1M")
    assert dataset.users() == ["u10", "u3"]
    assert [record.name for record in dataset.info.sources if record.name.endswith(".csv")] == [
        "pixelrec_interaction/Pixel1M.csv",
        "pixelrec_iteminfo/Pixel1M.csv",
    ]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a/Pixel200K.csv": EVENTS}, ["no csv of titles", "Pixel200K.csv (item_id, user_id, timestamp)"]),
        ({"a/Pixel200K.csv": ITEMS}, ["no csv of interactions"]),
        ({"cover/i9.jpg": b""}, ["no csv of interactions", "it holds no csv"]),
        ({"a/P.csv": EVENTS, "b/Q.csv": ITEMS, "b/R.csv": ITEMS}, ["none of", "named like P.csv"]),
        (
            {**RELEASE, "pixelrec_interaction/Pixel200K.csv": EVENTS.replace("1600000040", "")},
            ["Pixel200K.csv, line 5", "time"],
        ),
        (
            {**RELEASE, "pixelrec_interaction/Pixel200K.csv": EVENTS.replace("i77,u1,", ",u1,")},
            ["Pixel200K.csv, line 10", "item"],
        ),
        (
            {**RELEASE, "pixelrec_iteminfo/Pixel200K.csv": ITEMS.replace("never seen,", "never, seen,")},
            ["Pixel200K.csv, line 6", "12 fields"],
        ),
    ],
)
def test_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: Mapping[str, str | bytes], words: list[str]
) -> None:
    raw = write(tmp_path / "raw", files)
    assert main(["pixelrec", "--raw", str(raw), "--out", str(tmp_path / "out"), "--min-events", "4"]) == 1
    printed = capsys.readouterr().err
    assert all(word in printed for word in words), printed
    assert not (tmp_path / "out").exists()

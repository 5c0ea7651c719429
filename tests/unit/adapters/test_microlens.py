"""MicroLens' releases in each form they come in, down to the exact counts of the real one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from data_adapters.__main__ import main
from data_adapters.microlens import convert
from data_adapters.microlens_files import read_titles
from data_adapters.text_files import ReleaseError
from odmt.data.format import open_dataset

CSV = """user,item,timestamp
20,300,1583378629004
3,7,1583378629001
3,100,1583378629002
3,7,1583378629003
20,100,1583378629001
20,7,1583378629001
20,7,1583378629005
3,300,1583378629000
"""
TSV = "20\t100 7 300 7\n3\t300 7 100 7"
TITLES = 'item,title\n100,"Duck, spicy, with ""five"" pounds 😂"\n7,plain\n300,"two\nlines"\n999,never watched\n'


def release(raw: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write a release of small files under `raw`."""
    for name, content in files.items():
        path = raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return raw


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return release(tmp_path / "raw", {"MicroLens-50k_pairs.csv": CSV, "MicroLens-50k_titles.csv": TITLES})


def test_sorts_by_time_then_by_line_and_numbers_anew(raw: Path, tmp_path: Path) -> None:
    dataset = convert(raw, tmp_path / "lens", min_events=4)
    assert (dataset.name, dataset.users(), dataset.ids()) == ("lens", ["3", "20"], ["7", "100", "300"])
    assert dataset.history(0).tolist() == [3, 1, 2, 1]
    assert dataset.history(1).tolist() == [2, 1, 3, 1]  # 100 and 7 at the same time: the line that comes first
    assert dataset.times is not None
    assert dataset.times[:2].tolist() == [1583378629000, 1583378629001]
    assert "then the order of lines" in dataset.info.tie_rule
    assert dataset.texts() == ["plain", 'Duck, spicy, with "five" pounds 😂', "two\nlines"]
    assert dataset.info.dropped["titles of items that no kept user watched"] == 1


def test_tsv_gives_the_same_histories_without_times(raw: Path, tmp_path: Path) -> None:
    ours = convert(raw, tmp_path / "csv", min_events=4)
    (raw / "MicroLens-50k_pairs.csv").unlink()
    theirs = convert(release(raw, {"MicroLens-50k_pairs.tsv": TSV}), tmp_path / "tsv", min_events=4)
    assert theirs.times is None
    assert theirs.info.time_unit == ""
    assert theirs.items.tolist() == ours.items.tolist()
    assert theirs.offsets.tolist() == ours.offsets.tolist()
    assert theirs.content_fingerprint("text") == ours.content_fingerprint("text")


def test_prefers_the_pairs_that_have_times(raw: Path, tmp_path: Path) -> None:
    dataset = convert(release(raw, {"MicroLens-50k_pairs.tsv": TSV}), tmp_path / "lens", min_events=4)
    assert dataset.times is not None
    assert [source.name for source in dataset.info.sources] == ["MicroLens-50k_pairs.csv", "MicroLens-50k_titles.csv"]


@pytest.mark.parametrize("change", ["crlf", "bom", "no header", "other header", "blank lines", "spaces"])
def test_line_ends_marks_and_headers_make_no_difference(raw: Path, tmp_path: Path, change: str) -> None:
    expected = convert(raw, tmp_path / "expected", min_events=4)
    pairs = {
        "crlf": CSV.replace("\n", "\r\n"),
        "bom": "\ufeff" + CSV,
        "no header": CSV.split("\n", 1)[1],
        "other header": CSV.replace("user,item,timestamp", "userID,videoID,time"),
        "blank lines": CSV.replace("\n", "\n\n"),
        "spaces": CSV.replace(",", ", "),
    }[change]
    titles = "\ufeff" + TITLES if change == "bom" else TITLES
    titles = titles.replace("two\nlines", "two\\n").replace("\n", "\r\n") if change == "crlf" else titles
    dataset = convert(
        release(raw, {"MicroLens-50k_pairs.csv": pairs, "MicroLens-50k_titles.csv": titles}),
        tmp_path / "got",
        min_events=4,
    )
    assert dataset.items.tolist() == expected.items.tolist()
    assert dataset.texts()[:2] == expected.texts()[:2]


def test_leaves_short_users_and_their_items_out_and_counts_them(raw: Path, tmp_path: Path) -> None:
    shorter = CSV.replace("20,7,1583378629005\n", "")
    dataset = convert(release(raw, {"MicroLens-50k_pairs.csv": shorter}), tmp_path / "lens", min_events=4)
    assert dataset.users() == ["3"]
    assert dataset.info.dropped["users with fewer than 4 events"] == 1
    assert dataset.info.dropped["events of those users"] == 3


def test_refuses_histories_that_leave_two_out_cannot_split(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="--min-events 3: must be at least 4"):
        convert(raw, tmp_path / "lens", min_events=3)
    with pytest.raises(ReleaseError, match=r"none of its 2 users has 5 .* lower --min-events \(to 4 at least\)"):
        convert(raw, tmp_path / "lens")
    short = release(raw, {"MicroLens-50k_pairs.csv": "3,7,1583378629001\n3,100,1583378629002\n"})
    with pytest.raises(ReleaseError, match="the longest history has 2; leave-two-out needs 4"):
        convert(short, tmp_path / "lens")


def test_titles_without_header_are_what_follows_the_first_comma(tmp_path: Path) -> None:
    path = tmp_path / "MicroLens-100k_title_en.csv"
    path.write_text('1, Gu long song, gaga "bad\n2,\n3,it\'s "fine", really\u2028yes\n', encoding="utf-8")
    assert read_titles([path]) == {"1": 'Gu long song, gaga "bad', "3": 'it\'s "fine", really\u2028yes'}


def test_quoted_titles_win_and_the_others_fill(tmp_path: Path) -> None:
    plain, quoted = tmp_path / "MicroLens-100k_title_en.csv", tmp_path / "MicroLens-50k_titles.csv"
    plain.write_text("1, cut\n2, filled\n3, also\n", encoding="utf-8")
    quoted.write_text('item,title\n1,"cut, but not here"\n3,\n', encoding="utf-8")
    expected = {"1": "cut, but not here", "2": "filled", "3": "also"}
    assert read_titles([plain, quoted]) == read_titles([quoted, plain]) == expected


def test_joins_covers_and_clips_by_id(raw: Path, tmp_path: Path) -> None:
    media = {
        "MicroLens-50k_covers/100.jpg": b"\xff\xd8 cut short",  # a broken picture is for the encoder to report
        "MicroLens-50k_covers/999.jpg": b"of nobody",
        "MicroLens-50k_videos/MicroLens-50k_videos/7.mp4": b"unpacked one folder deeper",
        "MicroLens-50k_videos/7.1.mp4": b"a duplicate under another name",
    }
    dataset = convert(release(raw, media), tmp_path / "lens", min_events=4)
    assert dataset.media("image") == [None, (raw / "MicroLens-50k_covers/100.jpg").resolve(), None]
    assert dataset.column("video") == ["MicroLens-50k_videos/MicroLens-50k_videos/7.mp4", None, None]
    assert dataset.info.modalities == {"text": 3, "image": 1, "video": 1}


def test_an_item_without_title_is_kept_and_counted(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release(raw, {"MicroLens-50k_titles.csv": "item,title\n7,plain\n300,\n"})
    assert main(["microlens", "--raw", str(raw), "--out", str(tmp_path / "lens"), "--min-events", "4"]) == 0
    dataset = open_dataset(tmp_path / "lens")
    assert (dataset.num_items, dataset.texts(), dataset.info.modalities["text"]) == (3, ["plain", None, None], 1)
    assert "titles: 1 (2 items have none)" in capsys.readouterr().out


def test_the_real_release_has_the_published_counts(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["microlens", "--raw", str(real_data / "microlens-50k"), "--out", str(tmp_path / "microlens")]) == 0
    printed = capsys.readouterr().out
    assert "50,000 users, 19,220 items, 359,708 interactions" in printed
    assert "titles: 19,220\n" in printed
    assert "covers: 10 " in printed
    assert "videos: 3 " in printed
    dataset = open_dataset(tmp_path / "microlens")
    dataset.verify()
    assert (dataset.num_users, dataset.num_items, dataset.num_interactions) == (50_000, 19_220, 359_708)
    assert dataset.info.modalities == {"text": 19_220, "image": 10, "video": 3}
    ids = dataset.ids()
    assert [ids[item - 1] for item in dataset.history(0)] == ["1958", "6346", "15223", "17700", "1707"]
    assert "".join(text or "" for text in dataset.texts()).count(",") > 10_000  # nothing was cut at its first comma
    paths = [path for modality in ("image", "video") for path in dataset.media(modality) if path is not None]
    assert len(paths) == 13
    assert all(path.is_file() for path in paths)

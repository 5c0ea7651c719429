"""MicroLens' releases in each form they come in, down to the exact counts of the real one."""

from __future__ import annotations

import gzip
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import pytest

from data_adapters.__main__ import main
from data_adapters.microlens import read
from odmt.data.format import Dataset, open_dataset

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


def convert(raw: Path, out: Path, *options: str) -> Dataset:
    """Prepare the release in `raw` as the command line does, for users with four events or more."""
    assert main(["microlens", "--raw", str(raw), "--out", str(out), "--min-events", "4", *options]) == 0
    return open_dataset(out)


def refused(capsys: pytest.CaptureFixture[str], raw: Path, out: Path, *options: str) -> str:
    """Return the error of a preparation that must fail, and leave nothing."""
    assert main(["microlens", "--raw", str(raw), "--out", str(out), *options]) == 1
    assert not out.exists()
    return capsys.readouterr().err


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return release(tmp_path / "raw", {"MicroLens-50k_pairs.csv": CSV, "MicroLens-50k_titles.csv": TITLES})


def test_sorts_by_time_then_by_line_and_numbers_anew(raw: Path, tmp_path: Path) -> None:
    dataset = convert(raw, tmp_path / "lens")
    assert (dataset.name, dataset.users(), dataset.ids()) == ("lens", ["3", "20"], ["7", "100", "300"])
    assert dataset.history(0).tolist() == [3, 1, 2, 1]
    assert dataset.history(1).tolist() == [2, 1, 3, 1]  # 100 and 7 at the same time: the line that comes first
    assert dataset.times is not None
    assert dataset.times[:2].tolist() == [1583378629000, 1583378629001]
    assert "then the order of lines" in dataset.info.tie_rule
    assert dataset.texts() == ["plain", 'Duck, spicy, with "five" pounds 😂', "two\nlines"]


def test_tsv_gives_the_same_histories_without_times(raw: Path, tmp_path: Path) -> None:
    ours = convert(raw, tmp_path / "csv")
    (raw / "MicroLens-50k_pairs.csv").unlink()
    theirs = convert(release(raw, {"MicroLens-50k_pairs.tsv": TSV}), tmp_path / "tsv")
    assert theirs.times is None
    assert theirs.info.time_unit == ""
    assert theirs.items.tolist() == ours.items.tolist()
    assert theirs.offsets.tolist() == ours.offsets.tolist()
    assert theirs.content_fingerprint("text") == ours.content_fingerprint("text")


def test_prefers_the_pairs_that_have_times(raw: Path, tmp_path: Path) -> None:
    dataset = convert(release(raw, {"MicroLens-50k_pairs.tsv": TSV}), tmp_path / "lens")
    assert dataset.times is not None
    assert [source.name for source in dataset.info.sources] == ["MicroLens-50k_pairs.csv", "MicroLens-50k_titles.csv"]


@pytest.mark.parametrize("change", ["crlf", "bom", "no header", "other header", "blank lines", "spaces"])
def test_line_ends_marks_and_headers_make_no_difference(raw: Path, tmp_path: Path, change: str) -> None:
    expected = convert(raw, tmp_path / "expected")
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
    )
    assert dataset.items.tolist() == expected.items.tolist()
    assert dataset.texts()[:2] == expected.texts()[:2]


def test_leaves_short_users_and_their_items_out_and_counts_them(raw: Path, tmp_path: Path) -> None:
    shorter = CSV.replace("20,7,1583378629005\n", "")
    dataset = convert(release(raw, {"MicroLens-50k_pairs.csv": shorter}), tmp_path / "lens")
    assert dataset.users() == ["3"]
    assert dataset.info.dropped["users with fewer than 4 events"] == 1
    assert dataset.info.dropped["events of those users"] == 3


def test_refuses_histories_that_leave_two_out_cannot_split(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--min-events" in refused(capsys, raw, tmp_path / "lens")
    short = release(raw, {"MicroLens-50k_pairs.csv": "3,7,1583378629001\n3,100,1583378629002\n"})
    assert "the longest" in refused(capsys, short, tmp_path / "lens")


def test_reads_gzipped_files(raw: Path, tmp_path: Path) -> None:
    expected = convert(raw, tmp_path / "expected")
    for path in list(raw.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    dataset = convert(raw, tmp_path / "got")
    assert dataset.items.tolist() == expected.items.tolist()
    assert dataset.content_fingerprint("text") == expected.content_fingerprint("text")


def titled(tmp_path: Path, files: Mapping[str, str | bytes]) -> dict[str, str | None]:
    """Return the texts of items 1 to 4 that a release with these title files gives."""
    events = "".join(f"5,{item},158337862900{item}\n" for item in range(1, 5))
    dataset = convert(release(tmp_path / "raw", {"MicroLens-1M_pairs.csv": events, **files}), tmp_path / "out")
    return dict(zip(dataset.ids(), dataset.texts(), strict=True))


def test_titles_without_header_are_what_follows_the_first_comma(tmp_path: Path) -> None:
    plain = '\ufeff1, Gu long song, gaga "bad\r\n2,\r\n3,it\'s "fine", really\u2028yes\r\n'
    expected = {"1": 'Gu long song, gaga "bad', "2": None, "3": 'it\'s "fine", really\u2028yes', "4": None}
    assert titled(tmp_path, {"MicroLens-1M_title.csv": plain}) == expected


def test_titles_with_tabs_are_split_at_the_first(tmp_path: Path) -> None:
    found = titled(tmp_path, {"MicroLens-100k_title_en.tsv": 'item\ttitle\n1\tone, "two\n3\tthree\tfour\n'})
    assert found == {"1": 'one, "two', "2": None, "3": "three\tfour", "4": None}


@pytest.mark.parametrize("prefix", ["MicroLens-100k", "A"])
def test_quoted_titles_win_and_the_others_fill(tmp_path: Path, prefix: str) -> None:
    files = {
        "MicroLens-50k_titles.csv": 'item,title\n1,"cut, but not here"\n3,\n',
        f"{prefix}_title_en.csv": "1, cut\n2, filled\n3, also\n",
    }
    assert titled(tmp_path, files) == {"1": "cut, but not here", "2": "filled", "3": "also", "4": None}


OTHERS = {
    "tags_to_summary.csv": "7,Anime\r\n100,Film, and Television\r\n300,\r\n",
    "MicroLens-50k_duration.txt": "7,31\n100,7\n",
    "MicroLens-50k_likes_and_views.txt": "7\t12000\t414000\n300\t1\t2\n",
}


def test_other_fields_are_kept_on_request_alone(raw: Path, tmp_path: Path) -> None:
    release(raw, OTHERS)
    plain = convert(raw, tmp_path / "plain")
    assert "tags" not in plain.info.modalities
    dataset = convert(
        raw, tmp_path / "lens", "--columns", "tags", "duration", "likes", "views", "--text", "{title} #{tags}"
    )
    assert dataset.column("tags") == ["Anime", "Film, and Television", None]
    assert dataset.column("duration") == ["31", "7", None]
    assert dataset.column("likes") == ["12000", None, "1"]
    assert dataset.column("views") == ["414000", None, "2"]
    assert dataset.texts()[0] == "plain #Anime"
    assert set(read(raw, Namespace()).leaks) == {"likes", "views"}


def test_a_field_that_the_release_lacks_cannot_be_asked_for(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--columns tags: no such field; there are title" in refused(
        capsys, raw, tmp_path / "lens", "--min-events", "4", "--columns", "tags"
    )


def test_a_wrong_line_of_tags_is_named(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release(raw, {"tags_to_summary.csv": "7,Anime\n100;Film\n"})
    printed = refused(capsys, raw, tmp_path / "lens", "--min-events", "4")
    assert all(part in printed for part in ("tags_to_summary.csv, line 2", "100;Film", "check the delimiter"))


def test_joins_covers_and_clips_by_id(raw: Path, tmp_path: Path) -> None:
    media = {
        "MicroLens-50k_covers/100.jpg": b"\xff\xd8 cut short",  # a broken picture is for the encoder to report
        "MicroLens-50k_covers/999.jpg": b"of nobody",
        "MicroLens-50k_videos/MicroLens-50k_videos/7.mp4": b"unpacked one folder deeper",
        "MicroLens-50k_videos/7.1.mp4": b"a duplicate under another name",
    }
    dataset = convert(release(raw, media), tmp_path / "lens")
    assert dataset.media("image") == [None, (raw / "MicroLens-50k_covers/100.jpg").resolve(), None]
    assert dataset.column("video") == ["MicroLens-50k_videos/MicroLens-50k_videos/7.mp4", None, None]
    assert dataset.info.modalities == {"text": 3, "image": 1, "video": 1}


def test_joins_frames_and_sound_by_id(raw: Path, tmp_path: Path) -> None:
    frames = "MicroLens-50k_frames_interval_1_number_5"
    media = {f"{frames}/100-{n}.jpg": b"\xff\xd8" for n in (2, 1, 10)} | {"MicroLens-50k_audio/7.wav": b"RIFF"}
    dataset = convert(release(raw, media), tmp_path / "lens")
    assert dataset.column("audio") == ["MicroLens-50k_audio/7.wav", None, None]
    assert dataset.column("frames") == [None, [f"{frames}/100-{n}.jpg" for n in (1, 2, 10)], None]


def test_says_which_archives_are_not_unpacked(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release(raw, {"MicroLens-50k_covers.zip": b"PK", "MicroLens-50k_videos.zip": b"PK", "videos/7.mp4": b"clip"})
    dataset = convert(raw, tmp_path / "lens")
    printed = capsys.readouterr().out
    assert "MicroLens-50k_covers.zip: unpack beside" in printed
    assert "MicroLens-50k_videos.zip" not in printed
    assert dataset.info.modalities["video"] == 1


def note(dataset: Dataset) -> str:
    return (dataset.path / "dataset.yaml").read_text()


def test_says_whether_the_two_files_of_events_agree(raw: Path, tmp_path: Path) -> None:
    release(raw, {"MicroLens-50k_pairs.tsv": TSV + "\n"})
    assert "all have the same events in the same order" in " ".join(note(convert(raw, tmp_path / "same")).split())
    # of user 20, the first two events are at the same time and may stand either way, the last two may not
    release(raw, {"MicroLens-50k_pairs.tsv": TSV.replace("20\t100 7 300 7", "20\t7 100 300 7")})
    assert "all have the same events in the same order" in " ".join(note(convert(raw, tmp_path / "tied")).split())
    release(raw, {"MicroLens-50k_pairs.tsv": TSV.replace("20\t100 7 300 7", "20\t100 7 7 300")})
    assert "1 have other order, the first is user 20" in " ".join(note(convert(raw, tmp_path / "order")).split())
    release(raw, {"MicroLens-50k_pairs.tsv": TSV.replace("20\t100 7 300 7", "20\t100 7 300")})
    assert "1 have other events, the first is user 20" in " ".join(note(convert(raw, tmp_path / "events")).split())


def test_refuses_files_of_events_of_different_releases(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release(raw, {"MicroLens-100k_pairs.tsv": "20\t1 2 3\n3\t4 5 6 7\n"})
    printed = refused(capsys, raw, tmp_path / "lens", "--min-events", "4")
    assert all(part in printed for part in ("MicroLens-100k_pairs.tsv", "2 differ", "user 20 has 3", "keep one"))
    release(raw, {"MicroLens-100k_pairs.tsv": "20,1\n"})
    assert "MicroLens-100k_pairs.tsv, line 1" in refused(capsys, raw, tmp_path / "lens", "--min-events", "4")


def test_an_item_without_title_is_kept_and_counted(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release(raw, {"MicroLens-50k_titles.csv": "item,title\n7,plain\n300,\n"})
    assert main(["microlens", "--raw", str(raw), "--out", str(tmp_path / "lens"), "--min-events", "4"]) == 0
    dataset = open_dataset(tmp_path / "lens")
    assert (dataset.num_items, dataset.texts(), dataset.info.modalities["text"]) == (3, ["plain", None, None], 1)
    assert "text: 1 (2 items have none)" in capsys.readouterr().out


def test_the_real_release_has_the_published_counts(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["microlens", "--raw", str(real_data / "microlens-50k"), "--out", str(tmp_path / "microlens")]) == 0
    printed = capsys.readouterr().out
    assert "50,000 users, 19,220 items, 359,708 interactions" in printed
    assert "text: 19,220\n" in printed
    assert "image: 10 " in printed
    assert "video: 3 " in printed
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

"""KuaiRand as released: several logs read as one, signals that make rows events, texts that came later."""

from __future__ import annotations

import gzip
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import pytest

from data_adapters.__main__ import main
from data_adapters.kuairand import LOG_COLUMNS, read
from odmt.data.format import Dataset, open_dataset

HEADER = ",".join(LOG_COLUMNS)


def log(*rows: tuple[int, int, int, str], end: str = "\n") -> str:
    """Write (user, video, seconds, signals that are 1) as lines of a log."""
    lines = [HEADER]
    for user, video, seconds, signals in rows:
        values = {"user_id": user, "video_id": video, "time_ms": 1649347200000 + 1000 * seconds, "date": 20220408}
        values |= dict.fromkeys(signals.split(), 1)
        lines.append(",".join(str(values.get(name, 0)) for name in LOG_COLUMNS))
    return "".join(line + end for line in lines)


EARLIER = log(
    (0, 5, 10, "is_click"), (0, 3, 30, "is_click is_like"), (1, 5, 11, "is_click"), (0, 4, 20, ""), end="\r\n"
)
LATER = log(
    (0, 11, 50, "is_click long_view"),
    (0, 3, 60, "is_click"),
    (1, 3, 61, "is_click"),
    (1, 4, 62, "is_click"),
    (1, 5, 63, "is_click"),
    (10, 5, 63, "is_click"),
)
RANDOM = log((0, 4, 60, "is_click is_rand"), (10, 11, 64, "is_rand"))
BASIC = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
    "music_id,music_type,tag\n"
    '3,441,NORMAL,2022-04-01,ShortImport,1.0,17200.0,720,1280,989206467,4.0,"12,65"\n'
    "4,442,AD,2022-04-01,LongImport,1.0,,720,1280,1,4.0,\n"
    "5,443,UNKNOWN,2022-04-01,LongImport,1.0,1.0,720,1280,2,4.0,8\n"
)
CAPTIONS = (
    'final_video_id,caption,show_cover_text\n3,"精神小伙, 路难走\n #搞笑",UNKNOWN\n4,晚饭后，运动一下！,封面\n5,,\n'
)
CATEGORIES = (
    "final_video_id,first_level_category_id,first_level_category_name,second_level_category_id,"
    "second_level_category_name\n"
    "3,8.0,颜值,673.0,颜值随拍\n"
    "4,-124.0,UNKNOWN,-124.0,UNKNOWN\n"
    "5,9.0,喜剧,-124.0,UNKNOWN\n"
)
RELEASE: Mapping[str, str | bytes] = {
    "data/log_standard_4_08_to_4_21_1k.csv": EARLIER,
    "data/log_standard_4_22_to_5_08_1k.csv": LATER,
    "data/log_random_4_22_to_5_08_1k.csv": RANDOM,
    "data/user_features_1k.csv": "user_id\n0\n",
    "data/video_features_basic_1k.csv": BASIC,
    "data/video_features_statistic_1k.csv": "video_id,counts,show_cnt\n3,66,75.212\n",
}
TEXTS = {"data/kuairand_video_captions.csv": CAPTIONS, "kuairand_video_categories.csv": CATEGORIES}


def write(raw: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return raw


def prepare(raw: Path, *words: str) -> Dataset:
    out = raw.with_name("out")
    assert main(["kuairand", "--raw", str(raw), "--out", str(out), "--min-events", "4", *words]) == 0
    return open_dataset(out)


def histories(dataset: Dataset) -> dict[str, list[str]]:
    ids = dataset.ids()
    return {user: [ids[i - 1] for i in dataset.history(row).tolist()] for row, user in enumerate(dataset.users())}


def test_logs_are_one_and_clicks_are_events(tmp_path: Path) -> None:
    dataset = prepare(write(tmp_path / "raw", RELEASE))
    # 3 of a standard log and 4 of a random one at the same time: names decide
    assert histories(dataset) == {"0": ["5", "3", "11", "4", "3"], "1": ["5", "3", "4", "5"]}
    assert dataset.ids() == ["3", "4", "5", "11"]
    assert dataset.times is not None
    assert dataset.times[0] == 1649347210000
    assert dataset.info.dropped["events rated below 1"] == 2
    assert dataset.info.modalities == {}
    assert [record.name for record in dataset.info.sources] == [
        "data/log_standard_4_08_to_4_21_1k.csv",
        "data/log_random_4_22_to_5_08_1k.csv",
        "data/log_standard_4_22_to_5_08_1k.csv",
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--logs", "standard"], {"0": ["5", "3", "11", "3"], "1": ["5", "3", "4", "5"]}),
        (["--logs", "standard", "--min-rating", "0"], {"0": ["5", "4", "3", "11", "3"], "1": ["5", "3", "4", "5"]}),
    ],
)
def test_what_makes_a_row_an_event_can_be_chosen(
    tmp_path: Path, words: list[str], expected: dict[str, list[str]]
) -> None:
    assert histories(prepare(write(tmp_path / "raw", RELEASE), *words)) == expected


def test_other_signals(tmp_path: Path) -> None:
    rows = [(7, video, video, "long_view" if video % 2 else "is_click") for video in range(1, 10)]
    raw = write(tmp_path / "raw", {"log_standard_4_08_to_4_21_pure.csv": log(*rows)})
    assert histories(prepare(raw, "--signal", "long_view")) == {"7": ["1", "3", "5", "7", "9"]}


def test_texts_of_captions_and_categories(tmp_path: Path) -> None:
    dataset = prepare(write(tmp_path / "raw", {**RELEASE, **TEXTS}))
    texts = {i: text and " ".join(text.split()) for i, text in zip(dataset.ids(), dataset.texts(), strict=True)}
    assert texts == {
        "3": "精神小伙, 路难走 #搞笑. 颜值. 颜值随拍",
        "4": "晚饭后，运动一下！. 封面",
        "5": "喜剧",
        "11": None,
    }


def test_features_of_videos_are_read_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write(tmp_path / "raw", RELEASE)
    dataset = prepare(raw, "--columns", "tag", "video_type", "show_cnt", "--text", "tag")
    assert dict(zip(dataset.ids(), dataset.column("tag"), strict=True)) == {
        "3": "12,65",
        "4": None,
        "5": "8",
        "11": None,
    }
    assert dataset.column("video_type") == ["NORMAL", "AD", None, None]
    assert dataset.column("show_cnt") == ["75.212", None, None, None]
    assert dataset.texts()[0] == "12,65"
    release = read(raw, Namespace(logs="all", signal="is_click"))
    assert {*release.leaks} == {"counts", "show_cnt"}
    assert "warning: column 'show_cnt' averaged over the month" in capsys.readouterr().err
    names = [record.name for record in dataset.info.sources]
    assert "data/video_features_basic_1k.csv" in names
    assert "data/video_features_statistic_1k.csv" in names


def test_logs_in_parts_gzipped_and_without_a_header(tmp_path: Path) -> None:
    bare = LATER.split("\n", 1)[1]
    files = {
        "log_standard_4_08_to_4_21_27k_part1.csv.gz": gzip.compress(EARLIER.encode()),
        "log_standard_4_22_to_5_08_27k_part1.csv": bare,
        "log_random_4_22_to_5_08_27k.csv": RANDOM,
    }
    dataset = prepare(write(tmp_path / "raw", files))
    assert histories(dataset)["1"] == ["5", "3", "4", "5"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"data/log_standard_4_22_to_5_08_1k.csv": LATER.replace(",1649347261000,", ",,")},
            ["5_08_1k.csv, line 4", "time"],
        ),
        ({"data/log_standard_4_22_to_5_08_1k.csv": LATER.replace("\n10,5,", "\nten,5,")}, ["line 7", "user", "ten"]),
        (
            {"data/log_random_4_22_to_5_08_1k.csv": "user_id,video_id,date,hourmin,time_ms\n"},
            ["log_random", "line 1", "is_click"],
        ),
        (
            {"data/kuairand_video_captions.csv": CAPTIONS.replace("final_", "")},
            ["captions.csv, line 1", "final_video_id"],
        ),
        ({name: None for name in RELEASE if "log_" in name}, ["no log_*.csv", "it holds data"]),
    ],
)
def test_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: Mapping[str, str | None], words: list[str]
) -> None:
    raw = write(tmp_path / "raw", {n: c for n, c in {**RELEASE, **files}.items() if c is not None})
    assert main(["kuairand", "--raw", str(raw), "--out", str(tmp_path / "out"), "--min-events", "4"]) == 1
    printed = capsys.readouterr().err
    assert all(word in printed for word in words), printed
    assert not (tmp_path / "out").exists()

"""KuaiRec as released: plays without a time, and captions whose commas and line ends are not always quoted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from data_adapters.__main__ import main
from data_adapters.kuairec import read_captions
from data_adapters.text_files import ReleaseError
from odmt.data.format import Dataset, open_dataset

HEADER = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
PLAYS = [
    (14, 148, "1593878903.438", 2.5),
    (14, 183, "1593878900.5", 3.0),
    (14, 3649, "1593878902", 0.4),
    (14, 5262, "", 9.0),
    (14, 8234, "1593878904.1", 2.0),
    (14, 148, "1593878909.0", 2.1),
    (9, 148, "1593878909.0", 2.1),
]
MATRIX = HEADER + "".join(
    f"{user},{video},4381,6067,{'2020-07-05 00:08:23.438' if time else ''},20200705.0,{time},{ratio}\n"
    for user, video, time, ratio in PLAYS
)
CAPTIONS = (
    "video_id,manual_cover_text,caption,topic_tag,first_level_category_id,first_level_category_name,"
    "second_level_category_id,second_level_category_name,third_level_category_id,third_level_category_name\r\n"
    "148,UNKNOWN,精神小伙路难走 程哥你狗粮慢点撒,[],8,颜值,673,颜值随拍,-124,UNKNOWN\r\n"
    '183,五爱街最美美女,"#搞笑, 真是\r完美",[五爱市场,感谢快手我要上热门,搞笑],5,时尚,737,营销售卖,2596,女装\r\n'
    "3649,UNKNOWN,one, two,\r\n\r\n3,2,1 go!\rnow,[a,b],9,喜剧,727,搞笑互动,-124,UNKNOWN\r\n"
    '8234,UNKNOWN,"quoted\nlines","[x,y]",-124,UNKNOWN,-124,UNKNOWN,-124,UNKNOWN\r\n'
    "9999,UNKNOWN,,[],27,高新数码,-124,UNKNOWN,-124,UNKNOWN"
)
RELEASE = {
    "KuaiRec 2.0/data/big_matrix.csv": MATRIX,
    "KuaiRec 2.0/data/small_matrix.csv": MATRIX.replace("\n14,", "\n15,"),
    "kuairec_caption_category.csv": CAPTIONS,
}


def write(raw: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        path = raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
    return raw


def prepare(raw: Path, *words: str) -> Dataset:
    out = raw.with_name("out")
    assert main(["kuairec", "--raw", str(raw), "--out", str(out), "--min-events", "4", *words]) == 0
    return open_dataset(out)


def test_plays_watched_twice_over_are_events_and_those_without_a_time_are_counted(tmp_path: Path) -> None:
    dataset = prepare(write(tmp_path / "raw", RELEASE))
    assert dataset.users() == ["14"]
    ids = dataset.ids()
    assert [ids[i - 1] for i in dataset.history(0).tolist()] == ["183", "148", "8234", "148"]
    assert dataset.times is not None
    assert dataset.times.tolist() == [1593878900500, 1593878903438, 1593878904100, 1593878909000]
    assert dataset.info.dropped["plays without a time"] == 1
    assert dataset.info.dropped["events rated below 2"] == 1
    assert dict(zip(ids, dataset.texts(), strict=True)) == {
        "148": "精神小伙路难走 程哥你狗粮慢点撒. 颜值",
        "183": "#搞笑, 真是 完美. 五爱街最美美女. 时尚",
        "8234": "quoted lines",
    }


def test_the_other_matrix_and_every_play(tmp_path: Path) -> None:
    dataset = prepare(write(tmp_path / "raw", RELEASE), "--matrix", "small", "--min-rating", "0")
    assert dataset.users() == ["15"]
    assert dataset.num_interactions == 5


def test_captions_with_commas_and_line_ends_quoted_or_not(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", RELEASE)
    rows = dict(read_captions(raw / "kuairec_caption_category.csv"))
    assert list(rows) == ["148", "183", "3649", "8234", "9999"]
    assert {name: rows["3649"][name] for name in ("caption", "topic_tag", "first_level_category_name")} == {
        "caption": "one, two, 3,2,1 go! now",
        "topic_tag": "[a,b]",
        "first_level_category_name": "喜剧",
    }
    assert rows["183"]["manual_cover_text"] == "五爱街最美美女"
    assert rows["183"]["topic_tag"] == "[五爱市场,感谢快手我要上热门,搞笑]"
    assert rows["183"]["third_level_category_name"] == "女装"
    assert rows["8234"]["topic_tag"] == "[x,y]"
    assert rows["148"]["manual_cover_text"] is None
    assert rows["148"]["topic_tag"] is None
    assert not rows["9999"]["caption"]


@pytest.mark.parametrize(
    ("cut", "line"), [("148,UNKNOWN,精神小伙路难走", 1), ("9999,UNKNOWN,,[],27,高新数码", 1), ("cover,caption", 1)]
)
def test_a_record_that_is_cut_is_named(tmp_path: Path, cut: str, line: int) -> None:
    path = write(tmp_path, {"captions.csv": cut}) / "captions.csv"
    with pytest.raises(ReleaseError, match=rf"captions.csv, line {line}: '{cut[:5]}"):
        list(read_captions(path))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"KuaiRec 2.0/data/big_matrix.csv": None}, ["no big_matrix.csv", "KuaiRec 2.0"]),
        ({"KuaiRec 2.0/data/big_matrix.csv": MATRIX.replace("watch_ratio", "ratio")}, ["line 1", "watch_ratio"]),
        (
            {"KuaiRec 2.0/data/big_matrix.csv": MATRIX.replace("1593878904.1", "later")},
            ["big_matrix.csv, line 6: timestamp is 'later'"],
        ),
        ({"KuaiRec 2.0/data/big_matrix.csv": MATRIX + "9,148,4381\n"}, ["big_matrix.csv, line 9: 3 fields", "8"]),
        # line 5 has no time and is left out
        ({"KuaiRec 2.0/data/big_matrix.csv": MATRIX.replace("\n9,148", "\nu9,148")}, ["line 8: user_id is 'u9'"]),
        ({"KuaiRec 2.0/data/big_matrix.csv": MATRIX.replace("\n9,148", "\n-9,148")}, ["line 8: user_id is '-9'"]),
        ({"KuaiRec 2.0/data/big_matrix.csv": MATRIX.replace("14,8234", "14,")}, ["line 6: video_id is ''"]),
        ({"KuaiRec 2.0/data/big_matrix.csv": MATRIX.replace(",2.1\n", ",x\n")}, ["line 7: watch_ratio is 'x'"]),
        (
            {"KuaiRec 2.0/data/big_matrix.csv": MATRIX.replace("1593878909.0", "1593878909000")},
            ["line 7: timestamp is 1593878909000, no unix time in seconds"],
        ),
    ],
)
def test_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: Mapping[str, str | None], words: list[str]
) -> None:
    raw = write(tmp_path / "raw", {n: c for n, c in {**RELEASE, **files}.items() if c is not None})
    assert main(["kuairec", "--raw", str(raw), "--out", str(tmp_path / "out"), "--min-events", "4"]) == 1
    printed = capsys.readouterr().err
    assert all(word in printed for word in words), printed
    assert not (tmp_path / "out").exists()

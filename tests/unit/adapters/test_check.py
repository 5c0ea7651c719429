"""The content check counts rightly, decodes everything, and shows what it found."""

from __future__ import annotations

import argparse
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_adapters import check
from data_adapters.__main__ import main
from data_adapters.check_content import Report, inspect
from data_adapters.check_histories import walk
from data_adapters.check_page import write_page
from odmt.data.format import Dataset, DatasetError, open_dataset, write_dataset
from tests.clips import write_clip
from tests.pictures import cut_short, two_halves
from tests.unit.data.test_pictures import REAL as REAL_PICTURES
from tests.unit.data.test_real_clips import REAL as REAL_CLIPS

HISTORIES = [
    ("ann", [1, 2, 3, 4, 5], [10, 20, 30, 40, 40]),  # the test target is decided by the tie rule
    ("bob", [2, 2, 1, 3], [10, 10, 10, 50]),  # 2 twice, at the same time; the validation target is decided
    ("cyd", [1, 4, 1, 6], [1, 2, 3, 4]),  # 1 twice; 6 is in nobody's training events
]
TEXTS = ["<script>alert(1)</script>", "A & B", "half &amp; half", "lost \ufffd", "same", "same", None]


def media(root: Path) -> dict[str, list[str | None]]:
    """Write covers, one broken, one absent, two the same though stored differently, and clips, one broken."""
    root.mkdir()
    two_halves().save(root / "1.png")
    two_halves().save(root / "2.bmp")
    cut_short(root / "3.jpeg")
    Image.new("RGB", (30, 50), (0, 200, 0)).save(root / "5.jpg")
    write_clip(root / "6.mp4")
    (root / "7.mp4").write_bytes(b"no clip")
    return {
        "image": ["1.png", "2.bmp", "3.jpeg", "gone.jpg", "5.jpg", None, None],
        "video": [None, None, None, None, None, "6.mp4", "7.mp4"],
    }


def make(path: Path, **changes: object) -> Dataset:
    columns = media(path.parent / "media")
    given = {
        "name": "shop",
        "histories": HISTORIES,
        "items": {"id": [f"i{n}" for n in range(1, 8)], "text": TEXTS} | columns,
        "tie_rule": "time, then line",
        "media_root": path.parent / "media",
    }
    return write_dataset(path, **(given | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("shop") / "shop").path


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return inspect(open_dataset(folder), samples=2, workers=2)


def test_counts_what_histories_hold(report: Report) -> None:
    facts = report.histories
    assert {n: c for n, c in enumerate(facts.lengths.tolist()) if c} == {4: 2, 5: 1}
    assert (facts.first_time, facts.last_time) == (1, 50)
    assert (facts.tied_test, facts.tied_valid, facts.backwards) == (1, 1, 0)
    assert (facts.repeats, facts.repeaters, facts.exact) == (2, 2, 1)
    assert facts.counts.tolist() == [0, 4, 3, 2, 2, 1, 1, 0]
    assert facts.trained.tolist() == [0, 2, 3, 1, 1, 0, 0, 0]
    assert facts.cold_tests == 2  # 5 and 6, but not 3, which ann trained on
    assert (facts.quantile(0), facts.quantile(0.5), facts.quantile(1)) == (4, 4, 5)


def test_counts_what_items_have(report: Report) -> None:
    assert report.present == {"text": 6, "image": 5, "video": 2}
    assert list(report.text_facts.values()) == [1, 1, 2]
    assert report.decoded == {"image": 3, "video": 1}
    assert report.duplicates == [[1, 2]]
    assert [(one.kind, one.item, one.path) for one in report.unreadable] == [
        ("image", 3, "3.jpeg"),
        ("image", 4, "gone.jpg"),
        ("video", 7, "7.mp4"),
    ]
    reasons = [one.reason for one in report.unreadable]
    assert "truncated" in reasons[0]
    assert reasons[1] == "the file is missing"
    assert reasons[2].startswith("not a video")


def test_prints_a_table_and_fails_where_content_cannot_be_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(folder), "--html", str(tmp_path / "page.html"), "--samples", "1", "--workers", "1"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    for line in (
        "users 3",
        "first event 1970-01-01 00:00:00 UTC",
        "test target decided by the tie rule 1 (33.3%) of the users",
        "repeated events (same user and item) 2 (15.4%)",
        "cold items (in no training event) 3 (42.9%) with --data.length 10",
        "users whose test target is cold 2 (66.7%) with --data.length 10",
        "items without image 2 (28.6%)",
        "items that share a picture with another 2 (66.7%)",
        "image of item i4, gone.jpg: the file is missing",
        f"look at it: {tmp_path / 'page.html'}",
    ):
        assert line in printed, line


def test_what_is_cold_is_said_with_the_length_that_it_holds_for(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["check", str(folder), "--html", str(tmp_path / "page.html"), "--workers", "1", "--length", "1"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "cold items (in no training event) 3 (42.9%) with --data.length 1" in printed
    assert "with --data.length 1<" in (tmp_path / "page.html").read_text()


def test_all_is_well_where_all_is_read_whatever_ties_and_repeats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = {"id": list("abcdefg"), "text": TEXTS}
    dataset = make(tmp_path / "shop", items=items)
    assert main(["check", str(dataset.path)]) == 0
    assert "unreadable" not in capsys.readouterr().out
    open_dataset(dataset.path).verify()  # the page within the folder does it no harm
    assert "no cover" in (dataset.path / "check.html").read_text()


def test_the_same_folder_gives_the_same_page(folder: Path, tmp_path: Path) -> None:
    for name, workers in (("a", "1"), ("b", "2")):
        main(["check", str(folder), "--html", str(tmp_path / name), "--workers", workers])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class Page(HTMLParser):
    """Collect the tags and attributes of a page, and that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_runs_nothing(report: Report, tmp_path: Path) -> None:
    write_page(report, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "url(" not in text
    assert "@import" not in text
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href"):
                assert (value or "").startswith("data:image/jpeg;base64,/9j/")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert 'class="cover broken"' in text  # i3 and i4
    assert ">clip<" in text  # i6 has no cover, but a clip
    assert "<title>shop: content check</title>" in text


def test_thumbnails_are_small_and_of_the_right_item(report: Report) -> None:
    assert report.thumbnails.keys() == {1, 2, 5, 6}
    assert report.filmed == {6}
    green = Image.open(io.BytesIO(report.thumbnails[5]))
    assert green.size == (30, 50)
    np.testing.assert_allclose(np.asarray(green)[25, 15], (0, 200, 0), atol=12)
    assert max(len(data) for data in report.thumbnails.values()) < 20_000


def test_damage_and_replacement_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = make(tmp_path / "shop")
    two_halves((200, 100)).save(tmp_path / "media/1.png")
    assert main(["check", str(dataset.path), "--workers", "1"]) == 1
    assert "problem: " in (printed := capsys.readouterr().out)
    assert "image files were replaced" in printed
    path = dataset.path / "histories/items.npy"
    path.write_bytes(path.read_bytes()[:-4] + b"\x02\0\0\0")
    assert main(["check", str(dataset.path)]) == 1
    assert "items.npy: sha256 is" in capsys.readouterr().err
    with pytest.raises(DatasetError):
        inspect(open_dataset(dataset.path), samples=1, workers=1)


def test_times_that_go_back_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make(tmp_path / "shop")
    assert dataset.times is not None
    times = np.array(dataset.times)
    times[[0, 1]] = times[[1, 0]]
    foreign = Dataset(dataset.path, dataset.info, dataset.offsets, dataset.items, times)
    assert walk(foreign).backwards == 1


@pytest.mark.parametrize("name", ["--samples", "--workers", "--length"])
def test_refuses_none(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder), name, "0"]) == 1
    assert f"{name} 0: must be at least 1" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder), "--html", str(folder / "nowhere/page.html")]) == 1
    assert "name another file with --html" in capsys.readouterr().err


def test_its_help_tells_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    assert "Exit status: 0 where all content can be used" in capsys.readouterr().out
    arguments = argparse.ArgumentParser()
    check.add_arguments(arguments)
    assert arguments.parse_args(["somewhere"]).html is None


def test_ml_100k_is_as_published(real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recbole", "--raw", str(real_data / "ml-100k"), "--out", str(tmp_path / "ml")]) == 0
    capsys.readouterr()
    assert main(["check", str(tmp_path / "ml")]) == 0
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    for line in (
        "users 943",
        "interactions 100,000",
        "test target decided by the tie rule 415 (44.0%)",
        "items without image 65 (3.9%)",
        "image files decoded 1,617",
        "pictures that are shared 18",
    ):
        assert line in printed, line


def test_every_real_file_is_shown_or_told_with_its_reason(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "media"
    pictures, films = (sorted(p.name for p in (root / kind).iterdir()) for kind in ("image", "video"))
    none = [None] * len(pictures)
    items = {
        "id": [*pictures, *films],
        "image": [f"image/{name}" for name in pictures] + [None] * len(films),
        "video": none + [f"video/{name}" for name in films],
    }
    everything = [("one", list(range(1, len(items["id"]) + 1)), None)]
    dataset = write_dataset(
        tmp_path / "all", name="all", histories=everything, items=items, tie_rule="none", media_root=root
    )
    report = inspect(dataset, samples=len(items["id"]), workers=2)
    write_page(report, tmp_path / "page.html")
    told = {one.path.split("/")[1]: one.reason for one in report.unreadable}
    assert told == {name: what for name, what in (REAL_PICTURES | REAL_CLIPS).items() if isinstance(what, str)}
    assert {report.ids[item - 1] for item in report.thumbnails} == {*pictures, *films} - told.keys()

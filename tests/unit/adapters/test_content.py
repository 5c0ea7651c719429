"""What items are made of: templates of texts, HTML, and media found by name or by path."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_adapters.content import MediaFinder, Template, clean_html
from data_adapters.release import Media
from data_adapters.text_files import ReleaseError

FIELDS = ("title", "brand", "year", "a b")


def render(template: str, **values: str | None) -> str | None:
    return Template(template, FIELDS, option="--text").render(values)


@pytest.mark.parametrize(
    ("template", "values", "expected"),
    [
        ("{title}. {brand}", {"title": "T", "brand": "B"}, "T. B"),
        ("{title}. {brand}", {"title": "T", "brand": None}, "T"),
        ("{title}. {brand}", {"title": "", "brand": "B"}, "B"),
        ("{title}. {brand}", {"title": " ", "brand": "\n"}, None),
        ("{title}. {brand}", {}, None),
        ("{title}. {brand}", {"title": "Really?", "brand": "B"}, "Really? B"),
        ("{title}. {brand}. {year}", {"title": "T", "year": "1995"}, "T. 1995"),
        ("{title} ({year})", {"title": "T"}, "T"),
        ("{title} ({year})", {"title": "T", "year": "1995"}, "T (1995)"),
        ("{title} ({year}) by {brand}", {"title": "T", "brand": "B"}, "T by B"),
        ("A film: {title}", {"title": "T"}, "A film: T"),
        ("{title}!", {"title": "T"}, "T!"),
        ("title", {"title": " T "}, "T"),
        ("a b", {"a b": "T"}, "T"),
        ("{a b}", {"a b": "T"}, "T"),
        ("{{{title}}}", {"title": "T"}, "{T}"),
        ("{title} {{x}} {brand}", {"title": "T", "brand": "B"}, "T {x} B"),
        ("{title:.3}", {"title": "Long"}, "Lon"),
        ("{title} {title}", {"title": "{brand}"}, "{brand} {brand}"),
        ("{title}", {"title": "a\u2028b"}, "a\u2028b"),
    ],
)
def test_makes_a_text_of_fields(template: str, values: Mapping[str, str | None], expected: str | None) -> None:
    assert Template(template, FIELDS, option="--text").render(values) == expected


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{titel}", "--text '{titel}': no field 'titel'; did you mean 'title'?"),
        ("titel", "no field 'titel'; did you mean 'title'?"),
        ("{xyzzy}", "no field 'xyzzy'; there are: title, brand, year, a b"),
        ("plain words", "no field 'plain words'"),
        ("", "no field ''"),
        ("{}", "no field ''"),
        ("{0}", "no field '0'"),
        ("{title", "write fields as {name}"),
        ("title}", "write fields as {name}"),
        ("{title.__class__}", "no field 'title.__class__'"),
        ("{title[0]}", "no field 'title[0]'"),
        ("{title!r}", "'!r' is no format of text; write {title}"),
        ("{title:d}", "':d' is no format of text"),
        ("{title:{brand}}", "':{brand}' is no format of text"),
    ],
)
def test_refuses_templates_that_cannot_be(template: str, why: str) -> None:
    with pytest.raises(ReleaseError) as caught:
        Template(template, FIELDS, option="--text")
    assert why in str(caught.value)


@given(st.lists(st.one_of(st.none(), st.text(max_size=5)), min_size=3, max_size=3))
@settings(max_examples=100, deadline=None)
def test_a_text_holds_each_field_that_is_there(values: list[str | None]) -> None:
    text = render("{title}. {brand} | {year}", **dict(zip(FIELDS, values, strict=False)))
    there = [value.strip() for value in values if value and value.strip()]
    assert (text is None) == (not there)
    assert all(value in (text or "") for value in there)


@pytest.mark.parametrize(
    ("text", "unescaped", "stripped"),
    [
        ("a < b", "a < b", "a < b"),
        ("a<b and no more", "a<b and no more", "a<b and no more"),
        ("I <3 you, 5 > 4 & 2 < 4", "I <3 you, 5 > 4 & 2 < 4", "I <3 you, 5 > 4 & 2 < 4"),
        ("AT&T", "AT&T", "AT&T"),
        ("A &amp; B &lt; C", "A & B < C", "A & B < C"),
        ("A &amp;amp; B", "A & B", "A & B"),
        ("caf&eacute; &#233; &#xe9;", "café é é", "café é é"),
        ("&amp;lt;b&amp;gt;", "<b>", "<b>"),
        ("&lt;b&gt;bold&lt;/b&gt;", "<b>bold</b>", "bold"),
        ("<p>one</p><p>two<br/>three</p>", "<p>one</p><p>two<br/>three</p>", "one two three"),
        ("<script>x < y</script>z<style>p {}</style>", "<script>x < y</script>z<style>p {}</style>", "z"),
        ('<a title="x>y">q</a> <!-- c -->', '<a title="x>y">q</a> <!-- c -->', "q"),
        ("<b></b>", "<b></b>", ""),
        ("", "", ""),
    ],
)  # fmt: skip
def test_cleans_html(text: str, unescaped: str, stripped: str) -> None:
    assert clean_html(text, "keep") == text
    assert clean_html(text, "unescape") == unescaped
    assert clean_html(text, "strip") == stripped


@given(st.text(), st.sampled_from(["keep", "unescape", "strip"]))
def test_text_without_html_stays(text: str, how: str) -> None:
    plain = text.replace("&", "+").replace("<", "(")
    assert clean_html(plain, how) == plain
    clean_html(text, how)


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def finder(root: Path, folders: Sequence[str] = (".",), suffixes: Sequence[str] = (), field: str = "") -> MediaFinder:
    media = Media([root / name for name in folders] if not field else [], suffixes, field)
    return MediaFinder(media, root, FIELDS, modality="image")


def test_finds_files_by_the_name_of_the_item(tmp_path: Path) -> None:
    folder_of(
        tmp_path, "1.jpg", "sub/deep/2.JPG", "123.1.mp4.jpg", "4.txt", "007.jpg", ".jpg", "é ü.jpg", "a'b.jpg", "5"
    )
    found = finder(tmp_path, suffixes=[".jpg"])
    assert found.find("1", {}) == "1.jpg"
    assert found.find("2", {}) == "sub/deep/2.JPG"
    assert found.find("123.1.mp4", {}) == "123.1.mp4.jpg"
    assert found.find("007", {}) == "007.jpg"
    assert found.find("é ü", {}) == "é ü.jpg"
    assert found.find("a'b", {}) == "a'b.jpg"
    for item in ("4", "7", "", "5", "sub", "../1", "1.jpg", "*", "\0"):
        assert found.find(item, {}) is None
    assert found.absent == 0


def test_a_stem_may_hold_dots(tmp_path: Path) -> None:
    found = finder(folder_of(tmp_path, "123.1.mp4"), suffixes=[".mp4"])
    assert found.find("123.1", {}) == "123.1.mp4"
    assert found.find("123", {}) is None


def test_the_first_folder_and_the_first_suffix_win(tmp_path: Path) -> None:
    folder_of(tmp_path, "b/1.png", "a/1.jpg", "a/2.png", "a/2.jpg", "a/z/2.jpg", "b/2.jpg", "b/3.JPG", "b/3.png")
    found = finder(tmp_path, ["a", "b"], [".jpg", ".png"])
    assert [found.find(item, {}) for item in "123"] == ["a/1.jpg", "a/2.jpg", "b/3.JPG"]
    assert finder(tmp_path, ["b", "a"], [".png", ".jpg"]).find("2", {}) == "b/2.jpg"
    assert finder(tmp_path, ["a"], [".PNG", ".jpg"]).find("2", {}) == "a/2.png"


def test_ids_are_turned_into_names(tmp_path: Path) -> None:
    media = Media([folder_of(tmp_path, "v000007.jpg")], stem=lambda item: f"v{item:0>6}")
    assert MediaFinder(media, tmp_path, (), modality="image").find("7", {}) == "v000007.jpg"


def test_frames_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = [f"a-{number}.jpg" for number in (10, 9, 1, 2, 100)]
    folder_of(tmp_path, *names, "a-x.jpg", "a.jpg", "a-b-1.jpg", "a-b-02.jpg", "-5.jpg")
    found = finder(tmp_path, suffixes=[".jpg"])
    assert found.find_series("a") == ["a-1.jpg", "a-2.jpg", "a-9.jpg", "a-10.jpg", "a-100.jpg"]
    assert found.find_series("a-b") == ["a-b-1.jpg", "a-b-02.jpg"]
    assert found.find_series("b") is None


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    folder_of(tmp_path / "raw", "1.jpg", "a/2.jpg")
    folder_of(tmp_path / "elsewhere", "3.jpg")
    (tmp_path / "raw/a/up").symlink_to(tmp_path / "raw")
    (tmp_path / "raw/self").symlink_to("self")
    (tmp_path / "raw/broken.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "raw/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "raw/4.jpg").symlink_to("1.jpg")
    found = finder(tmp_path / "raw", suffixes=[".jpg"])
    paths = [found.find(item, {}) for item in ("1", "2", "3", "4", "broken")]
    assert paths == ["1.jpg", "a/2.jpg", "linked/3.jpg", "4.jpg", None]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder_of(tmp_path, "file")
    for name in ("none", "file"):
        with pytest.raises(ReleaseError, match=f"no folder at .*{name} for image files"):
            finder(tmp_path, [name])


def test_a_listing_tells_when_files_change(tmp_path: Path) -> None:
    folder_of(tmp_path, "covers/1.jpg", "covers/note.txt")

    def listed() -> object:
        (record,) = finder(tmp_path, ["covers"], [".jpg"]).sources
        return record

    before = listed()
    (tmp_path / "covers/note.txt").write_text("changed")
    assert listed() == before
    (tmp_path / "covers/1.jpg").write_bytes(b"a file of another size")
    after = listed()
    assert after != before
    folder_of(tmp_path, "covers/2.jpg")
    assert listed() not in (before, after)


def test_finds_files_by_path(tmp_path: Path) -> None:
    folder_of(tmp_path, "covers/1.jpg", "covers/a b/é.jpg")
    by_id = finder(tmp_path, field="covers/{id}.jpg")
    assert by_id.find("1", {}) == "covers/1.jpg"
    assert by_id.find("2", {}) is None
    assert by_id.absent == 1
    by_field = finder(tmp_path, field="title")
    assert by_field.names == ("title",)
    assert by_field.find("x", {"title": "./covers//a b/é.jpg"}) == "covers/a b/é.jpg"
    assert by_field.find("x", {"title": None}) is None
    assert by_field.absent == 0
    for absent in (
        "covers",
        "nowhere/1.jpg",
        "covers/1.jpg/2",
        "C:\\covers\\1.jpg",
        "..\\..\\x",
        "C:/1.jpg",
        "x" * 5000,
    ):
        assert by_field.find("x", {"title": absent}) is None
    assert by_field.absent == 7


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x.jpg", "covers/../../x.jpg", "..", "//host/x.jpg", "covers/\0.jpg"]
)
def test_paths_that_lead_out_are_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "root").mkdir()
    folder_of(tmp_path, "x.jpg")
    with pytest.raises(ReleaseError, match="leads out of") as caught:
        finder(tmp_path / "root", field="{title}").find("item 7", {"title": path})
    assert "image of item 'item 7'" in str(caught.value)
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize("item", ["../../x", "/etc/passwd", "..", "a/../../../x", "\0"])
def test_ids_that_lead_out_find_nothing(tmp_path: Path, item: str) -> None:
    folder_of(tmp_path, "x.jpg", "root/1.jpg")
    assert finder(tmp_path / "root", suffixes=[".jpg"]).find(item, {}) is None
    with pytest.raises(ReleaseError, match="leads out of"):
        finder(tmp_path / "root", field="{id}.jpg" if item != ".." else "{id}/x.jpg").find(item, {})


def test_paths_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path, "raw/covers/1.jpg")
    monkeypatch.chdir(tmp_path)
    for raw in (Path("raw"), Path("./raw"), Path("raw/../raw"), Path("raw/covers/..")):
        found = MediaFinder(Media([raw / "covers"], [".jpg"]), raw, (), modality="image")
        assert found.find("1", {}) == "covers/1.jpg"
        assert MediaFinder(Media(field="covers/{id}.jpg"), raw, (), modality="image").find("1", {}) == "covers/1.jpg"
    os.symlink(tmp_path / "raw", tmp_path / "link")
    assert finder(Path("link"), ["covers"], [".jpg"]).find("1", {}) == "covers/1.jpg"


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("a<b and c>d soap", "a<b and c>d soap"),
        ("<style> retro lamp", "retro lamp"),
        ("<STYLE type='text/css'>p {}</style >lamp", "lamp"),
        ("big <B>lamp</B><br/>for <a href='x y' nowrap>you</a><!-- no -->", "big lamp for you"),
        ("1 < 2 > 0 <unknown>", "1 < 2 > 0 <unknown>"),
    ],
)
def test_only_tags_of_html_are_taken_away(given: str, left: str) -> None:
    assert clean_html(given, "strip") == left

"""What vendor modules look for: files plain or gzipped, folders of media, the folder that an option names."""

from __future__ import annotations

import importlib
from argparse import ArgumentParser
from pathlib import Path

import pytest

from data_adapters.__main__ import VENDORS
from data_adapters.text_files import ReleaseError
from data_adapters.vendor_files import (
    add_images_argument,
    check_folder,
    check_id,
    chosen_folder,
    find_file,
    find_files,
    folders_in,
    held,
    pictures_in,
    pictures_of,
)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_finds_files_plain_or_gzipped(tmp_path: Path) -> None:
    touch(tmp_path, "b.csv.gz", "a.csv", "a.csv.gz", "c.tsv", "deep/a.csv")
    (tmp_path / "d.csv").mkdir()
    names = [path.name for path in find_files(tmp_path, "*.tsv", "*.csv")]
    assert names == ["c.tsv", "a.csv", "b.csv.gz"]  # a.csv.gz is a.csv again
    assert find_file([tmp_path / "deep", tmp_path], "a.csv") == tmp_path / "deep/a.csv"
    assert find_files(tmp_path, "**/a.csv") == [tmp_path / "a.csv", tmp_path / "deep/a.csv"]
    assert find_file(tmp_path, "e.csv") is None
    assert held(tmp_path) == "a.csv, a.csv.gz, b.csv.gz, c.tsv, d.csv, deep"
    assert held(tmp_path / "d.csv") == "nothing"
    check_folder(tmp_path, "the layout")
    with pytest.raises(ReleaseError, match=r"no folder at .*a.csv\nthe layout"):
        check_folder(tmp_path / "a.csv", "the layout")


def test_folders_of_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "KU_Cover/v1.jpg", "texts/t", "cover.txt")
    assert folders_in(tmp_path) == [tmp_path / "KU_Cover", tmp_path / "texts"]
    assert folders_in(tmp_path, "cover", "image") == [tmp_path / "KU_Cover"]
    assert pictures_in([tmp_path])["image"].folders == [tmp_path]
    assert pictures_in([]) == {}


def test_an_option_names_a_folder_as_typed_or_inside_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = ArgumentParser()
    add_images_argument(parser, "folders named images")
    touch(tmp_path, "raw/images/1.jpg", "raw/covers/1.jpg", "covers/2.jpg")
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "raw"
    assert chosen_folder("covers", raw) == Path("covers")
    assert chosen_folder("images", raw) == raw / "images"
    assert chosen_folder(str(raw / "images"), raw) == raw / "images"
    assert chosen_folder("absent", raw) is None
    for words, folders in (([], [tmp_path]), (["--images", "images"], [raw / "images"])):
        assert pictures_of(parser.parse_args(words), raw, [tmp_path])["image"].folders == folders
    with pytest.raises(ReleaseError, match=r"--images absent: no folder there, nor at .*raw/absent"):
        pictures_of(parser.parse_args(["--images", "absent"]), raw, [])


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_layout_says_what_the_text_is(vendor: str) -> None:
    assert "Text: " in importlib.import_module(f"data_adapters.{vendor.replace('-', '_')}").ADAPTER.layout


def test_every_row_needs_an_id() -> None:
    assert check_id(" 7\n", "items.csv, line 3", "sku") == "7"
    for empty in (None, "", " "):
        with pytest.raises(ReleaseError, match=r"items.csv, line 3, field 'sku': empty; every item needs an id"):
            check_id(empty, "items.csv, line 3", "sku")

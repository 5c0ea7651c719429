"""Amazon's metadata: texts of nested lists, and literals that never run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_adapters.amazon_items import FIELDS, read_meta
from data_adapters.text_files import ReleaseError
from tests.unit.adapters.amazon_release import ASINS, BOOK, META_2014, write


def test_metadata_of_2014_are_read_as_literals_or_json(tmp_path: Path) -> None:
    literals = write(tmp_path / "meta_Beauty.json.gz", [repr(record) for record in META_2014])
    strict = write(tmp_path / "meta_strict.json", [json.dumps(record) for record in META_2014])
    items = list(read_meta(literals))
    assert items == list(read_meta(strict))
    assert [asin for asin, _ in items] == [BOOK, ASINS[0], ASINS[0], ASINS[1]]
    assert items[0][1] == {
        "title": "Bio-Active Anti-Aging Serum &amp; Cream",
        "brand": None,
        "categories": "Beauty, Skin Care, Face, Gifts",
        "description": 'It\'s a <b>serum</b>,\nnot a "book".',
        "features": None,
        "price": "12.99",
        "image_url": "http://ecx.images-amazon.com/images/I/1.jpg",
    }
    assert items[1][1]["title"] == "Sonne 😀"
    assert set(items[3][1].values()) == {None}
    assert tuple(items[0][1]) == FIELDS


def test_metadata_of_2018_and_2023(tmp_path: Path) -> None:
    of_2018 = {
        "asin": BOOK,
        "title": '<span class="a">Serum</span>',
        "category": ["Luxury Beauty", "Skin Care"],
        "main_cat": "Luxury Beauty",
        "description": ["One.", "", "Two.", "One."],
        "feature": ["Soft", "Light"],
        "brand": "Borghese",
        "price": "$30.00",
        "imageURL": ["https://a/small.jpg"],
        "imageURLHighRes": ["https://a/large.jpg"],
    }
    of_2023 = {
        "parent_asin": ASINS[0],
        "asin": "B0VARIANT0",
        "main_category": "Baby",
        "title": "Bib",
        "store": "Acme",
        "categories": [],
        "description": [],
        "features": ["Soft"],
        "price": None,
        "images": [{"thumb": "https://a/t.jpg", "large": "https://a/l.jpg", "variant": "MAIN", "hi_res": None}],
        "details": {"Brand": "Acme"},
    }
    path = write(tmp_path / "meta.jsonl", [json.dumps(of_2018), json.dumps(of_2023), '{"asin": "B1", "price": NaN}'])
    items = dict(read_meta(path))
    assert items[BOOK]["categories"] == "Luxury Beauty, Skin Care"
    assert items[BOOK]["description"] == "One. Two."
    assert items[BOOK]["features"] == "Soft Light"
    assert items[BOOK]["image_url"] == "https://a/large.jpg"
    assert items[ASINS[0]] == {
        "title": "Bib",
        "brand": "Acme",
        "categories": "Baby",
        "description": None,
        "features": "Soft",
        "price": None,
        "image_url": "https://a/l.jpg",
    }
    assert items["B1"]["price"] is None


@pytest.mark.parametrize(
    "code",
    [
        "__import__('os').system('touch {path}')",
        "{{'asin': __import__('os').system('touch {path}')}}",
        "(lambda: open('{path}', 'w'))()",
        "{{'asin': [open('{path}', 'w') for _ in (1,)]}}",
        "exec(\"open('{path}', 'w')\")",
        "{{'asin': 'B1'.upper()}}",
        "{{'asin': f\"{{open('{path}', 'w')}}\"}}",
        "{{[]: 1}}",
        "(" * 5000,
        "[" * 100_000,
        "not a record",
        "{{'asin': 'B1'",
    ],
)
def test_a_line_that_is_code_is_refused_and_never_run(tmp_path: Path, code: str) -> None:
    ran = tmp_path / "ran"
    path = write(tmp_path / "meta_Beauty.json.gz", ["{'asin': 'B1'}", code.format(path=ran)])
    with pytest.raises(ReleaseError, match=r"meta_Beauty\.json\.gz, line 2: neither JSON nor a Python literal"):
        list(read_meta(path))
    assert not ran.exists()


def test_a_line_without_an_item_is_refused(tmp_path: Path) -> None:
    for line, message in (
        ("{'title': 'x'}", r"line 1: field asin is None, must be an item's id"),
        ('{"parent_asin": ""}', r"line 1: field parent_asin is '', must be"),
        ("['B1']", r"line 1: \"\['B1'\]\" is no record"),
    ):
        with pytest.raises(ReleaseError, match=message):
            list(read_meta(write(tmp_path / "meta.json", [line])))

"""A table of items beside the events: what no event shows, what is told of, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_adapters.__main__ import main
from odmt.data.splits import LeaveTwoOut
from tests.unit.adapters.test_table import COLUMNS, EVENTS, FIELDS, ITEMS, NAMES, TABLES, prepared, refused, write

WITH_TITLES = ("--events", "events.csv", "--items", "items.csv", "--text", "{name}")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    for kind, rows, names in TABLES:
        write(tmp_path / "raw" / f"{kind}.csv", rows, names)
    return tmp_path / "raw"


def test_items_without_events_are_kept_where_asked(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = prepared(shop, *WITH_TITLES)
    ids, items = few.ids(), few.items.copy()
    all_of_them = prepared(shop, *WITH_TITLES, "--all-items", "--overwrite")
    assert (ids, all_of_them.ids()) == (["007", "8", "x/9"], ["007", "8", "x/9", "77"])
    assert all_of_them.texts()[3] == "Never bought"
    assert (all_of_them.items == items).all()
    assert not any("without a kept event" in why for why in all_of_them.info.dropped)
    assert "items without a kept event: 1, the last ones (--all-items)" in capsys.readouterr().out
    assert few.info.preparation.keys() | {"all_items"} == all_of_them.info.preparation.keys()
    assert "all_items was '', now 'True'" in refused_again(shop, capsys, *WITH_TITLES, "--all-items")


def refused_again(raw: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    prepared(raw, *WITH_TITLES, "--overwrite")
    out = raw.parent / "out"
    assert main(["table", "--raw", str(raw), "--out", str(out), "--min-events", "4", *COLUMNS, *options]) == 1
    return capsys.readouterr().err


def test_all_items_needs_something_that_lists_them(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    why = refused(shop, capsys, "--events", "events.csv", "--all-items")
    assert "--all-items: no catalogue of items is read; name one that the adapter takes" in why


def test_short_histories_are_kept_to_recommend_from(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(shop / "events.csv", [*EVENTS, ("new", "8", "2020-01-01 10:00:00", 3.0)], NAMES)
    dataset = prepared(shop, *WITH_TITLES, "--min-events", "1")
    assert dataset.users() == ["ann", "bob", "new"]
    assert "--min-events 1: a folder with histories of fewer than 4 events is to recommend" in capsys.readouterr().err
    with pytest.raises(ValueError, match="a user has 1 events, but leave-two-out needs at least 4"):
        LeaveTwoOut(dataset.offsets, dataset.items, num_items=3, length=5)


def test_repeats_at_the_same_time_are_told_of(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(shop / "events.csv", [*EVENTS, EVENTS[4], EVENTS[0]], NAMES)
    assert prepared(shop, *WITH_TITLES).info.notes["repeats"].startswith("2 events are of the same item at the same")
    assert "repeats: 2 events are of the same item" in capsys.readouterr().out
    exact = prepared(shop, *WITH_TITLES, "--repeats", "exact", "--overwrite")
    assert "repeats" not in exact.info.notes
    assert exact.info.num_interactions == len(EVENTS)


def test_items_that_are_described_in_several_ways_are_told_of(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(shop / "items.csv", [*ITEMS, ITEMS[0], ("8", "Another", None, None, [])], FIELDS)
    assert prepared(shop, *WITH_TITLES).texts()[1] == "Line\nbreak"
    assert "1 items are described in several ways, such as '8'; of each field the first" in capsys.readouterr().err


def test_the_option_that_names_a_column_that_is_not_there_is_named(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no column 'id' (--item-id); " in refused(shop, capsys, *WITH_TITLES, "--item-id", "id")


def test_a_table_of_items_that_is_not_read_is_told_of(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(shop, "--events", "events.csv", "--items", "items.csv")
    assert "warning: --items items.csv is not read: nothing names a field of it (--text, " in capsys.readouterr().err
    prepared(shop, *WITH_TITLES, "--overwrite")
    assert "is not read" not in capsys.readouterr().err

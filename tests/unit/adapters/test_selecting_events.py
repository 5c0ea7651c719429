"""Which events stay, and in which order, against plain Python."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_adapters.engine import Engine
from data_adapters.events import load_events
from data_adapters.filtering import number_events, select_events
from data_adapters.options import Options
from data_adapters.release import Delimited, Release
from data_adapters.text_files import ReleaseError
from tests.unit.adapters.toy import COLUMNS, LOOSE, START, Histories, adapter, histories_of, run, write_events

Event = tuple[str, str, int, float]
"""User, item, time in seconds, rating."""
any_example = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def expected_histories(events: Sequence[Event], options: Options) -> Histories:
    """Apply the options the plain way."""
    return expected_of(events, options)[0]


def expected_of(events: Sequence[Event], options: Options) -> tuple[Histories, dict[str, int]]:
    """Apply the options the plain way, and count what each leaves out."""
    dropped: dict[str, int] = {}
    kept = [e for e in events if options.min_rating is None or e[3] >= options.min_rating]
    if options.min_rating is not None:
        dropped[f"events rated below {options.min_rating:g}"] = len(events) - len(kept)
    whole: Histories = {}
    for user, item, when, _ in sorted(kept, key=lambda e: e[2]):
        whole.setdefault(user, []).append((item, when))
    whole = {user: without_repeats(history, options.repeats) for user, history in whole.items()}
    if options.repeats != "keep":
        dropped[f"repeated events (--repeats {options.repeats})"] = len(kept) - size_of(whole)
    core = core_of(whole, options)
    if options.k_core > 1:
        few = f"users outside the {options.k_core}-core, or with fewer than {options.min_events} events"
        dropped[few] = len(whole) - len(core)
        dropped[f"items outside the {options.k_core}-core"] = len(items_of(whole)) - len(items_of(core))
        dropped["events of those users and items"] = size_of(whole) - size_of(core)
    else:
        dropped[f"users with fewer than {options.min_events} events"] = len(whole) - len(core)
        dropped["events of those users"] = size_of(whole) - size_of(core)
    newest = core
    if options.max_events is not None:
        newest = {user: history[-options.max_events :] for user, history in core.items()}
        dropped[f"events older than the newest {options.max_events} of a user"] = size_of(core) - size_of(newest)
    chosen = sorted(newest)[: options.users]
    if options.users is not None:
        dropped[f"users after the first {options.users}"] = len(newest) - len(chosen)
    return {user: newest[user] for user in chosen}, dropped


def core_of(histories: Histories, options: Options) -> Histories:
    while True:
        counts = Counter(item for history in histories.values() for item, _ in history)
        core = {u: [e for e in h if counts[e[0]] >= options.k_core] for u, h in histories.items()}
        core = {u: h for u, h in core.items() if len(h) >= max(options.min_events, options.k_core)}
        if core == histories:
            return core
        histories = core


def size_of(histories: Histories) -> int:
    return sum(map(len, histories.values()))


def items_of(histories: Histories) -> set[str]:
    return {item for history in histories.values() for item, _ in history}


def without_repeats(history: list[tuple[str, int]], policy: str) -> list[tuple[str, int]]:
    match policy:
        case "exact":
            return list(dict.fromkeys(history))
        case "consecutive":
            return [e for place, e in enumerate(history) if place == 0 or history[place - 1][0] != e[0]]
        case "first":
            return [e for place, e in enumerate(history) if e[0] not in {item for item, _ in history[:place]}]
        case "last":
            return [e for place, e in enumerate(history) if e[0] not in {item for item, _ in history[place + 1 :]}]
    return history


NAMES = [
    "0",
    "00",
    "007",
    "7",
    "10",
    "9",
    "a",
    "A",
    "é",
    "e\u0301",
    "日本",
    "😂",
    "o'b",
    'q"',
    "a,b",
    "a b",
    "x\ny",
    "-1",
]
names = st.sampled_from(NAMES)
times = st.integers(START, START + 6)
ratings = st.sampled_from([0.0, 1.0, 2.5, 3.0, 4.0, 5.0])


def events_among(pools: tuple[list[str], list[str]]) -> st.SearchStrategy[list[Event]]:
    users, items = map(st.sampled_from, pools)
    return st.lists(st.tuples(users, items, times, ratings), min_size=30, max_size=90)


# few users and items, so that most examples keep something, and of many names in turn
some_events = st.tuples(
    st.lists(names, min_size=3, max_size=6, unique=True), st.lists(names, min_size=5, max_size=9, unique=True)
).flatmap(events_among)
some_options = st.builds(
    Options,
    min_rating=st.sampled_from([None, None, 1.0, 2.6]),
    repeats=st.sampled_from(["keep", "exact", "consecutive", "first", "last"]),
    min_events=st.integers(4, 6),
    k_core=st.integers(1, 5),
    max_events=st.sampled_from([None, 6, 8]),
    users=st.sampled_from([None, None, 1, 2]),
)


def selected(engine: Engine, release: Release, options: Options) -> tuple[Histories, dict[str, int]]:
    """Run what lies below `prepare`, without a folder."""
    engine.run("DROP VIEW IF EXISTS chosen")
    for table in ("events", "numbered", "user_ids", "item_ids", "kept_users", "kept_items", "lengths"):
        engine.run(f"DROP TABLE IF EXISTS {table}")
    facts = load_events(engine, release)
    number_events(engine)
    dropped = select_events(engine, options, facts, where="toy")
    chosen = "numbered SEMI JOIN kept_users USING (u) JOIN user_ids USING (u) JOIN item_ids USING (i)"
    found: Histories = {}
    for batch in engine.stream(f"SELECT user, item, time // 1000 AS t FROM {chosen} ORDER BY u, time, place"):
        for row in batch.to_pylist():
            found.setdefault(str(row["user"]), []).append((str(row["item"]), row["t"]))
    (left,) = engine.one("SELECT count(*) FROM kept_items")
    assert left == len({item for history in found.values() for item, _ in history})
    return found, dropped


@settings(any_example, max_examples=30)
@given(events=some_events, options=some_options)
@example([*[("a", "x", START, 1.0)] * 7, ("b", "x", START, 1.0)], Options(min_events=4, max_events=6))  # one each
def test_options_choose_what_plain_python_chooses(
    engine: Engine, tmp_path: Path, events: list[Event], options: Options
) -> None:
    release = Release([Delimited(write_events(tmp_path / "events.csv", events), COLUMNS)])
    expected, left_out = expected_of(events, options)
    if not expected:
        with pytest.raises(ReleaseError, match=r"nothing is left|none of its|no event is rated"):
            selected(engine, release, options)
        return
    found, dropped = selected(engine, release, options)
    assert found == expected
    assert list(found) == sorted(expected)
    assert dropped == left_out
    if options.users is None:
        left_out_events = sum(count for why, count in dropped.items() if "events" in why.split(" with ")[0])
        assert len(events) - left_out_events == size_of(found)


@any_example
@given(events=some_events, seed=st.integers(0, 9), options=some_options)
def test_the_order_of_lines_decides_between_ties_alone(
    engine: Engine, tmp_path: Path, events: list[Event], seed: int, options: Options
) -> None:
    options = replace(options, repeats="keep", max_events=None)
    shuffled = random.Random(seed).sample(events, len(events))
    if not expected_histories(events, options):
        return
    one, other = (
        selected(engine, Release([Delimited(write_events(tmp_path / "events.csv", e), COLUMNS)]), options)
        for e in (events, shuffled)
    )
    assert {u: sorted(h, key=lambda e: (e[1], e[0])) for u, h in one[0].items()} == {
        u: sorted(h, key=lambda e: (e[1], e[0])) for u, h in other[0].items()
    }
    for history in other[0].values():
        assert [when for _, when in history] == sorted(when for _, when in history)
    assert one[1] == other[1]


@settings(any_example, max_examples=10)
@given(events=some_events, pad=st.booleans())
def test_nothing_is_lost_between_the_file_and_the_folder(tmp_path: Path, events: list[Event], pad: bool) -> None:
    events = [*events, *(("full", f"item {n}" if pad else "7", START, 1.0) for n in range(4))]
    write_events(tmp_path / "raw/events.csv", events)
    dataset = run(tmp_path / "raw", tmp_path / "out", overwrite=True).dataset
    expected = expected_histories(events, LOOSE)
    assert histories_of(dataset) == expected
    assert dataset.users() == sorted(expected)
    assert dataset.ids() == sorted({item for history in expected.values() for item, _ in history})
    dataset.verify()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_whole_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    write_events(
        tmp_path / "raw/events.csv", [(u, i, START, 1) for u in ("10", "9", "007") for i in (100, 20, 3, "03")]
    )
    dataset = run(tmp_path / "raw", tmp_path / "out", toy=adapter(integer_ids=True)).dataset
    assert (dataset.users(), dataset.ids()) == (["7", "9", "10"], ["3", "20", "100"])
    assert [item for item, _ in histories_of(dataset)["7"]] == ["100", "20", "3", "3"]


def test_files_follow_each_other_in_the_order_of_the_release(tmp_path: Path) -> None:
    for place in (2, 1, 3):
        write_events(tmp_path / f"raw/events{place}.csv", [("u", f"{place}{n}", START, 1) for n in "ba"])
    dataset = run(tmp_path / "raw", tmp_path / "out").dataset
    assert [item for item, _ in histories_of(dataset)["u"]] == ["1b", "1a", "2b", "2a", "3b", "3a"]
    assert dataset.info.tie_rule == (
        "time, then the order of the files events1.csv, events2.csv, events3.csv and of the lines in each"
    )


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"min_events": 0}, "--min-events 0: must be at least 1"),
        ({"max_events": 3}, "--max-events 3: must be at least 4"),
        ({"max_events": 4}, "--max-events 4: must be at least --min-events (5)"),
        ({"k_core": 0}, "--k-core 0: must be at least 1"),
        ({"users": 0}, "--users 0: must be at least 1"),
    ],
)
def test_refuses_options_out_of_range(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ReleaseError) as caught:
        Options(**options)
    assert why in str(caught.value)


def test_options_need_what_they_filter_by(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("".join(f"u,{n}\n" for n in range(5)))
    release = Release([Delimited(path, {"user": (0,), "item": (1,)})])
    for options, why in (
        (Options(min_rating=1), "--min-rating 1: toy has no ratings"),
        (Options(repeats="exact"), "--repeats exact: toy has no times"),
    ):
        with pytest.raises(ReleaseError, match=why):
            selected(engine, release, options)

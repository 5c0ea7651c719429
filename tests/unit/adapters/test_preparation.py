"""A whole preparation against plain Python: which events stay, what is recorded, what is left when one is stopped."""

from __future__ import annotations

import csv
import importlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_adapters.__main__ import VENDORS, main
from data_adapters.engine import Engine
from data_adapters.events import load_events
from data_adapters.filtering import number_events, select_events
from data_adapters.options import Options
from data_adapters.preparation import Prepared, prepare, summarise
from data_adapters.release import Adapter, Catalogue, Columns, Delimited, Media, Release
from data_adapters.text_files import ReleaseError
from odmt.data.format import Dataset, DatasetError, hash_file, open_dataset

Event = tuple[str, str, int, float]
"""User, item, time in seconds, rating."""
Histories = dict[str, list[tuple[str, int]]]

COLUMNS: Columns = {"user": ("user", 0), "item": ("item", 1), "time": ("time", 2), "rating": ("rating", 3)}
START = 1_600_000_000
LOOSE = Options(min_events=4)
any_example = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write_events(path: Path, events: Sequence[Sequence[Any]]) -> Path:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("user", "item", "time", "rating"), *events])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


def adapter(**about: Any) -> Adapter:
    """Describe every events*.csv of a folder, and what `about` says."""

    def read(raw: Path, arguments: Namespace) -> Release:
        events = [Delimited(path, COLUMNS) for path in sorted(raw.glob("events*.csv"))]
        return Release(events, media_root=raw, **{k: v(raw) if callable(v) else v for k, v in about.items()})

    return Adapter("toy", "LAYOUT", read, licence="free", citation="none")


def run(raw: Path, out: Path, options: Options = LOOSE, *, toy: Adapter | None = None, **more: Any) -> Prepared:
    given = {"name": "toy", "arguments": Namespace(flavour=None), "memory": "500MB", **more}
    return prepare(toy or adapter(), raw, out, options=options, **given)


def histories_of(dataset: Dataset) -> Histories:
    ids, times = dataset.ids(), dataset.times
    assert times is not None
    return {
        user: [
            (ids[dataset.items[place] - 1], int(times[place]) // 1000)
            for place in range(dataset.offsets[row], dataset.offsets[row + 1])
        ]
        for row, user in enumerate(dataset.users())
    }


def expected_histories(events: Sequence[Event], options: Options) -> Histories:
    """Apply the options the plain way."""
    kept = [e for e in events if options.min_rating is None or e[3] >= options.min_rating]
    by_user: dict[str, list[tuple[str, int]]] = {}
    for user, item, when, _ in sorted(kept, key=lambda e: e[2]):
        by_user.setdefault(user, []).append((item, when))
    by_user = {user: without_repeats(history, options.repeats) for user, history in by_user.items()}
    while True:
        counts = Counter(item for history in by_user.values() for item, _ in history)
        core = {u: [e for e in h if counts[e[0]] >= options.k_core] for u, h in by_user.items()}
        core = {u: h for u, h in core.items() if len(h) >= max(options.min_events, options.k_core)}
        if core == by_user:
            break
        by_user = core
    chosen = sorted(by_user)[: options.users]
    return {user: by_user[user][-(options.max_events or len(by_user[user])) :] for user in chosen}


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
users = st.sampled_from(NAMES[:8])
items = st.sampled_from(NAMES)
times = st.integers(START, START + 6)
ratings = st.sampled_from([0.0, 1.0, 2.5, 3.0, 5.0])
some_events = st.lists(st.tuples(users, items, times, ratings), min_size=1, max_size=80)
some_options = st.builds(
    Options,
    min_rating=st.sampled_from([None, None, 1.0, 2.6]),
    repeats=st.sampled_from(["keep", "exact", "consecutive", "first", "last"]),
    min_events=st.integers(4, 6),
    k_core=st.integers(1, 5),
    max_events=st.sampled_from([None, 6, 8]),
    users=st.sampled_from([None, None, 1, 2]),
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("engine"), memory="500MB") as engine:
        yield engine


def selected(engine: Engine, release: Release, options: Options) -> tuple[Histories, dict[str, int]]:
    """Run what lies below `prepare`, without a folder."""
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
def test_options_choose_what_plain_python_chooses(
    engine: Engine, tmp_path: Path, events: list[Event], options: Options
) -> None:
    release = Release([Delimited(write_events(tmp_path / "events.csv", events), COLUMNS)])
    expected = expected_histories(events, options)
    if not expected:
        with pytest.raises(ReleaseError, match=r"nothing is left|none of its|no event is rated"):
            selected(engine, release, options)
        return
    found, dropped = selected(engine, release, options)
    assert found == expected
    assert list(found) == sorted(expected)
    if options.users is None:
        left_out = sum(count for reason, count in dropped.items() if "events" in reason.split(" with ")[0])
        assert len(events) - left_out == sum(map(len, found.values()))
    assert all(count >= 0 for count in dropped.values())


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
@given(events=st.lists(st.tuples(users, items, times, ratings), min_size=4, max_size=40), pad=st.booleans())
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


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Write a small release: two users, a catalogue and pictures."""
    raw = tmp_path / "raw"
    write_events(raw / "events.csv", [(u, f"i{n}", START + 86_400 * n, n) for u in "ab" for n in range(6)])
    for n in range(5):
        (raw / "covers").mkdir(exist_ok=True)
        (raw / f"covers/i{n}.jpg").write_bytes(b"picture" * n)
    (raw / "items.txt").write_text("titles\n")
    return raw


def titles(raw: Path) -> list[Catalogue]:
    def read() -> Iterator[tuple[str, dict[str, str | None]]]:
        for n in range(1, 9):
            yield (
                f" i{n} ",
                {"title": f"<b>Title</b> &amp;amp; {n}", "brand": f"A &amp; {n}" if n % 2 else "", "id": "x"},
            )
        yield "i2", {"title": "second", "brand": "late"}
        yield "i3", {"title": "half \ud83d", "brand": None}
        yield "i0", {"title": "half \ud83d", "brand": None}

    return [Catalogue(raw / "items.txt", read)]


FULL: dict[str, Any] = {
    "catalogues": titles,
    "fields": ("title", "brand", "id", "text"),
    "text": "{title} by {brand}",
    "media": lambda raw: {"image": Media([raw / "covers"], [".jpg"])},
}


def test_writes_texts_columns_and_media(raw: Path, tmp_path: Path) -> None:
    options = replace(LOOSE, html="strip", columns=("brand", "title"))
    dataset = run(raw, tmp_path / "out", options, toy=adapter(**FULL)).dataset
    texts = dict(zip(dataset.ids(), dataset.texts(), strict=True))
    assert texts["i1"] == "Title & 1 by A & 1"
    assert texts["i2"] == "Title & 2 by late"
    assert texts["i0"] == "half ?"
    assert dataset.column("brand")[:4] == [None, "A &amp; 1", "late", "A &amp; 3"], "columns stay as they are"
    assert dataset.column("title")[1] == "<b>Title</b> &amp;amp; 1"
    assert [path and path.name for path in dataset.media("image")] == [f"i{n}.jpg" for n in range(5)] + [None]
    assert dataset.info.dropped["catalogue rows of items without a kept event"] == 3
    assert dataset.info.modalities == {"text": 6, "image": 5}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"columns": ("titel",)}, "--columns titel: no such field; there are title, brand"),
        ({"columns": ("id",)}, "--columns id: items.parquet has a column of that name"),
        ({"columns": ("text",)}, "--columns text: items.parquet has a column of that name"),
        ({"text": "{titel}"}, "did you mean 'title'?"),
        ({"min_events": 7}, "none of its 2 users has 7 events, the longest history has 6; lower --min-events"),
        ({"k_core": 3}, "nothing is left of 2 users in the 3-core"),
        ({"min_rating": 9.0}, "no event is rated 9 or higher; lower --min-rating"),
    ],
)
def test_refuses_options_that_cannot_be(raw: Path, tmp_path: Path, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ReleaseError) as caught:
        run(raw, tmp_path / "out", replace(LOOSE, **options), toy=adapter(**FULL))
    assert why in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"min_events": 3}, "--min-events 3: must be at least 4"),
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


def test_records_how_it_was_made(raw: Path, tmp_path: Path) -> None:
    options = replace(LOOSE, k_core=2, columns=("brand", "title"), max_events=50)
    arguments = Namespace(flavour="vanilla", raw=raw, out="x", overwrite=False, memory="1GB")
    dataset = run(
        raw, tmp_path / "toy", options, toy=adapter(**FULL), arguments=arguments, made_by="the command"
    ).dataset
    info = yaml.safe_load((tmp_path / "toy/dataset.yaml").read_text())
    recorded = info["preparation"]
    assert recorded.pop("odmt")
    assert recorded == {
        "adapter": "toy", "min_rating": "", "repeats": "keep", "min_events": "4", "k_core": "2", "max_events": "50",
        "users": "", "text": "{title} by {brand}", "html": "unescape", "columns": "brand, title", "pack": "False",
        "flavour": "vanilla",
    }  # fmt: skip
    assert (info["name"], info["made_by"], info["licence"], info["citation"]) == ("toy", "the command", "free", "none")
    sources = {record["name"]: record for record in info["sources"]}
    assert list(sources) == ["events.csv", "items.txt", "covers/"]
    assert sources["events.csv"]["sha256"] == hash_file(raw / "events.csv")
    assert sources["covers/"]["size"] == sum(p.stat().st_size for p in (raw / "covers").iterdir())
    assert info["notes"]["times"] == "s, whole seconds"
    assert dataset.info.tie_rule == "time, then the order of lines in the file"


def test_a_second_run_has_nothing_to_do(raw: Path, tmp_path: Path) -> None:
    toy, out = adapter(**FULL), tmp_path / "out"
    assert not run(raw, out, toy=toy, made_by="first").was_there
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    again = run(raw, out, toy=toy, made_by="second", memory="600MB")
    assert again.was_there
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    assert not run(raw, out, toy=toy, made_by="third", overwrite=True).was_there
    assert open_dataset(out).info.made_by == "third"


def change_events(raw: Path) -> None:
    write_events(raw / "events.csv", [("c", f"i{n}", START, 1) for n in range(6)])


CHANGES: dict[str, tuple[Any, str]] = {
    "events": (change_events, "source events.csv is changed"),
    "new file": (lambda raw: write_events(raw / "events2.csv", [("c", "i1", START, 1)]), "source events2.csv is new"),
    "catalogue": (lambda raw: (raw / "items.txt").write_text("others\n"), "source items.txt is changed"),
    "cover changed": (lambda raw: (raw / "covers/i1.jpg").write_bytes(b"x"), "source covers/ is changed"),
    "cover gone": (lambda raw: (raw / "covers/i0.jpg").unlink(), "source covers/ is changed"),
    "cover new": (lambda raw: (raw / "covers/i5.jpg").write_bytes(b""), "source covers/ is changed"),
    "clip new": (lambda raw: (raw / "covers/i5.mp4").write_bytes(b"x"), "source covers/ is changed"),
}


@pytest.mark.parametrize(("change", "why"), CHANGES.values(), ids=CHANGES)
def test_a_second_run_says_which_source_changed(raw: Path, tmp_path: Path, change: Any, why: str) -> None:
    def media(raw: Path) -> dict[str, Media]:
        return {"image": Media([raw / "covers"], [".jpg"]), "video": Media([raw / "covers"], [".mp4"])}

    toy, out = adapter(**(FULL | {"media": media})), tmp_path / "out"
    run(raw, out, toy=toy)
    assert run(raw, out, toy=toy).was_there
    change(raw)
    with pytest.raises(DatasetError) as caught:
        run(raw, out, toy=toy)
    assert f"{out} exists, made differently: {why}; name another folder, or overwrite it (--overwrite)" == str(
        caught.value
    )


def test_a_second_run_says_which_option_changed(raw: Path, tmp_path: Path) -> None:
    toy, out = adapter(**FULL), tmp_path / "out"
    run(raw, out, toy=toy)
    for options, why in (
        ({"min_events": 5}, "min_events was '4', now '5'"),
        ({"text": "brand"}, "text was '{title} by {brand}', now 'brand'"),
        ({"columns": ("brand",)}, "columns was '', now 'brand'"),
        ({"pack": True}, "pack was 'False', now 'True'"),
    ):
        with pytest.raises(DatasetError) as caught:
            run(raw, out, replace(LOOSE, **options), toy=toy)
        assert why in str(caught.value)
    with pytest.raises(DatasetError, match="flavour was '', now 'vanilla'"):
        run(raw, out, toy=toy, arguments=Namespace(flavour="vanilla"))
    with pytest.raises(DatasetError, match="adapter was 'toy', now 'other'"):
        run(raw, out, toy=toy, name="other")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    for overwrite in (False, True):
        with pytest.raises(DatasetError, match="is no dataset folder"):
            run(raw, tmp_path / "taken", toy=toy, overwrite=overwrite)
    assert (tmp_path / "taken/file").exists()


def test_two_preparations_give_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    for options in (LOOSE, replace(LOOSE, pack=True, k_core=2)):
        for place in ("one", "two"):
            run(raw, tmp_path / place / "out", options, toy=adapter(**FULL), made_by=place, overwrite=True)
        one, two = (
            {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
            for folder in (tmp_path / "one/out", tmp_path / "two/out")
        )
        name = Path("dataset.yaml")
        assert one.pop(name).replace(b"made_by: one", b"") == two.pop(name).replace(b"made_by: two", b"")
        assert one == two


def test_works_from_any_place(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    toy = adapter(**FULL)
    relative = run(Path("raw"), Path("out"), toy=toy).dataset
    assert all(path is None or path.is_file() for path in relative.media("image"))
    assert run(raw, tmp_path / "out", toy=toy).was_there
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for nameless in (".", "..", "../here/.."):
        (tmp_path / "here/file").touch()
        with pytest.raises(DatasetError, match=r"is no dataset folder|has no name of its own"):
            run(Path("../raw"), Path(nameless), toy=toy)
        (tmp_path / "here/file").unlink()
        with pytest.raises(DatasetError, match=r"is no dataset folder|has no name of its own"):
            run(Path("../raw"), Path(nameless), toy=toy)


def test_a_file_that_is_not_there_is_named(raw: Path, tmp_path: Path) -> None:
    (raw / "items.txt").unlink()
    with pytest.raises(ReleaseError, match=r"no file at .*items\.txt"):
        run(raw, tmp_path / "out", toy=adapter(**FULL))


@pytest.mark.parametrize("memory", ["lots", "", "2", "-5GB"])
def test_memory_that_is_no_size_is_refused(raw: Path, tmp_path: Path, memory: str) -> None:
    with pytest.raises(ReleaseError, match=f"--memory {memory}: .*write a size such as 2GB"):
        run(raw, tmp_path / "out", memory=memory)
    with pytest.raises(DatasetError, match="give --memory another size"):
        run(raw, tmp_path / "out", memory="1KB")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"]


def test_a_packed_folder_needs_no_other(raw: Path, tmp_path: Path) -> None:
    (raw / "covers/i1-1.png").write_bytes(b"one")
    (raw / "covers/i1-2.png").write_bytes(b"two")

    def media(raw: Path) -> dict[str, Media]:
        return {"image": Media(field="covers/{id}.jpg"), "frames": Media([raw / "covers"], [".png"])}

    run(raw, tmp_path / "out", replace(LOOSE, pack=True), toy=adapter(**(FULL | {"media": media})))
    shutil.rmtree(raw)
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = open_dataset(tmp_path / "moved")
    assert moved.info.media_root == "media"
    assert [p and p.read_bytes() for p in moved.media("image")] == [*(b"picture" * n for n in range(5)), None]
    frames = moved.column("frames")[1]
    assert [(moved.media_root / path).read_bytes() for path in frames] == [b"one", b"two"]
    moved.verify()
    moved.check_media("image")


def test_the_only_copy_of_packed_media_is_not_overwritten(raw: Path, tmp_path: Path) -> None:
    toy, out = adapter(**FULL), tmp_path / "out"
    packed = replace(LOOSE, pack=True)
    run(raw, out, packed, toy=toy)
    for cover in (raw / "covers").iterdir():
        cover.unlink()
    with pytest.raises(DatasetError, match=r"i\d\.jpg lies inside the folder that would be replaced .*--pack"):
        run(raw, out, toy=toy, overwrite=True)
    shutil.rmtree(raw / "covers")
    (raw / "covers").symlink_to(out / "media/image/covers")
    with pytest.raises(DatasetError, match="lies inside the folder that would be replaced"):
        run(raw, out, toy=toy, overwrite=True)
    assert len(list((out / "media/image/covers").iterdir())) == 5
    again = run(raw, out, replace(packed, k_core=2), toy=toy, overwrite=True).dataset
    assert [p and p.is_file() for p in again.media("image")] == [True] * 5 + [None]


STOPPABLE = """
import sys, time
from argparse import Namespace
from pathlib import Path
import pyarrow as pa
from data_adapters.release import Adapter, Batches, Catalogue, Delimited, Release

stage, folder = sys.argv[1], Path(sys.argv[2])

def events():
    number = 0
    while number < 8 or stage == "events":
        yield pa.RecordBatch.from_pydict({"user": ["u"], "item": [str(number)]})
        (folder / "reached").touch()
        number += 1
        time.sleep(0.01)

def items():
    yield "1", {"title": "a title"}
    while stage == "items":
        (folder / "reached").touch()
        time.sleep(0.01)

adapter = Adapter("toy", "", lambda raw, arguments: Release(
    [Batches(folder / "file", events, ("user", "item"))], [Catalogue(folder / "file", items)], ("title",), "title"))
from data_adapters.options import Options
from data_adapters.preparation import prepare
try:
    prepare(adapter, folder, folder / "out", options=Options(), name="toy", arguments=Namespace(), memory="500MB")
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("stage", "with_signal"),
    [("events", signal.SIGKILL), ("items", signal.SIGTERM), ("events", signal.SIGINT), ("items", signal.SIGINT)],
)
def test_a_stopped_preparation_leaves_nothing(tmp_path: Path, stage: str, with_signal: signal.Signals) -> None:
    (tmp_path / "file").touch()
    process = subprocess.Popen([sys.executable, "-c", STOPPABLE, stage, str(tmp_path)], start_new_session=True)
    try:
        wait_until(lambda: (tmp_path / "reached").exists())
        assert [p.name for p in tmp_path.glob(".out.partial-*")]
        os.killpg(process.pid, with_signal) if with_signal == signal.SIGINT else process.send_signal(with_signal)
        assert process.wait(timeout=120) == (130 if with_signal == signal.SIGINT else -with_signal)
    finally:
        process.kill()
    wait_until(lambda: not list(tmp_path.glob(".*")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "reached"]


def wait_until(true: Any) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_leftovers_of_the_dead_are_removed(raw: Path, tmp_path: Path) -> None:
    for name in ("out", "o[u]t"):
        dead = tmp_path / f".{name}.partial-999999"
        (dead / "scratch").mkdir(parents=True)
        (dead / "scratch/held").touch()
        (tmp_path / f".{name}.partial-999998/histories").mkdir(parents=True)
        run(raw, tmp_path / name)
        assert not list(tmp_path.glob(".*"))


def test_help_shows_the_layout_of_every_vendor(capsys: pytest.CaptureFixture[str]) -> None:
    for name in VENDORS:
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        shown = capsys.readouterr().out
        layout = importlib.import_module(f"data_adapters.{name.replace('-', '_')}").ADAPTER.layout
        assert layout.strip() in shown
        for option in ("--raw", "--out", "--min-events", "--k-core", "--repeats", "--text", "--pack", "--memory"):
            assert option in shown


def test_the_list_of_commands_and_an_unknown_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"    {name}" in shown for name in (*VENDORS, "sample", "check"))
    for argv in (["movielense"], []):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
    assert "invalid choice: 'movielense'" in capsys.readouterr().err


def test_the_command_tells_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_events(
        tmp_path / "raw/e.csv", [(u, f"i{n}", START + n, n) for u in "ab" for n in range(6)] + [("c", "i1", START, 1)]
    )
    argv = ["table", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert f"{tmp_path / 'out'}: 2 users, 6 items, 12 interactions" in shown
    assert "  times: s, whole seconds" in shown
    assert "left out: 1 users with fewer than 5 events" in shown
    assert "left out: 1 events of those users" in shown
    assert "nothing to do" not in shown
    assert main(argv) == 0
    assert "nothing to do: it was made from the same files with the same options" in capsys.readouterr().out
    assert main([*argv, "--k-core", "2"]) == 1
    assert "error: " in (shown := capsys.readouterr().err)
    assert "k_core was '1', now '2'" in shown
    assert open_dataset(tmp_path / "out").info.made_by.startswith("python -m data_adapters table --raw")


def test_summarises_content(raw: Path, tmp_path: Path) -> None:
    lines = summarise(run(raw, tmp_path / "out", toy=adapter(**FULL)).dataset).splitlines()
    assert lines[0] == f"{tmp_path / 'out'}: 2 users, 6 items, 12 interactions"
    assert "  text: 6" in lines
    assert "  image: 5 (1 items have none)" in lines
    assert "  left out: 3 catalogue rows of items without a kept event" in lines
    assert not [line for line in lines if "left out: 0" in line]

"""A dataset folder written piece by piece: the same as in one go, and nothing where the pieces contradict."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from odmt.data.folder_writer import DatasetWriter
from odmt.data.format import Dataset, DatasetError, Histories, open_dataset, write_dataset
from odmt.data.growing import GrowingTable
from odmt.data.reading import CHUNK

ABOUT: dict[str, Any] = {"name": "tiny", "tie_rule": "time"}


def cut(length: int, places: Sequence[int]) -> list[slice]:
    edges = [0, *sorted(place % (length + 1) for place in places), length]
    return [slice(begin, end) for begin, end in itertools.pairwise(edges)]


event = st.tuples(st.integers(1, 5), st.integers(0, 9))
histories = st.lists(st.lists(event, min_size=1, max_size=5), min_size=1, max_size=6)
cuts = st.lists(st.integers(0, 40), max_size=4)
texts = st.lists(st.one_of(st.none(), st.text(st.characters(codec="utf-8"), min_size=1)), min_size=5, max_size=5)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=histories, texts=texts, cuts=st.tuples(cuts, cuts, cuts), timed=st.booleans(), order=st.permutations("uei"))
def test_pieces_give_the_same_folder_as_one_go(
    tmp_path: Path, rows: list[list[tuple[int, int]]], texts: list[str | None], cuts: Any, timed: bool, order: list[str]
) -> None:
    items = {"id": [f"é{n}" for n in range(5)], "text": texts, "price": [0.5, 1.5, 2.5, 3.5, 4.5]}
    users = [f"u{n}" for n in range(len(rows))]
    times = [time for row in rows for time in sorted(time for _, time in row)]
    whole = Histories(
        users,
        np.cumsum([0, *map(len, rows)]),
        np.array([item for row in rows for item, _ in row]),
        np.array(times) if timed else None,
    )
    one = write_dataset(tmp_path / "one", histories=whole, items=items, overwrite=True, **ABOUT)
    with DatasetWriter(tmp_path / "two", overwrite=True) as writer:
        for what in order:
            if what == "u":
                for part in cut(len(users), cuts[0]):
                    writer.add_users(users[part], np.diff(whole.offsets)[part])
            elif what == "e":
                for part in cut(len(times), cuts[1]):
                    writer.add_events(whole.items[part], None if whole.times is None else whole.times[part])
            else:
                for part in cut(5, cuts[2]):
                    kinds = {"price": pa.array(items["price"][part], pa.float64())}
                    writer.add_items({name: values[part] for name, values in items.items()} | kinds)
        writer.seal(**ABOUT)
        two = writer.publish()
    for name in ("offsets", "items", "times"):
        paths = [dataset.path / f"histories/{name}.npy" for dataset in (one, two)]
        assert [path.exists() for path in paths] == [name != "times" or timed] * 2
        if paths[0].exists():
            assert paths[0].read_bytes() == paths[1].read_bytes()
    assert (one.users(), one.ids(), one.texts()) == (two.users(), two.ids(), two.texts())
    assert one.info.content == two.info.content
    assert one.info.modalities == two.info.modalities
    assert one.fingerprint == two.fingerprint
    two.verify()


def write(path: Path, *pieces: tuple[str, tuple[Any, ...]], overwrite: bool = False, **about: Any) -> Dataset:
    with DatasetWriter(path, overwrite=overwrite) as writer:
        for name, given in pieces:
            getattr(writer, name)(*given)
        writer.seal(**(ABOUT | about))
        return writer.publish()


def users(*ids: Any, lengths: Sequence[int] = ()) -> tuple[str, tuple[Any, ...]]:
    return "add_users", (list(ids), np.array(lengths or [2] * len(ids)))


def events(*items: int, times: Sequence[int] | None = None) -> tuple[str, tuple[Any, ...]]:
    return "add_events", (np.array(items), None if times is None else np.array(times))


def items(*ids: Any, **columns: Any) -> tuple[str, tuple[Mapping[str, Any]]]:
    return "add_items", ({"id": list(ids), **columns},)


WRONG: dict[str, tuple[list[Any], str]] = {
    "no users": ([events(1), items("a")], "no users"),
    "no items": ([users("u"), events(1, 1)], "no items"),
    "too few events": ([users("u"), events(1), items("a")], "2 events, but there are 1 events"),
    "too many events": ([users("u"), events(1), events(1, 1), items("a")], "2 events, but there are 3 events"),
    "length 0": ([users("u", lengths=[0])], "user 'u' has no events"),
    "lengths differ": ([("add_users", (["u", "v"], np.array([2])))], "1 history lengths for 2 users"),
    "times for some": (
        [users("u", "v"), events(1, 1, times=[1, 2]), events(1, 1), items("a")],
        "there are 2 times for 4 events",
    ),
    "item 0": ([users("u"), events(1), events(0), items("a")], "events name items 0..1, the item table has 1..1"),
    "item beyond": ([users("u"), events(2), events(1), items("a")], "the item table has 1..1"),
    "times go back": ([users("u"), events(1, 1, times=[2, 1]), items("a")], "times of user 'u' go back"),
    "back at a cut": (
        [users("u", lengths=[1]), users("v"), events(1, 1, times=[9, 5]), events(1, times=[4]), items("a")],
        "times of user 'v' go back",
    ),
    "user twice": ([users("u"), users("u"), events(1, 1, 1, 1), items("a")], "user id 'u' occurs twice"),
    "item twice": ([users("u"), events(1, 1), items("a", "b"), items("c", "a")], "item id 'a' occurs twice"),
    "number as id": ([items(7)], "item id 7 is int, must be text; write str(7)"),
    "no id": ([("add_items", ({"text": ["a"]},))], "items have no column 'id', only text"),
    "column gone": ([items("a", text=["t"]), items("b")], "have columns ['id'] after ['id', 'text']"),
    "column new": ([items("a"), items("b", text=["t"])], "have columns ['id', 'text'] after ['id']"),
    "other type": ([items("a", price=[1.5]), items("b", price=["free"])], "or other types"),
    "rows differ": ([items("a", "b", text=["t"])], "column 'text' has 1 rows, column 'id' has 2"),
    "empty text": ([items("a", text=[""])], "text of item 'a' is ''"),
    "text is a number": ([items("a", text=[3])], "text of item 'a' is 3"),
    "media outside": ([items("a", image=["../a.jpg"])], "must be a path inside media_root"),
    "media absolute": ([items("a", image=["/a.jpg"])], "must be a path inside media_root"),
}


@pytest.mark.parametrize(("pieces", "why"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("there", [False, True], ids=["new", "overwriting"])
def test_pieces_that_contradict_each_other_leave_nothing(
    tmp_path: Path, pieces: list[Any], why: str, there: bool
) -> None:
    if there:
        write(tmp_path / "tiny", users("old"), events(1, 1), items("a"))
    with pytest.raises(DatasetError) as caught:
        write(tmp_path / "tiny", *pieces, overwrite=there)
    assert why in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"] * there
    if there:
        assert open_dataset(tmp_path / "tiny").users() == ["old"]


def test_times_may_go_back_between_users_alone(tmp_path: Path) -> None:
    dataset = write(
        tmp_path / "tiny", users("u", "v"), events(1, times=[8]), events(1, 1, 1, times=[9, 1, 1]), items("a")
    )
    assert dataset.times is not None
    assert dataset.times.tolist() == [8, 9, 1, 1]


@pytest.mark.parametrize("back", [CHUNK - 1, CHUNK, CHUNK + 1])
def test_order_is_checked_where_chunks_meet(tmp_path: Path, back: int) -> None:
    times = np.arange(CHUNK + 10)
    times[back:] -= 2
    everything = events(*[1] * 0)[0], (np.ones(len(times), np.int32), times)
    with pytest.raises(DatasetError, match="times of user 'u' go back"):
        write(tmp_path / "tiny", users("u", lengths=[len(times)]), everything, items("a"))
    lengths = [back, len(times) - back]
    assert write(tmp_path / "tiny", users("u", "v", lengths=lengths), everything, items("a")).num_users == 2


class Colliding(str):
    """A text whose hash is that of every other."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 7


def test_ids_with_equal_hashes_are_no_duplicates(tmp_path: Path) -> None:
    dataset = write(tmp_path / "tiny", users("u"), events(1, 2), items(*map(Colliding, "ab")))
    assert dataset.ids() == ["a", "b"]
    table = GrowingTable(tmp_path / "ids.parquet", "item")
    table.append({"id": [f"i{n}" for n in range(1000)]})
    table.append({"id": ["x", "i500"]})
    table.close()
    with pytest.raises(DatasetError, match="item id 'i500' occurs twice"):
        table.check_unique()


def test_media_inside_the_folder_are_not_replaced_away(tmp_path: Path) -> None:
    pieces = users("u"), events(1, 1), items("a", image=["a.jpg"])
    out = tmp_path / "tiny"
    write(out, *pieces, media_root="media")
    (out / "media").mkdir()
    (out / "media/a.jpg").write_bytes(b"the only copy")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for root in ("media", out / "media", elsewhere):
        with pytest.raises(DatasetError, match=r"a\.jpg lies inside the folder that would be replaced"):
            write(out, *pieces, media_root=root, overwrite=True)
    assert (out / "media/a.jpg").read_bytes() == b"the only copy"
    with DatasetWriter(out, overwrite=True) as writer:
        for name, given_ in pieces:
            getattr(writer, name)(*given_)
        (writer.partial / "media").mkdir()
        shutil.copy(out / "media/a.jpg", writer.partial / "media")
        writer.seal(**ABOUT, media_root="media")
        assert writer.publish().media("image") == [out / "media/a.jpg"]
    assert (out / "media/a.jpg").exists()


def test_a_folder_without_a_name_or_a_place_is_refused(tmp_path: Path) -> None:
    for path in (".", "..", tmp_path / ".."):
        with pytest.raises(DatasetError, match="has no name of its own"):
            DatasetWriter(path)
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="writing failed"), DatasetWriter(tmp_path / "file/tiny"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_of_two_writers_of_one_folder_the_second_is_refused(tmp_path: Path) -> None:
    pieces = users("u"), events(1, 1), items("a")
    with DatasetWriter(tmp_path / "tiny") as slow:
        for name, given_ in pieces:
            getattr(slow, name)(*given_)
        slow.seal(**ABOUT)
        shutil.copytree(slow.partial, tmp_path / "tiny")  # the other is ready first
        with pytest.raises(DatasetError, match="exists; name another folder"):
            slow.publish()
    assert open_dataset(tmp_path / "tiny").users() == ["u"]
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]

"""The store of decoded pixels: what it keeps, for whom, and that what it gives is what was decoded."""

from __future__ import annotations

import errno
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from odmt.encoders import Content, EncoderError
from odmt.encoders.contents import LiveContent
from odmt.encoders.network import Prepared
from odmt.encoders.pixel_store import PixelStore
from tests.networks import Small, picture_dataset

EXAMPLE = np.zeros((3, 4), np.uint8)
COUNTS = np.array([0, 5, 1, 9, 0, 7])


def make(folder: Path, *, capacity: int = 10_000, **identity: str) -> PixelStore:
    return PixelStore(folder, identity, example=EXAMPLE, capacity=capacity, counts=COUNTS)


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, EXAMPLE.shape, dtype=np.uint8)


def test_what_was_put_is_got_by_any_process(tmp_path: Path) -> None:
    store = make(tmp_path)
    assert store.get(3) is None
    store.put(3, picture(3))
    for other in (store, make(tmp_path), pickle.loads(pickle.dumps(store))):
        found = other.get(3)
        assert found is not None
        np.testing.assert_array_equal(found, picture(3))
        assert other.get(1) is None


def test_the_most_frequent_items_are_kept_as_far_as_there_is_room(tmp_path: Path) -> None:
    store = make(tmp_path, capacity=2 * EXAMPLE.nbytes + 5)
    for item in range(1, 6):
        store.put(item, picture(item))
    assert [store.get(item) is not None for item in range(1, 6)] == [False, False, True, False, True]
    assert sum(file.stat().st_size for file in store.folder.glob("pixels")) == 2 * EXAMPLE.nbytes


def test_a_store_that_may_grow_goes_on_with_what_it_has_and_a_smaller_one_takes_no_more(tmp_path: Path) -> None:
    small = make(tmp_path, capacity=2 * EXAMPLE.nbytes)
    small.put(3, picture(3))
    large = make(tmp_path)
    for store in (large, small, make(tmp_path, capacity=EXAMPLE.nbytes)):
        found = store.get(3)
        assert found is not None
        np.testing.assert_array_equal(found, picture(3))
    assert large.put(2, picture(2))
    assert large.get(5) is None
    assert small.get(2) is None
    assert small.folder == large.folder


def test_another_identity_is_another_store(tmp_path: Path) -> None:
    make(tmp_path, content="a").put(3, picture(3))
    assert make(tmp_path, content="b").get(3) is None
    assert make(tmp_path, content="a").get(3) is not None


def test_an_item_that_is_not_whole_is_not_there(tmp_path: Path) -> None:
    store = make(tmp_path)
    store.put(3, picture(3))
    with (store.folder / "pixels").open("r+b") as file:
        file.seek(store.slot_of[3] * EXAMPLE.nbytes + 2)
        file.write(b"\x01\x02\x03")
    assert make(tmp_path).get(3) is None


def test_a_store_without_room_for_one_item_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"needs 12 bytes for one item; raise --data\.store-gb"):
        make(tmp_path, capacity=11)


class Counting(Small):
    """Count how many files are read, and how many at a time."""

    read_files = most = 0

    def __call__(self, contents: list[Content], rngs: list[np.random.Generator] | None = None) -> Prepared:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.read_files += len(contents)
        self.most = max(self.most, len(contents))
        return super().__call__(contents, rngs)


def test_files_are_decoded_once_and_broken_ones_again(tmp_path: Path) -> None:
    dataset = picture_dataset(tmp_path / "pictures", also={9: "empty.png"})
    contents, preparation = dataset.media("image"), Counting()
    some = preparation([contents[0]]).inputs["pixels"][0].numpy()  # pyright: ignore[reportArgumentType]
    counts = np.ones(25, dtype=np.int64)
    store = PixelStore(tmp_path / "decoded", {}, example=some, capacity=1 << 20, counts=counts)
    with_store = LiveContent(contents, preparation, 8, store)
    plain = LiveContent(contents, Small(), 8)
    preparation.read_files = 0
    for items in ([3, 9, 5, 24], [5, 9, 6, 3], [3, 5]):
        ours, theirs = with_store.read(np.array(items)), plain.read(np.array(items))
        assert torch.equal(ours.inputs["pixels"], theirs.inputs["pixels"])
        assert torch.equal(ours.there, theirs.there)
        assert ours.broken == theirs.broken
    assert preparation.read_files == 3 + 2  # 3, 9 and 5; then 9 and 6
    varied = LiveContent(contents, Counting(varies=True), 8, store)
    assert not torch.equal(
        varied.read(np.array([3]), (1,)).inputs["pixels"], plain.read(np.array([3])).inputs["pixels"]
    )


def test_batches_on_their_way_leave_in_the_store_what_is_there(tmp_path: Path) -> None:
    dataset = picture_dataset(tmp_path / "pictures", also={9: "empty.png"})
    contents = dataset.media("image")
    some = Small()([contents[0]]).inputs["pixels"][0].numpy()  # pyright: ignore[reportArgumentType]
    counts = np.arange(25, 0, -1)  # room for items 1 to 6
    store = PixelStore(tmp_path / "decoded", {}, example=some, capacity=6 * some.nbytes, counts=counts)
    live = LiveContent(contents, Small(), 8, store)
    items = np.array([24, 7, 2, 9, 5, 8, 3])
    raw = live.read(items, leave=True)
    whole = LiveContent(contents, Small(), 8).read(items)
    assert raw.left is not None
    assert raw.left.tolist() == [0, 2, 5, 0, 3]
    assert len(raw.inputs["pixels"]) == 2
    assert torch.equal(raw.there, whole.there)
    assert raw.broken.keys() == {3}
    known = replace(raw, reader=live.left)
    for first in range(len(items)):
        for last in range(first, len(items) + 1):
            part, wanted = known.part(slice(first, last)), whole.part(slice(first, last))
            assert torch.equal(part.there, wanted.there)
            assert part.broken == wanted.broken
            found = part.read()
            assert found.keys() == wanted.inputs.keys()  # none where there is nothing
            assert all(torch.equal(found[name], pixels) for name, pixels in wanted.inputs.items())
    (place,) = store.slot_of[[5]]
    with (store.folder / "pixels").open("r+b") as file:
        file.seek(int(place) * some.nbytes)
        file.write(b"\x01\x02\x03")
    assert torch.equal(known.read()["pixels"], whole.inputs["pixels"])  # decoded again
    small, large = (len(pickle.dumps(live.read(np.arange(1, 7), leave=leave))) for leave in (True, False))
    assert small < large / 2


def test_systems_without_a_call_to_reserve_room_write_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    store = make(tmp_path)
    assert (store.folder / "pixels").stat().st_size == 4 * EXAMPLE.nbytes
    assert store.put(3, picture(3))
    found = make(tmp_path).get(3)
    assert found is not None
    np.testing.assert_array_equal(found, picture(3))


def test_a_batch_that_the_store_lacks_is_decoded_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = picture_dataset(tmp_path / "pictures", also={9: "empty.png"})
    contents, preparation = dataset.media("image"), Counting()
    some = preparation([contents[0]]).inputs["pixels"][0].numpy()  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr("odmt.encoders.contents.DECODED", 5)
    store = PixelStore(tmp_path / "d", {}, example=some, capacity=10 * some.nbytes, counts=np.ones(25, dtype=np.int64))
    items = np.arange(1, 25)
    raw = LiveContent(contents, preparation, 8, store).read(items)
    whole = LiveContent(contents, Small(), 8).read(items)
    assert torch.equal(raw.inputs["pixels"], whole.inputs["pixels"])
    assert raw.broken == whole.broken
    assert torch.equal(raw.there, whole.there)
    assert preparation.most == 5


def test_a_full_disk_is_told_of_with_what_else_could_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make(tmp_path, reading="other frames")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    wanted = rf"No space left on device; lower --data\.store-gb, .* other settings beside it \({other.folder.name}\)"
    with pytest.raises(EncoderError, match=wanted):
        make(tmp_path)

"""Writing features: order of items, refusals, and what a torn file leaves behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from odmt.data.feature_writer import FeatureWriter
from odmt.data.features import FeatureError, TokenTable

RECIPE = {"modality": "text", "dataset": "d" * 64, "encoder": "tiny", "width": 2, "settings": {}}


def tokens(item: int) -> np.ndarray:
    return np.full((item, 2), item / 4)


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def write_whole(root: Path) -> Path:
    with FeatureWriter(root, recipe=RECIPE, num_items=4) as writer:
        writer.append([4, 2], [tokens(4), tokens(2)])
        writer.append([3], [tokens(0)], unreadable={3: "torn"})
        writer.append([1], [tokens(1)])
        return writer.finish({"note": 1})


def test_every_item_gets_its_own_tokens(tmp_path: Path) -> None:
    table = TokenTable.open(write_whole(tmp_path))
    assert table.spans[:, 1].tolist() == [0, 1, 2, 0, 4]
    for item in (1, 2, 4):
        np.testing.assert_array_equal(table.gather([item]).values[0].numpy(), tokens(item))
    assert table.values.dtype == np.float16


@pytest.mark.parametrize(
    "tear", ["nothing", "tokens behind the journal", "half a journal line", "tokens lost", "no journal"]
)
def test_a_torn_folder_resumes_to_the_same_bytes(tmp_path: Path, tear: str) -> None:
    whole = read(write_whole(tmp_path / "whole"))
    with FeatureWriter(tmp_path / "torn", recipe=RECIPE, num_items=4) as writer:
        writer.append([4, 2], [tokens(4), tokens(2)])
        writer.append([3], [tokens(0)], unreadable={3: "torn"})
        partial = writer.partial
    if tear == "tokens behind the journal":
        with (partial / "tokens.npy").open("ab") as file:
            file.write(b"\xff" * 7)
    elif tear == "half a journal line":
        with (partial / "journal.jsonl").open("ab") as file:
            file.write(b'{"items": [1], "len')
    elif tear == "tokens lost":
        (partial / "tokens.npy").write_bytes((partial / "tokens.npy").read_bytes()[:-2])
    elif tear == "no journal":
        (partial / "journal.jsonl").unlink()
    with FeatureWriter(tmp_path / "torn", recipe=RECIPE, num_items=4) as writer:
        for batch in ([4, 2], [3], [1]):
            if todo := writer.remaining(batch):
                writer.append(
                    todo, [tokens(0 if i == 3 else i) for i in todo], unreadable={3: "torn"} if 3 in todo else {}
                )
        folder = writer.finish({"note": 1})
    assert read(folder) == whole
    assert not list(folder.parent.glob(".*"))


def test_remaining_keeps_the_order_given(tmp_path: Path) -> None:
    with FeatureWriter(tmp_path, recipe=RECIPE, num_items=4) as writer:
        writer.append([2], [tokens(2)])
        assert writer.remaining([4, 2, 1, 3]) == [4, 1, 3]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((2, 3)), "expected .tokens, 2."),
        (np.ones(2), "expected .tokens, 2."),
        (np.full((1, 2), np.nan), "item 1: the encoder gave NaN"),
        (np.full((1, 2), 70000.0), "beyond float16 .largest 70000"),
    ],
)
def test_tokens_that_cannot_be_stored_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    with FeatureWriter(tmp_path, recipe=RECIPE, num_items=2) as writer:
        with pytest.raises(FeatureError, match=message):
            writer.append([1], [array])
        assert writer.remaining([1, 2]) == [1, 2]


def test_an_item_is_written_once(tmp_path: Path) -> None:
    with FeatureWriter(tmp_path, recipe=RECIPE, num_items=2) as writer:
        writer.append([1], [tokens(1)])
        with pytest.raises(FeatureError, match="was written before"):
            writer.append([1], [tokens(1)])


def test_items_and_tokens_may_be_arrays(tmp_path: Path) -> None:
    with FeatureWriter(tmp_path, recipe=RECIPE, num_items=2) as writer:
        writer.append(np.arange(1, 3), np.ones((2, 1, 2)))
        assert TokenTable.open(writer.finish({})).spans[:, 1].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("items", "message"),
    [([1, 1], "item 1 stands more than once"), ([0], "item 0 is not in the cat"), ([3], "item 3 is not in the cat")],
)
def test_items_that_cannot_be_stored_are_refused(tmp_path: Path, items: list[int], message: str) -> None:
    with FeatureWriter(tmp_path, recipe=RECIPE, num_items=2) as writer:
        with pytest.raises(FeatureError, match=message):
            writer.append(items, [tokens(1)] * len(items))
        assert writer.num_done == 0


def test_two_writers_of_one_folder_are_refused(tmp_path: Path) -> None:
    with FeatureWriter(tmp_path, recipe=RECIPE, num_items=2) as writer:
        with pytest.raises(FeatureError, match="being written by another process"):
            FeatureWriter(tmp_path, recipe=RECIPE, num_items=2)
        writer.append([1], [tokens(1)])


def test_a_finished_folder_is_not_written_again(tmp_path: Path) -> None:
    write_whole(tmp_path)
    with pytest.raises(FeatureError, match="is there already"):
        FeatureWriter(tmp_path, recipe=RECIPE, num_items=4)

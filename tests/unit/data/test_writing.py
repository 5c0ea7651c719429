"""Writing a dataset folder: input that contradicts itself is refused, and nothing precious is overwritten."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from odmt.data.format import DatasetError, FileRecord, Histories
from tests.unit.data.tiny_folder import ITEMS, covers, write

WRONG = {
    "no id": ({"items": {"text": ["a"]}}, "no column 'id'"),
    "no items": ({"items": {"id": []}}, "no items"),
    "ragged": ({"items": {"id": ["a", "b"], "text": ["t"]}}, "column 'text' has 1 rows, column 'id' has 2"),
    "number id": ({"items": {"id": [1, 2, 3, 4]}}, "item id 1 is int, must be text"),
    "double id": ({"items": {"id": ["a", "b", "a", "c"]}}, "item id 'a' occurs twice"),
    "empty text": ({"items": ITEMS | {"text": ["", None, None, None]}}, "text of item '100' is ''"),
    "absolute": ({"items": ITEMS | {"image": ["/etc/x", None, None, None]}}, "must be a path inside media_root"),
    "outside": ({"items": ITEMS | {"image": ["../x", None, None, None]}}, "must be a path inside media_root"),
    "no users": ({"histories": []}, "no users"),
    "no events": ({"histories": [("1", [1], None), ("2", [], None)]}, "user '2' has no events"),
    "padding": ({"histories": [("1", [0, 1], None)]}, "events name items 0..1, the item table has 1..4"),
    "unknown": ({"histories": [("1", [1, 5], None)]}, "events name items 1..5, the item table has 1..4"),
    "double user": ({"histories": [("1", [1], None), ("1", [2], None)]}, "user id '1' occurs twice"),
    "times short": ({"histories": [("1", [1, 2], [3])]}, "2 events but 1 times"),
    "times some": ({"histories": [("1", [1, 2], None), ("2", [1], [3])]}, "some users have times and others none"),
    "times back": ({"histories": [("1", [1], [9]), ("2", [1, 2], [5, 4])]}, "times of user '2' go back"),
    "offsets": ({"histories": Histories(["1"], np.array([0, 1]), np.array([1, 2]))}, "1 users and 1 events"),
}


@pytest.mark.parametrize("name", WRONG)
def test_refuses_input_that_contradicts_itself(tmp_path: Path, name: str) -> None:
    changes, message = WRONG[name]
    with pytest.raises(DatasetError, match=re.escape(message)):
        write(tmp_path / "tiny", **changes)
    assert list(tmp_path.iterdir()) == []


def test_overwrites_only_when_told_and_only_a_dataset(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="exists; name another folder, or overwrite it"):
        write(folder)
    assert write(folder, name="second", overwrite=True).name == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    with pytest.raises(DatasetError, match="is no dataset folder"):
        write(precious, overwrite=True)
    assert (precious / "thesis.txt").read_text() == "years"


def test_overwriting_keeps_features_of_content_that_stayed(folder: Path) -> None:
    for modality in ("text", "image"):
        (folder / "features" / modality / "0123").mkdir(parents=True)
        (folder / "features" / modality / "0123" / "recipe.yaml").write_text(modality)
    write(folder, items=ITEMS | {"text": ["another", *ITEMS["text"][1:]]}, overwrite=True)
    assert (folder / "features/image/0123/recipe.yaml").read_text() == "image"
    assert not (folder / "features/text").exists()


def test_overwriting_drops_features_of_media_that_were_replaced(tmp_path: Path) -> None:
    folder = write(tmp_path / "tiny", media_root=covers(tmp_path / "raw")).path
    (folder / "features" / "image" / "0123").mkdir(parents=True)
    write(folder, media_root=covers(tmp_path / "raw"), overwrite=True)
    assert (folder / "features/image/0123").is_dir()
    write(folder, media_root=covers(tmp_path / "raw", extra=b", replaced"), overwrite=True)
    assert not (folder / "features/image").exists()


def test_records_sources(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("a,b\n")
    source = FileRecord.of(tmp_path / "pairs.csv", name="pairs.csv")
    assert write(tmp_path / "tiny", sources=[source]).info.sources == (source,)
    assert (source.size, source.sha256) == (4, hashlib.sha256(b"a,b\n").hexdigest())

"""Dataset folders that are damaged or foreign are refused by file and field."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from odmt.data.format import DatasetError, open_dataset
from tests.unit.data.tiny_folder import ITEMS, edit_yaml


def without_hashes(folder: Path) -> None:
    edit_yaml(folder, lambda tree: tree | {"files": [], "content": {}})


def truncate(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])


def save(folder: Path, name: str, array: np.ndarray) -> None:
    without_hashes(folder)
    np.save(folder / "histories" / f"{name}.npy", array)


def drop_column(folder: Path) -> None:
    without_hashes(folder)
    pq.write_table(pa.table({"id": ITEMS["id"]}), folder / "items.parquet")


def garbage(folder: Path, name: str) -> None:
    without_hashes(folder)
    (folder / name).write_bytes(b"not what it was, but long enough to look at")


DAMAGE = {
    "no yaml": (lambda f: (f / "dataset.yaml").unlink(), "has no dataset.yaml"),
    "not yaml": (lambda f: (f / "dataset.yaml").write_text("a: [1"), "not valid YAML"),
    "not utf-8": (lambda f: (f / "dataset.yaml").write_bytes(b"name: \xff"), "not UTF-8 at byte 6"),
    "foreign yaml": (lambda f: (f / "dataset.yaml").write_text("path: x\n"), "no field 'schema'"),
    "yaml list": (lambda f: (f / "dataset.yaml").write_text("- 1\n"), "no field 'schema'"),
    "schema": (lambda f: edit_yaml(f, lambda t: t | {"schema": 99}), "'schema' is 99, this odmt reads 1"),
    "field missing": (
        lambda f: edit_yaml(f, lambda t: {k: v for k, v in t.items() if k != "tie_rule"}),
        "field 'tie_rule' is missing",
    ),
    "field misspelt": (lambda f: edit_yaml(f, lambda t: t | {"licens": "x"}), "'licens'; did you mean 'licence'"),
    "field type": (lambda f: edit_yaml(f, lambda t: t | {"num_users": "3"}), "'num_users' is '3' (str), must be int"),
    "field range": (lambda f: edit_yaml(f, lambda t: t | {"num_items": 0}), "'num_items' is 0"),
    "modality": (lambda f: edit_yaml(f, lambda t: t | {"modalities": {"price": 1}}), "'modalities' names 'price'"),
    "record": (lambda f: edit_yaml(f, lambda t: t | {"files": [{"name": "x"}]}), "entry of field 'files'"),
    "counts": (lambda f: edit_yaml(f, lambda t: t | {"num_users": 4}), "offsets.npy"),
    "truncated items": (lambda f: truncate(f, "histories/items.npy"), "items.npy: size in bytes is"),
    "truncated parquet": (lambda f: truncate(f, "items.parquet"), "items.parquet: size in bytes is"),
    "array missing": (lambda f: (f / "histories/offsets.npy").unlink(), "offsets.npy is missing"),
    "times missing": (lambda f: (f / "histories/times.npy").unlink(), "times.npy is missing"),
    "table missing": (lambda f: (f / "users.parquet").unlink(), "users.parquet is missing"),
    "dtype": (lambda f: save(f, "items", np.ones(9, np.int64)), "items.npy: holds int64 (9,)"),
    "shape": (lambda f: save(f, "items", np.ones((3, 3), np.int32)), "items.npy: holds int32 (3, 3)"),
    "pickle": (lambda f: save(f, "items", np.array([{}] * 9, object)), "items.npy: not a readable .npy"),
    "offsets end": (lambda f: save(f, "offsets", np.array([0, 3, 5, 8])), "runs from 0 to 8, must run from 0 to 9"),
    "offsets fall": (lambda f: save(f, "offsets", np.array([0, 6, 5, 9])), "user 1 runs from 6 to 5"),
    "no column": (drop_column, "items.parquet: no column '"),
    "array garbage": (lambda f: garbage(f, "histories/items.npy"), "items.npy: not a readable .npy"),
    "parquet garbage": (lambda f: garbage(f, "items.parquet"), "items.parquet: not a readable parquet"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_refuses_a_damaged_or_foreign_folder(folder: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(DatasetError, match=re.escape(message)) as caught:
        open_dataset(folder)
    assert str(folder) in str(caught.value)


def test_refuses_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no dataset folder at .*nowhere"):
        open_dataset(tmp_path / "nowhere")


def test_verify_finds_damage_that_keeps_the_size(folder: Path) -> None:
    path = folder / "histories/items.npy"
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match=r"items\.npy: sha256 is"):
        open_dataset(folder).verify()


def test_verify_checks_the_range_of_items_and_the_counts(folder: Path) -> None:
    save(folder, "items", np.array([1, 2, 3, 3, 1, 2, 9, 4, 1], np.int32))
    with pytest.raises(DatasetError, match=r"entry 6 is 9, must be 1\.\.4"):
        open_dataset(folder).verify()
    save(folder, "items", np.ones(9, np.int32))
    edit_yaml(folder, lambda tree: tree | {"modalities": {"text": 4}})
    with pytest.raises(DatasetError, match=r"items with text is 3, dataset\.yaml records 4"):
        open_dataset(folder).verify()


def test_a_user_or_modality_that_is_not_there(folder: Path) -> None:
    dataset = open_dataset(folder)
    with pytest.raises(DatasetError, match=r"user 3 is not in .* 0\.\.2"):
        dataset.history(3)
    with pytest.raises(DatasetError, match="no modality 'video'; it has text, image"):
        dataset.content_fingerprint("video")
    with pytest.raises(DatasetError, match="no column 'video'"):
        dataset.media("video")


def test_media_that_moved_are_named_with_the_field(folder: Path) -> None:
    edit_yaml(folder, lambda tree: tree | {"media_root": "/nowhere/raw"})
    with pytest.raises(DatasetError, match="field 'media_root' names /nowhere/raw"):
        open_dataset(folder).media("image")

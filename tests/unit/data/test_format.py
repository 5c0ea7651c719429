"""The dataset folder: what is written is read back, what is damaged or foreign is refused by file and field."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from odmt.data.format import Dataset, DatasetError, FileRecord, Histories, find_dataset, open_dataset, write_dataset

ROWS = [("7", [1, 2, 3], [10, 20, 20]), ("9", [3, 1], [5, 6]), ("11", [2, 2, 4, 1], [1, 2, 3, 4])]
ITEMS = {
    "id": ["100", "205", "x", "300"],
    "text": ['a "quoted", title', None, "emoji 😂", "line\nbreak"],
    "image": ["covers/100.jpg", None, None, "covers/300.jpg"],
    "price": [1.5, None, 2.0, 0.0],
}


def write(path: Path, **changes) -> Dataset:
    """Write the small dataset of this file, with some arguments changed."""
    given = {"name": "tiny", "histories": ROWS, "items": ITEMS, "tie_rule": "time", "media_root": path.parent}
    return write_dataset(path, **(given | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny").path


def test_reads_back_what_was_written(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert (dataset.num_users, dataset.num_items, dataset.num_interactions) == (3, 4, 9)
    assert [dataset.history(user).tolist() for user in range(3)] == [items for _, items, _ in ROWS]
    assert dataset.times is not None
    assert dataset.times.tolist() == [t for _, _, times in ROWS for t in times]
    assert dataset.users() == ["7", "9", "11"]
    assert (dataset.ids(), dataset.texts(), dataset.column("price")) == (ITEMS["id"], ITEMS["text"], ITEMS["price"])
    media = [folder.parent / "covers/100.jpg", None, None, folder.parent / "covers/300.jpg"]
    assert dataset.media("image") == media
    assert dataset.info.modalities == {"text": 3, "image": 2}
    assert dataset.info.time_unit.startswith("ms")
    dataset.verify()


def test_maps_its_arrays_instead_of_reading_them(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert isinstance(dataset.items, np.memmap)
    assert isinstance(dataset.offsets, np.memmap)
    assert (dataset.items.dtype, dataset.offsets.dtype) == (np.int32, np.int64)


def test_leaves_times_out_where_the_vendor_gives_none(tmp_path: Path) -> None:
    dataset = write(tmp_path / "tiny", histories=[("1", [1, 2], None), ("2", [3], None)])
    assert dataset.times is None
    assert dataset.info.time_unit == ""
    assert not (dataset.path / "histories/times.npy").exists()


def test_is_readable_by_datasets(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_parquet(str(folder / "items.parquet"), cache_dir=str(tmp_path / "cache"))
    assert table["text"][0] == ITEMS["text"][0]
    assert table["image"][1] is None
    assert len(table) == 4


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=6), min_size=1, max_size=6))
def test_any_histories_survive(tmp_path: Path, rows: list[list[int]]) -> None:
    histories = [(str(user), row, None) for user, row in enumerate(rows)]
    dataset = write(tmp_path / "any", histories=histories, items={"id": list("abcde")}, overwrite=True)
    assert [dataset.history(user).tolist() for user in range(len(rows))] == rows
    dataset.verify()


def test_fingerprint_depends_on_data_alone(tmp_path: Path) -> None:
    here, there = write(tmp_path / "a" / "tiny"), write(tmp_path / "b" / "renamed", name="renamed", made_by="elsewhere")
    assert here.fingerprint == there.fingerprint
    titled = write(tmp_path / "c", items=ITEMS | {"text": ["another", *ITEMS["text"][1:]]})
    assert titled.fingerprint != here.fingerprint
    assert titled.content_fingerprint("text") != here.content_fingerprint("text")
    assert titled.content_fingerprint("image") == here.content_fingerprint("image")
    moved = write(tmp_path / "d", histories=[*ROWS[:2], ("11", [2, 2, 1, 4], [1, 2, 3, 4])])
    assert moved.fingerprint != here.fingerprint
    assert moved.content_fingerprint("text") == here.content_fingerprint("text")


def covers(root: Path, *, extra: bytes = b"") -> Path:
    """Write the first of the two covers that ITEMS names; the other is absent."""
    (root / "covers").mkdir(parents=True, exist_ok=True)
    (root / "covers/100.jpg").write_bytes(b"a cover" + extra)
    return root


def test_the_fingerprint_of_media_follows_the_files_not_their_place(tmp_path: Path) -> None:
    here, there = (write(tmp_path / n / "tiny", media_root=covers(tmp_path / n / "raw")) for n in ("a", "b"))
    assert here.content_fingerprint("image") == there.content_fingerprint("image")
    edit_yaml(there.path, lambda tree: {key: value for key, value in tree.items() if key != "content"})
    assert open_dataset(there.path).content_fingerprint("image") == here.content_fingerprint("image")

    covers(here.media_root, extra=b", replaced")
    again = write(tmp_path / "c", media_root=here.media_root)
    assert again.content_fingerprint("image") != here.content_fingerprint("image")
    assert again.content_fingerprint("text") == here.content_fingerprint("text")
    assert again.fingerprint == here.fingerprint
    (here.media_root / "covers/300.jpg").write_bytes(b"now it is there")
    assert write(tmp_path / "d", media_root=here.media_root).content_fingerprint("image") not in (
        again.content_fingerprint("image"),
        here.content_fingerprint("image"),
    )


def test_media_replaced_since_the_folder_was_written_are_noticed(tmp_path: Path) -> None:
    dataset = write(tmp_path / "tiny", media_root=covers(tmp_path / "raw"))
    dataset.verify()
    before = dataset.content_fingerprint("image")
    covers(tmp_path / "raw", extra=b", replaced")
    assert open_dataset(dataset.path).content_fingerprint("image") == before
    with pytest.raises(DatasetError, match=r"raw: image files were replaced, added or removed since .*--overwrite"):
        dataset.verify()
    shutil.rmtree(tmp_path / "raw")
    dataset.verify()  # features are used without the files they were made from


def test_media_that_come_after_the_folder_count_as_they_are(tmp_path: Path) -> None:
    dataset = write(tmp_path / "tiny", media_root="media")
    absent = dataset.content_fingerprint("image")
    covers(dataset.path / "media")
    assert open_dataset(dataset.path).content_fingerprint("image") != absent
    dataset.verify()


def test_a_folder_without_hashes_opens_with_the_same_fingerprints(folder: Path) -> None:
    recorded = open_dataset(folder)
    required = {"schema", "name", "num_users", "num_items", "num_interactions", "tie_rule", "modalities"}
    edit_yaml(folder, lambda tree: {key: tree[key] for key in required})
    other = open_dataset(folder)
    assert other.fingerprint == recorded.fingerprint
    assert other.content_fingerprint("text") == recorded.content_fingerprint("text")
    other.verify()


def edit_yaml(folder: Path, change: Callable[[dict], dict]) -> None:
    path = folder / "dataset.yaml"
    path.write_text(yaml.safe_dump(change(yaml.safe_load(path.read_text(encoding="utf-8")))), encoding="utf-8")


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


def test_finds_a_dataset_by_name_or_path(folder: Path) -> None:
    assert find_dataset("tiny", root=folder.parent) == folder
    assert find_dataset(folder, root="elsewhere") == folder
    assert find_dataset(str(folder), root="elsewhere") == folder


def test_a_missing_dataset_is_answered_with_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        find_dataset("microlens", root=tmp_path / "data")
    answer = str(caught.value)
    assert "https://github.com/westlake-repl/MicroLens" in answer
    assert f"python -m data_adapters microlens --raw DIR --out {tmp_path / 'data/microlens'}" in answer
    assert f"python -m odmt.encoders {tmp_path / 'data/microlens'} --modality text --encoder NAME" in answer


def test_a_misspelt_dataset_is_answered_with_the_right_name(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "beauty")
    with pytest.raises(DatasetError, match=r"did you mean 'beauty'.*holds beauty, tiny"):
        find_dataset("beuty", root=folder.parent)

"""The dataset folder: what is written is read back, fingerprinted by what it holds, and found by its name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from odmt.data.format import DatasetError, find_dataset, open_dataset
from tests.unit.data.tiny_folder import ITEMS, ROWS, covers, edit_yaml, write


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


def test_finds_a_dataset_by_name_or_path(folder: Path) -> None:
    assert find_dataset("tiny", root=folder.parent) == folder
    assert find_dataset(folder, root="elsewhere") == folder
    assert find_dataset(str(folder), root="elsewhere") == folder


def test_a_missing_dataset_is_answered_with_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        find_dataset("beauty", root=tmp_path / "data")
    head, *commands, note = str(caught.value).splitlines()
    folder = tmp_path / "data" / "beauty"
    encode = f"  python -m odmt.encoders {folder} --modality text --encoder"
    assert head.startswith(f"no dataset folder at {folder}. To make it, download reviews_Beauty_5.json.gz and ")
    assert commands == [
        f"  python -m data_adapters amazon --raw DIR --out {folder} --text '{{title}}'",
        f"{encode} sentence-transformers/all-MiniLM-L6-v2 --pool mean",
    ]
    assert note == "other encoders: python -m odmt.encoders --help"


def test_a_misspelt_dataset_is_answered_with_the_right_name(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "beauty")
    with pytest.raises(DatasetError, match=r"did you mean 'beauty'.*holds beauty, tiny"):
        find_dataset("beuty", root=folder.parent)

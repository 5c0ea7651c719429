"""Features that MicroLens' authors extracted: row i is of item i + 1, whichever items a dataset holds."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from data_adapters.__main__ import main
from data_adapters.microlens import read
from data_adapters.release import ReadyFeatures
from data_adapters.text_files import ReleaseError
from odmt.data.features import open_features
from odmt.data.format import open_dataset

MATRIX = np.arange(12, dtype=np.float32).reshape(4, 3)
FOLDER = "extracted_modality_features"
COVERS = "MicroLens-100k_image_features_CLIPRN50"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / "MicroLens-100k_pairs.csv").write_text("1,2,1583378629001\n")
    (tmp_path / "MicroLens-100k_title_en.csv").write_text("1, a\n2, b\n")
    return tmp_path


def features(raw: Path) -> dict[str, ReadyFeatures]:
    return {found.encoder: found for found in read(raw, Namespace()).features}


def test_finds_each_encoder_with_its_modality(raw: Path) -> None:
    np.save(raw / FOLDER / f"{COVERS}.npy", MATRIX)
    np.save(raw / FOLDER / "MicroLens-100k_title_en_text_features_BgeM3.npy", MATRIX + 1)
    np.save(raw / "MicroLens-100k_video_features_VideoMAE.npy", MATRIX + 2)  # downloaded beside the others
    found = features(raw)
    assert {name: one.modality for name, one in found.items()} == {
        "CLIPRN50": "image",
        "BgeM3": "text",
        "VideoMAE": "video",
    }
    for plus, name in enumerate(("CLIPRN50", "BgeM3", "VideoMAE")):
        assert list(found[name].ids) == ["1", "2", "3", "4"]
        assert np.array_equal(found[name].load(), MATRIX + plus)
    assert isinstance(found["BgeM3"].load(), np.memmap)


def test_reads_the_json_twin_where_there_is_no_matrix(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_adapters.microlens_features.CHUNK", 7)  # vectors do not end where pieces of the file do
    vectors = {str(row + 1): MATRIX[row].tolist() for row in (0, 3, 1)}
    (raw / FOLDER / f"{COVERS}.json").write_text(json.dumps(vectors, indent=1))
    found = features(raw)["CLIPRN50"]
    assert list(found.ids) == ["1", "4", "2"]
    assert np.array_equal(found.load(), MATRIX[[0, 3, 1]])
    np.save(raw / FOLDER / f"{COVERS}.npy", MATRIX)
    assert list(features(raw)["CLIPRN50"].ids) == ["1", "2", "3", "4"]


def test_a_dataset_gets_the_rows_of_its_own_items(raw: Path, tmp_path: Path) -> None:
    lines = [f"5,{item},158337862900{place}\n" for place, item in enumerate((4, 2, 9, 4))]
    (raw / "MicroLens-100k_pairs.csv").write_text("".join(lines))
    np.save(raw / FOLDER / f"{COVERS}.npy", MATRIX)
    assert main(["microlens", "--raw", str(raw), "--out", str(tmp_path / "out"), "--min-events", "4"]) == 0
    dataset = open_dataset(tmp_path / "out")
    assert dataset.ids() == ["2", "4", "9"]
    tokens = open_features(dataset, ["image"], select={"image": "CLIPRN50"}).gather("image", [1, 2, 3])
    assert tokens.mask[:, 0].tolist() == [True, True, False]  # the release has no vector of item 9
    assert tokens.values[:2, 0].tolist() == MATRIX[[1, 3]].tolist()


def test_a_text_file_of_titles_is_no_feature(raw: Path) -> None:
    assert features(raw) == {}
    assert [catalogue.path.name for catalogue in read(raw, Namespace()).catalogues] == ["MicroLens-100k_title_en.csv"]


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (b"", "no readable .npy"),
        (b"\x93NUMPY\x01\x00\x76\x00{'descr'", "no readable .npy"),
        (np.array([{"a": 1}], dtype=object), "no readable .npy"),
        (MATRIX[0], "shape (3,)"),
        (np.arange(4).reshape(2, 2), "int64"),
    ],
    ids=["empty", "cut off", "pickled", "vector", "whole numbers"],
)
def test_refuses_what_is_no_matrix_of_real_numbers(raw: Path, content: bytes | np.ndarray, answer: str) -> None:
    path = raw / FOLDER / f"{COVERS}.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(ReleaseError) as error:
        features(raw)
    assert str(path) in str(error.value)
    assert answer in str(error.value)


def test_refuses_json_without_vectors_and_of_several_widths(raw: Path) -> None:
    path = raw / FOLDER / f"{COVERS}.json"
    path.write_text("{}")
    with pytest.raises(ReleaseError, match="holds no vectors"):
        features(raw)
    path.write_text('{"1": [1.0, 2.0], "2": [1.0]}')
    with pytest.raises(ReleaseError, match=r"different widths, \[1, 2\]"):
        features(raw)["CLIPRN50"].load()


@pytest.mark.parametrize("cut", [1, 2, 3, 20, 60, 79])
def test_refuses_json_that_is_cut_off(raw: Path, cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = raw / FOLDER / f"{COVERS}.json"
    whole = json.dumps({str(row + 1): MATRIX[row].tolist() for row in range(4)})
    path.write_text(whole + "\n")
    assert list(features(raw)["CLIPRN50"].ids) == ["1", "2", "3", "4"]
    for chunk in (5, 1 << 22):
        monkeypatch.setattr("data_adapters.microlens_features.CHUNK", chunk)
        path.write_text(whole[:-cut])
        with pytest.raises(ReleaseError, match=r"CLIPRN50.json: (after item '\d'|at its start) stands '.*cut off"):
            features(raw)


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (b'{"1": [1.0, oops]}', "item '1': '[1.0, oops]' is no list of numbers"),
        (b'{"1": [1.0, 2.0], "2": [1.0, null]}', "item '2': '[1.0, null]' has a value that is no number"),
        (b'{"1": [1.0, "a"]}', "is no list of numbers"),
        (b'{"1": [1.0]}{"2": [1.0]}', "after item '1' stands"),
        (b'{"1": [1.0] "2": [1.0]}', "after item '1' stands '\"2\""),
        (b'{"1": [1.0], oops: 1, "2": [1.0]}', "after item '1' stands ', oops"),
        (b'{"1": [1.0], "\xe9": [1.0]}', "not UTF-8"),
        (b"", "at its start stands ''"),
    ],
)
def test_refuses_json_that_is_damaged(raw: Path, content: bytes, answer: str) -> None:
    path = raw / FOLDER / f"{COVERS}.json"
    path.write_bytes(content)
    with pytest.raises(ReleaseError) as error:
        features(raw)["CLIPRN50"].load()
    assert str(error.value).startswith(f"{path}")
    assert answer in str(error.value)

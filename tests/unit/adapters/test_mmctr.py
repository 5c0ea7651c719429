"""The MM-CTR challenge's parquet files of MicroLens-1M: sequences padded on the left, catalogues with a row 0."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_adapters.__main__ import main
from data_adapters.microlens import read
from data_adapters.microlens_files import open_database
from odmt.data.features import open_features
from odmt.data.format import Dataset, open_dataset

ITEMS: dict[str, list[Any]] = {
    "item_id": [3, 1, 2, 5, 4],
    "item_title": ["three", "one, 😂", None, "", "four"],
    "item_tags": [[7, 0, 0, 0, 0], [1, 2, 0, 0, 0], [0] * 5, [9] * 5, [4, 0, 0, 0, 0]],
    "likes_level": [1, 0, 10, 2, 3],
    "views_level": [2, 0, 10, 2, 4],
    "txt_emb_BERT": [[float(row)] * 4 for row in range(5)],
    "img_emb_CLIPRN50": [[row + 0.5] * 3 for row in range(5)],
}
SEQUENCES = {
    # of user 9 every prefix is there, the longest in the middle; of user 20 two are as long, and the last one counts
    "user_id": [9, 20, 9, 9, 20],
    "item_seq": [[0, 0, 0, 1, 2], [1, 2, 3, 4, 5], [0, 1, 2, 3, 1], [0, 0, 1, 2, 3], [2, 3, 4, 5, 1]],
}
CLICKS = {
    "user_id": [9, 9, 9, 20],
    "item_seq": [[0, 0, 1], [0, 1, 2], [1, 2, 3], [4, 5, 1]],
    "item_id": [2, 3, 4, 2],
    "likes_level": [0] * 4,
    "views_level": [0] * 4,
    "label": [1, 1, 1, 1],
}


def write(path: Path, columns: dict[str, list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "MicroLens_1M_MMCTR"
    write(folder / "item_feature.parquet", ITEMS)
    info = {"item_id": [0, 1, 2], "item_tags": [[0] * 5, [1] * 5, [6, 0, 0, 0, 0]], "item_emb_d128": [[0.0] * 8] * 3}
    write(folder / "MicroLens_1M_x1" / "item_info.parquet", info)
    write(folder / "MicroLens_1M_x1" / "train.parquet", CLICKS)
    write(folder / "item_seq.parquet", SEQUENCES)
    images = folder / "item_images" / "item_images"
    images.mkdir(parents=True)
    (images / "3.jpg").write_bytes(b"\xff\xd8")
    return folder


def prepare(raw: Path, out: Path, *options: str) -> Dataset:
    assert main(["microlens", "--raw", str(raw), "--out", str(out), "--min-events", "4", *options]) == 0
    return open_dataset(out)


def histories(dataset: Dataset) -> dict[str, list[str]]:
    ids = dataset.ids()
    return {user: [ids[item - 1] for item in dataset.history(row).tolist()] for row, user in enumerate(dataset.users())}


def test_takes_the_longest_sequence_without_padding(raw: Path, tmp_path: Path) -> None:
    dataset = prepare(raw, tmp_path / "out")
    assert histories(dataset) == {"9": ["1", "2", "3", "1"], "20": ["2", "3", "4", "5", "1"]}
    assert dataset.times is None
    assert dataset.texts() == ["one, 😂", None, "three", "four", None]
    assert dataset.media("image")[2] == (raw / "item_images/item_images/3.jpg").resolve()
    assert "the longest sequence of each user" in (dataset.path / "dataset.yaml").read_text()


def test_levels_are_kept_on_request_alone_and_tags_are_numbers(raw: Path, tmp_path: Path) -> None:
    dataset = prepare(raw, tmp_path / "out", "--columns", "tags", "likes")
    assert dataset.column("tags") == ["1 2", "6", "7", "4", "9 9 9 9 9"]  # what is empty is filled from item_info
    assert dataset.column("likes") == ["0", "10", "1", "3", "2"]
    assert set(read(raw, Namespace()).leaks) == {"likes", "views"}


def test_clicks_give_histories_where_there_are_no_sequences(raw: Path, tmp_path: Path) -> None:
    (raw / "item_seq.parquet").unlink()
    withheld = {name: values[-1:] for name, values in CLICKS.items() if name != "label"}
    write(raw / "MicroLens_1M_x1" / "test.parquet", withheld | {"item_seq": [[3, 4, 5, 1]]})
    write(raw / "MicroLens_1M_x1" / "valid.parquet", CLICKS | {"label": [0, 0, 0, 0]})
    dataset = prepare(raw, tmp_path / "out")
    assert histories(dataset) == {"9": ["1", "2", "3", "4"], "20": ["4", "5", "1", "2"]}
    names = {source.name for source in dataset.info.sources}
    assert {f"MicroLens_1M_x1/{name}.parquet" for name in ("train", "valid", "test", "item_info")} <= names


def test_imports_embeddings_by_item_id(raw: Path, tmp_path: Path) -> None:
    found = {one.encoder: one for one in read(raw, Namespace()).features}
    assert {name: one.modality for name, one in found.items()} == {"txt_emb_BERT": "text", "img_emb_CLIPRN50": "image"}
    assert list(found["txt_emb_BERT"].ids) == ["3", "1", "2", "5", "4"]
    assert np.array_equal(found["img_emb_CLIPRN50"].load(), np.array(ITEMS["img_emb_CLIPRN50"], np.float32))
    tokens = open_features(prepare(raw, tmp_path / "out"), ["text"]).gather("text", [1, 2, 3, 4, 5])
    assert tokens.values[:, 0, 0].tolist() == [1.0, 2.0, 0.0, 4.0, 3.0]
    assert tokens.mask[:, 0].tolist() == [True, True, False, True, True]  # zeros stand for nothing


def test_sequences_are_read_within_a_limit_of_memory() -> None:
    with open_database() as database:
        (limit,) = database.execute("SELECT current_setting('memory_limit')").fetchone() or ()
    assert limit == "953.6 MiB"


def refused(raw: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["microlens", "--raw", str(raw), "--out", str(out)]) == 1
    assert not out.exists()
    return capsys.readouterr().err


def test_says_what_is_missing(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(raw / "item_seq.parquet", {"user": [1], "item_seq": [[1]]})
    assert "item_seq.parquet: no column user_id; it has user, item_seq" in refused(raw, tmp_path / "out", capsys)
    (raw / "item_seq.parquet").write_bytes(b"PAR1 cut off")
    assert "item_seq.parquet: no readable parquet file" in refused(raw, tmp_path / "out", capsys)
    (raw / "item_seq.parquet").unlink()
    (raw / "MicroLens_1M_x1" / "train.parquet").unlink()
    assert "neither item_seq.parquet nor MicroLens_1M_x1/train.parquet" in refused(raw, tmp_path / "out", capsys)


def test_vectors_of_several_widths_are_refused(raw: Path) -> None:
    write(raw / "item_feature.parquet", ITEMS | {"txt_emb_BERT": [[1.0]] * 4 + [[1.0, 2.0]]})
    found = next(one for one in read(raw, Namespace()).features if one.encoder == "txt_emb_BERT")
    with pytest.raises(ValueError, match="column txt_emb_BERT: vectors of different widths"):
        found.load()

"""MMRec's datasets: .inter with its own header, features by row, text from the metadata of its preprocessing."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from data_adapters.__main__ import main
from data_adapters.mmrec import read
from odmt.data.format import Dataset, open_dataset

INTER = """userID\titemID\trating\ttimestamp\tx_label
1\t0\t5.0\t1328140800\t0
0\t2\t3.0\t1390694400\t1
0\t0\t5.0\t1390694400\t1
1\t2\t4.0\t1328140700\t2
0\t1\t2.0\t1390000000\t2
0\t3\t1.0\t1391990400\t0
1\t1\t4.0\t1328140900\t0
1\t0\t4.0\t1328140950\t0
"""
META = '''itemID,asin,title,price,imUrl,related,brand,categories,salesRank,description
0,1881509818,Ghost &amp; Armorer,9.99,x.jpg,"{'b': ['B1']}",Ghost,"[['Sports & Outdoors', 'Hunting'], ['Else']]",,"One
two"
2,7245456259,"Band, ""black""",,,,,"[['Sports']]",{'a': 1},
'''


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "sports14"
    folder.mkdir()
    (folder / "sports14.inter").write_text(INTER)
    np.save(folder / "image_feat.npy", np.arange(8.0).reshape(4, 2))
    np.save(folder / "text_feat.npy", np.arange(12, dtype=np.float32).reshape(4, 3))
    np.save(folder / "user_graph_dict.npy", np.array({"pickled": 1}, dtype=object), allow_pickle=True)
    return folder


def prepare(raw: Path, out: Path, *options: str) -> Dataset:
    assert main(["mmrec", "--raw", str(raw), "--out", str(out), "--min-events", "4", *options]) == 0
    return open_dataset(out)


def test_sorts_by_time_and_takes_text_from_the_metadata(raw: Path, tmp_path: Path) -> None:
    (raw / "meta-sports14.csv").write_text(META)
    (raw / "i_id_mapping.csv").write_text("asin\titemID\n1881509818\t0\n2094869245\t1\n")
    (raw / "images").mkdir()
    (raw / "images" / "3.jpg").write_bytes(b"\xff\xd8")
    dataset = prepare(raw, tmp_path / "out", "--columns", "asin")
    assert dataset.users() == ["0", "1"]
    assert dataset.ids() == ["0", "1", "2", "3"]
    assert [dataset.history(user).tolist() for user in (0, 1)] == [[2, 3, 1, 4], [3, 1, 2, 1]]
    first, nothing, band, _ = dataset.texts()
    assert first is not None
    assert " ".join(first.split()) == "Ghost & Armorer Ghost Sports & Outdoors Hunting One two"
    assert nothing is None
    assert band == 'Band, "black" Sports'
    assert dataset.column("asin") == ["1881509818", "2094869245", "7245456259", None]
    assert dataset.column("image") == [None, None, None, "images/3.jpg"]


def test_ratings_can_be_thresholds(raw: Path, tmp_path: Path) -> None:
    dataset = prepare(raw, tmp_path / "out", "--min-rating", "4")
    assert dataset.users() == ["1"]


def test_opens_the_copy_of_microlens_without_ratings_and_text(raw: Path, tmp_path: Path) -> None:
    lines = [line.split("\t") for line in INTER.splitlines()]
    (raw / "sports14.inter").unlink()
    rows = [[user, item, time if time == "timestamp" else f"{time}000", label] for user, item, _, time, label in lines]
    (raw / "microlens.inter").write_text("".join("\t".join(row) + "\r\n" for row in rows))
    dataset = prepare(raw, tmp_path / "out")
    assert [dataset.history(user).tolist() for user in (0, 1)] == [[2, 3, 1, 4], [3, 1, 2, 1]]
    assert dataset.times is not None
    assert dataset.times[0] == 1390000000000
    assert dataset.texts() == [None] * 4


def test_row_of_features_is_the_item_and_means_count_as_missing(raw: Path) -> None:
    found = {one.modality: one for one in read(raw, Namespace()).features}
    assert list(found["image"].ids) == ["0", "1", "2", "3"]
    assert np.array_equal(found["text"].load(), np.arange(12, dtype=np.float32).reshape(4, 3))
    assert "with the mean" in read(raw, Namespace()).notes["image_feat.npy"]
    (raw / "missed_img_itemIDs.csv").write_text("1\n3\n")
    found = {one.modality: one for one in read(raw, Namespace()).features}
    assert list(found["image"].ids) == ["0", "2"]
    assert found["image"].load().tolist() == [[0.0, 1.0], [4.0, 5.0]]
    assert list(found["text"].ids) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("name", "content", "answers"),
    [
        ("sports14.inter", "user_id:token\titem_id:token\n1\t2\n", ("line 1", "userID, itemID, timestamp", "recbole")),
        ("other.inter", INTER, ("2 files named *.inter",)),
        ("sports14.inter", INTER + "0\tx\t1\t1391990400\t0\n", ("line 10", "item is 'x'")),
        ("meta-sports14.csv", META.replace("\n2,", "\nx,"), ("meta-sports14.csv", "line 4", "itemID is 'x'")),
        ("meta-sports14.csv", META.replace("[['Sports']]", "[['Sports'"), ("line 4", "categories", "no list of lists")),
        ("missed_img_itemIDs.csv", "one\n", ("missed_img_itemIDs.csv", "not one itemID per line")),
    ],
)
def test_says_which_line_is_wrong(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, answers: tuple[str, ...]
) -> None:
    (raw / name).write_text(content)
    assert main(["mmrec", "--raw", str(raw), "--out", str(tmp_path / "out"), "--min-events", "4"]) == 1
    printed = capsys.readouterr().err
    for answer in answers:
        assert answer in printed
    assert not (tmp_path / "out").exists()

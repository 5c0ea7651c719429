"""The LMDB of pickled pictures: its keys, the forms of its pictures, and what is cut off or damaged."""

from __future__ import annotations

import io
import os
import pickletools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_adapters.lmdb_pictures import read_pictures
from data_adapters.text_files import ReleaseError
from tests.unit.adapters.odmt_release import database, noise, pickled


@pytest.mark.parametrize(
    "key", ["../../x", "/etc/x", "a/b", "..", ".hidden", "a\\b", "a\0b", "-rf", "", "é", "a" * 300, "a\n"]
)
def test_keys_that_lead_elsewhere_are_refused(tmp_path: Path, key: str) -> None:
    if not key or len(key) > 200:
        entries = {"a" * 201: pickled(noise(1, 4, 4, 3), "1")}  # LMDB itself takes no empty and no longer keys
    else:
        entries = {key: pickled(noise(1, 4, 4, 3), "1")}
    with pytest.raises(ReleaseError, match=r"x\.lmdb, key .*: no item id that can name a file"):
        list(read_pictures(database(tmp_path / "x.lmdb", entries)))


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (pickled(np.zeros((3, 224, 224), np.float64)), "1,204,224 bytes without a size"),
        (pickled(np.zeros((2, 3, 224, 224), np.float32)), r"float32 of shape \(3, 224, 224\) has 602,112"),
        (pickled(np.full((3, 224, 224), np.nan, np.float32)), "values from nan"),
        (pickled(np.full((3, 224, 224), 2.1179, np.float32)), "values from 2.118"),
        (pickled((noise(5, 3, 224, 224) / np.float32(255)).astype(np.float32)), "normalised with mean 0.5"),
        (pickled(noise(1, 4, 4, 3).astype(np.float32), "1"), "192 bytes do not make a picture of size"),
        (pickled(noise(1, 4, 4, 2), "1"), "channels 2"),
        (pickletools.optimize(pickled(np.zeros(0, np.uint8).reshape(0, 4, 3), "1")), "0 bytes do not make"),
    ],
    ids=["float64", "a clip", "nan", "imagenet", "not normalised", "float with size", "two channels", "empty"],
)
def test_pictures_in_another_form_are_refused(tmp_path: Path, value: bytes, word: str) -> None:
    with pytest.raises(ReleaseError, match=rf"x\.lmdb, key 'B7'.*{word}"):
        list(read_pictures(database(tmp_path / "x.lmdb", {"B7": value})))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels(tmp_path: Path, channels: int) -> None:
    picture = noise(6, 4, 5, channels)
    ((name, content),) = read_pictures(database(tmp_path / "x.lmdb", {"7": pickled(picture, "7")}))
    assert name == "7.png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))).reshape(picture.shape), picture)


@pytest.mark.parametrize("subdir", [False, True])
def test_a_database_cut_off_in_its_download_is_refused(tmp_path: Path, subdir: bool) -> None:
    entries = {f"B{number:03}": pickled(noise(number, 60, 60, 3), "B") for number in range(40)}
    path = database(tmp_path / "pictures.lmdb", entries, subdir=subdir)
    data = path / "data.mdb" if subdir else path
    size = data.stat().st_size
    os.truncate(data, size // 2)
    # in a process of its own: reading on would kill it
    program = (
        "import pathlib, sys; from data_adapters.lmdb_pictures import read_pictures; "
        "list(read_pictures(pathlib.Path(sys.argv[1])))"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert ended.returncode == 1
    assert f"ReleaseError: {path}: {size // 2:,} bytes of {size:,} are there; it is cut off" in ended.stderr


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    path = database(tmp_path / "pictures.lmdb", {f"B{i:03}": pickled(noise(i, 9, 9, 3), "B") for i in range(200)})
    data = bytearray(path.read_bytes())
    for page in range(2 * 4096, len(data), 4096):
        data[page + 10 : page + 12] = b"\xff\xff"  # the kind of each page
    path.write_bytes(data)
    with pytest.raises(ReleaseError, match=r"pictures.lmdb: no LMDB that can be read \(.*download it again"):
        list(read_pictures(path))

"""ODMT's own release: three layouts, the LMDB of pickled pictures, and pickles that mean harm."""

from __future__ import annotations

import builtins
import importlib
import io
import os
import pickle
import pickletools
import subprocess
import sys
import types
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_adapters.__main__ import main
from data_adapters.lmdb_pictures import read_pictures, unpickle_picture
from data_adapters.odmt_release import read
from data_adapters.text_files import ReleaseError
from odmt.data.format import Dataset, open_dataset

# the class as the release's scripts define it: in their __main__, which is not here when the LMDB is read
SCRIPT = """
class LMDB_Image:
    def __init__(self, image, id=None):
        if id is not None:
            self.channels = image.shape[2]
            self.size = image.shape[:2]
        self.image = image.tobytes()
        if id is not None:
            self.id = id
"""
BEHAVIOURS = "A1\tB001 B002 B001 B003\nA2\tB002 B003  B001 B002 \n"
TITLES = 'B001\tSoft "5 mm" brush\tset, red\nB002\tPaper\nB003\t\nB009\tNever bought\n'


def pickled(image: np.ndarray, item: str | None = None, *, module: str = "__main__", protocol: int = 4) -> bytes:
    """Pickle a picture as a script would whose module goes by that name."""
    script = types.ModuleType(module)
    exec(SCRIPT, vars(script))
    there = sys.modules.get(module)
    sys.modules[module] = script
    try:
        return pickle.dumps(vars(script)["LMDB_Image"](image, item), protocol=protocol)
    finally:
        del sys.modules[module]
        if there is not None:
            sys.modules[module] = there


def database(path: Path, entries: Mapping[str, bytes], *, subdir: bool = False) -> Path:
    """Build an LMDB as the release's 1_lmdb_build.py does."""
    environment = lmdb.open(str(path), subdir=subdir, map_size=1 << 26)
    with environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key.encode(), value)
        transaction.put(b"__keys__", pickle.dumps([key.encode() for key in entries]))
        transaction.put(b"__len__", pickle.dumps(len(entries)))
    return path


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def normalised(picture: np.ndarray) -> np.ndarray:
    """Do what ToTensor and Normalize(0.5, 0.5) do."""
    return ((picture.transpose(2, 0, 1).astype(np.float32) / 255) - np.float32(0.5)) / np.float32(0.5)


def amazon(folder: Path) -> Path:
    folder.mkdir()
    (folder / "Arts_Crafts_and_Sewing_user_behaviours.tsv").write_text(BEHAVIOURS)
    (folder / "Arts_Crafts_and_Sewing_text.tsv").write_text(TITLES)
    return folder


def prepared(raw: Path, *options: str) -> Dataset:
    out = raw.parent / "out"
    assert main(["odmt-release", "--raw", str(raw), "--out", str(out), "--min-events", "4", *options]) == 0
    return open_dataset(out)


def histories(dataset: Dataset) -> dict[str, list[str]]:
    ids = dataset.ids()
    return {user: [ids[item - 1] for item in dataset.history(u)] for u, user in enumerate(dataset.users())}


def pixels(dataset: Dataset) -> list[np.ndarray | None]:
    root = Path(dataset.info.media_root)
    return [path and np.asarray(Image.open(root / path)) for path in dataset.column("image")]


def test_amazon_with_pictures_in_an_lmdb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = amazon(tmp_path / "raw")
    first, second = noise(1, 30, 20, 3), noise(2, 7, 9, 3)
    database(raw / "Arts_image.lmdb", {"B001": pickled(first, "B001"), "B003": pickled(second, "B003")})
    dataset = prepared(raw)
    assert histories(dataset) == {"A1": ["B001", "B002", "B001", "B003"], "A2": ["B002", "B003", "B001", "B002"]}
    assert dataset.texts() == ['Soft "5 mm" brush set, red', "Paper", None]
    assert dataset.times is None
    found = pixels(dataset)
    assert np.array_equal(found[0], first)
    assert found[1] is None
    assert np.array_equal(found[2], second)
    assert Path(dataset.info.media_root) == tmp_path / "out-images"
    assert dataset.info.notes["pictures"] == "2 of Arts_image.lmdb, written to out-images as PNG"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out-images", "raw"]
    # again: the pictures are taken as they are, and the folder too
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out-images").iterdir()}
    capsys.readouterr()
    assert prepared(raw).ids() == dataset.ids()
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out-images").iterdir()} == before


def test_amazon_with_pictures_as_files(tmp_path: Path) -> None:
    raw = amazon(tmp_path / "raw")
    (raw / "images").mkdir()
    (raw / "images/B002.jpg").write_bytes(b"\x89PNG")
    (raw / "Arts_image.lmdb").write_bytes(b"not needed")
    assert prepared(raw).column("image") == [None, "images/B002.jpg", None]


def test_hm_keys_are_the_numbers_of_its_ids(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "hm_pick_users_5W.tsv").write_bytes(b"u7\tv12 v007 v12 v12\r\n")
    (raw / "hm_pick_items_5W.tsv").write_bytes(b"v12\tTop, black\r\nv007\tHat\r\n")
    picture = noise(3, 5, 5, 3)
    (raw / "hm_image_20W.lmdb").mkdir()
    database(raw / "hm_image_20W.lmdb", {"7": pickled(picture, "7"), "99": pickled(picture, "99")}, subdir=True)
    dataset = prepared(raw, "--extract", str(tmp_path / "hats"))
    assert histories(dataset) == {"u7": ["v12", "v007", "v12", "v12"]}
    assert dataset.texts() == ["Hat", "Top, black"]
    assert dataset.column("image") == ["7.png", None]
    assert Path(dataset.info.media_root) == tmp_path / "hats"


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_stream_pictures_lose_their_normalisation_and_nothing_else(tmp_path: Path, protocol: int) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "10wu_ks_pairs.tsv").write_text("1\t10 2 10 3\n")
    (raw / "10wu_ks_title.csv").write_text('10,a "dance", at home\n2,\n3,三\n', encoding="utf-8")
    picture = noise(4, 224, 224, 3)
    picture[0, :86] = np.arange(258).reshape(86, 3)  # every level there is
    entry = pickled(normalised(picture), module="lmdb_build", protocol=protocol)
    database(raw / "10wu_ks_cover.lmdb", {"10": entry})
    dataset = prepared(raw)
    assert histories(dataset) == {"1": ["10", "2", "10", "3"]}
    assert dataset.texts() == ['a "dance", at home', None, "三"]
    assert np.array_equal(pixels(dataset)[0], picture)


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable, tuple]:
        return self.call


def picture_holding(extra: Any) -> bytes:
    """Pickle a picture, one of whose attributes is `extra`."""
    script = types.ModuleType("__main__")
    exec(SCRIPT, vars(script))
    picture = vars(script)["LMDB_Image"](noise(1, 2, 2, 3), "1")
    picture.id = extra
    there, sys.modules["__main__"] = sys.modules["__main__"], script
    try:
        return pickle.dumps(picture)
    finally:
        sys.modules["__main__"] = there


# a picture class, and by hand what the pickle module would not write of it
EMPTY = b"\x80\x04\x8c\x08__main__\x8c\nLMDB_Image\x93)\x81"
CLASS = b"\x80\x04\x8c\x08__main__\x8c\nLMDB_Image\x93"
HOSTILE: dict[str, tuple[Callable[[str], bytes], str]] = {
    "os.system": (lambda mark: pickle.dumps(Calls(os.system, f"touch {mark}")), "REDUCE"),
    "eval": (lambda mark: pickle.dumps(Calls(eval, f"open({mark!r}, 'w')")), "REDUCE"),
    "subprocess": (lambda mark: pickle.dumps(Calls(subprocess.Popen, ["touch", mark]), protocol=2), "Popen"),
    "call inside a picture": (lambda mark: picture_holding(Calls(os.system, f"touch {mark}")), "REDUCE"),
    "numpy array": (lambda mark: pickle.dumps(np.zeros(3)), "REDUCE"),
    "numpy array in a picture": (lambda mark: picture_holding(np.zeros(3)), "REDUCE"),
    "copyreg, protocol 1": (lambda mark: pickled(noise(1, 2, 2, 3), "1", protocol=1), "copy_reg._reconstructor"),
    "old instance": (lambda mark: f"(S'touch {mark}'\nios\nsystem\n.".encode(), "STRING"),
    "old object": (lambda mark: b"(cos\nsystem\nS'touch x'\no.", "os.system"),
    "a global alone": (lambda mark: b"cos\nsystem\n.", "os.system"),
    "a global alone, protocol 4": (lambda mark: pickle.dumps(os.getcwd), "posix.getcwd"),
    "an attribute of the class": (
        lambda mark: b"\x80\x04\x8c\x02os\x8c\x11LMDB_Image.system\x93.",
        "LMDB_Image.system",
    ),
    "another class, built": (lambda mark: b"\x80\x04\x8c\x08builtins\x8c\x06object\x93)\x81.", "builtins.object"),
    "the class called": (lambda mark: CLASS + b")R.", "REDUCE"),
    "made with keywords": (lambda mark: CLASS + b")}\x92.", "NEWOBJ_EX"),
    "the class itself": (lambda mark: CLASS + b".", "holds a type"),
    "the class changed": (lambda mark: CLASS + b"N}\x8c\x01aK\x01s\x86b.", "broken"),
    "setstate planted": (lambda mark: EMPTY + b"}\x8c\x0c__setstate__" + CLASS[2:] + b"sb}b.", "broken"),
    "class planted": (lambda mark: EMPTY + b"}\x8c\t__class__" + CLASS[2:] + b"sb.", "attributes"),
    "registered object": (lambda mark: b"\x80\x02\x82\x01.", "EXT1"),
    "persistent object": (lambda mark: b"Pwherever\n.", "PERSID"),
    "buffer from outside": (lambda mark: b"\x80\x05\x97.", "NEXT_BUFFER"),
    "huge memo": (lambda mark: b"\x80\x04Nr\xff\xff\xff\x7f.", "LONG_BINPUT"),
    "long pickle": (lambda mark: b"\x80\x04" + b"N0" * 99 + b"N.", "POP"),
    "many steps": (lambda mark: b"\x80\x04" + b"N" * 99 + b".", "more than 64"),
    "text": (lambda mark: pickle.dumps("B001"), "holds a str"),
    "no pickle": (lambda mark: b"\xff\xd8\xff\xe0 a JPEG as it is", "broken"),
    "nothing": (lambda mark: b"", "broken"),
    "cut off": (lambda mark: pickled(noise(1, 4, 4, 3), "1")[:-20], "broken"),
}


def only_codecs(name: str, *args: Any, **kwargs: Any) -> Any:
    assert name.startswith("encodings"), f"the pickle imported {name}"
    return importlib.__import__(name, *args, **kwargs)


@pytest.mark.parametrize("kind", HOSTILE)
def test_harmful_pickles_are_refused_by_key_and_nothing_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    make, word = HOSTILE[kind]
    mark = tmp_path / "ran"
    value = make(str(mark))

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", only_codecs)
        with pytest.raises(pickle.UnpicklingError) as caught:
            unpickle_picture(value)
    assert word in str(caught.value)
    raw = amazon(tmp_path / "raw")
    database(raw / "Arts_image.lmdb", {"B001": pickled(noise(1, 4, 4, 3), "B001"), "B002": value})
    out = tmp_path / "out"
    assert main(["odmt-release", "--raw", str(raw), "--out", str(out), "--min-events", "4"]) == 1
    message = capsys.readouterr().err
    assert "Arts_image.lmdb, key 'B002'" in message
    assert "Nothing of it was executed" in message
    assert not mark.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


@given(cuts=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), st.binary(max_size=6)), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_damaged_pickles_are_refused_or_harmless(cuts: list[tuple[int, int, bytes]]) -> None:
    value = pickled(noise(1, 2, 2, 3), "1", protocol=4)
    for place, length, insert in cuts:
        value = value[: place % len(value)] + insert + value[place % len(value) + length :] or b"."
    try:
        found = unpickle_picture(value)
    except pickle.UnpicklingError:
        return
    assert found.keys() <= {"image", "size", "channels", "id"}


def test_the_index_pickles_are_not_opened(tmp_path: Path) -> None:
    raw = amazon(tmp_path / "raw")
    path = database(raw / "Arts_image.lmdb", {"B001": pickled(noise(1, 4, 4, 3), "B001")})
    environment = lmdb.open(str(path), subdir=False, map_size=1 << 26)
    with environment, environment.begin(write=True) as transaction:
        transaction.put(b"__keys__", pickle.dumps(Calls(os.system, f"touch {tmp_path / 'ran'}")))
    assert prepared(raw).info.modalities["image"] == 1
    assert not (tmp_path / "ran").exists()


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


def test_only_pictures_that_this_run_wrote_are_named_as_such(tmp_path: Path) -> None:
    raw = amazon(tmp_path / "raw")
    arguments = Namespace(out=tmp_path / "out", extract=None)
    assert read(raw, arguments).extracted is None
    database(raw / "Arts_image.lmdb", {"B001": pickled(noise(1, 4, 4, 3), "B001")})
    assert read(raw, arguments).extracted == tmp_path / "out-images"
    assert read(raw, arguments).extracted is None


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


def test_pictures_of_another_lmdb_are_not_taken_for_these(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = amazon(tmp_path / "raw")
    database(raw / "Arts_image.lmdb", {"B001": pickled(noise(1, 4, 4, 3), "B001")})
    prepared(raw)
    (raw / "Arts_image.lmdb").unlink()
    database(raw / "Arts_image.lmdb", {"B001": pickled(noise(2, 4, 4, 3), "B001")})
    command = ["odmt-release", "--raw", str(raw), "--out", str(tmp_path / "two"), "--min-events", "4"]
    assert main([*command, "--extract", str(tmp_path / "out-images")]) == 1
    message = capsys.readouterr().err
    assert f"{tmp_path / 'out-images'} holds pictures of" in message
    assert "--extract" in message
    assert main([*command, "--extract", str(tmp_path / "raw")]) == 1
    assert "is taken" in capsys.readouterr().err
    assert main(command) == 0


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ["no file of users' behaviours; it holds nothing"]),
        ({"Arts_user_behaviours.tsv": BEHAVIOURS}, ["Arts_user_behaviours.tsv but no Arts_text.tsv"]),
        (
            {"Arts_user_behaviours.tsv": BEHAVIOURS, "Arts_text.tsv": "B001 no tab\n"},
            ["Arts_text.tsv, line 1: no tab between item and title: 'B001 no tab'"],
        ),
        (
            {"Arts_user_behaviours.tsv": BEHAVIOURS, "hm_pick_users_5W.tsv": "u\tv1\n"},
            ["Arts_user_behaviours.tsv, hm_pick_users_5W.tsv", "one per folder"],
        ),
        (
            {"Arts_user_behaviours.tsv": BEHAVIOURS, "Arts_text.tsv": TITLES, "a.lmdb": "", "b.lmdb": ""},
            ["a.lmdb, b.lmdb"],
        ),
        (
            {"Arts_user_behaviours.tsv": BEHAVIOURS, "Arts_text.tsv": TITLES, "a.lmdb": "no database" * 999},
            ["a.lmdb: no LMDB that can be read"],
        ),
        (
            {"Arts_user_behaviours.tsv": "A1\tB001\nA2 B001\n", "Arts_text.tsv": TITLES},
            ["Arts_user_behaviours.tsv, line 2"],
        ),
    ],
)
def test_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, str], words: list[str]
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, content in files.items():
        (raw / name).write_text(content)
    assert main(["odmt-release", "--raw", str(raw), "--out", str(tmp_path / "out"), "--min-events", "4"]) == 1
    message = capsys.readouterr().err
    assert [word for word in words if word not in message] == [], message
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]

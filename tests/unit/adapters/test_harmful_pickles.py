"""Pickles that mean harm, or are damaged: refused by key, and nothing of them runs."""

from __future__ import annotations

import builtins
import importlib
import os
import pickle
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_adapters.__main__ import main
from data_adapters.lmdb_pictures import unpickle_picture
from tests.unit.adapters.odmt_release import SCRIPT, amazon, database, noise, pickled, prepared


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
@example(cuts=[(158, 2, b"\x95\x00")])  # a frame of more than 2**63 bytes
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

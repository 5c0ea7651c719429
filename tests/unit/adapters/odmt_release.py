"""Small releases in ODMT's own layout, with pictures pickled into an LMDB as its scripts do."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Mapping
from pathlib import Path

import lmdb
import numpy as np

from data_adapters.__main__ import main
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


def amazon(folder: Path) -> Path:
    folder.mkdir()
    (folder / "Arts_Crafts_and_Sewing_user_behaviours.tsv").write_text(BEHAVIOURS)
    (folder / "Arts_Crafts_and_Sewing_text.tsv").write_text(TITLES)
    return folder


def prepared(raw: Path, *options: str) -> Dataset:
    out = raw.parent / "out"
    assert main(["odmt-release", "--raw", str(raw), "--out", str(out), "--min-events", "4", *options]) == 0
    return open_dataset(out)

"""A dataset folder of three users and four items."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from odmt.data.format import Dataset, write_dataset

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


def covers(root: Path, *, extra: bytes = b"") -> Path:
    """Write the first of the two covers that ITEMS names; the other is absent."""
    (root / "covers").mkdir(parents=True, exist_ok=True)
    (root / "covers/100.jpg").write_bytes(b"a cover" + extra)
    return root


def edit_yaml(folder: Path, change: Callable[[dict], dict]) -> None:
    path = folder / "dataset.yaml"
    path.write_text(yaml.safe_dump(change(yaml.safe_load(path.read_text(encoding="utf-8")))), encoding="utf-8")

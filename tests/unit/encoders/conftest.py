"""Small dataset folders around given content, and clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from odmt.data.format import Dataset, write_dataset
from tests.clips import write_clip

FolderMaker = Callable[..., Dataset]


@pytest.fixture
def make_folder(tmp_path: Path) -> FolderMaker:
    """Give a function that writes a dataset folder around items' texts or pictures; one user has seen them all."""

    def make(name: str = "shop", **columns: Any) -> Dataset:
        count = len(next(value for key, value in columns.items() if key != "media_root"))
        content: dict[str, Sequence[Any]] = {key: value for key, value in columns.items() if key != "media_root"}
        return write_dataset(
            tmp_path / name,
            name=name,
            histories=[("someone", list(range(1, count + 1)), None)],
            items={"id": [f"raw-{i}" for i in range(1, count + 1)], **content},
            tie_rule="the order of the file",
            media_root=columns.get("media_root", "."),
        )

    return make


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Give a clip of many frames and one of a single frame."""
    folder = tmp_path_factory.mktemp("clips")
    return [write_clip(folder / "long.mp4"), write_clip(folder / "one.mp4", frames=1)]

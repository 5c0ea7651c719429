"""Pictures that tests paint and damage."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def two_halves(size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Paint red on the left, blue on the right."""
    picture = Image.new("RGB", size, (200, 30, 30))
    picture.paste((30, 30, 200), (size[0] // 2, 0, *size))
    return picture


def cut_short(path: Path) -> None:
    data = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(data, path.suffix[1:])
    path.write_bytes(data.getvalue()[: len(data.getvalue()) // 2])

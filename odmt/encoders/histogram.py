"""A histogram of a picture's colours and edges: an image encoder that needs no weights."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from odmt.data.pictures import read_picture
from odmt.encoders import Content, EncoderError, Unreadable
from odmt.encoders.files import read_each

__all__ = ["Histogram"]


class Histogram:
    """Describe a picture by its colours and the directions of its edges; needs no weights.

    Tokens are the whole picture, then the cells of a `grid` x `grid` raster row by row. Each is, for red, green and
    blue, `bins` shares of brightness, and `bins` shares of edge direction (0 to 180 degrees, weighted by edge
    strength). Square roots are taken, so that dot products compare distributions, and rows scaled to a mean square of
    about 1.
    """

    SIDE = 64
    """Pictures are shrunk to so many pixels a side first."""
    FAINT = 0.02
    """Edge strength per pixel below which a region counts as plain rather than as textured."""

    def __init__(self, *, bins: int = 8, grid: int = 2) -> None:
        if bins < 2 or not 1 <= grid <= self.SIDE // 4:
            raise EncoderError(
                f"histogram(bins={bins}, grid={grid}): bins must be at least 2, and grid from 1 to {self.SIDE // 4}"
            )
        self.bins, self.grid = bins, grid
        self.width = 4 * bins
        self.name = f"histogram(bins={bins}, grid={grid})"

    def recipe(self) -> dict[str, Any]:
        return {
            "method": "histograms of colour and edge direction, the whole picture and then the cells of a raster",
            "bins": self.bins,
            "grid": self.grid,
            "side": self.SIDE,
        }

    def lengths(self, contents: Sequence[Content]) -> list[int]:
        """Count every picture the same."""
        return [1] * len(contents)

    def encode(self, contents: Sequence[Content]) -> list[np.ndarray | Unreadable]:
        """Encode one batch of pictures, [1 + grid * grid, 4 * bins] fp32 each."""
        return read_each(contents, self._describe, threads=os.cpu_count() or 1)

    def _describe(self, path: Path) -> np.ndarray:
        size = (self.SIDE, self.SIDE)
        picture = read_picture(path, side=2 * self.SIDE).resize(size, Image.Resampling.BOX)
        colours = np.asarray(picture, dtype=np.float64) / 255
        luminance = colours @ np.array([0.299, 0.587, 0.114])
        down, right = np.gradient(luminance)
        angle = np.mod(np.arctan2(down, right), np.pi) / np.pi
        strength = np.hypot(down, right)
        regions = [(slice(None), slice(None))]
        edges = [self.SIDE * i // self.grid for i in range(self.grid + 1)]
        cells = [slice(begin, end) for begin, end in itertools.pairwise(edges)]
        regions += [(rows, columns) for rows in cells for columns in cells] if self.grid > 1 else []
        return np.stack([self._row(colours[r], angle[r], strength[r]) for r in regions]).astype(np.float32)

    def _row(self, colours: np.ndarray, angle: np.ndarray, strength: np.ndarray) -> np.ndarray:
        pixels = angle.size
        # The last bin holds full brightness; directions are centred on 0 degrees, so that level edges share one bin.
        level = np.minimum((colours * self.bins).astype(int), self.bins - 1).reshape(pixels, 3)
        shares = [np.bincount(level[:, channel], minlength=self.bins) / pixels for channel in range(3)]
        direction = np.floor(angle * self.bins + 0.5).astype(int) % self.bins
        edges = np.bincount(direction.ravel(), weights=strength.ravel(), minlength=self.bins)
        shares.append(edges / (edges.sum() + self.FAINT * pixels))
        return np.sqrt(np.concatenate(shares) * self.bins)

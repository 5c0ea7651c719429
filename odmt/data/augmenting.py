"""Pictures and frames changed at random in training, otherwise in every epoch, for encoders that start from little.

An augmentation is a callable of your own or one of these: it takes bytes, [frames, height, width, 3] (a picture is one
frame), and random numbers, and gives bytes of any height and width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["Augmentation", "Crop"]

Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class Crop:
    """Cut out a part of the same proportions, anywhere, the same of all frames of a clip (arXiv 1409.4842 crops so,
    with proportions that vary, too).

    least: the smallest share of the area that a part may have, above 0; shares are drawn evenly up to 1. flip: mirror
    every other one, left to right: not for clips in which it matters where things go, nor for writing.
    """

    def __init__(self, *, least: float = 0.5, flip: bool = False) -> None:
        if not 0 < least <= 1:
            raise ValueError(f"crop(least={least}): the smallest share of the area is above 0 and at most 1")
        self.least, self.flip = least, flip

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        side = np.sqrt(rng.uniform(self.least, 1.0))
        height, width = (max(1, round(side * length)) for length in frames.shape[1:3])
        top, left = rng.integers(0, [frames.shape[1] - height + 1, frames.shape[2] - width + 1])
        part = frames[:, top : top + height, left : left + width]
        return part[:, :, ::-1] if self.flip and rng.random() < 0.5 else part

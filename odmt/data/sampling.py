"""Which frames of a clip are read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["FrameChoice"]

POLICIES = ("uniform", "middle", "random")


@dataclass(frozen=True)
class FrameChoice:
    """Choose `frames` frames of a clip, oldest first.

    how: "uniform", the middle of each of as many equal parts; "middle", around the middle of the clip, `stride` frames
        apart; "random", anywhere in each of as many equal parts (temporal segments, arXiv 1608.00859), for training:
        without random numbers it is "uniform".
    """

    frames: int
    how: str = "uniform"
    stride: int = 1

    def __post_init__(self) -> None:
        if self.frames < 1 or self.stride < 1:
            raise ValueError(f"frames={self.frames}, stride={self.stride}: both must be at least 1")
        if self.how not in POLICIES:
            raise ValueError(f"frames are sampled {' or '.join(POLICIES)}, not {self.how!r}")
        if self.stride > 1 and self.how != "middle":
            raise ValueError(f"stride={self.stride} is of sample='middle'; {self.how!r} spreads frames over the clip")

    def times(self, shown: Sequence[int], end: int, rng: np.random.Generator | None = None) -> list[int]:
        """Choose among the frames of a clip.

        shown: when each frame begins to be shown, ascending; end: when the last ceases to be. A clip of fewer frames
        gives some of them twice.
        """
        if self.how == "middle":
            first = (len(shown) - 1) / 2 - (self.frames - 1) * self.stride / 2
            places = np.floor(first + self.stride * np.arange(self.frames) + 0.5).astype(int)
            return [shown[place] for place in places.clip(0, len(shown) - 1)]
        within = 0.5 if rng is None or self.how == "uniform" else rng.random(self.frames)
        moments = shown[0] + (np.arange(self.frames) + within) / self.frames * (end - shown[0])
        return [shown[max(0, bisect_right(shown, moment) - 1)] for moment in moments.tolist()]

"""What networks share that read frames of clips: which frames, how they come to size, and how a recipe tells it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from odmt.data.clips import read_clip
from odmt.data.sampling import FrameChoice
from odmt.encoders import EncoderError
from odmt.encoders.frozen import hash_weights
from odmt.encoders.network import FilePreparation, Network
from odmt.types import Tensor

__all__ = ["Frames", "OfFrames"]


class Frames(FilePreparation):
    """Decode the chosen frames of clips, and let `process` bring them to size."""

    def __init__(self, choice: FrameChoice, process: Callable[[np.ndarray], Tensor], *, side: int) -> None:
        self.choice, self.process, self.side = choice, process, side
        self.varies = choice.how == "random"

    def decode(self, path: Path, rng: np.random.Generator | None = None) -> np.ndarray:
        return read_clip(path, frames=self.choice, side=self.side, rng=rng).frames

    def fit(self, frames: np.ndarray) -> Tensor:
        return self.process(frames)


class OfFrames(Network):
    """What networks share that read frames of clips."""

    def __init__(self, name: str, *, frames: int, sample: str, stride: int) -> None:
        super().__init__()
        self.name = name
        try:
            self.choice = FrameChoice(frames, sample, stride)
        except ValueError as error:
            raise EncoderError(f"video encoder {name!r}: {error}") from error

    def recipe(self) -> dict[str, Any]:
        return {"method": self.method(), "weights": hash_weights(self.model), **self.reading()}

    def reading(self) -> dict[str, Any]:
        """Say which frames are read, and how they are brought to size."""
        frames = {"number": self.choice.frames, "sample": self.choice.how, "stride": self.choice.stride}
        return {"frames": frames, **self.processing()}

    @abstractmethod
    def processing(self) -> dict[str, Any]:
        """Say how frames are brought to size."""

    def example(self) -> dict[str, Tensor]:
        """Make the inputs of a clip of nothing."""
        assert isinstance(self.preparation, Frames)
        side = self.preparation.side
        return {"pixels": self.preparation.process(np.zeros((self.choice.frames, side, side, 3), np.uint8))[None]}

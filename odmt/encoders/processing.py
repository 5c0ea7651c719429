"""What an image or video processor of transformers does, in two halves: bytes of the right size, and their scaling."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from odmt.data.pictures import read_picture
from odmt.encoders import EncoderError
from odmt.encoders.network import FilePreparation, Scaling
from odmt.types import Tensor

__all__ = ["Pictures", "Processed"]

HAPPENSTANCE = ("transformers_version", "_processor_class", "processor_class")
"""Settings that decide no value."""
BYTE = 1 / 255


class Processed:
    """Wrap a processor.

    Where it scales bytes as every other does, (x / 255 - mean) / deviation, that is left to `scale`, a part of the
    network: bytes are a quarter of what would go from process to process.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        usual = (
            bool(processor.do_rescale)
            and bool(processor.do_normalize)
            and abs(processor.rescale_factor - BYTE) < 1e-9
            and not getattr(processor, "offset", False)
        )
        self.scale: nn.Module = Scaling(processor.image_mean, processor.image_std) if usual else nn.Identity()
        self.options = {"do_rescale": False, "do_normalize": False} if usual else {}

    def __call__(self, given: Any) -> Tensor:
        """Process a picture or a clip into what the network reads, behind a dimension for several."""
        made = self.processor(given, return_tensors="pt", **self.options)
        if len(made) != 1:
            raise EncoderError(
                f"{type(self.processor).__name__} gives {', '.join(made)}, and only models that read pictures of one "
                "shape are covered; choose another"
            )
        (tensor,) = made.values()
        return tensor

    def picture(self, picture: Image.Image) -> Tensor:
        """Process one picture, [3, height, width]."""
        return self(picture)[0]

    def clip(self, frames: np.ndarray) -> Tensor:
        """Process the frames of one clip, [frames, height, width, 3], into [frames, 3, height, width]."""
        made = self(list(frames))
        return made[0] if made.ndim == 5 else made  # to a processor of pictures, frames are so many pictures

    def identity(self) -> str:
        """Return the sha256 of the processor's settings."""
        settings: Mapping[str, Any] = self.processor.to_dict()
        known = {name: value for name, value in settings.items() if name not in HAPPENSTANCE}
        return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()

    def side(self) -> int:
        """Say how many pixels a side are of use: twice the largest size that the processor speaks of."""
        sizes = [self.processor.size, getattr(self.processor, "crop_size", None)]
        numbers = [n for size in sizes if size for n in dict(size).values() if isinstance(n, int)]
        return 2 * max(numbers, default=512)


class Pictures(FilePreparation):
    """Decode pictures, no larger than is of use for `side` pixels a side, and let `process` bring them to size."""

    def __init__(self, process: Callable[[Image.Image], Tensor], *, side: int) -> None:
        self.process, self.side = process, side

    def decode(self, path: Path, rng: np.random.Generator | None = None) -> np.ndarray:
        return np.asarray(read_picture(path, side=self.side))[None]

    def fit(self, frames: np.ndarray) -> Tensor:
        return self.process(Image.fromarray(np.ascontiguousarray(frames[0])))

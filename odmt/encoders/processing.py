"""What an image or video processor of transformers does, in two halves: bytes of the right size, and their scaling."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from odmt.data.pictures import read_picture
from odmt.encoders import EncoderError
from odmt.encoders.network import FilePreparation, Scaling
from odmt.types import Tensor

__all__ = ["Processed", "ProcessedPictures"]

HAPPENSTANCE = ("transformers_version", "_processor_class", "processor_class")
"""Settings that decide no value."""
BYTE = 1 / 255


class Processed:
    """Wrap a processor; `inputs` is what it calls what it is given, "images" or "videos".

    Where it scales bytes as every other does, (x / 255 - mean) / deviation, that is left to `scale`, a part of the
    network: bytes are a quarter of what would go from process to process.
    """

    def __init__(self, processor: Any, inputs: str) -> None:
        self.processor, self.inputs = processor, inputs
        usual = (
            bool(processor.do_rescale)
            and bool(processor.do_normalize)
            and abs(processor.rescale_factor - BYTE) < 1e-9
            and len(processor.image_mean) == len(processor.image_std)
        )
        self.scale: nn.Module = Scaling(processor.image_mean, processor.image_std) if usual else nn.Identity()
        self.options = {"do_rescale": False, "do_normalize": False} if usual else {}

    def __call__(self, given: Any) -> Tensor:
        """Process one picture, or the frames of one clip, into what the network reads."""
        made = self.processor(**{self.inputs: given}, return_tensors="pt", **self.options)
        if len(made) != 1:
            raise EncoderError(
                f"{type(self.processor).__name__} gives {', '.join(made)}, and only models that read pictures of one "
                "shape are covered; choose another"
            )
        (tensor,) = made.values()
        return tensor[0]

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


class ProcessedPictures(FilePreparation):
    """Read pictures, and let an image processor resize and crop them."""

    def __init__(self, processed: Processed) -> None:
        super().__init__()
        self.process, self.side = processed, processed.side()

    def read(self, path: Path) -> Tensor:
        return self.process(read_picture(path, side=self.side))

    def blank(self) -> Tensor:
        """Prepare a picture of nothing."""
        return self.process(Image.new("RGB", (self.side, self.side)))


def frames_of(clip: np.ndarray) -> Sequence[Tensor]:
    """Give the frames of a clip [frames, height, width, 3] as processors take them, [3, height, width]."""
    return list(torch.from_numpy(np.ascontiguousarray(clip)).permute(0, 3, 1, 2))

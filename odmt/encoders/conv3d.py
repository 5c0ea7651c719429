"""A small 3-D network for clips that starts from nothing: for small datasets, tests, and a look without weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange, reduce
from PIL import Image
from torch import nn

from odmt.encoders import EncoderError
from odmt.encoders.frames import Frames, OfFrames
from odmt.encoders.network import Scaling, all_real
from odmt.types import Tensor, Tokens

__all__ = ["Conv3d"]


class Conv3d(OfFrames):
    """Read a clip with three 3-D convolutions, each with GroupNorm and ReLU, and average what the last finds.

    The first sees neighbouring frames at once, so that one layer can tell directions of motion; averaging makes them
    the same wherever and whenever something moves. There are no weights to download: they are drawn from seed 0. Frames
    are squeezed to `size` x `size`.

    width: of the one token; 48 and 24 of its channels are found before. frames, sample, stride: which frames, see
        `odmt.data.sampling.FrameChoice`.
    """

    def __init__(
        self, *, width: int = 96, frames: int = 8, size: int = 32, sample: str = "uniform", stride: int = 1
    ) -> None:
        super().__init__("conv3d", frames=frames, sample=sample, stride=stride)
        if width < 16 or width % 16:
            raise EncoderError(f"video encoder 'conv3d': width={width} is no multiple of 16")
        if size < 8:
            raise EncoderError(f"video encoder 'conv3d': size={size} pixels are too few; at least 8")
        self.width, self.size = width, size
        self.preparation = Frames(self.choice, _Squeeze(size), side=2 * size)
        self.scale = Scaling([0.5, 0.5, 0.5], [0.25, 0.25, 0.25])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first = _block(3, width // 4, (3, 5, 5), (1, 2, 2))
            blocks = nn.ModuleList([first, _block(width // 4, width // 2), _block(width // 2, width)])
            self.model: Any = nn.ModuleDict({"blocks": blocks})

    def method(self) -> str:
        return "three 3-D convolutions, mean of the last map"

    def processing(self) -> dict[str, Any]:
        return {"size": self.size, "resize": "squeezed, area"}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode clips of bytes, [clips, frames, 3, size, size], into [clips, 1, width]."""
        x = rearrange(self.scale(inputs["pixels"]), "n t c h w -> n c t h w")
        for block in self.model["blocks"]:
            x = block(x)
        return all_real(reduce(x, "n c t h w -> n 1 c", "mean"))


def _block(
    inside: int, outside: int, kernel: tuple[int, int, int] = (3, 3, 3), stride: tuple[int, int, int] = (2, 2, 2)
) -> nn.Sequential:
    padding = kernel[0] // 2, kernel[1] // 2, kernel[2] // 2
    convolution = nn.Conv3d(inside, outside, kernel, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(4, outside), nn.ReLU())


class _Squeeze:
    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, frames: np.ndarray) -> Tensor:
        small = [Image.fromarray(frame).resize((self.size, self.size), Image.Resampling.BOX) for frame in frames]
        return torch.from_numpy(rearrange(np.stack([np.asarray(one) for one in small]), "t h w c -> t c h w").copy())

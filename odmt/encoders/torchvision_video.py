"""The video models of torchvision: made by name, brought to size as their weights want it, and the maps they give."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from odmt.encoders import EncoderError
from odmt.encoders.checkpoints import load_checkpoint
from odmt.encoders.torchvision_mend import mend_torchvision
from odmt.types import Float, Tensor

__all__ = ["MODELS", "TorchvisionResize", "create_torchvision", "torchvision_map"]

MODELS = (
    "r3d_18",
    "mc3_18",
    "r2plus1d_18",
    "s3d",
    "mvit_v1_b",
    "mvit_v2_s",
    "swin3d_t",
    "swin3d_s",
    "swin3d_b",
)
FIXED_FRAMES = {"mvit_v1_b": 16, "mvit_v2_s": 16}
"""Models that have learned positions of so many frames."""
FEWEST_FRAMES = {"s3d": 14}
HEADS = {"VideoResNet": "fc", "S3D": "classifier", "MViT": "head", "SwinTransformer3d": "head"}


def create_torchvision(model: str, *, pretrained: bool, checkpoint: str, frames: int) -> tuple[nn.Module, Any, int]:
    """Make a model without its head; return it, the transform of its weights, and the width of its last map.

    Raises `EncoderError` for another model, another number of frames than it can read, and weights that are not to be
    had or do not fit.
    """
    mend_torchvision()
    from torchvision.models import get_model, get_model_weights

    what = f"video encoder {model!r}"
    if model not in MODELS:
        close = difflib.get_close_matches(model, MODELS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(MODELS)}"
        raise EncoderError(f"torchvision has no video model {model!r}; {hint}")
    if frames != FIXED_FRAMES.get(model, frames):
        raise EncoderError(f"{what} reads {FIXED_FRAMES[model]} frames, not {frames}; leave frames={frames} out")
    if frames < FEWEST_FRAMES.get(model, 1):
        raise EncoderError(f"{what} needs at least {FEWEST_FRAMES[model]} frames, not {frames}")
    known: Any = get_model_weights(model)
    weights = known.DEFAULT
    try:
        # Forked, so that asking for an encoder does not move the caller's random numbers.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = get_model(model, weights=weights if pretrained and not checkpoint else None)
    except (OSError, RuntimeError) as error:
        raise EncoderError(
            f"{what}: its weights are not to be had ({error}). Without a network, download {weights.url} elsewhere and "
            f"pass the file: '{model}(checkpoint=\"path/to/weights.pth\")'"
        ) from error
    head = HEADS[type(network).__name__]
    width = next(layer for layer in getattr(network, head).modules() if hasattr(layer, "weight"))
    setattr(network, head, nn.Identity())
    if checkpoint:
        load_checkpoint(network, what, Path(checkpoint))
    return network, weights.transforms(), int(width.weight.shape[1])


class TorchvisionResize:
    """Resize and crop the frames of a clip as a transform of torchvision's weights does, and leave them bytes."""

    def __init__(self, preset: Any) -> None:
        self.crop, self.resize, self.interpolation = preset.crop_size, preset.resize_size, preset.interpolation

    def __call__(self, frames: np.ndarray) -> Tensor:
        """Turn [frames, height, width, 3] into [frames, 3, height, width]."""
        from torchvision.transforms import functional as F

        clip = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        # without antialiasing, because the weights were trained so
        resized = F.resize(clip, self.resize, interpolation=self.interpolation, antialias=False)
        return F.center_crop(resized, self.crop)


def torchvision_map(
    model: Any, clips: Float[Tensor, "clips 3 frames rows columns"]
) -> Float[Tensor, "clips tokens width"]:
    """Give each clip's summary, its class token or the mean of its last map, then the mean of each step in time."""
    kind = type(model).__name__
    if kind == "MViT":
        return _mvit(model, clips)
    if kind == "SwinTransformer3d":
        found = model.norm(model.features(model.pos_drop(model.patch_embed(clips)))).permute(0, 4, 1, 2, 3)
    elif kind == "S3D":
        found = model.features(clips)
    else:
        found = model.layer4(model.layer3(model.layer2(model.layer1(model.stem(clips)))))
    steps = found.mean(dim=(3, 4)).transpose(1, 2)
    return torch.cat([steps.mean(dim=1, keepdim=True), steps], dim=1)


def _mvit(model: Any, clips: Tensor) -> Tensor:
    x = model.pos_encoding(model.conv_proj(clips).flatten(2).transpose(1, 2))
    size = (model.pos_encoding.temporal_size, *model.pos_encoding.spatial_size)
    for block in model.blocks:
        x, size = block(x, size)
    x = model.norm(x)
    steps = x[:, 1:].unflatten(1, (size[0], -1)).mean(dim=2)
    return torch.cat([x[:, :1], steps], dim=1)

"""What the last layer of an image model of transformers holds: tokens for all of the picture, tokens for its places.

Models differ, and say nothing of it: ViT puts a class token in front, DINOv2 registers behind it, SigLIP and Swin have
neither, a convolutional network gives a map. It is read off their parameters, and off one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import nn

from odmt.encoders import EncoderError
from odmt.types import Float, Tensor

__all__ = ["Layout", "read_layout"]

CLASS = ("cls_token", "class_embedding")
"""What models call the parameter of a token that stands in front, for all of the picture."""
BESIDE = ("distillation_token", "register_tokens")
"""And those of tokens between it and the patches; they describe no place."""


@dataclass(frozen=True)
class Layout:
    """Say what a model's last layer holds, of which `tokens` makes a summary in front of the patches.

    classes, beside: how many tokens describe all of the picture, and how many behind them describe no place.
    head: whether a head of attention (SigLIP) pools the patches; without it and without class tokens, their mean does.
    masks: whether the model leaves patches out at random even in evaluation (ViT-MAE); it must not.
    """

    width: int
    is_map: bool
    classes: int
    beside: int
    head: bool
    masks: bool

    def method(self) -> str:
        """Say in words how tokens are made."""
        if self.is_map or (self.classes == 1 and not self.beside):
            return "all tokens of the last layer" + (", none masked" if self.masks else "")
        summary = "class token" if self.classes else "pooled by its head" if self.head else "mean of patches"
        return f"{summary}, then patches of the last layer"

    def tokens(
        self, model: Any, pixels: Float[Tensor, "pictures 3 rows columns"]
    ) -> Float[Tensor, "pictures tokens width"]:
        """Give the summary of each picture, then its patches, or the cells of its map, row by row."""
        output = _run(model, pixels)
        found = output.last_hidden_state
        if self.is_map:
            found = rearrange(found, "n c h w -> n (h w) c")
        patches = found[:, self.classes + self.beside :]
        pooled = output.pooler_output[:, None] if self.head else patches.mean(dim=1, keepdim=True)
        summary = found[:, : self.classes].mean(dim=1, keepdim=True) if self.classes else pooled
        return torch.cat([summary, patches], dim=1)


def read_layout(model: Any, pixels: Float[Tensor, "pictures 3 rows columns"], what: str) -> Layout:
    """Read the layout off a model's parameters and one run on `pixels`, of noise.

    What a model masks at random is set to nothing, for good.

    what: names the encoder in errors. Raises `EncoderError` where the model gives no tokens of pictures.
    """
    training, masks = model.training, _masks(model)
    if masks:
        model.config.mask_ratio = 0.0
    try:
        with torch.inference_mode():
            output = _run(model.eval(), pixels)
        found, pooled = output.last_hidden_state, getattr(output, "pooler_output", None)
        is_map = {3: False, 4: True}[found.ndim]
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EncoderError(
            f"{what}: {type(model).__name__} gives no tokens of a picture ({reason}); choose a backbone of images, "
            "such as a ViT, CLIP, SigLIP, DINOv2, Swin or ConvNeXt"
        ) from error
    finally:
        model.train(training)
    width = found.shape[1 if is_map else 2]
    if is_map:
        return Layout(width, is_map, 0, 0, head=False, masks=masks)
    classes = _count(model, CLASS, width)
    # DINOv3's ConvNeXt has no such parameter, and puts the mean in front itself.
    if not classes and pooled is not None and torch.equal(pooled, found[:, 0]):
        classes = 1
    head = not classes and bool(getattr(model, "use_head", False))
    return Layout(width, is_map, classes, _count(model, BESIDE, width), head, masks)


def _masks(model: Any) -> bool:
    return model.config.model_type == "vit_mae"


def _run(model: Any, pixels: Tensor) -> Any:
    if not _masks(model):
        return model(pixel_values=pixels)
    # It sorts patches by this noise, also where it leaves none out.
    places = torch.arange(model.embeddings.patch_embeddings.num_patches, device=pixels.device)
    return model(pixel_values=pixels, noise=places.expand(len(pixels), -1))


def _count(model: nn.Module, names: Sequence[str], width: int) -> int:
    return sum(p.numel() // width for name, p in model.named_parameters() if name.rsplit(".")[-1] in names)

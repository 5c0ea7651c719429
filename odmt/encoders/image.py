"""Image encoders that are networks: any timm model, and image models of transformers.

Pictures are read with PIL: upright (EXIF), as RGB whatever the file holds, decoded no larger than is of use. One that
cannot be read is a missing modality with a reason, never a crash and never a blank picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from odmt.encoders.frozen import hash_weights
from odmt.encoders.hub import OfTransformers, load_model, load_processor, part_of
from odmt.encoders.network import Network, Scaling, all_real
from odmt.encoders.picture_tokens import read_layout
from odmt.encoders.processing import Pictures, Processed
from odmt.encoders.timm_models import (
    OfTimm,
    create_timm,
    name_of,
    preprocessing_of,
    source_of,
    summary_of,
    timm_tokens,
)
from odmt.types import Tensor, Tokens

__all__ = ["TimmImage", "TransformersImage"]


class TimmImage(OfTimm, Network):
    """Read every patch of a timm model, the summary first.

    A transformer's tokens are its class token (their mean where it has none), then its patches; a convolutional
    network's are the mean of its last map, then the map's cells row by row. Preprocessing is the model's own
    evaluation transform. `pretrained` takes the weights from the model hub; `checkpoint` takes them from a local file
    (.safetensors, .pth) instead; with neither they are drawn from seed 0. `size` sets the pixels a side. `whole` shows
    all of a picture, "squash" by giving up its proportions, "pad" with bars beside it, where the model's own transform
    commonly cuts a square out of its middle: of a poster of 2 by 3, two thirds.
    """

    def __init__(
        self, model: str, *, pretrained: bool = True, checkpoint: str = "", size: int = 0, whole: str = ""
    ) -> None:
        super().__init__()
        self.model = create_timm(model, pretrained=pretrained, checkpoint=checkpoint, size=size, modality="image")
        name, self.told = name_of(model), ":" in source_of(model)
        self.name = name if pretrained or checkpoint else f"{name}(pretrained=False)"
        self.width = int(self.model.num_features)
        self.preprocessing, resize = preprocessing_of(self.model, whole)
        # Twice the input size leaves the model's own resizing its filter.
        self.preparation = Pictures(resize, side=2 * max(self.preprocessing["input_size"][1:]))
        self.size = self.preprocessing["input_size"]
        self.scale = Scaling(self.preprocessing["mean"], self.preprocessing["std"])

    def method(self) -> str:
        first = summary_of(self.model).replace("summary", "summary token")
        return f"timm {type(self.model).__name__}, {first} first, then patches row by row"

    def recipe(self) -> dict[str, Any]:
        return {
            "method": self.method(),
            "weights": hash_weights(self.model),
            **self.reading(),
        }

    def reading(self) -> dict[str, Any]:
        """Give the settings of the model's own evaluation transform."""
        return {"preprocessing": self.preprocessing}

    def example(self) -> dict[str, Tensor]:
        return {"pixels": torch.zeros(1, *self.size, dtype=torch.uint8)}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode pictures of bytes, [pictures, 3, height, width], into [pictures, 1 + patches, width]."""
        return all_real(timm_tokens(self.model, self.scale(inputs["pixels"])))


class TransformersImage(OfTransformers, Network):
    """Read every patch of an image model of transformers (ViT, CLIP, SigLIP, DINOv2, ...), a hub name or a folder.

    Tokens are those of its last layer: first the class token, or what SigLIP's head makes of the patches, or their
    mean; then the patches row by row, without registers. Of a convolutional network they are the mean of its last map,
    then its cells. What it was trained on is decided by its own image processor. Of a text-image model only the part
    for images is used. Without `weights` they are drawn, to be loaded with a model that was trained.
    """

    def __init__(self, model: str, *, weights: bool = True) -> None:
        super().__init__()
        whole, self.name = load_model(model, "image", weights=weights)
        self.model = part_of(whole, "image")
        self.config = whole.config
        self.processor = load_processor(model, "image")
        processed = Processed(self.processor)
        self.preparation = Pictures(processed.picture, side=processed.side())
        self.scale = processed.scale
        self.processor_hash = processed.identity()
        noise = torch.randn(self.example()["pixels"].shape, generator=torch.Generator().manual_seed(0))
        self.layout = read_layout(self.model, noise, f"image encoder {model!r}")
        self.width = self.layout.width

    def method(self) -> str:
        return f"transformers {type(self.model).__name__}, {self.layout.method()}"

    def recipe(self) -> dict[str, Any]:
        return {
            "method": self.method(),
            "weights": hash_weights(self.model),
            **self.reading(),
        }

    def reading(self) -> dict[str, Any]:
        """Name the image processor by its settings."""
        return {"processor": self.processor_hash}

    def example(self) -> dict[str, Tensor]:
        assert isinstance(self.preparation, Pictures)
        side = self.preparation.side
        return {"pixels": self.preparation.fit(np.zeros((1, side, side, 3), np.uint8))[None]}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode pictures, [pictures, 3, height, width], into [pictures, tokens, width]."""
        return all_real(self.layout.tokens(self.model, self.scale(inputs["pixels"])))

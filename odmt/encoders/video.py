"""Video encoders: models of pictures frame by frame (timm), of clips (transformers), and 3-D networks (torchvision).

Frames are decoded with PyAV, a few per clip (`odmt.data.clips`, `odmt.data.sampling`). A clip that cannot be read is a
missing modality with a reason, never a crash and never black frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange, reduce
from PIL import Image

from odmt.encoders import EncoderError
from odmt.encoders.frames import Frames, OfFrames
from odmt.encoders.hub import OfTransformers, load_model, load_processor
from odmt.encoders.network import Scaling, all_real
from odmt.encoders.pooling import FRAME_POOLS
from odmt.encoders.processing import Processed
from odmt.encoders.timm_models import (
    OfTimm,
    create_timm,
    name_of,
    preprocessing_of,
    source_of,
    summary_of,
    timm_tokens,
)
from odmt.encoders.torchvision_video import TorchvisionResize, create_torchvision, torchvision_map
from odmt.types import Float, Tensor, Tokens

__all__ = ["TimmFrames", "TorchvisionVideo", "TransformersVideo"]


class TimmFrames(OfTimm, OfFrames):
    """Read the frames of a clip one by one with any timm model, and join their summaries.

    frames, sample, stride: which frames, see `odmt.data.sampling.FrameChoice`.
    pool: "none", a token per frame; "mean", one token; "attention" or "transformer", one token by a layer that is
        trained with the recommender (`odmt.encoders.pooling`), and which stored features cannot have.
    pretrained, checkpoint, size, whole: as of `odmt.encoders.image.TimmImage`.
    """

    def __init__(
        self,
        model: str,
        *,
        frames: int = 8,
        sample: str = "uniform",
        stride: int = 1,
        pool: str = "mean",
        pretrained: bool = True,
        checkpoint: str = "",
        size: int = 0,
        whole: str = "",
    ) -> None:
        drawn = "" if pretrained or checkpoint else ", pretrained=False"
        super().__init__(f"{name_of(model)}(pool={pool!r}{drawn})", frames=frames, sample=sample, stride=stride)
        if pool not in FRAME_POOLS:
            raise EncoderError(f"video encoder {model!r}: pool={pool!r} is none of {', '.join(FRAME_POOLS)}")
        self.model = create_timm(model, pretrained=pretrained, checkpoint=checkpoint, size=size, modality="video")
        self.told = ":" in source_of(model)
        self.width = int(self.model.num_features)
        self.preprocessing, resize = preprocessing_of(self.model, whole)
        # Twice the input size leaves the model's own resizing its filter.
        side = 2 * max(self.preprocessing["input_size"][1:])
        self.preparation = Frames(self.choice, _EachFrame(resize), side=side)
        self.scale = Scaling(self.preprocessing["mean"], self.preprocessing["std"])
        self.pooling, self.pool = FRAME_POOLS[pool](self.width, frames), pool

    def method(self) -> str:
        if any(True for _ in self.pooling.parameters()):
            raise EncoderError(
                f"pool={self.pool!r} is trained with a recommender; features are stored with pool='mean' or 'none'"
            )
        return f"timm {type(self.model).__name__}, {summary_of(self.model)} of each frame, pool {self.pool}"

    def processing(self) -> dict[str, Any]:
        return {"preprocessing": self.preprocessing}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode clips of bytes, [clips, frames, 3, height, width], into [clips, 1 or frames, width]."""
        clips, frames = inputs["pixels"].shape[:2]
        summaries = timm_tokens(self.model, self.scale(inputs["pixels"].flatten(0, 1)))[:, 0]
        return all_real(self.pooling(summaries.unflatten(0, (clips, frames))))


class _EachFrame:
    def __init__(self, resize: Callable[[Image.Image], Tensor]) -> None:
        self.resize = resize

    def __call__(self, frames: np.ndarray) -> Tensor:
        return torch.stack([self.resize(Image.fromarray(frame)) for frame in frames])


class TorchvisionVideo(OfFrames):
    """Read a clip with a 3-D network of torchvision: r3d_18, mc3_18, r2plus1d_18, s3d, mvit_v1_b, mvit_v2_s, swin3d_t,
    swin3d_s, swin3d_b.

    Tokens are a summary (the class token, or the mean of the last map), then the mean of each step in time.
    Resizing, cropping and scaling are those of the weights. `pretrained` downloads weights of Kinetics-400;
    `checkpoint` takes a local file (.safetensors, .pth) instead; with neither they are drawn from seed 0.
    """

    def __init__(
        self,
        model: str,
        *,
        frames: int = 16,
        sample: str = "uniform",
        stride: int = 1,
        pretrained: bool = True,
        checkpoint: str = "",
    ) -> None:
        name = model if pretrained or checkpoint else f"{model}(pretrained=False)"
        super().__init__(name, frames=frames, sample=sample, stride=stride)
        self.model, preset, self.width = create_torchvision(
            model, pretrained=pretrained, checkpoint=checkpoint, frames=frames
        )
        self.preparation = Frames(self.choice, TorchvisionResize(preset), side=2 * max(preset.resize_size))
        self.scale = Scaling(preset.mean, preset.std)
        self.preset = {"crop": list(preset.crop_size), "resize": list(preset.resize_size)}

    def method(self) -> str:
        return f"torchvision {type(self.model).__name__}, summary, then each step in time"

    def processing(self) -> dict[str, Any]:
        scale = {"mean": self.scale.mean.flatten().tolist(), "std": self.scale.deviation.flatten().tolist()}
        return {"preprocessing": {**self.preset, **scale}}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode clips of bytes, [clips, frames, 3, height, width], into [clips, 1 + steps, width]."""
        return all_real(torchvision_map(self.model, rearrange(self.scale(inputs["pixels"]), "n t c h w -> n c t h w")))


class TransformersVideo(OfTransformers, OfFrames):
    """Read a clip with a model of transformers (VideoMAE, TimeSformer, ViViT, V-JEPA 2, X-CLIP), of a hub name or of a
    folder.

    Tokens are a summary (the class token, or the mean of all), then the mean of each step in time; of X-CLIP its vector
    of the clip. `frames` 0 takes as many as the model was trained on. What its pixels are is decided by its own
    processor. Without `weights` they are drawn, to be loaded with a model that was trained.
    """

    def __init__(
        self, model: str, *, frames: int = 0, sample: str = "uniform", stride: int = 1, weights: bool = True
    ) -> None:
        whole, name = load_model(model, "video", weights=weights)
        config: Any = whole.config
        of_frames = config.vision_config if config.model_type == "xclip" else config
        trained = getattr(of_frames, "num_frames", None) or getattr(of_frames, "frames_per_clip", None)
        super().__init__(name, frames=frames or int(trained or 16), sample=sample, stride=stride)
        self.model, self.config = whole, config
        self.kind: str = config.model_type
        self._check(f"video encoder {model!r}", positions=trained)
        self.width = int(config.projection_dim if self.kind == "xclip" else config.hidden_size)
        self.processor = load_processor(model, "video")
        processed = Processed(self.processor)
        self.processor_hash = processed.identity()
        self.preparation = Frames(self.choice, processed.clip, side=processed.side())
        self.scale = processed.scale

    def method(self) -> str:
        return f"transformers {type(self.model).__name__}, summary, then each step in time"

    def processing(self) -> dict[str, Any]:
        return {"processor": self.processor_hash}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode clips, [clips, frames, 3, height, width], into [clips, tokens, width]."""
        pixels = self.scale(inputs["pixels"])
        if self.kind == "xclip":
            return all_real(self.model.get_video_features(pixel_values=pixels).pooler_output[:, None])
        if self.kind == "vjepa2":
            found = self.model(pixel_values_videos=pixels, skip_predictor=True).last_hidden_state
        else:
            found = self.model(pixel_values=pixels).last_hidden_state
        return all_real(self._over_time(found))

    def _over_time(self, found: Float[Tensor, "clips tokens width"]) -> Float[Tensor, "clips steps width"]:
        """Average the places of each step in time, behind the summary."""
        has_class = self.kind in ("timesformer", "vivit")
        places = found[:, 1:] if has_class else found
        steps = self.choice.frames // self._tube()
        # TimeSformer keeps the frames of a place side by side, others the places of a frame
        order = "n (p t) w -> n t w" if self.kind == "timesformer" else "n (t p) w -> n t w"
        summary = found[:, :1] if has_class else found.mean(dim=1, keepdim=True)
        return torch.cat([summary, reduce(places, order, "mean", t=steps)], dim=1)

    def _tube(self) -> int:
        """Say how many frames make a step in time."""
        tube = getattr(self.config, "tubelet_size", 1)
        return int(tube[0] if isinstance(tube, list | tuple) else tube)

    def _check(self, what: str, *, positions: int | None) -> None:
        if self.kind not in ("videomae", "timesformer", "vivit", "vjepa2", "xclip"):
            raise EncoderError(
                f"{what}: {self.kind} is no model of clips, as VideoMAE, TimeSformer, ViViT, V-JEPA 2 and X-CLIP are; "
                "name one of pictures for the modality image, or read frame by frame with a model of timm, such as "
                "'vit_base_patch16_224(frames=8)'"
            )
        frames = self.choice.frames
        if self.kind != "vjepa2" and frames != positions:  # V-JEPA 2 rotates, and has no positions of its own
            raise EncoderError(
                f"{what}: {self.kind} has positions for {positions} frames, and not for {frames}; leave frames out, or "
                f"take a model of {frames} frames"
            )
        if frames < self._tube():
            raise EncoderError(
                f"{what}: {self.kind} reads {self._tube()} frames at a time, and not {frames}; take more"
            )

"""Image encoders: any timm model, and a colour and gradient histogram, which needs no weights.

Pictures are read with PIL: upright (EXIF), as RGB whatever the file holds, decoded no larger than is of use. One that
cannot be read is a missing modality with a reason, never a crash and never a blank picture.
"""

from __future__ import annotations

import difflib
import itertools
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from odmt.data.pictures import BrokenPictureError, read_picture
from odmt.encoders import KNOWN, Content, EncoderError, Unreadable
from odmt.encoders.frozen import choose_device, frozen_inference, hash_weights
from odmt.encoders.torchvision_mend import mend_torchvision

__all__ = ["Histogram", "TimmImage"]

Prepared = TypeVar("Prepared")


class TimmImage:
    """Read every patch of a frozen timm model, the summary first.

    A transformer's tokens are its class token (their mean where it has none), then its patches; a convolutional
    network's are the mean of its last map, then the map's cells row by row. Preprocessing is the model's own
    evaluation transform. `pretrained` takes the weights from the model hub; `checkpoint` takes them from a local file
    (.safetensors, .pth) instead; with neither they are drawn from seed 0, which is for tests.
    """

    def __init__(
        self, model: str, *, pretrained: bool = True, checkpoint: str = "", bf16: bool = False, device: str = "auto"
    ) -> None:
        mend_torchvision()
        from timm.data.config import resolve_model_data_config
        from timm.data.transforms_factory import create_transform

        self.device = choose_device(device)
        self.bf16 = bf16
        network = _create(model, pretrained=pretrained and not checkpoint)
        if checkpoint:
            _load_checkpoint(network, model, Path(checkpoint))
        drawn = not pretrained and not checkpoint
        self.name = f"{model}(pretrained=False)" if drawn else model
        self.model = network.to(self.device).eval()
        self.width = int(network.num_features)
        self.preprocessing = resolve_model_data_config(network)
        self.transform: Any = create_transform(**self.preprocessing, is_training=False)

    def recipe(self) -> dict[str, Any]:
        settings = {name: list(v) if isinstance(v, tuple) else v for name, v in self.preprocessing.items()}
        return {
            "method": f"timm {type(self.model).__name__}, summary token first, then patches row by row",
            "weights": hash_weights(self.model),
            "preprocessing": settings,
            "precision": "bf16" if self.bf16 else "fp32",
        }

    def lengths(self, contents: Sequence[Content]) -> list[int]:
        """Count every picture the same: all have as many patches."""
        return [1] * len(contents)

    def encode(self, contents: Sequence[Content]) -> list[np.ndarray | Unreadable]:
        """Encode one batch of pictures, [1 + patches, width] fp32 each."""
        # Twice the input size leaves the model's own resizing its filter.
        side = 2 * max(self.preprocessing["input_size"][1:])
        prepared = _each(contents, lambda path: self.transform(read_picture(path, side=side)))
        readable = [one for one in prepared if not isinstance(one, Unreadable)]
        if not readable:
            return [one for one in prepared if isinstance(one, Unreadable)]
        with frozen_inference(self.device, bf16=self.bf16):
            tokens = self._tokens(torch.stack(readable).to(self.device))
        stored = iter(tokens.float().cpu().numpy())
        return [one if isinstance(one, Unreadable) else next(stored) for one in prepared]

    def _tokens(self, pictures: torch.Tensor) -> torch.Tensor:
        found = self.model.forward_features(pictures)
        if found.ndim == 4:
            channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
            found = rearrange(found, "n h w c -> n (h w) c" if channels_last else "n c h w -> n (h w) c")
            return torch.cat([found.mean(dim=1, keepdim=True), found], dim=1)
        # Distillation and register tokens stand between the class token and the patches; they describe no place.
        prefix = int(getattr(self.model, "num_prefix_tokens", 0))
        patches = found[:, prefix:]
        summary = found[:, :1] if prefix else patches.mean(dim=1, keepdim=True)
        return torch.cat([summary, patches], dim=1)


class Histogram:
    """Describe a picture by its colours and the directions of its edges; needs no weights.

    Tokens are the whole picture, then the cells of a `grid` x `grid` raster row by row. Each is, for red, green and
    blue, `bins` shares of brightness, and `bins` shares of edge direction (0 to 180 degrees, weighted by edge
    strength). Square roots are taken, so that dot products compare distributions, and rows scaled to a mean square of
    about 1.
    """

    SIDE = 64
    """Pictures are shrunk to so many pixels a side first."""
    FAINT = 0.02
    """Edge strength per pixel below which a region counts as plain rather than as textured."""

    def __init__(self, *, bins: int = 8, grid: int = 2) -> None:
        if bins < 2 or not 1 <= grid <= self.SIDE // 4:
            raise EncoderError(
                f"histogram(bins={bins}, grid={grid}): bins must be at least 2, and grid from 1 to {self.SIDE // 4}"
            )
        self.bins, self.grid = bins, grid
        self.width = 4 * bins
        self.name = f"histogram(bins={bins}, grid={grid})"

    def recipe(self) -> dict[str, Any]:
        return {
            "method": "histograms of colour and edge direction, the whole picture and then the cells of a raster",
            "bins": self.bins,
            "grid": self.grid,
            "side": self.SIDE,
        }

    def lengths(self, contents: Sequence[Content]) -> list[int]:
        """Count every picture the same."""
        return [1] * len(contents)

    def encode(self, contents: Sequence[Content]) -> list[np.ndarray | Unreadable]:
        """Encode one batch of pictures, [1 + grid * grid, 4 * bins] fp32 each."""
        return _each(contents, self._describe)

    def _describe(self, path: Path) -> np.ndarray:
        size = (self.SIDE, self.SIDE)
        picture = read_picture(path, side=2 * self.SIDE).resize(size, Image.Resampling.BOX)
        colours = np.asarray(picture, dtype=np.float64) / 255
        luminance = colours @ np.array([0.299, 0.587, 0.114])
        down, right = np.gradient(luminance)
        angle = np.mod(np.arctan2(down, right), np.pi) / np.pi
        strength = np.hypot(down, right)
        regions = [(slice(None), slice(None))]
        edges = [self.SIDE * i // self.grid for i in range(self.grid + 1)]
        cells = [slice(begin, end) for begin, end in itertools.pairwise(edges)]
        regions += [(rows, columns) for rows in cells for columns in cells] if self.grid > 1 else []
        return np.stack([self._row(colours[r], angle[r], strength[r]) for r in regions]).astype(np.float32)

    def _row(self, colours: np.ndarray, angle: np.ndarray, strength: np.ndarray) -> np.ndarray:
        pixels = angle.size
        # The last bin holds full brightness; directions are centred on 0 degrees, so that level edges share one bin.
        level = np.minimum((colours * self.bins).astype(int), self.bins - 1).reshape(pixels, 3)
        shares = [np.bincount(level[:, channel], minlength=self.bins) / pixels for channel in range(3)]
        direction = np.floor(angle * self.bins + 0.5).astype(int) % self.bins
        edges = np.bincount(direction.ravel(), weights=strength.ravel(), minlength=self.bins)
        shares.append(edges / (edges.sum() + self.FAINT * pixels))
        return np.sqrt(np.concatenate(shares) * self.bins)


def _each(contents: Sequence[Content], prepare: Callable[[Path], Prepared]) -> list[Prepared | Unreadable]:
    """Prepare every picture, in threads (decoding frees the interpreter), in order; a broken one gives its reason."""

    def one(content: Content) -> Prepared | Unreadable:
        try:
            return prepare(Path(content))
        except BrokenPictureError as error:
            return Unreadable(str(error))

    with warnings.catch_warnings():
        # PIL warns of odd metadata and of large pictures, which `read_picture` judges itself.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            return list(pool.map(one, contents))


def _create(model: str, *, pretrained: bool) -> Any:
    import timm

    if ":" not in model and not timm.is_model(model):
        close = difflib.get_close_matches(model, [*timm.list_models(), *KNOWN["image"]], n=1)
        hint = f"did you mean {close[0]!r}?" if close else "timm.list_models() lists them all"
        raise EncoderError(f"timm has no model {model!r}; {hint}")
    try:
        # Forked, so that asking for an encoder does not move the caller's random numbers.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return timm.create_model(model, pretrained=pretrained, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EncoderError(
            f"image encoder {model!r}: cannot be loaded ({reason}). Without a network, download the weights elsewhere "
            f"and pass their file: --encoder '{model}(checkpoint=\"path/to/model.safetensors\")'; or use --encoder "
            "'histogram(bins=8)', which needs no weights"
        ) from error


def _load_checkpoint(network: Any, model: str, path: Path) -> None:
    import timm.models
    from safetensors import SafetensorError

    if not path.is_file():
        raise EncoderError(f"image encoder {model!r}: there is no checkpoint {path}; pass the path of its weights file")
    try:
        weights = timm.models.load_state_dict(str(path), device="cpu", weights_only=True)
        missing, unexpected = network.load_state_dict(weights, strict=False)
    except (OSError, RuntimeError, ValueError, KeyError, UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EncoderError(
            f"image encoder {model!r}: {path} does not fit ({reason}); pass that model's weights"
        ) from error
    if missing:
        raise EncoderError(
            f"image encoder {model!r}: {path} lacks {len(missing)} of its weights ({', '.join(missing[:3])}, ...) and "
            f"holds {len(unexpected)} others; pass weights of exactly that model, in timm's naming"
        )

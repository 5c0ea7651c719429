"""timm models of pictures: made by name, with weights of the hub, of a file, or drawn; and the tokens they give."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from PIL import Image

from odmt.encoders import KNOWN, EncoderError
from odmt.encoders.checkpoints import load_checkpoint
from odmt.encoders.torchvision_mend import mend_torchvision
from odmt.spec import Call
from odmt.types import Float, Tensor

__all__ = ["OfTimm", "create_timm", "name_of", "preprocessing_of", "source_of", "summary_of", "timm_tokens"]

WHOLE = {"": None, "squash": "squash", "pad": "border"}
"""What timm calls the ways to bring all of a picture to a square: its proportions lost, or bars beside it."""

CLASS = re.compile(r"cls_token\d?")
"""What models call the parameter of their class tokens; CoaT has one for each stage."""


class OfTimm:
    """What networks of timm share: those whose architecture a folder or the hub tells keep it beside their weights."""

    model: Any
    told: bool
    """Whether something else than timm itself tells the architecture."""

    def save(self, folder: Path) -> None:
        """Keep in `folder` the architecture, where timm does not know it by the model's name."""
        from timm.models._hub import save_config_for_hf

        if self.told:
            folder.mkdir(parents=True, exist_ok=True)
            save_config_for_hf(self.model, str(folder / "config.json"))

    @classmethod
    def restored(cls, call: Call, saved: Path) -> Any:
        """Build what `call` names with drawn weights, from what `save` wrote."""
        kept = {"model": str(saved)} if (saved / "config.json").is_file() else {}
        arguments = {**call.arguments, **kept, "pretrained": False, "checkpoint": ""}
        return replace(call, arguments=arguments).build()


def name_of(model: str) -> str:
    """Give a model's name for people: of a folder its last two parts."""
    return "/".join(Path(model).resolve().parts[-2:]) if (Path(model) / "config.json").is_file() else model


def source_of(model: str) -> str:
    """Say by what name timm makes a model: one of its own, hf-hub:OWNER/NAME, or local-dir:FOLDER."""
    from timm.models import is_model_pretrained

    if (Path(model) / "config.json").is_file():
        return f"local-dir:{model}"
    own = model.removeprefix("timm/")
    return model if own == model else own if is_model_pretrained(own) or "." not in own else f"hf-hub:{model}"


def create_timm(model: str, *, pretrained: bool, checkpoint: str, size: int, modality: str) -> Any:
    """Make a model without its head: of the hub's weights, of those in the file `checkpoint`, or drawn from seed 0.

    size: pixels a side of its pictures, 0 for what it was trained on.

    Raises `EncoderError` where there is no such model, or it gives no tokens of pictures of that size.
    """
    mend_torchvision()
    network = _create(model, pretrained=pretrained and not checkpoint, size=size, modality=modality)
    if checkpoint:
        load_checkpoint(network, f"{modality} encoder {model!r}", Path(checkpoint))
    _try(network, f"{modality} encoder {model!r}")
    return network


def preprocessing_of(model: Any, whole: str = "") -> tuple[dict[str, Any], Callable[[Image.Image], Tensor]]:
    """Give the settings of a model's own evaluation transform, and the transform as far as bytes go: scaling them is
    left to the network, because bytes are a quarter of what would go from process to process.

    whole: "squash" or "pad" to show all of a picture, of which most models' own transform cuts out the middle.
    """
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    settings = resolve_model_data_config(model)
    if whole not in WHOLE:
        ways = " or ".join(f'"{way}"' for way in WHOLE if way)
        raise EncoderError(f"whole={whole!r} is no way to show all of a picture; write {ways}, or leave it out")
    if whole:
        settings |= {"crop_mode": WHOLE[whole], "crop_pct": 1.0}
    resize: Any = create_transform(**settings, is_training=False, normalize=False)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}, resize


def timm_tokens(
    model: Any, pictures: Float[Tensor, "pictures 3 rows columns"]
) -> Float[Tensor, "pictures tokens width"]:
    """Give the summary of each picture, then its patches row by row.

    A transformer's summary is its class token (the patches' mean where it has none), a convolutional network's the mean
    of its last map, whose cells are the patches.
    """
    from timm.models.pit import PoolingVisionTransformer

    if isinstance(model, PoolingVisionTransformer):  # its features are but the class tokens
        classes, (last,) = model.forward_intermediates(pictures, indices=1)
        return torch.cat([classes[:, :1], rearrange(last, "n c h w -> n (h w) c")], dim=1)
    found = model.forward_features(pictures)
    if not isinstance(found, Tensor):
        raise TypeError(f"it gives {len(found)} sequences of tokens, and not one")
    if found.ndim == 4:
        channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        found = rearrange(found, "n h w c -> n (h w) c" if channels_last else "n c h w -> n (h w) c")
        return torch.cat([found.mean(dim=1, keepdim=True), found], dim=1)
    # Distillation and register tokens stand between the class token and the patches; they describe no place.
    classes = _class_tokens(model)
    patches = found[:, int(getattr(model, "num_prefix_tokens", classes)) :]
    summary = found[:, :1] if classes else patches.mean(dim=1, keepdim=True)
    return torch.cat([summary, patches], dim=1)


def summary_of(model: Any) -> str:
    """Say what a model's summary is: "summary" where it tells of its class token or has no such thing, and else what
    was found: the class token that it does not count (VOLO, PiT), or the mean, where it counts registers alone.
    """
    classes, counted = _class_tokens(model), getattr(model, "num_prefix_tokens", None)
    if classes and counted is None:
        return "class token"
    return "mean of patches" if counted and not classes else "summary"


def _class_tokens(model: Any) -> int:
    tokens = (token for name, token in model.named_parameters() if CLASS.fullmatch(name.rpartition(".")[2]))
    *_, last = 0, *(token.shape[1] for token in tokens)
    return last


def _try(model: Any, what: str) -> None:
    """Read an empty picture, so that a model whose tokens are not to be had is refused when it is made."""
    from timm.data.config import resolve_model_data_config

    training, size = model.training, resolve_model_data_config(model)["input_size"]
    try:
        with torch.inference_mode():
            width = timm_tokens(model.eval(), torch.zeros(1, *size)).shape[2]
        if width != model.num_features:
            raise TypeError(f"its tokens are {width} wide, and not {model.num_features}")
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EncoderError(
            f"{what}: {type(model).__name__} gives no tokens of pictures of {size[1]} x {size[2]} ({reason}); take the "
            "size that it was trained on, or another model, such as vit_small_patch16_224 or convnext_tiny"
        ) from error
    finally:
        model.train(training)


def _create(model: str, *, pretrained: bool, size: int, modality: str) -> Any:
    import timm

    source = source_of(model)
    if ":" not in source and not timm.is_model(source):
        close = difflib.get_close_matches(source, [*timm.list_models(), *KNOWN[modality]], n=1)
        hint = f"did you mean {close[0]!r}?" if close else "timm.list_models() lists them all"
        raise EncoderError(f"timm has no model {model!r}; {hint}")
    try:
        # Forked, so that asking for an encoder does not move the caller's random numbers.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _of_size(partial(timm.create_model, source, pretrained=pretrained, num_classes=0), size)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EncoderError(
            f"{modality} encoder {model!r}: cannot be loaded ({reason}). Without a network, download the weights "
            f"elsewhere and pass their file: --encoder '{model}(checkpoint=\"path/to/model.safetensors\")', or in "
            f"training --model.encoders '{modality}={model}(checkpoint=\"path/to/model.safetensors\")'. "
            + _without_weights(model if ":" not in source else "resnet18", modality)
        ) from error


def _without_weights(model: str, modality: str) -> str:
    stored = "--encoder 'histogram(bins=8)', and in training " if modality == "image" else ""
    return f"What needs no weights is {stored}--model.encoders '{modality}={model}(pretrained=False)'"


def _of_size(create: Callable[..., Any], size: int) -> Any:
    if not size:
        return create()
    try:
        network = create(img_size=size)  # transformers have positions to fit
    except TypeError:
        network = create()
    network.pretrained_cfg = {**network.pretrained_cfg, "input_size": (3, size, size), "pool_size": None}
    return network

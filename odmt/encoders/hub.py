"""Models of transformers, from the hub or from a folder, for the modality that is asked for."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from odmt.encoders import EncoderError
from odmt.encoders.torchvision_mend import mend_torchvision
from odmt.spec import Call

__all__ = ["OfTransformers", "hash_tokenizer", "load_model", "load_processor", "part_of"]

PROCESSORS = {
    "text": ("AutoTokenizer",),
    "image": ("AutoImageProcessor",),
    "video": ("AutoVideoProcessor", "AutoImageProcessor"),  # X-CLIP, and folders that are older, have but the second
}
OTHER = {
    "text": "What needs no weights is --encoder 'tfidf(dim=64)', which stores features and cannot be trained",
    "image": "What needs no weights is --encoder 'histogram(bins=8)', and in training --model.encoders "
    "'image=resnet18(pretrained=False)'",
    "video": "There are models of timm and torchvision, too, with weights of a file, as "
    "'r3d_18(checkpoint=\"path/to/weights.pth\")', and in training without, as 'r3d_18(pretrained=False)'",
}
"""What is to be had without a network."""


def precision_argument(version: str) -> str:
    """Name the argument that tells that version's `from_pretrained` the precision; from 4.56 on the old name warns."""
    major, minor = map(int, version.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


class OfTransformers:
    """What networks of transformers share: how they are kept without their weights, and built again without a hub."""

    config: Any
    processor: Any

    def save(self, folder: Path) -> None:
        """Keep in `folder` the configuration and what prepares contents."""
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    @classmethod
    def restored(cls, call: Call, saved: Path) -> Any:
        """Build what `call` names with drawn weights, from what `save` wrote."""
        return replace(call, arguments={**call.arguments, "model": str(saved), "weights": False}).build()


def load_model(model: str, modality: str, *, weights: bool = True) -> tuple[nn.Module, str]:
    """Load a hub name or a folder in float32; return it with its name, which ends in its revision where it has one.

    weights: whether they are loaded; without, they are drawn, and the configuration is all that is needed.

    Raises `EncoderError` where there is none, or where its checkpoint lacks weights that its tokens depend on.
    """
    mend_torchvision()
    import transformers
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel

    try:
        if not weights:
            return AutoModel.from_config(AutoConfig.from_pretrained(model)).float(), model
        # fp32 whatever the checkpoint holds, so that precision is ours to choose.
        precision = {precision_argument(transformers.__version__): torch.float32}
        network, report = AutoModel.from_pretrained(model, output_loading_info=True, **precision)
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise EncoderError(_not_loaded(model, modality, error)) from error
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name.split("."))
    if missing:
        raise EncoderError(
            f"{modality} encoder {model!r}: the checkpoint lacks {len(missing)} of the weights of "
            f"{type(network).__name__} ({', '.join(missing[:3])}, ...), which would stay random; choose a checkpoint "
            "of that architecture"
        )
    if Path(model).is_dir():
        return network, "/".join(Path(model).resolve().parts[-2:])
    revision = getattr(network.config, "_commit_hash", None)
    return network, f"{model}@{revision[:12]}" if revision else model


def load_processor(model: str, modality: str) -> Any:
    """Load what prepares contents for a model: its tokenizer, its image processor or its video processor."""
    import transformers

    *others, last = PROCESSORS[modality]
    for kind in others:
        with contextlib.suppress(OSError, ValueError):
            return getattr(transformers, kind).from_pretrained(model)
    try:
        return getattr(transformers, last).from_pretrained(model)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        raise EncoderError(_not_loaded(model, modality, error)) from error


def part_of(model: Any, modality: str) -> nn.Module:
    """Return the part of a model that reads `modality`: one of the two of a text-image model (CLIP), the encoder of an
    encoder-decoder (T5).
    """
    if getattr(model.config, "is_encoder_decoder", False):
        return model.get_encoder()
    part = getattr(model, "text_model" if modality == "text" else "vision_model", None)
    return part if isinstance(part, nn.Module) else model


def hash_tokenizer(tokenizer: Any) -> str:
    """Return the sha256 of a tokenizer that was not used yet: it keeps the padding and cutting of its last call."""
    # A fast tokenizer writes itself out whole; of others the vocabulary has to do.
    whole = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else str(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(f"{type(tokenizer).__name__} {whole}".encode()).hexdigest()


def _not_loaded(model: str, modality: str, error: Exception) -> str:
    path = Path(model)
    what = f"{modality} encoder {model!r}"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if path.is_dir():
        needed = {"text": "its tokenizer"}.get(modality, "its preprocessor_config.json")
        return f"{what}: the folder cannot be loaded ({reason}); it must hold a model and {needed}"
    siblings = (
        [str(p) for p in path.parent.glob("*") if p.is_dir()] if path.parent.is_dir() and len(path.parts) > 1 else []
    )
    close = difflib.get_close_matches(model, siblings, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"{what}: {hint}it is neither a folder here nor to be had from the model hub ({reason}). Without a network, "
        "download the model elsewhere and pass the folder that holds its config.json: --encoder path/to/folder, or in "
        f"training --model.encoders {modality}=path/to/folder. {OTHER[modality]}"
    )

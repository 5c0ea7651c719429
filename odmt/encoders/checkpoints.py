"""Weights of an encoder in a file of one's own."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from odmt.encoders import EncoderError

__all__ = ["load_checkpoint"]


def load_checkpoint(network: Any, what: str, path: Path) -> None:
    """Fill a network with the weights in a file, .safetensors or .pth, which must be all of its own.

    what: names the encoder in errors. Raises `EncoderError` where there is no such file, or it does not fit.
    """
    import timm.models
    from safetensors import SafetensorError

    if not path.is_file():
        raise EncoderError(f"{what}: there is no checkpoint {path}; pass the path of its weights file")
    try:
        weights = timm.models.load_state_dict(str(path), device="cpu", weights_only=True)
        missing, unexpected = network.load_state_dict(weights, strict=False)
    except (OSError, RuntimeError, ValueError, KeyError, UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EncoderError(f"{what}: {path} does not fit ({reason}); pass that model's weights") from error
    if missing:
        raise EncoderError(
            f"{what}: {path} lacks {len(missing)} of its weights ({', '.join(missing[:3])}, ...) and "
            f"holds {len(unexpected)} others; pass weights of exactly that model, by its own names"
        )

"""What encoders that run a frozen network share: where it runs, at which precision, and what identifies its weights."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch import nn

from odmt.encoders import EncoderError

__all__ = ["choose_device", "frozen_inference", "hash_weights"]


def choose_device(device: str) -> torch.device:
    """Return the device called `device`; "auto" means the GPU where there is one, else the CPU."""
    if device != "auto":
        try:
            torch.zeros(1, device=device)
        except (AssertionError, RuntimeError) as error:
            raise EncoderError(f"--device {device} cannot be used here: {error}") from error
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@contextlib.contextmanager
def frozen_inference(device: torch.device, *, bf16: bool) -> Iterator[None]:
    """Run what is inside without gradients, with matrix products in bfloat16 where asked for."""
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        yield


def hash_weights(model: nn.Module) -> str:
    """Return the sha256 of a network's parameters and buffers: the same for a hub name and for a local copy.

    Poolers are left out: token features do not pass them, and where a checkpoint lacks one it is drawn at random.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if "pooler" not in name.split("."):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()

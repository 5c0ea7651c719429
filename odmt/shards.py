"""Parameters of which each process holds a share (DeepSpeed's ZeRO-3), and how they are made whole.

In training the engine gathers what a module needs before its forward pass and lets go of it after, on all processes at
once; each must therefore call the same modules in the same order. Elsewhere they need not: processes encode and rank
unlike shares of the catalogue and of the users, by methods of which the engine knows nothing, and one of them writes
the weights. So all parameters are gathered once before that, and the engine's hooks are taken off until they are split
again. What it costs: a whole copy of the parameters (4 bytes for each) on every device, beside tables of the
catalogue's vectors that are whole on every device anyway. Gradients and the optimizer's state stay split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import nn

from odmt.items import ItemEncoder
from odmt.types import Tensor

__all__ = ["call_alike", "gather", "is_split", "shares", "whole"]


def is_split(wrapped: nn.Module) -> bool:
    """Say whether each process holds but a share of every parameter of what `accelerator.prepare` gave."""
    return _offload(wrapped) is not None


def call_alike(wrapped: nn.Module) -> None:
    """Where parameters are split, have all processes call the same modules equally often in a step: items and users are
    then not read in parts, whose number depends on what a process is given.
    """
    if is_split(wrapped):
        for module in wrapped.modules():
            if isinstance(module, ItemEncoder):
                module.in_parts = False


@contextmanager
def whole(wrapped: nn.Module) -> Iterator[None]:
    """Hold all parameters whole on every process; all must enter together, and change nothing."""
    split = gather(wrapped)
    try:
        yield
    finally:
        split()


def gather(wrapped: nn.Module) -> Callable[[], None]:
    """Make all parameters whole on every process, which must all ask; return what splits them again."""
    offload = _offload(wrapped)
    if offload is None:
        return lambda: None
    from deepspeed.runtime.zero import GatheredParameters

    # they would release what a module has used, and be waited for by processes that use it less often
    taken = [(handle.hooks_dict_ref(), handle.id) for handle in (*offload.forward_hooks, *offload.backward_hooks)]
    hooks = [(place, key, place.pop(key)) for place, key in taken]
    gathered = GatheredParameters(list(wrapped.parameters()))
    gathered.__enter__()

    def split() -> None:
        gathered.__exit__(None, None, None)
        for place, key, hook in hooks:
            place[key] = hook

    return split


def shares(wrapped: nn.Module) -> Iterator[Tensor]:
    """Give of every parameter what this process holds, flat where it is a share."""
    for parameter in wrapped.parameters():
        held: Any = getattr(parameter, "ds_tensor", None)
        if held is None:
            yield parameter
            continue
        size = held.ds_numel
        left = parameter.ds_numel - dist.get_rank() * size  # pyright: ignore[reportAttributeAccessIssue]
        yield held.flatten()[: max(0, min(size, left))]  # what fills up the last share is never set


def _offload(wrapped: nn.Module) -> Any:
    """Find what splits parameters; it exists where DeepSpeed does so, and holds its hooks."""
    return getattr(getattr(wrapped, "optimizer", None), "parameter_offload", None)

"""Parameters of which each process holds a share (DeepSpeed's ZeRO-3, torch's FSDP2), and how they are made whole.

In training ZeRO-3 gathers what a module needs before its forward pass and lets go of it after, on all processes at
once; each must therefore call the same modules in the same order. Elsewhere they need not: processes encode and rank
unlike shares of the catalogue and of the users, by methods of which no engine knows, and one of them writes the
weights. So all parameters are gathered once before that, and ZeRO-3's hooks are taken off until they are split again.
What it costs: a whole copy of the parameters (4 bytes for each) on every device, FSDP2's id tables in the processor's
memory, beside tables of the catalogue's vectors that are whole on every device anyway. Gradients and the optimizer's
state stay split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from odmt.items import ItemEncoder
from odmt.types import Tensor

__all__ = ["IN_MEMORY", "call_alike", "gather", "own_share", "shares", "whole"]

IN_MEMORY = "whole_in_memory"
"""What marks a module whose split parameters are made whole in the memory of the processor, and read there."""
FSDP = "torch.distributed.fsdp"
"""Where torch's splitting is, and the hooks that it leaves on modules."""


def call_alike(wrapped: nn.Module) -> None:
    """Where parameters are split by modules, have all processes call the same ones equally often in a step: items and
    users are then not read in parts, whose number depends on what a process is given.
    """
    if _offload(wrapped) is not None:
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
        return _gather_tensors(wrapped)
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
            yield own_share(parameter)
            continue
        size = held.ds_numel
        left = parameter.ds_numel - dist.get_rank() * size  # pyright: ignore[reportAttributeAccessIssue]
        yield held.flatten()[: max(0, min(size, left))]  # what fills up the last share is never set


def own_share(tensor: Tensor) -> Tensor:
    """Give what this process holds of a tensor that torch has split; others are held whole."""
    split: Any = tensor
    return split.to_local() if _is_split(tensor) else tensor


def _gather_tensors(wrapped: nn.Module) -> Callable[[], None]:
    """Put whole parameters in the place of those that torch has split, where there are any."""
    places = [
        (module, name, parameter)
        for module in wrapped.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and _is_split(parameter)
    ]
    where: dict[Any, bool] = {split: getattr(module, IN_MEMORY, False) for module, _, split in places}  # each once
    made = {
        split: nn.Parameter(_joined(split) if in_memory else split.full_tensor(), split.requires_grad)
        for split, in_memory in where.items()
    }
    for module, name, split in places:
        setattr(module, name, made[split])
    # they would take weights that are loaded for shares
    loading = {id(module): module._load_state_dict_post_hooks for module, *_ in places}.values()
    hooks = [(of, key, of.pop(key)) for of in loading for key in [*of] if of[key].__module__.startswith(FSDP)]

    def split_again() -> None:
        for module, name, split in places:
            setattr(module, name, split)
        for of, key, hook in hooks:
            of[key] = hook

    return split_again


def _is_split(tensor: Tensor) -> bool:
    """Say whether it is a DTensor; to import that class takes half a second."""
    return hasattr(tensor, "to_local")


def _joined(split: Any) -> Tensor:
    """Put together what all processes hold, in the memory of the processor, a share at a time."""
    rows, whole = split.to_local().detach(), torch.empty(split.shape, dtype=split.dtype)
    size = -(-len(whole) // dist.get_world_size())
    for rank, place in enumerate(whole.split(size)):
        share = rows if rank == dist.get_rank() else rows.new_empty(place.shape)
        dist.broadcast(share, rank)
        place.copy_(share)
    return whole


def _offload(wrapped: nn.Module) -> Any:
    """Find what splits parameters; it exists where DeepSpeed does so, and holds its hooks."""
    return getattr(getattr(wrapped, "optimizer", None), "parameter_offload", None)

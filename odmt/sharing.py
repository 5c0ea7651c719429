"""What processes that share a batch do together: item vectors of all, with gradients, and means over all rows.

Each encodes its part of the batch's distinct items, so that no item is encoded twice anywhere, and reads its part of
the users; every item is a candidate for every user. Losses and gradients are then those of one process with the whole
batch (where torch's generator decides of dropout, up to that), because
- the gradient of a vector is the sum of what all processes give it,
- a loss is weighed by this process's share of the rows, times the number of processes, over which gradients are
  averaged (by DistributedDataParallel, DeepSpeed and FSDP alike).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from odmt.types import Float, Part, Streams, Tensor

__all__ = ["everyones", "gathered", "share_of_rows"]


def gathered(vectors: Streams, num_items: int, part: Part) -> Streams:
    """Put together what all processes made of their parts of `num_items` items: per stream [num_items, dim]."""
    own = torch.cat(list(vectors.values()), dim=1)
    longest = -(-num_items // part.world)  # collectives are of one shape everywhere
    own = torch.cat([own, own.new_zeros(longest - len(own), own.shape[1])])
    whole: Tensor = _Gather.apply(own, part)  # pyright: ignore[reportAssignmentType]
    whole = whole.transpose(0, 1).flatten(0, 1)[:num_items]
    return dict(zip(vectors, whole.split([made.shape[1] for made in vectors.values()], dim=1), strict=True))


def everyones(own: Tensor) -> Tensor:
    """Give what every process has, [processes, ...], of one shape everywhere; torch's own has gone by three names."""
    made = own.new_empty(dist.get_world_size(), *own.shape)
    dist.all_gather(list(made), own)
    return made


class _Gather(torch.autograd.Function):
    """Give what every process has, [processes, ...]."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, part: Part) -> Tensor:
        ctx.part = part
        return everyones(own)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)  # every backend has it
        return gradient[ctx.part.rank], None


def share_of_rows(rows: int, part: Part, device: torch.device) -> Float[Tensor, ""]:
    """Say by what to multiply a mean over this process's `rows`, so that the mean over processes is that over rows."""
    own = torch.tensor(0 if part.idle else rows, device=device, dtype=torch.float64)
    total = own.clone()
    dist.all_reduce(total)
    return own * part.world / total

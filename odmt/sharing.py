"""What processes that share a batch do together: item vectors of all, with gradients, and means over all rows.

Each encodes its part of the batch's distinct items, so that no item is encoded twice anywhere, and reads its part of
the users; every item is a candidate for every user. Losses and gradients are then those of one process with the whole
batch (where torch's generator decides of dropout, up to that), because
- the gradient of a vector is the sum of what all processes give it,
- a loss is weighed by this process's share of the rows, times the number of processes, over which gradients are
  averaged (by DistributedDataParallel, DeepSpeed and FSDP alike).
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from odmt.types import Float, Part, Streams, Tensor

__all__ = ["gathered", "share_of_rows"]


def gathered(vectors: Streams, num_items: int, part: Part) -> Streams:
    """Put together what all processes made of their parts of `num_items` items: per stream [num_items, dim]."""
    from torch.distributed.nn.functional import all_gather  # brings more than one process alone should wait for

    own = torch.cat(list(vectors.values()), dim=1)
    longest = -(-num_items // part.world)  # collectives are of one shape everywhere
    own = torch.cat([own, own.new_zeros(longest - len(own), own.shape[1])])
    whole = torch.stack(all_gather(own), dim=1).flatten(0, 1)[:num_items]
    return dict(zip(vectors, whole.split([made.shape[1] for made in vectors.values()], dim=1), strict=True))


def share_of_rows(rows: int, part: Part, device: torch.device) -> Float[Tensor, ""]:
    """Say by what to multiply a mean over this process's `rows`, so that the mean over processes is that over rows."""
    own = torch.tensor(0 if part.idle else rows, device=device, dtype=torch.float64)
    total = own.clone()
    dist.all_reduce(total)
    return own * part.world / total

"""In which parts a CPU reads a batch: what belongs together in length and fits into its caches.

Exact, because items are encoded apart from each other, users are read apart from each other, and losses are means over
rows in any order. Parts save padding and the time that goes into memory: what a part needs stays in the caches and is
not asked of the system anew. A GPU is slower in parts, and asking it for lengths would make it wait; there, all is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch

from odmt.types import Bool, Tensor, Tokens

__all__ = ["item_parts", "user_parts"]

PART_ROWS = 1 << 13
"""Tokens of items in a part."""
USER_PARTS, USER_PART = 4, 32
"""Most parts of a batch's users, and the fewest users in one."""


def item_parts(tokens: Mapping[str, Tokens]) -> list[dict[str, Tokens]]:
    """Cut items into parts of about PART_ROWS tokens, each without the columns in which none of it has a token.

    Little is saved where items do not come in the order of their lengths, as `odmt.data.loading.make_batch` gives them.
    """
    if any(given.mask.device.type != "cpu" for given in tokens.values()):
        return [dict(tokens)]
    if all(given.mask.shape[1] == 1 for given in tokens.values()):
        return [dict(tokens)]
    lengths = torch.stack([given.mask.sum(1) for given in tokens.values()]).sum(0)
    number = lengths.cumsum(0) // PART_ROWS
    cuts = [0, *(number.diff().nonzero().flatten() + 1).tolist(), len(number)]
    return [{name: _cut(given, slice(a, b)) for name, given in tokens.items()} for a, b in pairwise(cuts)]


def _cut(tokens: Tokens, items: slice) -> Tokens:
    mask = tokens.mask[items]
    columns = torch.arange(1, mask.shape[1] + 1) * mask.any(0)
    last = max(1, int(columns.max()))
    return Tokens(tokens.values[items, :last], mask[:, :last])


def user_parts(
    mask: Bool[Tensor, "batch length"], *, at_once: bool = False
) -> tuple[Tensor | slice, list[tuple[slice, int]]]:
    """Sort users by the length of their histories; return their order, and parts of it with the first column that each
    part needs. `at_once` leaves all as they are, in one part.

    Half of all slots are padding on real data, and most of it goes.
    """
    num_parts = 1 if at_once else min(USER_PARTS, len(mask) // USER_PART)
    if mask.device.type != "cpu" or num_parts < 2:
        return slice(None), [(slice(None), 0)]
    lengths, order = mask.sum(1).sort(stable=True)
    cuts = [len(order) * part // num_parts for part in range(num_parts + 1)]
    width = mask.shape[1]
    return order, [(slice(a, b), width - max(2, int(lengths[b - 1]))) for a, b in pairwise(cuts)]

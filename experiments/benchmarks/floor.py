"""The arithmetic floor: the matrix operations that the method needs for the batch at hand, whatever computes them.

Counted from the batch's distinct items, their real tokens, the rows that are read after the last layer, and the users'
real lengths; a multiplication with its addition counts as two. The backward pass needs twice the forward's, but once
for the projection of features, which are frozen. Divided by the machine's rate for large matrix products it is a time
that no implementation of the same maths can beat there, and that none reaches: softmax, norms, dropout, memory traffic
and the optimizer come on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from odmt import ItemFeatures

__all__ = [
    "compared",
    "encoding_operations",
    "optimizer_bytes",
    "state_operations",
    "step_operations",
    "token_counts",
    "update_bytes",
]

LAYERS, HEADS = 2, 2


def token_counts(features: ItemFeatures, items: np.ndarray) -> dict[str, np.ndarray]:
    """Count the real tokens of items, per modality."""
    limits = features.max_tokens
    return {
        name: np.minimum(table.spans[items, 1], limits.get(name, np.iinfo(np.int64).max))
        for name, table in features.tables.items()
    }


def step_operations(features: ItemFeatures, histories: np.ndarray, *, dim: int, streams: tuple[str, ...]) -> int:
    """Count the forward and backward pass over training histories of global ids, left-padded with 0."""
    items = np.unique(histories[histories > 0])
    parts = encoding_operations(features, items, dim=dim, streams=streams)
    lengths = (histories > 0).sum(1) - 1
    states = len(streams) * state_operations(lengths, dim=dim)
    logits = len(streams) * 2 * int(lengths.sum()) * len(items) * dim
    frozen = parts["projection"]
    return 2 * frozen + 3 * (parts["id"] + parts["blocks"] + parts["heads"] + states + logits)


def encoding_operations(
    features: ItemFeatures, items: np.ndarray, *, dim: int, streams: tuple[str, ...]
) -> Mapping[str, int]:
    """Count one forward pass of the item transformer, by part."""
    counts = {name: n for name, n in token_counts(features, items).items() if name in streams}
    projection = 2 * dim * sum(int(n.sum()) * features.widths[name] for name, n in counts.items())
    has_id = int("id" in streams)
    rows = sum(counts.values(), np.full(len(items), has_id))
    blocks = int(((LAYERS - 1) * (24 * rows * dim**2 + 4 * rows**2 * dim)).sum())
    queries = len(streams)
    # Keys and values of the last layer: either for every token, or folded into the few queries (odmt.attention).
    projected = 4 * rows * dim**2 + 4 * queries * rows * dim
    folded = 4 * queries * dim**2 + 4 * queries * HEADS * rows * dim
    blocks += int((np.minimum(projected, folded) + 20 * queries * dim**2).sum())
    return {
        "projection": projection,
        "id": has_id * 2 * len(items) * dim**2,
        "blocks": blocks,
        "heads": queries * 4 * len(items) * dim**2,
    }


def state_operations(lengths: np.ndarray, *, dim: int, last_only: bool = False) -> int:
    """Count one stream's forward pass over histories of so many events; with `last_only` its newest state is all that
    is read.
    """
    attention = 2 * lengths * (lengths + 1) * dim  # causal: half of all pairs
    every = 24 * lengths * dim**2 + attention
    if not last_only:
        return LAYERS * int(every.sum())
    last = np.minimum(4 * lengths * dim**2 + 4 * lengths * dim, 4 * dim**2 + 4 * HEADS * lengths * dim) + 20 * dim**2
    return int(((LAYERS - 1) * every + last).sum())


def optimizer_bytes(num_parameters: int) -> int:
    """Count AdamW's least traffic in float32: gradient written and read, weight and two moments read and written."""
    return 4 * 8 * num_parameters


def update_bytes(num_parameters: int) -> int:
    """Count what a step's update moves as it is: AdamW reads and writes a weight and its moments and reads the gradient
    (7 passes), and the gradient is written and cleared, read and scaled by clipping (5).
    """
    return 4 * (7 + 5) * num_parameters


def compared(times: Sequence[Sequence[float]], operations: Sequence[float], rates: Sequence[float]) -> dict[str, float]:
    """Set the seconds of ours, and of the reference if there is one, beside the floor, turn by turn.

    The floor takes the best of the rates, because it is what the machine could have done at its fastest. Ratios are
    medians of the turns' own: what slows a machine down for a while slows both of a turn's sides.
    """
    rate = max(rates)
    ours, *rest = times
    found = {
        "ours_s": median(ours),
        "operations": median(operations),
        "operations_per_s": rate,
        "rate_min": min(rates),
        "rate_max": rate,
        "floor_s": median(operations) / rate,
        "floor_ratio": median(s * rate / n for s, n in zip(ours, operations, strict=True)),
    }
    for reference in rest:
        found["reference_s"] = median(reference)
        found["ratio"] = median(theirs / mine for theirs, mine in zip(reference, ours, strict=True))
        found["reference_floor_ratio"] = median(s * rate / n for s, n in zip(reference, operations, strict=True))
    return found

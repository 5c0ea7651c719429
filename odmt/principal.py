"""The principal directions of a catalogue's content, from which maps of it start."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from odmt.types import Features, Float, Tensor

__all__ = ["Principal", "mean_content", "principal"]

ITEMS = 1 << 15
"""Items from which directions are estimated: more say the same, and a large catalogue's take long to read."""


class Principal(NamedTuple):
    """Hold the directions of largest variance first: axes [width, k], variances [k], and the mean [width]."""

    mean: Float[Tensor, " width"]
    axes: Float[Tensor, "width k"]
    variances: Float[Tensor, " k"]


def principal(x: Float[Tensor, "items width"], k: int) -> Principal:
    """Find the k directions in which items vary most, in float64 (the width's all where it has fewer)."""
    x = x.double()
    mean = x.mean(0)
    centred = x - mean
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(x))
    variances, axes = variances.flip(0)[:k].clamp(min=0), axes.flip(1)[:, :k]
    # the sign of an axis is arbitrary; make it the same everywhere
    return Principal(mean, axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign(), variances)


def mean_content(features: Features, modality: str) -> Float[Tensor, "items width"]:
    """Average each item's tokens, for items that have any, evenly spaced where the catalogue is large."""
    found = []
    items = np.unique(np.linspace(1, features.num_items, ITEMS).astype(np.int64))
    for some in np.array_split(items, max(1, len(items) // 1024)):
        tokens = features.gather(modality, some)
        there = tokens.mask.any(1)
        weights = tokens.mask[there].unsqueeze(2).double()
        found.append((tokens.values[there].double() * weights).sum(1) / weights.sum(1))
    return torch.cat(found)

"""The principal directions of a catalogue's content, from which maps of it start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from odmt.types import Bool, Features, Float, Tensor

__all__ = ["LinearMap", "Principal", "half_whitened", "principal"]

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


class LinearMap(NamedTuple):
    """Hold a map of content: weight [k, width], bias [k]."""

    weight: Float[Tensor, "k width"]
    bias: Float[Tensor, " k"]


def half_whitened(features: Features, modalities: Sequence[str], k: int) -> dict[str, LinearMap]:
    """Give maps of the modalities' mean tokens whose sum holds the catalogue's k principal directions, each divided by
    the fourth root of its variance.

    Modalities stand side by side with the same total variance; an item says nothing where it lacks one. In float64.
    """
    items = np.unique(np.linspace(1, features.num_items, ITEMS).astype(np.int64))
    moments, columns = [], []
    for name in modalities:
        x, there = _mean_content(features, name, items)
        mean = x[there].mean(0) if there.any() else x.new_zeros(x.shape[1])
        spread = (x[there] - mean).square().mean(0).sum().sqrt().clamp(min=1e-12) if there.any() else x.new_ones(())
        moments.append((mean, spread))
        columns.append(torch.where(there[:, None], (x - mean) / spread, 0.0))
    _, axes, variances = principal(torch.cat(columns, dim=1), k)
    known = variances > 1e-9 * variances.max()
    axes = torch.where(known, axes * variances.clamp(min=1e-300) ** -0.25, 0.0)
    parts = axes.split([x.shape[1] for x in columns])
    weights = [(part / spread).T for part, (_, spread) in zip(parts, moments, strict=True)]
    return {
        name: LinearMap(weight, -weight @ mean)
        for name, weight, (mean, _) in zip(modalities, weights, moments, strict=True)
    }


def _mean_content(
    features: Features, modality: str, items: np.ndarray
) -> tuple[Float[Tensor, "items width"], Bool[Tensor, " items"]]:
    """Average the tokens of each of `items`, and say which have any."""
    means, there = [], []
    for some in np.array_split(items, max(1, len(items) // 1024)):
        tokens = features.gather(modality, some)
        weights = tokens.mask.unsqueeze(2).double()
        means.append((tokens.values.double() * weights).sum(1) / weights.sum(1).clamp(min=1))
        there.append(tokens.mask.any(1))
    return torch.cat(means), torch.cat(there)

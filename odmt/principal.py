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

    Modalities stand side by side, each with variance 1 over the items that have it; an item says nothing where it lacks
    one, and so does a modality that is the same everywhere. In float64.
    """
    items = _some_items(features, modalities)
    means, spreads, columns = [], [], []
    for name in modalities:
        x, there = _mean_content(features, name, items)
        shown = x[there] if there.any() else x.new_zeros(1, x.shape[1])
        mean = shown.mean(0)
        spread = (shown - mean).square().sum(1).mean().sqrt()
        known = spread > 1e-6 * shown.square().sum(1).mean().sqrt()
        means.append(mean)
        spreads.append(spread if known else spread.new_tensor(torch.inf))
        columns.append(torch.where(there[:, None], (x - mean) / spreads[-1], 0.0))
    widths = [x.shape[1] for x in columns]
    _, axes, variances = principal(torch.cat(columns, dim=1), k)
    known = variances > 1e-9 * variances.max()
    scaled = torch.where(known, axes * variances.clamp(min=1e-300) ** -0.25, 0.0)
    weights = [(part / spread).T for part, spread in zip(scaled.split(widths), spreads, strict=True)]
    found = zip(modalities, weights, means, strict=True)
    return {name: LinearMap(weight, -weight @ mean) for name, weight, mean in found}


def _some_items(features: Features, modalities: Sequence[str]) -> np.ndarray:
    """Choose items evenly spaced among those that have a modality, for each as many."""
    catalogue = np.arange(1, features.num_items + 1)
    having = [catalogue[features.count_tokens(name, catalogue) > 0] for name in modalities]
    chosen = [x[np.unique(np.linspace(0, len(x) - 1, ITEMS // len(having)).astype(np.int64))] for x in having if len(x)]
    return np.unique(np.concatenate(chosen)) if chosen else catalogue[:1]


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

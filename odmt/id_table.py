"""What the id table starts from: nothing, or the items' content."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from odmt.principal import principal
from odmt.types import Bool, Features, Float, Tensor

__all__ = ["start_of_ids"]


def start_of_ids(init: str, features: Features, dim: int, *, start: bool = True) -> nn.Embedding:
    """Make the id table, [num_items + 1, width], row 0 (padding) zero.

    init: "random" (xavier, of width `dim`); the name of a modality, whose first tokens are copied; or "mean", the
    average of the first tokens of all modalities that an item has, as released for the shops (arXiv 2308.04067). The
    table takes their width; where modalities differ in width, all are brought to the smallest by PCA over the items
    that have them. Without `start` content is left unread, for a table that is loaded next.

    Raises:
        ValueError: where `init` needs a modality that is not there, or of which no item shows anything.
    """
    if init == "random":
        table = nn.Embedding(features.num_items + 1, dim, padding_idx=0)
        nn.init.xavier_normal_(table.weight)
    else:
        names = list(features.widths) if init == "mean" else [init]
        missing = [name for name in names if name not in features.widths]
        if missing or not names:
            raise ValueError(
                f"id_init={init!r} needs features of {', '.join(missing) or 'some modality'}; 'random' needs none"
            )
        width = min(features.widths[name] for name in names)
        weights = torch.zeros(features.num_items + 1, width)
        if start:
            weights = _mean_of_first_tokens(init, features, names, width)
        table = nn.Embedding.from_pretrained(weights, freeze=False, padding_idx=0)
    with torch.no_grad():
        table.weight[0].zero_()
    return table


def _mean_of_first_tokens(
    init: str, features: Features, names: Sequence[str], width: int
) -> Float[Tensor, "items width"]:
    """Average, for each item, over the modalities that it has; zeros where it has none."""
    tokens, having = [], []
    for name in names:
        first, there = _first_tokens(features, name)
        if not first.any():
            raise ValueError(
                f"id_init={init!r}: no item shows anything of {name!r}; start from a modality that items have, or from "
                "'random', or take its features out"
            )
        tokens.append(_narrowed(first, width))
        having.append(there)
    # a factor, because it is exactly 1 for items that have every modality
    scale = len(names) / torch.stack(having).sum(0).clamp(min=1)
    return torch.stack(tokens).mean(0) * scale.unsqueeze(1)


def _first_tokens(features: Features, modality: str) -> tuple[Float[Tensor, "items width"], Bool[Tensor, " items"]]:
    """Read the first token of every item, padding included, and say which have one; zeros where none is."""
    first = torch.zeros(features.num_items + 1, features.widths[modality])
    there = torch.zeros(features.num_items + 1, dtype=torch.bool)
    for ids in np.array_split(np.arange(1, features.num_items + 1), max(1, features.num_items // 4096)):
        tokens = features.gather(modality, ids)
        first[torch.from_numpy(ids)] = tokens.values[:, 0].float() * tokens.mask[:, :1]
        there[torch.from_numpy(ids)] = tokens.mask[:, 0]
    return first, there


def _narrowed(start: Tensor, width: int) -> Tensor:
    """Keep the `width` directions in which the items that have this modality vary most; the others stay zero."""
    if start.shape[1] == width:
        return start
    there = start.any(1)
    mean, axes, _ = principal(start[there], width)
    narrowed = torch.zeros(len(start), width)
    narrowed[there] = ((start[there].double() - mean) @ axes).float()
    return narrowed

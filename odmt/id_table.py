"""What the id table starts from: nothing, or the items' content."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from odmt.principal import principal
from odmt.types import Features, Tensor

__all__ = ["start_of_ids"]


def start_of_ids(init: str, features: Features, dim: int, *, start: bool = True) -> nn.Embedding:
    """Make the id table, [num_items + 1, width], row 0 (padding) zero.

    init: "random" (xavier, of width `dim`); the name of a modality, whose first tokens are copied; or "mean", the
    average of all modalities' first tokens, as released for the shops (arXiv 2308.04067). The table takes their width;
    where modalities differ in width, all are brought to the smallest by PCA over the items that have them. Without
    `start` content is left unread, for a table that is loaded next.
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
            weights = torch.stack([_narrowed(_first_tokens(features, name), width) for name in names]).mean(0)
        table = nn.Embedding.from_pretrained(weights, freeze=False, padding_idx=0)
    with torch.no_grad():
        table.weight[0].zero_()
    return table


def _first_tokens(features: Features, modality: str) -> Tensor:
    start = torch.zeros(features.num_items + 1, features.widths[modality])
    for ids in np.array_split(np.arange(1, features.num_items + 1), max(1, features.num_items // 4096)):
        tokens = features.gather(modality, ids)
        start[torch.from_numpy(ids)] = tokens.values[:, 0].float() * tokens.mask[:, :1]
    return start


def _narrowed(start: Tensor, width: int) -> Tensor:
    """Keep the `width` directions in which the items that have this modality vary most; the others stay zero."""
    if start.shape[1] == width:
        return start
    there = start.any(1)
    mean, axes, _ = principal(start[there], width)
    narrowed = torch.zeros(len(start), width)
    narrowed[there] = ((start[there].double() - mean) @ axes).float()
    return narrowed

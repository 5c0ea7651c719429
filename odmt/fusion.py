"""From the tokens of an item to its vectors: the ID-aware multimodal transformer, and the simple fusions it competes
with.

Each fusion takes `widths`, the feature width of every input stream in order, and `dim`; see `odmt.types.Fusion` for
the call.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from odmt.attention import Block
from odmt.dropout import Dropout
from odmt.types import Bool, Float, Streams, Tensor

__all__ = ["FUSIONS", "IDAwareTransformer", "Independent", "SumFusion"]

FUSIONS = {
    "imt": "odmt.fusion:IDAwareTransformer",
    "independent": "odmt.fusion:Independent",
    "sum": "odmt.fusion:SumFusion",
}
"""Short names for component strings; anything else is named by import path."""


def _two_layers(width: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, dim), nn.LeakyReLU(), nn.Linear(dim, dim))


def _mean(
    tokens: Float[Tensor, "items tokens width"], mask: Bool[Tensor, "items tokens"]
) -> Float[Tensor, "items width"]:
    weights = mask.to(tokens.dtype).unsqueeze(-1)
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)


class IDAwareTransformer(nn.Module):
    """Fuse the streams of an item by attention over all its tokens (IMT, arXiv 2308.04067, section 3.2).

    The sequence is [content tokens of every modality | id], projected to `dim` by one linear map per stream; out come
    the first token of every modality and the id, each through its own two-layer MLP. With `text_sees_id=False` (the
    release's default) no content token attends to the id, so that content vectors hold content alone; the id attends
    to everything. An item that lacks a modality shows nothing of it to its other streams, and a learned vector stands
    in its own.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        dim: int,
        *,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.1,
        text_sees_id: bool = False,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(
                f"layers={layers}: the item transformer needs at least one; use fusion 'independent' for none"
            )
        self.streams = tuple(widths)
        self._content = tuple(name for name in widths if name != "id")
        self.text_sees_id = text_sees_id
        self.project = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in widths.items()})
        self.missing = nn.ParameterDict({name: nn.Parameter(torch.zeros(dim)) for name in self._content})
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads=heads, dropout=dropout) for _ in range(layers))
        self.heads = nn.ModuleDict({name: _two_layers(dim, dim) for name in widths})

    def forward(self, tokens: Streams, masks: Streams) -> Streams:
        order = [*self._content, *(name for name in self.streams if name == "id")]  # the id comes last, as released
        pieces = [piece for name in order for piece in self._embed(name, tokens[name], masks[name])]
        x = self.dropout(torch.cat(pieces, dim=1))
        lengths = [tokens[name].shape[1] for name in order]
        first = torch.tensor([sum(lengths[:i]) for i in range(len(order))], device=x.device)
        allowed = self._allowed(torch.cat([masks[name] for name in order], dim=1), num_ids=int("id" in order))
        for block in self.blocks[:-1]:
            x = block(x, x, allowed)
        # Only these rows are read, so the last block computes no other.
        x = self.blocks[-1](x[:, first], x, allowed[:, first])
        vectors = dict(zip(order, x.unbind(1), strict=True))
        return {name: self.heads[name](vectors[name]) for name in self.streams}

    def _embed(self, name: str, tokens: Tensor, mask: Tensor) -> list[Tensor]:
        """Project the tokens of one stream, [items, tokens, dim] in two pieces: the first token, and the others.

        Where an item lacks the modality, its first token is the learned one. What the padding behind it holds is of no
        account: nobody sees it.
        """
        x = self.project[name](tokens)
        if name == "id":
            return [x]
        return [torch.where(mask[:, :1, None], x[:, :1], self.missing[name].to(x.dtype)), x[:, 1:]]

    def _allowed(self, mask: Bool[Tensor, "items rows"], *, num_ids: int) -> Bool[Tensor, "items rows rows"]:
        rows = mask.shape[1]
        pattern = torch.ones(rows, rows, dtype=torch.bool, device=mask.device)
        if num_ids and not self.text_sees_id:
            pattern[:-1, -1] = False
        return pattern & mask[:, None, :] | torch.eye(rows, dtype=torch.bool, device=mask.device)


class Independent(nn.Module):
    """Give every stream its own vector, without exchange: the id as it is, content as the mean of its tokens through
    an MLP.
    """

    def __init__(self, widths: Mapping[str, int], dim: int) -> None:
        super().__init__()
        self.streams = tuple(widths)
        self.maps = nn.ModuleDict({name: _map(name, width, dim) for name, width in widths.items()})

    def forward(self, tokens: Streams, masks: Streams) -> Streams:
        return {name: self.maps[name](_mean(tokens[name], masks[name])) for name in self.streams}


class SumFusion(nn.Module):
    """Add the streams into one vector per item, called "item" (early fusion); a missing modality adds nothing."""

    def __init__(self, widths: Mapping[str, int], dim: int) -> None:
        super().__init__()
        self.streams = ("item",)
        self.maps = nn.ModuleDict({name: _map(name, width, dim) for name, width in widths.items()})

    def forward(self, tokens: Streams, masks: Streams) -> Streams:
        present = {name: mask.any(1, keepdim=True) for name, mask in masks.items()}
        parts = [layer(_mean(tokens[name], masks[name])) * present[name] for name, layer in self.maps.items()]
        return {"item": torch.stack(parts).sum(0)}


def _map(name: str, width: int, dim: int) -> nn.Module:
    if name == "id":
        return nn.Identity() if width == dim else nn.Linear(width, dim)
    return _two_layers(width, dim)

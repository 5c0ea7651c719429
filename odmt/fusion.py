"""From the tokens of an item to one vector per stream: the ID-aware multimodal transformer, no exchange at all, and all
content as one stream.

Each fusion takes `widths`, the feature width of every input stream in order, and `dim`; see `odmt.types.Fusion` for
the call. Where streams become one is a matter of `odmt.joins`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from odmt.attention import Block
from odmt.components import CONTENT
from odmt.dropout import Dropout
from odmt.principal import LinearMap, half_whitened
from odmt.types import Bool, Features, Float, Streams, Tensor

__all__ = ["IDAwareTransformer", "Independent", "Joint", "mean_of_tokens"]

SMALL = 1e-2
"""Below this length, of a few where maps start, content is not scaled to length 1: at 0 the gradient would explode."""


def mean_of_tokens(
    tokens: Float[Tensor, "items tokens width"], mask: Bool[Tensor, "items tokens"]
) -> Float[Tensor, "items width"]:
    """Average the tokens that are there; zeros where none is."""
    weights = mask.to(tokens.dtype).unsqueeze(-1)
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)


class IDAwareTransformer(nn.Module):
    """Fuse the streams of an item by attention over all its tokens (IMT, arXiv 2308.04067, section 3.2).

    The sequence is [content tokens of every modality | id], projected to `dim` by one linear map per stream; out come
    the first token of every modality and the id, each through its own two-layer MLP. The id attends to everything. An
    item that lacks a modality shows nothing of it to its other streams, and a learned vector stands in its own.

    text_sees_id: whether content tokens attend to the id; with False, the release's, content vectors hold content
        alone.
    isolated: whether the tokens of a modality attend to their own modality alone (and the id, with `text_sees_id`).
    token_types: whether a learned vector per stream is added to its tokens; the release has none.
    pre_norm: whether LayerNorm stands before attention and feed-forward; the release's follow them.
    summary: which row leaves for a modality: its "first" token, as released, or one that is put before it, the "mean"
        of its projected tokens, for encoders whose first token says no more than any other.
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
        isolated: bool = False,
        token_types: bool = False,
        pre_norm: bool = False,
        summary: Literal["first", "mean"] = "first",
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(
                f"layers={layers}: the item transformer needs at least one; use fusion 'independent' for none"
            )
        if summary not in ("first", "mean"):
            raise ValueError(f"summary={summary!r} is neither 'first' nor 'mean'")
        self.streams = tuple(widths)
        self._content = tuple(name for name in widths if name != "id")
        self.text_sees_id, self.isolated, self.summary = text_sees_id, isolated, summary
        self.project = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in widths.items()})
        self.missing = nn.ParameterDict({name: nn.Parameter(torch.zeros(dim)) for name in self._content})
        types = widths if token_types else {}
        self.token_types = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(dim)) for name in types})
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads=heads, dropout=dropout, pre_norm=pre_norm) for _ in range(layers))
        self.norm = nn.LayerNorm(dim, eps=1e-6) if pre_norm else nn.Identity()  # of what the last block leaves unnormed
        self.heads = nn.ModuleDict({name: _two_layers(dim, dim) for name in widths})

    def forward(self, tokens: Streams, masks: Streams) -> Streams:
        order = [*self._content, *(name for name in self.streams if name == "id")]  # the id comes last, as released
        pieces = {name: self._embed(name, tokens[name], masks[name]) for name in order}
        x = self.dropout(torch.cat([piece for name in order for piece in pieces[name]], dim=1))
        lengths = [sum(piece.shape[1] for piece in pieces[name]) for name in order]
        first = torch.tensor([sum(lengths[:i]) for i in range(len(order))], device=x.device)
        allowed = self._allowed([self._seen(name, masks[name]) for name in order], has_id="id" in order)
        for block in self.blocks[:-1]:
            x = block(x, x, allowed)
        # Only these rows are read, so the last block computes no other.
        x = self.norm(self.blocks[-1](x[:, first], x, allowed[:, first]))
        vectors = dict(zip(order, x.unbind(1), strict=True))
        return {name: self.heads[name](vectors[name]) for name in self.streams}

    def _embed(self, name: str, tokens: Tensor, mask: Tensor) -> list[Tensor]:
        """Project the tokens of one stream, [items, tokens, dim] in pieces: the row that leaves, and the others.

        Where an item lacks the modality, the row that leaves is the learned one. What the padding behind it holds is of
        no account: nobody sees it.
        """
        x = self.project[name](tokens)
        if name in self.token_types:
            x = x + self.token_types[name]
        if name == "id":
            return [x]
        leaves, others = x[:, :1], [x[:, 1:]]
        if self.summary == "mean":
            leaves, others = mean_of_tokens(x, mask)[:, None], [x]
        return [torch.where(mask[:, :1, None], leaves, self.missing[name].to(x.dtype)), *others]

    def _seen(self, name: str, mask: Bool[Tensor, "items tokens"]) -> Bool[Tensor, "items rows"]:
        """Say which rows of a stream others may look at: the mean is one more, where there are tokens."""
        return mask if name == "id" or self.summary == "first" else torch.cat([mask[:, :1], mask], dim=1)

    def _allowed(self, seen: list[Tensor], *, has_id: bool) -> Bool[Tensor, "items rows rows"]:
        lengths = [mask.shape[1] for mask in seen]
        stream = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(seen[0].device)
        pattern = torch.ones(len(stream), len(stream), dtype=torch.bool, device=stream.device)
        if self.isolated:
            pattern = stream[:, None] == stream
        if has_id:
            pattern[-1] = True
            pattern[:-1, -1] = self.text_sees_id
        itself = torch.eye(len(stream), dtype=torch.bool, device=stream.device)
        return pattern & torch.cat(seen, dim=1)[:, None, :] | itself


class Independent(nn.Module):
    """Give every stream its own vector, without exchange: the id as it is, content as the mean of its tokens through
    a map, and a learned vector where an item lacks it.

    content: what that map is. "mlp", two layers that start at random and must learn what is alike. "pca", one linear
        layer onto vectors of length 1 that starts with what the encoder knows: the catalogue's principal directions,
        each divided by the fourth root of its variance, half the way to whitening, since a few directions that all
        texts share hold most of it (arXiv 2103.15316). Items start as near to each other as their content.
    """

    def __init__(self, widths: Mapping[str, int], dim: int, *, content: Literal["mlp", "pca"] = "mlp") -> None:
        super().__init__()
        if content not in ("mlp", "pca"):
            raise ValueError(f"content={content!r} is neither 'mlp' nor 'pca'")
        self.streams = tuple(widths)
        self.content, self.dim = content, dim
        self.maps = nn.ModuleDict({name: _map(name, width, dim, content) for name, width in widths.items()})
        self.missing = nn.ParameterDict({name: nn.Parameter(torch.zeros(dim)) for name in widths if name != "id"})

    def forward(self, tokens: Streams, masks: Streams) -> Streams:
        vectors = {name: self.maps[name](mean_of_tokens(tokens[name], masks[name])) for name in self.streams}
        for name, missing in self.missing.items():
            made = F.normalize(vectors[name], dim=1, eps=SMALL) if self.content == "pca" else vectors[name]
            present = masks[name].any(1, keepdim=True)
            vectors[name] = torch.where(present, made, missing.to(made.dtype))
        return vectors

    def start_from(self, features: Features) -> None:
        """Set the maps to where they start; `ItemEncoder` calls this once it has made a fusion."""
        if self.content == "pca":
            for name in self.missing:
                _start(self.maps, half_whitened(features, [name], self.dim))


class Joint(nn.Module):
    """Give two streams: the id as it is, and "content", all that an item shows as one vector of length 1.

    The modalities' mean tokens go side by side through one linear layer, which starts as that of `Independent` with
    "pca": at the principal directions of them all together, so that what two modalities say alike is one direction
    and none of one meets one of another by chance. What an item lacks adds nothing; one without any content has a
    learned vector.
    """

    def __init__(self, widths: Mapping[str, int], dim: int) -> None:
        super().__init__()
        self._content = tuple(name for name in widths if name != "id")
        if not self._content:
            raise ValueError("fusion 'joint' joins content, and there is none among the streams; write independent")
        self.streams = (*(name for name in widths if name == "id"), CONTENT)
        self.dim = dim
        self.maps = nn.ModuleDict({name: _map(name, width, dim, "pca") for name, width in widths.items()})
        self.missing = nn.Parameter(torch.zeros(dim))

    def forward(self, tokens: Streams, masks: Streams) -> Streams:
        mapped = {name: layer(mean_of_tokens(tokens[name], masks[name])) for name, layer in self.maps.items()}
        there = {name: masks[name].any(1, keepdim=True) for name in self._content}
        shown = torch.stack([torch.where(there[name], mapped[name], 0.0) for name in self._content]).sum(0)
        made = F.normalize(shown, dim=1, eps=SMALL)
        anything = torch.stack(list(there.values())).any(0)
        vectors = {**mapped, CONTENT: torch.where(anything, made, self.missing.to(made.dtype))}
        return {name: vectors[name] for name in self.streams}

    def start_from(self, features: Features) -> None:
        """Set the maps to where they start; `ItemEncoder` calls this once it has made a fusion."""
        _start(self.maps, half_whitened(features, self._content, self.dim))


@torch.no_grad()
def _start(layers: nn.ModuleDict, found: Mapping[str, LinearMap]) -> None:
    """Set layers to the maps that were found, unless no content differs from any other: then they stay as drawn."""
    if not any(linear.weight.any() for linear in found.values()):
        return
    for name, linear in found.items():
        layer = layers[name]
        assert isinstance(layer, nn.Linear)
        rows = len(linear.bias)
        layer.weight.zero_()[:rows] = linear.weight
        layer.bias.zero_()[:rows] = linear.bias


def _two_layers(width: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, dim), nn.LeakyReLU(), nn.Linear(dim, dim))


def _map(name: str, width: int, dim: int, content: str) -> nn.Module:
    if name == "id":
        return nn.Identity() if width == dim else nn.Linear(width, dim)
    return nn.Linear(width, dim) if content == "pca" else _two_layers(width, dim)

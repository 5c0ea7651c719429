"""Where streams become one, and how: at the items (early fusion, one backbone reads them), at the user states (middle:
one backbone per stream, states joined at each position), or nowhere (late: scores are averaged).

A join takes the vectors of all streams, [..., dim] each, and gives one. `at` and `keep` say what `ODMT` does with it:
the joined stream is called "item" or "user" after the place, and stands alone, or beside the others that `keep` names
(True keeps all, "content" all but the id), as a head, teacher and student of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from odmt.components import CONTENT
from odmt.types import Float, Streams, Tensor

__all__ = ["AttentionJoin", "Concatenate", "Gate", "Join", "Sum"]


class Join(nn.Module):
    """Hold where a join stands, and which of the streams that it joins stay heads beside it (`kept`)."""

    def __init__(self, streams: Sequence[str], *, at: str, keep: bool | Sequence[str]) -> None:
        super().__init__()
        if at not in ("item", "user"):
            raise ValueError(f"at={at!r} is neither 'item' nor 'user'")
        if len(streams) < 2:
            raise ValueError(f"a join needs two streams, and there is {', '.join(streams)}; write --model.join none")
        if at in streams:
            raise ValueError(f"a stream is called {at!r}, as the joined one would be; rename its features' folder")
        self.joined, self.at = tuple(streams), at
        if not isinstance(keep, bool | list | tuple) and keep != CONTENT:
            raise ValueError(f"keep={keep!r} is True, False, {CONTENT!r} or a list of streams, as keep=['text']")
        if isinstance(keep, bool | str):
            keep = [name for name in streams if keep is True or (keep == CONTENT and name != "id")]
        self.kept = tuple(dict.fromkeys(keep))
        if unknown := [name for name in self.kept if name not in streams]:
            raise ValueError(
                f"keep names {', '.join(unknown)}, but the streams that are joined are {', '.join(streams)}"
            )


class Sum(Join):
    """Add the vectors."""

    def __init__(
        self, streams: Sequence[str], *, at: Literal["item", "user"] = "item", keep: bool | Sequence[str] = False
    ) -> None:
        super().__init__(streams, at=at, keep=keep)

    def forward(self, vectors: Streams) -> Float[Tensor, "*places dim"]:
        return torch.stack([vectors[name] for name in self.joined]).sum(0)


class Concatenate(Join):
    """Put the vectors side by side and through a two-layer MLP."""

    def __init__(
        self,
        streams: Sequence[str],
        dim: int,
        *,
        at: Literal["item", "user"] = "item",
        keep: bool | Sequence[str] = False,
    ) -> None:
        super().__init__(streams, at=at, keep=keep)
        self.map = nn.Sequential(nn.Linear(len(streams) * dim, dim), nn.LeakyReLU(), nn.Linear(dim, dim))

    def forward(self, vectors: Streams) -> Float[Tensor, "*places dim"]:
        return self.map(torch.cat([vectors[name] for name in self.joined], dim=-1))


class Gate(Join):
    """Add the vectors, each scaled number by number between 0 and 1 by what all of them say (gates as in the gated
    multimodal unit, arXiv 1702.01992; its maps and tanh are the fusion's matter).
    """

    def __init__(
        self,
        streams: Sequence[str],
        dim: int,
        *,
        at: Literal["item", "user"] = "item",
        keep: bool | Sequence[str] = False,
    ) -> None:
        super().__init__(streams, at=at, keep=keep)
        self.gates = nn.Linear(len(streams) * dim, len(streams) * dim)

    def forward(self, vectors: Streams) -> Float[Tensor, "*places dim"]:
        side_by_side = torch.cat([vectors[name] for name in self.joined], dim=-1)
        gated = side_by_side * torch.sigmoid(self.gates(side_by_side))
        return gated.unflatten(-1, (len(self.joined), -1)).sum(-2)


class AttentionJoin(Join):
    """Average the vectors, each with a weight of its own at every place: softmax over streams of q . tanh(W x)
    (additive attention, arXiv 1409.0473).
    """

    def __init__(
        self,
        streams: Sequence[str],
        dim: int,
        *,
        at: Literal["item", "user"] = "item",
        keep: bool | Sequence[str] = False,
    ) -> None:
        super().__init__(streams, at=at, keep=keep)
        self.map = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, 1, bias=False)

    def forward(self, vectors: Streams) -> Float[Tensor, "*places dim"]:
        stacked = torch.stack([vectors[name] for name in self.joined])
        return (torch.softmax(self.query(torch.tanh(self.map(stacked))), dim=0) * stacked).sum(0)

"""What is asked of components, which may be the caller's own: when they are built, and of what they return."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from odmt.types import Bool, Float, Int, Streams, Tensor

__all__ = [
    "checked_backbone",
    "checked_fusion",
    "checked_histories",
    "checked_module",
    "checked_states",
    "checked_vectors",
    "newest_states",
]


def checked_module(made: object, what: str) -> nn.Module:
    """Refuse what is no torch module: it would not be trained or saved."""
    if not isinstance(made, nn.Module):
        raise ValueError(f"{what} is a {type(made).__name__}, not a torch module: it would not be trained or saved")
    return made


def checked_fusion(made: object) -> nn.Module:
    """Refuse a fusion that does not name its output streams (`odmt.types.Fusion`)."""
    fusion = checked_module(made, "fusion")
    streams = getattr(fusion, "streams", None)
    if not isinstance(streams, tuple | list) or not streams or not all(isinstance(name, str) for name in streams):
        raise ValueError(
            f"fusion {type(fusion).__name__} has streams={streams!r}; it must name the vectors that it gives, as "
            "streams = ('id', 'text')"
        )
    return fusion


def checked_vectors(vectors: object, fusion: nn.Module, items: int, dim: int) -> Streams:
    """Refuse what is not one vector of width `dim` for each item in each of the streams that a fusion names."""
    named: Any = fusion.streams
    if not isinstance(vectors, Mapping) or vectors.keys() != set(named):
        given = ", ".join(map(str, vectors)) if isinstance(vectors, Mapping) else f"a {type(vectors).__name__}"
        raise ValueError(f"fusion {type(fusion).__name__} returns {given}; its streams are {', '.join(named)}")
    for name, made in vectors.items():
        shape = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
        if shape != [items, dim]:
            raise ValueError(
                f"fusion {type(fusion).__name__} returns {shape} for {name!r}, of {items} items; it must return "
                f"[items, dim], which is {[items, dim]}"
            )
    return vectors


def checked_backbone(made: object, stream: str, *, dim: int, length: int | None) -> nn.Module:
    """Refuse what is no causal backbone (`odmt.types.Backbone`), as far as a short history of noise can tell.

    Every event is predicted from the state before it: where states saw later events, training would learn to copy them,
    and its loss would look splendid. Ours are held to it by tests and not tried; nor are modules without weights yet.
    """
    what = f"backbone of {stream!r}"
    module = checked_module(made, what)
    events, ours = min(4, length or 4), type(module).__module__.partition(".")[0] == "odmt"
    if ours or events < 2 or any(type(p) is not nn.Parameter or p.is_meta for p in module.parameters()):
        return module
    if isinstance(module, nn.RNNBase):
        raise ValueError(
            f"{what} is torch's {type(module).__name__} itself, which would take the mask for its first state; wrap it "
            f"in a module whose forward(self, x, mask) returns self.rnn(x)[0], with rnn = {type(module).__name__}(..., "
            "batch_first=True)"
        )
    gpu = [torch.cuda.current_device()] if torch.cuda.is_available() else []  # some kernels run there alone
    dtype = next((p.dtype for p in module.parameters()), None)
    one, newest = torch.randn(2, events, dim, dtype=dtype, generator=torch.Generator().manual_seed(0))
    changed = torch.cat([one[:-1], newest[-1:]])
    x = torch.stack([one, one, changed]).to(gpu[0] if gpu else "cpu")
    mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    tried = copy.deepcopy(module).to(x.device).eval()
    hidden = () if getattr(module, "hide_rate", None) is None else (torch.zeros_like(mask),)
    with torch.random.fork_rng(gpu), torch.no_grad():
        states = checked_states(tried(x, mask, *hidden), x, stream).float()
    near = 1e-3 * float(states.abs().max())
    if float((states[0] - states[1]).abs().max()) > near:
        raise ValueError(
            f"{what}, {type(module).__name__}, gives two users of the same history different states: it mixes the rows "
            "of a batch, as recurrent networks of torch do without batch_first=True"
        )
    if not hidden and float((states[0] - states[2])[:-1].abs().max()) > near:
        raise ValueError(
            f"{what}, {type(module).__name__}, lets states see later events: another newest event changed those before "
            "it, which are trained to predict it. Make it causal, as by a triangular mask; or give it what a backbone "
            "that looks both ways has, hide_rate (odmt.types.Backbone), to be trained by hiding events"
        )
    return module


def checked_histories(histories: object, num_items: int) -> Int[Tensor, "batch length"]:
    """Refuse what is no batch of histories: integers [batch, length], items 1..num_items behind zeros."""
    if not isinstance(histories, Tensor) or histories.ndim != 2 or histories.is_floating_point():
        given = type(histories).__name__
        given = f"{histories.dtype} {list(histories.shape)}" if isinstance(histories, Tensor) else given
        raise ValueError(f"histories are {given}; pass numbers of items as an integer tensor [users, events]")
    if histories.numel() and (histories.min() < 0 or histories.max() > num_items):
        wrong = histories[(histories < 0) | (histories > num_items)][0]
        raise ValueError(f"histories hold item {int(wrong)}; items are 1..{num_items}, and 0 is padding")
    there = histories > 0
    if bool((there[:, :-1] & ~there[:, 1:]).any()):
        row = int((there[:, :-1] & ~there[:, 1:]).any(1).nonzero()[0])
        raise ValueError(f"history {row} is {histories[row].tolist()}; pad with 0 on the left, the newest event last")
    return histories


def checked_states(
    states: object, x: Float[Tensor, "batch length dim"], stream: str
) -> Float[Tensor, "batch length dim"]:
    """Refuse what is not one state for each of the vectors that a backbone was given (`odmt.types.Backbone`)."""
    if not isinstance(states, Tensor) or states.shape != x.shape:
        given = f"shape {list(states.shape)}" if isinstance(states, Tensor) else f"a {type(states).__name__}"
        raise ValueError(
            f"the backbone of {stream!r} returns {given} for vectors of shape {list(x.shape)}; it must return states "
            "of that shape, which are the first of what torch's recurrent networks return"
        )
    return states


def newest_states(
    backbone: Any, x: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"], stream: str
) -> Float[Tensor, "batch dim"]:
    """Read histories for the state after the newest event alone."""
    if hasattr(backbone, "newest"):
        return backbone.newest(x, mask)
    return checked_states(backbone(x, mask), x, stream)[:, -1]

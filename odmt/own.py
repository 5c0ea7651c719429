"""What is asked of components, which may be the caller's own: when they are built, and of what they return."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import UninitializedParameter

from odmt.types import Bool, Float, Int, Streams, Tensor, Tokens

__all__ = [
    "checked_backbone",
    "checked_fusion",
    "checked_histories",
    "checked_module",
    "checked_states",
    "checked_vectors",
    "fused_vectors",
    "made_fusion",
    "newest_states",
]

MOST_WEIGHTS = 500_000_000
"""Of a backbone that is tried, and copied for it: 2 GB in float32."""


def checked_module(made: object, what: str) -> nn.Module:
    """Refuse what is no torch module: it would not be trained or saved."""
    if not isinstance(made, nn.Module):
        raise ValueError(f"{what} is a {type(made).__name__}, not a torch module: it would not be trained or saved")
    return made


def made_fusion(given: object, widths: Mapping[str, int], dim: int) -> object:
    """Give a fusion that is made already, or call what makes one, such as its class."""
    made = isinstance(given, nn.Module) or (hasattr(given, "streams") and not isinstance(given, type))
    if made or not callable(given):
        return given
    name = getattr(given, "__name__", type(given).__name__)
    try:
        inspect.signature(given).bind(widths, dim)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"fusion {name} is called with (widths, dim), the width of each stream that comes in, by name, and that of "
            f"the vectors to be made, and cannot be ({error}); pass a module, or what can: lambda widths, dim: ..."
        ) from error
    return given(widths, dim)


def checked_fusion(made: object, widths: Mapping[str, int], dim: int, *, tried: bool) -> nn.Module:
    """Refuse a fusion that does not name its output streams (`odmt.types.Fusion`), and, if `tried`, one that gives an
    item other vectors beside other items, as far as a few items of noise can tell.

    An item is encoded once for all who have it, beside whatever others: its scores would depend on how many at a time.
    Ours are held to it by tests and not tried.
    """
    fusion = checked_module(made, "fusion")
    streams = getattr(fusion, "streams", None)
    if not isinstance(streams, tuple | list) or not streams or not all(isinstance(name, str) for name in streams):
        raise ValueError(
            f"fusion {type(fusion).__name__} has streams={streams!r}; it must name the vectors that it gives, as "
            "streams = ('id', 'text')"
        )
    own = getattr(fusion, "_orig_mod", fusion)  # what torch.compile would compile once more for this
    if not tried or getattr(own, "mixes_items", False) or type(own).__module__.partition(".")[0] == "odmt":
        return fusion
    if mixed := _mixed(own, widths, dim):
        raise ValueError(
            f"fusion {type(own).__name__} gives an item another vector of {mixed!r} beside other items: it mixes the "
            "items of a batch, as x.mean(0) does. Make vectors of the item's own tokens, as by x.mean(1); or, if that "
            "is meant, give it an attribute mixes_items = True"
        )
    return fusion


def fused_vectors(fusion: nn.Module, tokens: Streams, masks: Streams, dim: int) -> Streams:
    """Call a fusion, and check what it gives; what it raises is told of which streams."""
    try:
        vectors = fusion(tokens, masks)
    except Exception as error:
        widths = ", ".join(f"{name} {x.shape[-1]}" for name, x in tokens.items())
        error.add_note(f"raised by fusion {type(fusion).__name__}, of streams with the widths {widths}; dim is {dim}")
        raise
    return checked_vectors(vectors, fusion, len(next(iter(masks.values()))), dim)


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


def checked_backbone(made: object, stream: str, *, dim: int, length: int, tried: bool) -> nn.Module:
    """Refuse what is no backbone (`odmt.types.Backbone`), and, if `tried`, one that sees later events or other users,
    as far as short histories of noise can tell.

    Every event is predicted from the state before it: where states saw later events, training would learn to copy them,
    and its loss would look splendid. Ours are held to it by tests and not tried.
    """
    what = f"backbone of {stream!r}"
    module = checked_module(made, what)
    name, events = type(module).__name__, min(length, 64)
    if isinstance(module, nn.RNNBase):
        raise ValueError(
            f"{what} is torch's {name} itself, which would take the mask for its first state; wrap it in a module "
            f"whose forward(self, x, mask) returns self.rnn(x)[0], with rnn = {name}(..., batch_first=True)"
        )
    if not tried or events < 2 or type(module).__module__.partition(".")[0] == "odmt":
        return module
    seen = _seen(module, dim, events)
    if seen == "other users" and not getattr(module, "mixes_users", False):
        raise ValueError(
            f"{what}, {name}, gives a history other states beside other users: it mixes the rows of a batch, as "
            "torch's recurrent networks and transformers do without batch_first=True; if that is meant, give it an "
            "attribute mixes_users = True"
        )
    if seen == "later events":
        raise ValueError(
            f"{what}, {name}, lets states see later events: another newest event changed those before it, which are "
            "trained to predict it. Make it causal, as by a triangular mask; or give it what a backbone that looks "
            "both ways has, hide_rate (odmt.types.Backbone), to be trained by hiding events"
        )
    return module


def _seen(module: nn.Module, dim: int, events: int) -> str:
    """Name what states depend on and should not; nothing where it cannot be tried here.

    What cannot be copied or called here, such as kernels of another device, or has no numbers yet, tells in training.
    """
    module = getattr(module, "_orig_mod", module)  # what torch.compile would compile once more for this
    if (place := _place(module)) is None:
        return ""
    device, near = place
    generator = torch.Generator().manual_seed(0)
    one, other, another = (_noise(generator, events, dim).to(device) for _ in range(3))
    changed = torch.cat([one[:-1], other[-1:]])
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            tried = _copied(module, generator)
            states = _states(tried, other, one, other)
            near = near * states.abs().max()
            if (states - _states(tried, another, one, another)).abs().max() > near:
                return "other users"
            if getattr(module, "hide_rate", None) is None:
                later = (states - _states(tried, other, changed, other))[:-1].abs().max() > near
                return "later events" if later else ""
    except Exception:  # noqa: BLE001 - whatever their code raises says nothing of what it sees
        return ""
    return ""


def _mixed(fusion: nn.Module, widths: Mapping[str, int], dim: int) -> str:
    """Name a stream whose vectors depend on other items; nothing where it cannot be tried, or they are random."""
    if (place := _place(fusion)) is None:
        return ""
    device, near = place
    generator = torch.Generator().manual_seed(0)
    some = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            tried = _copied(fusion, generator)
            for there in (some | True, some):  # it may not be made for items without content
                masks = {name: there[:1, :1].expand(4, 1) if name == "id" else there for name in widths}
                tokens = {name: _noise(generator, *mask.shape, widths[name]) for name, mask in masks.items()}
                items = [Tokens(tokens[name] * mask.unsqueeze(-1), mask).to(device) for name, mask in masks.items()]
                given = dict(zip(widths, items, strict=True))
                together, again = (_vectors(tried, given, dim, slice(None), seed) for seed in (0, 1))
                apart = [_vectors(tried, given, dim, slice(item, item + 1), 0) for item in range(len(there))]
                for name, x in together.items():
                    alone, most = torch.cat([one[name] for one in apart]), near * float(x.nan_to_num().abs().max())
                    if _same(x, again[name], most) and not _same(x, alone, most):
                        return name
    except Exception:  # noqa: BLE001 - whatever their code raises says nothing of what it mixes
        return ""
    return ""


def _vectors(fusion: nn.Module, given: Mapping[str, Tokens], dim: int, items: slice, seed: int) -> Streams:
    """Encode some of the items, drawing what follows from the seed."""
    _seed(seed, next(iter(given.values())).mask)
    tokens = {name: x.values[items].clone() for name, x in given.items()}
    masks = {name: x.mask[items].clone() for name, x in given.items()}
    return {name: x.double() for name, x in fused_vectors(fusion, tokens, masks, dim).items()}


def _same(x: Tensor, other: Tensor, most: float) -> bool:
    return bool(torch.isclose(x, other, rtol=0.0, atol=most, equal_nan=True).all())


def _place(module: nn.Module) -> tuple[torch.device, float] | None:
    """Say on which device a module is to be tried, and how far apart, of their largest, numbers are that are the same;
    None where it is too large to be copied.
    """
    weights = [p for p in module.parameters() if not isinstance(p, UninitializedParameter)]
    if sum(p.numel() for p in weights) > MOST_WEIGHTS:
        return None
    rounding = max((torch.finfo(p.dtype).eps for p in weights if p.is_floating_point()), default=0.0)
    return weights[0].device if weights else torch.device("cpu"), max(1e-3, 4 * rounding)


def _noise(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, device="cpu")


def _copied(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Copy it, with weights slightly moved, lest a gate that begins closed hides what it will let through."""
    tried = copy.deepcopy(module).eval()
    for p in tried.parameters():
        if p.requires_grad and p.is_floating_point():
            p.add_(_noise(generator, *p.shape).to(p), alpha=0.1)
    return tried


def _seed(seed: int, x: Tensor) -> None:
    """Let what is drawn, on the device of `x` and the CPU, follow from the seed."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs, too, for good
    if x.is_cuda:
        torch.cuda.default_generators[x.get_device()].manual_seed(seed)


def _states(backbone: nn.Module, *users: Float[Tensor, "length dim"]) -> Float[Tensor, "length dim"]:
    """Give the states of the second of three users, drawing the same at each call."""
    x = torch.stack(users)
    _seed(0, x)
    mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    hidden = () if getattr(backbone, "hide_rate", None) is None else (torch.zeros_like(mask),)
    return checked_states(backbone(x, mask, *hidden), x, "")[1].double()


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

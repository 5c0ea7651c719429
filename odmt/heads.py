"""Which backbone reads which stream of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from odmt.components import BACKBONES, CONTENT
from odmt.items import build_component
from odmt.own import checked_backbone
from odmt.types import Backbone

__all__ = ["chosen_backbones", "made_backbone", "read_again"]


def read_again(further_heads: object) -> dict[str, str]:
    """Say which stream each further head reads; raises ValueError where no such thing is named."""
    example = "further_heads={'id_gru': ('id', 'gru4rec')}, a name, the stream that it reads, and a backbone"
    if not isinstance(further_heads, Mapping):
        raise ValueError(f"further_heads is {further_heads!r}; name each with what it reads, as {example}")
    for head, given in further_heads.items():
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise ValueError(f"further_heads: {head!r} is {given!r}; write {example}")
    return {head: stream for head, (stream, _) in further_heads.items()}


def chosen_backbones(
    read: Sequence[str],
    contents: Sequence[str],
    backbone: str | Callable[[], Backbone],
    of_streams: Mapping[str, str | Callable[[], Backbone]],
    further_heads: Mapping[str, tuple[str, str | Callable[[], Backbone]]],
) -> dict[str, str | Callable[[], Backbone]]:
    """Say what reads each stream and each further head: what is named for it, for all content, or for all."""
    own = dict(of_streams)
    if contents:
        own = dict.fromkeys(contents, own.pop(CONTENT, backbone)) | own
    for name in own.keys() - set(read):
        raise ValueError(f"stream_backbones names {name!r}, but the streams that are read are: {', '.join(read)}")
    for head, (stream, _) in further_heads.items():
        if stream not in read:
            raise ValueError(f"further_heads: {head!r} reads {stream!r}, but the streams are: {', '.join(read)}")
    return dict.fromkeys(read, backbone) | own | {head: again for head, (_, again) in further_heads.items()}


def made_backbone(
    stream: str, backbone: str | Callable[[], Backbone], context: Mapping[str, Any], start: bool
) -> nn.Module:
    """Build what reads `stream`; raises ValueError where it is no causal module, or one that would serve twice.

    context: what components named by a string may ask for, the `dim` of vectors and the `length` of histories among it.
    start: whether it is to be trained, and therefore tried, and not to be loaded.
    """
    if isinstance(backbone, nn.Module):
        raise ValueError(
            f"backbone of {stream!r} is a module, but every stream needs its own; pass what makes one: lambda: ..."
        )
    made = (
        build_component(backbone, BACKBONES, f"backbone of {stream!r}", context)
        if isinstance(backbone, str)
        else backbone()
    )
    return checked_backbone(made, stream, dim=context["dim"], length=context["length"], tried=start)

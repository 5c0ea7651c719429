"""Frozen encoders: the content of items in, token features out. `python -m odmt.encoders --help` is the command.

An encoder is chosen by name: a `transformers` model (hub name or folder) or `tfidf(dim=64)` for text, a timm model or
`histogram(bins=8)` for images, or `package.module:Class(...)` for one of your own that follows `Encoder`.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from odmt.data.making import WRITE
from odmt.spec import Call, SpecError, parse_call

__all__ = ["Content", "Encoder", "EncoderError", "Fitted", "Unreadable", "load_encoder", "parse_encoder"]

Content = str | Path
"""What an item has in one modality: its text, or the path of its picture."""

KNOWN: Mapping[str, Mapping[str, str]] = {
    "text": {"tfidf": "odmt.encoders.text:Tfidf", "transformers": "odmt.encoders.text:TransformersText"},
    "image": {
        "histogram": "odmt.encoders.histogram:Histogram",
        "transformers": "odmt.encoders.image:TransformersImage",
        "timm": "odmt.encoders.image:TimmImage",
    },
    "video": {
        "torchvision": "odmt.encoders.video:TorchvisionVideo",
        "transformers": "odmt.encoders.video:TransformersVideo",
        "timm": "odmt.encoders.video:TimmFrames",
    },
}
"""Encoders per modality. Any other name is a model's: of transformers, timm or torchvision, see `_maker_of`."""
TORCHVISION = re.compile(r"r3d_|mc3_|r2plus1d_|s3d|mvit_v\d_|swin3d_")
"""How names of torchvision's video models begin; timm has none of them."""
RUNNING = ("bf16", "device")
"""Arguments of a frozen network that say how it is run."""
VALUE = re.compile(r"""(\w\s*=\s*)([^,()'"\[\]{}]+)""")
"""An argument's value that no quotes enclose, as a shell leaves it that took them for its own."""


class EncoderError(ValueError):
    """Say why an encoder cannot be had or cannot be used, and what to write instead."""


@dataclass(frozen=True)
class Unreadable:
    """Stand for the tokens of an item whose content is damaged; the item then lacks the modality."""

    reason: str


@runtime_checkable
class Encoder(Protocol):
    """Turn contents into token features."""

    @property
    def name(self) -> str:
        """Name the encoder for people, with its revision where there is one."""
        ...

    @property
    def width(self) -> int: ...

    def recipe(self) -> Mapping[str, Any]:
        """Give everything that decides the values, as YAML-able literals; no path of this machine."""
        ...

    def lengths(self, contents: Sequence[Content]) -> Sequence[int]:
        """Give each content's cost, so that contents of one length are encoded together."""
        ...

    def encode(self, contents: Sequence[Content]) -> list[np.ndarray | Unreadable]:
        """Encode one batch: [tokens, width] per content, most telling token first; [0, width] where it says nothing."""
        ...


@runtime_checkable
class Fitted(Protocol):
    """Name what an encoder that learns from the catalogue has in addition; it is fitted before it encodes."""

    def fit(self, contents: Sequence[Content]) -> None: ...


def load_encoder(modality: str, name: str, **options: Any) -> Encoder:
    """Build the encoder that `name` means, with those `options` (layer, max_tokens, bf16, device) that were chosen.

    Raises:
        EncoderError: where the modality has no encoders, or the encoder does not take an option.
        SpecError: where `name` is misspelt or its arguments are wrong.
    """
    call = parse_encoder(modality, name)
    from odmt.encoders.network import FrozenNetwork, Network

    given = {**call.arguments, **options}
    for option in options.keys() & call.arguments.keys():
        raise EncoderError(f"{option} is given twice: in {name!r} and as an option; leave one")
    made = call.constructor()
    if not (isinstance(made, type) and issubclass(made, Network)):
        return replace(call, arguments=given).build()
    running = {option: given.pop(option) for option in RUNNING if option in given}
    return FrozenNetwork(replace(call, arguments=given).build(), **running)


def parse_encoder(modality: str, name: str, *, saved: Path | None = None) -> Call:
    """Read which encoder `name` means, with its arguments; nothing is loaded yet.

    saved: the folder in which such an encoder was kept, where what `name` means may be gone.
    """
    if modality not in KNOWN:
        there = ", ".join(KNOWN)
        raise EncoderError(f"there are no {modality!r} encoders yet; there are encoders for {there}. {WRITE}")
    known = KNOWN[modality]
    head, arguments = name, ""
    if not Path(name).exists() and (match := re.fullmatch(r"([^()]*)(\(.*\))", name, flags=re.DOTALL)):
        head, arguments = match[1].strip(), match[2]
    kind = f"{modality} encoder"
    if head in known or re.fullmatch(r"[\w.]+:\w+", head):
        return _read(head, arguments, known=known, kind=kind, typed=name)
    if not Path(head).exists() and (close := difflib.get_close_matches(head, known, n=1, cutoff=0.7)):
        raise EncoderError(f"unknown {kind} {head!r}; did you mean {close[0]!r}?")
    call = _read(_maker_of(modality, head, saved), arguments, known=known, kind=kind, typed=name)
    return replace(call, name=head, arguments={"model": head, **call.arguments})


def _maker_of(modality: str, model: str, saved: Path | None) -> str:
    """Say whose model a name means: timm's are timm/NAME and folders as timm saves them; other folders with a
    config.json, OWNER/NAME and a path that does not exist (which will be told) are transformers', and others the last
    known maker's.
    """
    *_, fallback = KNOWN[modality]
    configs = [folder / "config.json" for folder in (saved, Path(model)) if folder is not None]
    if config := next((path for path in configs if path.is_file()), None):
        return "timm" if "timm" in KNOWN[modality] and _is_of_timm(config) else "transformers"
    if "timm" in KNOWN[modality] and model.startswith("timm/"):
        return "timm"
    if "/" in model and ":" not in model and not Path(model).exists():
        return "transformers"
    if "torchvision" in KNOWN[modality] and TORCHVISION.match(model):
        return "torchvision"
    return fallback


def _is_of_timm(config: Path) -> bool:
    try:
        known = json.loads(config.read_text())
    except ValueError:
        return False  # transformers will say what is wrong with it
    return isinstance(known, dict) and "architecture" in known and "model_type" not in known


def _read(target: str, arguments: str, *, known: Mapping[str, str], kind: str, typed: str) -> Call:
    """Read TARGET(...), where `typed` is what the user wrote; say where quotes are all that it lacks."""
    try:
        return parse_call(f"{target}{arguments}", known=known, kind=kind, typed=typed)
    except SpecError as error:
        quoted = VALUE.sub(_quoted, arguments)
        try:
            call = parse_call(f"{target}{quoted}", known=known, kind=kind)
            replace(call, arguments={n: v for n, v in call.arguments.items() if n not in RUNNING}).check(["model"])
        except SpecError:
            raise error from None  # quotes are not what it lacks
        command = shlex.quote(typed.partition("(")[0] + quoted)
        raise SpecError(f"{error}; text values need quotes: --encoder {command}") from error


def _quoted(value: re.Match[str]) -> str:
    text = value[2].strip()
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return value[1] + json.dumps(text, ensure_ascii=False)
    return value[0]

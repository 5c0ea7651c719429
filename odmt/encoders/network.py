"""Encoders that are torch networks, in two halves: what prepares contents, and what makes tokens of them.

A preparation turns files and texts into arrays. It can be pickled, so that worker processes of a loader decode while
the network computes. A network turns arrays into tokens, with gradients or without: `FrozenNetwork` writes features
with it, `odmt.encoders.live` trains through it.
"""

from __future__ import annotations

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import get_worker_info

from odmt.data.augmenting import Augmentation
from odmt.encoders import Content, EncoderError, Unreadable, parse_encoder
from odmt.encoders.files import read_each
from odmt.encoders.frozen import choose_device, frozen_inference
from odmt.encoders.last_read import noting
from odmt.spec import Call
from odmt.types import Float, Tensor, Tokens, UInt8

__all__ = ["FilePreparation", "FrozenNetwork", "Network", "Preparation", "Prepared", "Scaling", "all_real"]


@dataclass(frozen=True)
class Prepared:
    """Hold what a network reads of some contents.

    inputs: arrays by name, with a row for each content that could be read, in order; none where none could.
    broken: for each that could not, its place among the contents and the reason.
    """

    inputs: Mapping[str, Tensor]
    broken: Mapping[int, str] = field(default_factory=dict)


class Preparation(ABC):
    """Turn contents into what a network reads; can be pickled, and holds no network.

    varies: whether training reads the same content differently each time, from random numbers that it is given.
    """

    varies = False

    @abstractmethod
    def __call__(self, contents: Sequence[Content], rngs: Sequence[np.random.Generator] | None = None) -> Prepared:
        """Read some contents; what is damaged is told of, and stops nothing.

        rngs: random numbers for each of them, in training.
        """

    def lengths(self, contents: Sequence[Content]) -> list[int]:
        """Give each content's cost, so that contents of one length are encoded together; here all cost the same."""
        return [1] * len(contents)


class FilePreparation(Preparation):
    """Prepare files one by one, each as one array of the same shape, called `pixels`.

    Several are read at a time; a worker process of a loader, one of several, reads one, and notes which.
    """

    augment: Augmentation | None = None
    """Changes what training reads before it is brought to size; without random numbers nothing is changed."""

    def augmented(self, augment: Augmentation) -> FilePreparation:
        """Give the same preparation with this augmentation."""
        other = copy(self)
        other.augment, other.varies = augment, True
        return other

    @abstractmethod
    def decode(self, path: Path, rng: np.random.Generator | None = None) -> UInt8[np.ndarray, "frames rows columns 3"]:
        """Read one file's colours, a picture as one frame. Raises `BrokenMediaError`."""

    @abstractmethod
    def fit(self, frames: UInt8[np.ndarray, "frames rows columns 3"]) -> Tensor:
        """Bring them to the size that the network reads, a picture without the dimension of frames."""

    def read(self, path: Path, rng: np.random.Generator | None = None) -> Tensor:
        """Read one file as the network takes it. Raises `BrokenMediaError`."""
        frames = self.decode(path, rng)
        if self.augment is not None and rng is not None:
            # a copy that may be written to goes in, and what comes out may be mirrored, which processors cannot read
            frames = np.ascontiguousarray(self.augment(np.array(frames), rng))
        return self.fit(frames)

    def __call__(self, contents: Sequence[Content], rngs: Sequence[np.random.Generator] | None = None) -> Prepared:
        worker = get_worker_info() is not None
        further = [] if rngs is None else [rngs]
        if worker:
            found = read_each(contents, noting(self.read), *further, threads=1)
        else:
            found = read_each(contents, self.read, *further, threads=os.cpu_count() or 1)
        broken = {place: one.reason for place, one in enumerate(found) if isinstance(one, Unreadable)}
        readable = [one for one in found if not isinstance(one, Unreadable)]
        return Prepared({"pixels": torch.stack(readable)} if readable else {}, broken)


class Network(nn.Module, ABC):
    """Make tokens of prepared contents.

    A subclass sets `name` (for people, with its revision where there is one), `width` (of its tokens), `preparation`,
    and `model`, what a policy freezes or trains; whatever else it holds is always trained. Parameters are in float32,
    whatever a checkpoint holds.
    """

    name: str
    width: int
    preparation: Preparation
    model: Any

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode rows of what `preparation` gives; the most telling token comes first."""

    @abstractmethod
    def recipe(self) -> Mapping[str, Any]:
        """Give all that decides the values but the precision, as YAML-able literals; no path of this machine."""

    def method(self) -> str:
        """Say in words how tokens are made: a model that was saved with an encoder of another method is refused."""
        return type(self).__name__

    def reading(self) -> Mapping[str, Any]:
        """Give all that decides what `preparation` makes of a file, as YAML-able literals."""
        return {}

    @staticmethod
    def load(modality: str, name: str, *, saved: Path | None = None) -> Network:
        """Load the network that `name` means; with a folder that `save` wrote, without weights and without a hub.

        Raises `EncoderError` for an encoder that is no network, and so cannot be trained.
        """
        call = parse_encoder(modality, name, saved=saved)
        made = call.constructor()
        if not (isinstance(made, type) and issubclass(made, Network)):
            raise EncoderError(f"{modality} encoder {name!r} is no network that could be trained; store its features")
        return made.restored(call, saved) if saved is not None else call.build()

    @classmethod
    def restored(cls, call: Call, saved: Path) -> Network:
        """Build what `call` names with drawn weights, from what `save` wrote."""
        del saved
        drawn = {"pretrained": False, "checkpoint": ""}
        taken = {name: value for name, value in drawn.items() if name in inspect.signature(cls).parameters}
        return replace(call, arguments={**call.arguments, **taken}).build()

    def save(self, folder: Path) -> None:
        """Keep in `folder` what building the network again takes beside its name and its weights; here nothing."""

    @abstractmethod
    def example(self) -> Mapping[str, Tensor]:
        """Make inputs of one content, of whatever values."""


class Scaling(nn.Module):
    """Turn bytes into what a network was trained on: (x / 255 - mean) / deviation, per colour."""

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        # not saved: they belong to the encoder's name, as its architecture does
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation)[:, None, None], persistent=False)

    def forward(self, pixels: UInt8[Tensor, "*any colours rows columns"]) -> Float[Tensor, "*any colours rows columns"]:
        return (pixels.to(self.mean.dtype) / 255 - self.mean) / self.deviation


def all_real(values: Float[Tensor, "contents tokens width"]) -> Tokens:
    """Give tokens of which none is padding."""
    return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))


class FrozenNetwork:
    """Write the features of a network: an `odmt.encoders.Encoder`.

    bf16: compute matrix products in bfloat16, about twice as fast, and equal to about two decimal places.
    """

    def __init__(self, network: Network, *, bf16: bool = False, device: str = "auto") -> None:
        self.device = choose_device(device)
        self.bf16 = bf16
        self.network = network.to(self.device).eval()
        self.name = network.name
        self.width = network.width

    def recipe(self) -> dict[str, Any]:
        return {**self.network.recipe(), "precision": "bf16" if self.bf16 else "fp32"}

    def lengths(self, contents: Sequence[Content]) -> Sequence[int]:
        """Give each content's cost."""
        return self.network.preparation.lengths(contents)

    def encode(self, contents: Sequence[Content]) -> list[np.ndarray | Unreadable]:
        """Encode one batch of contents, [tokens, width] fp32 each."""
        prepared = self.network.preparation(contents)
        encoded = iter(self._encoded(prepared.inputs) if prepared.inputs else [])
        return [
            Unreadable(prepared.broken[place]) if place in prepared.broken else next(encoded)
            for place in range(len(contents))
        ]

    def _encoded(self, inputs: Mapping[str, Tensor]) -> list[np.ndarray]:
        with frozen_inference(self.device, bf16=self.bf16):
            tokens = self.network({name: x.to(self.device) for name, x in inputs.items()})
        values, lengths = tokens.values.float().cpu().numpy(), tokens.mask.sum(1).tolist()
        return [one[:length] for one, length in zip(values, lengths, strict=True)]

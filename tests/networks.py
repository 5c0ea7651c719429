"""An image network small enough for every test, and a dataset whose pictures show what users stay with."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from odmt.data.format import Dataset, write_dataset
from odmt.data.pictures import read_picture
from odmt.encoders.network import FilePreparation, Network, Scaling, all_real
from odmt.types import Tensor, Tokens

SIDE = 16
NUM_USERS, NUM_ITEMS = 60, 24


class Small(FilePreparation):
    """Shrink pictures to 16 x 16; with `varies`, dim them at random. The file of a fatal name kills its process."""

    def __init__(self, *, varies: bool = False) -> None:
        self.varies = varies

    def decode(self, path: Path, rng: np.random.Generator | None = None) -> np.ndarray:
        if path.name == "fatal.png":
            os.kill(os.getpid(), signal.SIGKILL)
        picture = np.asarray(read_picture(path, side=SIDE))
        dimmed = picture if rng is None or self.augment else picture * rng.random()
        return dimmed.astype(np.uint8)[None]

    def fit(self, frames: np.ndarray) -> Tensor:
        picture = Image.fromarray(np.ascontiguousarray(frames[0])).resize((SIDE, SIDE))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


class TinyPatches(Network):
    """Make 1 + 4 tokens of a picture by two blocks with dropout, between an embedding and a norm."""

    name = "tiny"

    def __init__(self, *, width: int = 8, dropout: float = 0.1, varies: bool = False) -> None:
        super().__init__()
        self.width = width
        with torch.random.fork_rng():
            torch.manual_seed(0)
            blocks = [nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width))]
            blocks.append(nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)))
            patches = nn.Conv2d(3, width, SIDE // 2, SIDE // 2)
            self.model: Any = nn.ModuleDict(
                {"patches": patches, "blocks": nn.ModuleList(blocks), "norm": nn.LayerNorm(width)}
            )
        self.scale = Scaling([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
        self.preparation = Small(varies=varies)

    def recipe(self) -> dict[str, object]:
        return {"method": "tiny", "width": self.width}

    def example(self) -> dict[str, Tensor]:
        return {"pixels": torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        assert len(inputs["pixels"]), "many networks cannot read no picture"
        x = self.model["patches"](self.scale(inputs["pixels"])).flatten(2).transpose(1, 2)
        for block in self.model["blocks"]:
            x = x + block(x)
        x = self.model["norm"](x)
        return all_real(torch.cat([x.mean(1, keepdim=True), x], dim=1))


TINY = "tests.networks:TinyPatches"


def picture_dataset(path: Path, *, seed: int = 0, also: Mapping[int, str] | None = None) -> Dataset:
    """Write a dataset whose items are red or blue pictures; item 24 has none. `also` gives some items other files, such
    as empty.png and fatal.png.
    """
    rng = np.random.default_rng(seed)
    media = path.with_name(f"{path.name}-media")
    media.mkdir(parents=True)
    names: list[str | None] = []
    for item in range(NUM_ITEMS - 1):
        colour = (220, 30, 30) if item % 2 else (30, 30, 220)
        noise = rng.integers(-30, 30, (20, 30, 3))
        Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(media / f"{item}.png")
        names.append(f"{item}.png")
    names.append(None)
    (media / "empty.png").write_bytes(b"")
    (media / "fatal.png").write_bytes(b"what kills a decoder")
    for item, name in (also or {}).items():
        names[item - 1] = name
    users = []
    for user in range(NUM_USERS):
        length = int(rng.integers(5, 12))
        items = 1 + 2 * rng.integers(0, NUM_ITEMS // 2, size=length) + user % 2
        users.append((f"u{user}", items.tolist(), (1000 * np.arange(length)).tolist()))
    items = {"id": [f"i{item}" for item in range(NUM_ITEMS)], "image": names}
    return write_dataset(
        path, name=path.name, histories=users, items=items, tie_rule="none", made_by="tests", media_root=media
    )

"""The small 3-D network: what it sees, and that it can learn to tell directions of motion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from odmt.encoders import EncoderError, load_encoder
from odmt.encoders.network import Network
from odmt.encoders.policies import TrainedEncoder
from tests.clips import write_clip


def moving(number: int, *, step: int, seed: int = 0) -> torch.Tensor:
    """Draw clips [number, 8, 3, 32, 32] of squares that go `step` columns to the right with each frame, and round."""
    rng = np.random.default_rng(seed)
    clips = np.full((number, 8, 3, 32, 32), 60, np.uint8)
    for clip, place in zip(clips, rng.integers(0, 32, (number, 2)), strict=True):
        for time, frame in enumerate(clip):
            rows, columns = np.ix_((place[0] + np.arange(8)) % 32, (place[1] + step * time + np.arange(8)) % 32)
            frame[:, rows, columns] = 200
    return torch.from_numpy(clips)


def test_a_clip_gives_one_token_wherever_it_comes_from(tmp_path: Path) -> None:
    network = Network.load("video", "conv3d(width=32, frames=4, size=16)").eval()
    prepared = network.preparation([write_clip(tmp_path / "a.mp4"), tmp_path / "none.mp4"])
    assert prepared.inputs["pixels"].shape == (1, 4, 3, 16, 16)
    assert prepared.broken == {1: "the file is missing"}
    tokens = network(prepared.inputs)
    assert tokens.values.shape == (1, 1, 32)
    assert network.example()["pixels"].shape == prepared.inputs["pixels"].shape
    again = Network.load("video", "conv3d(width=32, frames=4, size=16)").eval()
    assert torch.equal(again(prepared.inputs).values, tokens.values)


def test_it_learns_directions_of_motion_from_few_clips() -> None:
    torch.manual_seed(0)
    encoder = TrainedEncoder(Network.load("video", "conv3d(width=32)"), "full").train()
    head = nn.Linear(32, 2)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    clips = torch.cat([moving(16, step=2), moving(16, step=-2, seed=1)])
    wanted = torch.arange(2).repeat_interleave(16)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(encoder({"pixels": clips}).values[:, 0]), wanted).backward()
        optimizer.step()
    encoder.eval()
    others = torch.cat([moving(16, step=2, seed=2), moving(16, step=-2, seed=3)])
    with torch.no_grad():
        right = head(encoder({"pixels": others}).values[:, 0]).argmax(1) == wanted
    assert right.float().mean() > 0.9, "of clips that it has not seen"


def test_its_last_blocks_may_be_trained_alone() -> None:
    encoder = TrainedEncoder(Network.load("video", "conv3d(width=16)"), "top(1)")
    trained = [name for name, p in encoder.network.model.named_parameters() if p.requires_grad]
    assert trained
    assert all(name.startswith("blocks.2.") for name in trained)


@pytest.mark.parametrize(("wrong", "message"), [("width=20", "no multiple of 16"), ("size=4", "at least 8")])
def test_sizes_that_make_no_sense_are_refused(wrong: str, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        load_encoder("video", f"conv3d({wrong})")

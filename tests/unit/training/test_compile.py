"""Compiling changes nothing but time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from odmt import ODMT, ItemFeatures, make_batch
from odmt.attention import Attention, Block, compile_blocks

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and there is none here")
@pytest.mark.timeout(1600)  # a minute on a quiet machine, of which the compiler takes most
def test_compiled_blocks_give_the_same_losses_and_gradients() -> None:
    # in a process of its own, because torch.compile cannot look through the checks of shapes that tests switch on
    command = [sys.executable, "-c", f"from {__name__} import compare; compare()"]
    subprocess.run(command, check=True, env={**os.environ, "ODMT_CHECK_SHAPES": "0"}, cwd=ROOT, timeout=1500)


def compare() -> None:
    rng = np.random.default_rng(0)
    features = ItemFeatures.from_arrays(20, text=rng.normal(size=(20, 4, 6)).astype("float32"))
    torch.manual_seed(0)
    model = ODMT(
        features,
        dim=8,
        length=6,
        dropout=0.0,
        fusion="imt(layers=1)",
        backbone="sasrec(layers=1)",
    )
    batches = [make_batch(rng.integers(1, 21, size=(users, 5)), features) for users in (3, 5)]
    eager = [step(model, histories) for histories in batches]
    compile_blocks(model)
    compiled = [step(model, histories) for histories in batches]
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-6)
    counters = torch._dynamo.utils.counters
    assert any(counters["frames"].values())  # it did compile,
    assert not counters["graph_break"]  # and in one piece
    for module in model.modules():
        if isinstance(module, Attention):
            module.dropout = 0.3
        if isinstance(module, Block):
            module.compile(dynamic=True, backend="eager")  # whether it breaks shows without making kernels
    assert step(model, batches[0])["loss"].isfinite()
    assert not counters["graph_break"]


def step(model: ODMT, batch: object) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = torch.stack(list(model(batch).values())).sum()
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="this model has none"):
        compile_blocks(nn.Sequential(nn.Linear(2, 2)))

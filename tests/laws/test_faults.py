"""What befalls one of two processes ends both, soon, and is told."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import odmt.loop
from odmt.config import parse
from odmt.data.loading import UserBatches
from odmt.peers import naming_the_dead
from odmt.training import run
from tests.processes import launch
from tests.tiny import NUM_USERS, tiny_dataset
from tests.unit.training.tiny_runs import arguments


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    tiny_dataset(folder)
    return folder


def train(rank: int, argv: list[str], fault: str, told: Path) -> None:
    """Train, and let the second process die, or lose its numbers, in the third step."""
    step, steps = odmt.loop._Loop._step, 0

    def faulty(loop: Any, batch: Any) -> Any:
        nonlocal steps
        steps += 1
        if rank == 1 and steps == 3:
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            losses = step(loop, batch)
            return {name: loss * torch.nan for name, loss in losses.items()}
        return step(loop, batch)

    odmt.loop._Loop._step = faulty
    try:
        run(parse(argv, configs=Path(argv[0])))
    except (ArithmeticError, OSError) as error:
        (told / f"{rank}.txt").write_text(f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error


def test_where_one_is_killed_the_other_names_it(dataset: Path, tmp_path: Path) -> None:
    assert launch(train, 2, arguments(dataset, tmp_path), "kill", tmp_path) == [1, -signal.SIGKILL]
    text = (tmp_path / "0.txt").read_text()
    assert text.startswith("ChildProcessError: rank 1 (process ")
    assert text.endswith(" of 2 has ended, and the others cannot go on: it has said why, or was killed")


def test_where_one_loses_its_numbers_all_stop_together(dataset: Path, tmp_path: Path) -> None:
    assert launch(train, 2, arguments(dataset, tmp_path), "nan", tmp_path) == [1, 1]
    texts = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert texts[0] == texts[1]
    assert texts[0].startswith(
        "FloatingPointError: the ranking and distill loss is nan at step 3 (epoch 1); lower --train.lr"
    )
    told = json.loads((tmp_path / "tiny-s1" / "broken_batch.json").read_text())
    assert told["users"] == UserBatches(NUM_USERS, 16, seed=1).whole()[2].tolist()


@pytest.mark.parametrize(("error", "waits"), [("out of memory", False), ("gloo: Connection closed by peer", True)])
def test_only_errors_of_communication_are_laid_on_others(
    monkeypatch: pytest.MonkeyPatch, error: str, waits: bool
) -> None:
    """Where a process fails by itself, the others' end must not be told in place of its reason."""
    waited: list[float] = []
    monkeypatch.setattr("odmt.peers.time", SimpleNamespace(sleep=waited.append, monotonic=lambda: sum(waited)))
    monkeypatch.setattr("odmt.peers.gather_object", lambda mine: mine * 2)
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(RuntimeError, match=f"^{error}$"), naming_the_dead(Accelerator()):
        raise RuntimeError(error)
    assert bool(waited) == waits

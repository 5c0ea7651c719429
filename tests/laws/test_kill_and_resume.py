"""A run that is killed anywhere, as often as it may be, and resumed, ends as one that was left alone."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import odmt.checkpoints
import odmt.loop
import odmt.run_folder
from odmt.config import parse
from odmt.stopping import RESUME_ME
from odmt.training import run
from tests.processes import launch
from tests.tiny import tiny_dataset
from tests.unit.training.tiny_runs import arguments, lines

POINTS: list[tuple[Any, str]] = [
    (odmt.loop._Loop, "_step"),
    (odmt.loop, "validate"),
    (odmt.loop, "save_weights"),
    (odmt.run_folder.RunFolder, "append_metrics"),
    (odmt.checkpoints, "write_whole"),
    (odmt.checkpoints, "flush"),
    (odmt.checkpoints, "hash_file"),
    (odmt.checkpoints.shutil, "rmtree"),
    (odmt.checkpoints.os, "replace"),
]
"""Where a process may die: just before each of these."""
ALWAYS = "--train.checkpoint-minutes=1e-9"
SETTINGS = ("--model.backbone=bert4rec(layers=1, heads=1)", "--model.hide=text=0.2", "--distill.graph=id -> text")


def killed_at(rank: int, argv: list[str], point: int, victim: int, how: int) -> None:
    """Train, and send the `victim` among the processes a signal when it passes so many points."""
    passed = 0

    def passing(call: Callable[..., Any]) -> Callable[..., Any]:
        def passed_by(*given: Any, **named: Any) -> Any:
            nonlocal passed
            passed += 1
            if passed == point and rank == victim:
                os.kill(os.getpid(), how)
            return call(*given, **named)

        return passed_by

    for place, name in POINTS:
        setattr(place, name, passing(getattr(place, name)))
    run(parse(argv, configs=Path(argv[0])))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    tiny_dataset(folder)
    return folder


def train(
    dataset: Path, output: Path, name: str, world: int, point: int, how: int, *more: str, victim: int = 0
) -> list[int | None]:
    argv = arguments(dataset, output, f"--name={name}", *SETTINGS, *more)
    return launch(killed_at, world, argv, point, victim, how)


def ends_alike(one: Path, other: Path) -> None:
    assert lines(one) == lines(other)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (one, other)]
    assert weights[0] == weights[1]


@pytest.fixture(scope="module", params=[1, 2], ids=["alone", "two processes"])
def whole(request: pytest.FixtureRequest, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """Train without being disturbed, in so many processes."""
    folder = tmp_path_factory.mktemp("runs")
    assert train(dataset, folder, "whole", request.param, 0, 0) == [0] * request.param
    return request.param, folder / "whole"


def test_a_run_killed_anywhere_ends_as_one_left_alone(dataset: Path, tmp_path: Path, whole: tuple[int, Path]) -> None:
    world, undisturbed = whole
    rng = random.Random(world)
    for _ in range(20 if world == 1 else 6):
        victim = rng.randrange(world)
        point = rng.randint(1, 10 if victim else 25)  # the first process writes most files, and passes more
        status = train(dataset, tmp_path, "killed", world, point, signal.SIGKILL, ALWAYS, "--resume", victim=victim)
        assert status[victim] == -signal.SIGKILL
        assert None not in status, "a process waits for one that is dead"
    assert train(dataset, tmp_path, "killed", world, 0, 0, ALWAYS, "--resume") == [0] * world
    ends_alike(undisturbed, tmp_path / "killed")


def test_a_run_that_is_asked_to_stop_saves_and_says_so(dataset: Path, tmp_path: Path, whole: tuple[int, Path]) -> None:
    """Ask only the last of the processes: all stop together."""
    world, undisturbed = whole
    asked = train(dataset, tmp_path, "asked", world, 6, signal.SIGTERM, victim=world - 1)
    assert asked == [RESUME_ME] * world
    assert [path.name[:5] for path in (tmp_path / "asked" / "checkpoints").iterdir()].count("step-") == 1
    assert train(dataset, tmp_path, "asked", world, 0, 0, "--resume") == [0] * world
    ends_alike(undisturbed, tmp_path / "asked")

"""A run that is killed anywhere, as often as it may be, and resumed, ends as one that was left alone."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import odmt.checkpoints
import odmt.loop
import odmt.run_folder
from odmt.config import parse
from odmt.run_folder import flat
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
SETTINGS = (
    "--model.backbone=bert4rec(layers=1, heads=1)",
    "--model.hide=text=0.2",
    "--distill.graph=id -> text",
    "--train.schedule=linear",
    "--train.warmup-steps=3",
)


def killed_at(rank: int, argv: list[str], point: int, victim: int, how: int) -> None:
    """Train, and send the `victim` among the processes, and its workers, a signal when it passes so many points."""
    os.setpgid(0, 0)
    passed = 0

    def passing(call: Callable[..., Any]) -> Callable[..., Any]:
        def passed_by(*given: Any, **named: Any) -> Any:
            nonlocal passed
            passed += 1
            if passed == point and rank == victim:
                os.killpg(0, how)
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


@dataclass(frozen=True)
class Kind:
    """How a run is launched, and how often it is killed."""

    name: str
    world: int
    kills: int
    zero: int = 0
    fsdp: bool = False
    settings: tuple[str, ...] = ()


KILLS = 20
"""Of two processes only where ODMT_SLOW is set: it takes minutes."""
SLOW = bool(os.environ.get("ODMT_SLOW"))
KINDS = [
    Kind("one process", 1, KILLS),
    Kind("two processes", 2, KILLS if SLOW else 6),
    Kind("two processes, ZeRO-2", 2, KILLS if SLOW else 3, zero=2),
    Kind("two processes, ZeRO-3", 2, KILLS if SLOW else 3, zero=3),
    Kind("two processes, FSDP2", 2, KILLS if SLOW else 3, fsdp=True),
]
LAZY = Kind("one process, lazy ids", 1, 3, settings=("--train.id-updates=lazy",))


def train(dataset: Path, folder: Path, kind: Kind, point: int, how: int, *more: str, victim: int = 0) -> list[Any]:
    argv = arguments(dataset, folder.parent, f"--name={folder.name}", *SETTINGS, *kind.settings, *more)
    return launch(killed_at, kind.world, argv, point, victim, how, zero=kind.zero, fsdp=kind.fsdp)


def ends_alike(one: Path, other: Path) -> None:
    assert lines(one) == lines(other)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (one, other)]
    assert weights[0] == weights[1]


@pytest.fixture(scope="module")
def runs(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Path]:
    """Train in each way without being disturbed, once."""
    folder = tmp_path_factory.mktemp("runs")

    @cache
    def trained(kind: Kind) -> Path:
        assert train(dataset, folder / kind.name, kind, 0, 0) == [0] * kind.world
        return folder / kind.name

    return trained


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", [*KINDS, LAZY], ids=lambda kind: kind.name)
def test_a_run_killed_anywhere_ends_as_one_left_alone(
    dataset: Path, tmp_path: Path, runs: Callable[[Kind], Path], kind: Kind
) -> None:
    rng = random.Random(kind.world)
    for _ in range(kind.kills):
        victim = rng.randrange(kind.world)
        point = rng.randint(1, 10 if victim else 25)  # the first process writes most files, and passes more
        status = train(dataset, tmp_path / "killed", kind, point, signal.SIGKILL, ALWAYS, "--resume", victim=victim)
        assert status[victim] == -signal.SIGKILL
        assert None not in status, "a process waits for one that is dead"
    assert train(dataset, tmp_path / "killed", kind, 0, 0, ALWAYS, "--resume") == [0] * kind.world
    ends_alike(runs(kind), tmp_path / "killed")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_run_that_is_asked_to_stop_saves_and_says_so(
    dataset: Path, tmp_path: Path, runs: Callable[[Kind], Path], kind: Kind
) -> None:
    """Ask only the last of the processes: all stop together."""
    asked = train(dataset, tmp_path / "asked", kind, 6, signal.SIGTERM, victim=kind.world - 1)
    assert asked == [RESUME_ME] * kind.world
    assert [path.name[:5] for path in (tmp_path / "asked" / "checkpoints").iterdir()].count("step-") == 1
    assert train(dataset, tmp_path / "asked", kind, 0, 0, "--resume") == [0] * kind.world
    ends_alike(runs(kind), tmp_path / "asked")


def test_workers_do_not_die_of_what_asks_their_process_to_stop(
    dataset: Path, tmp_path: Path, runs: Callable[[Kind], Path]
) -> None:
    """Batch systems send signals to all processes of a job."""
    alone = KINDS[0]
    assert train(dataset, tmp_path / "asked", alone, 6, signal.SIGTERM, "--data.workers=1") == [RESUME_ME]
    assert train(dataset, tmp_path / "asked", alone, 0, 0, "--data.workers=1", "--resume") == [0]
    ends_alike(runs(alone), tmp_path / "asked")


def test_a_run_is_the_same_for_any_number_of_processes(dataset: Path, tmp_path: Path) -> None:
    """But for what is drawn by process, which is left out here."""
    logged = []
    for kind in KINDS[:2]:
        settings = ("--model.dropout=0", "--model.hide=id=0.0")
        assert train(dataset, tmp_path / kind.name, kind, 0, 0, *settings) == [0] * kind.world
        logged.append([flat(line) for line in lines(tmp_path / kind.name) if "loss" in line])
    assert len(logged[0]) == len(logged[1]) > 0
    for one, other in zip(*logged, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_engines_train_alike(runs: Callable[[Kind], Path]) -> None:
    """Two processes with gradients and the optimizer's state on each, and split by DeepSpeed."""
    plainly, *split = (lines(runs(kind)) for kind in KINDS[1:])
    for engine in split:
        for one, other in zip(plainly, engine, strict=True):
            assert {**flat(one), **flat(other)} == pytest.approx(flat(one), rel=1e-3)

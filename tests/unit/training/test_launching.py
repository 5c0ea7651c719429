"""Launches that would silently train something else than was asked for are refused, with the way to what was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from odmt.config import parse
from odmt.launch import _processes_asked_for
from odmt.training import run
from tests.processes import launch
from tests.unit.training.tiny_runs import arguments, experiment


def train(rank: int, argv: list[str], errors: Path) -> None:
    try:
        run(parse(argv, configs=Path(argv[0])))
    except ValueError as error:
        (errors / f"{rank}.txt").write_text(str(error))
        raise SystemExit(1) from error


def test_processes_that_accelerate_leaves_out(dataset: Path, tmp_path: Path, repository: Path) -> None:
    """`--cpu --num_processes 2` trains with one."""
    program = [str(Path(sys.executable).with_name("accelerate")), "launch", "--cpu", "--num_processes", "2"]
    command = [*program, str(repository / "experiments" / "train.py"), *arguments(dataset, tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: accelerate was asked for 2 processes and started 1, as it does with --cpu; launch" in done.stderr
    assert "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 --num_machines 1" in done.stderr


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("accelerate launch --cpu --num_processes 4 experiments/train.py --dataset x", 4),
        ("python -m accelerate.commands.launch --num-processes=3 train.py", 1),  # found by name, not as a module
        ("/usr/bin/python /usr/bin/accelerate launch --num-processes=3 train.py", 3),
        ("accelerate launch train.py --num_processes 4", 1),
        ("bash launch --num_processes", 1),
        ("", 1),
    ],
)
def test_what_a_command_line_asks_for(command: str, asked: int) -> None:
    assert _processes_asked_for(command.split(), {}) == asked
    assert _processes_asked_for(command.split(), {"WORLD_SIZE": "1"}) == 1


@pytest.mark.parametrize(
    ("engine", "told"),
    [("DEEPSPEED", "accelerate would train without it: unset ACCELERATE_USE_CPU"), ("FSDP", "FSDP splits parameters")],
)
def test_engines_that_would_be_left_out(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, told: str
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    with pytest.raises(ValueError, match=told):
        run(experiment(dataset, tmp_path))


def test_zero_3_is_refused_and_zero_1_trains(dataset: Path, tmp_path: Path) -> None:
    argv = arguments(dataset, tmp_path, "--train.epochs=1", "--train.clip=0.5")
    assert launch(train, 1, argv, tmp_path, zero=3) == [1]
    assert "ZeRO-3 splits parameters over processes" in (tmp_path / "0.txt").read_text()
    assert launch(train, 1, argv, tmp_path, zero=1) == [0]
    assert launch(train, 1, [*argv, "--train.bf16", "--name=half"], tmp_path, zero=1) == [1]
    assert "would keep parameters in bfloat16" in (tmp_path / "0.txt").read_text()
    assert launch(train, 1, [*argv, "--train.id-updates=lazy", "--name=lazy"], tmp_path, zero=1) == [1]
    assert "lazy under DeepSpeed would leave ids out of what it clips" in (tmp_path / "0.txt").read_text()


@pytest.mark.parametrize("name", ["ddp", "zero1", "zero2"])
def test_configurations_say_nothing_that_ours_say(repository: Path, name: str) -> None:
    settings = yaml.safe_load((repository / "experiments" / "accelerate" / f"{name}.yaml").read_text())
    assert settings["mixed_precision"] == "no"
    assert set(settings) <= {"compute_environment", "distributed_type", "mixed_precision", "deepspeed_config"}
    assert set(settings.get("deepspeed_config", {})) <= {"zero_stage", "deepspeed_multinode_launcher"}

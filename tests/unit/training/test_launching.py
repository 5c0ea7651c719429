"""Launches that would silently train something else than was asked for are refused, with the way to what was."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import DeepSpeedPlugin

from odmt.config import ConfigError, parse
from odmt.launch import FSDP, _processes_asked_for, engine_of, settle_deepspeed, start
from odmt.run_folder import flat
from odmt.training import run
from tests.networks import TINY
from tests.processes import launch
from tests.unit.training.tiny_runs import arguments, experiment, fresh_accelerator, lines

NVME = {"device": "nvme", "nvme_path": "swap"}


def train(rank: int, argv: list[str], errors: Path) -> None:
    try:
        run(parse(argv, configs=Path(argv[0])))
    except (ValueError, OSError) as error:
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


def test_an_engine_that_would_be_left_out(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match="accelerate would train without it: unset ACCELERATE_USE_CPU"):
        run(experiment(dataset, tmp_path))


@pytest.mark.parametrize(
    ("name", "value"), [("VERSION", "1"), ("AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP"), ("OFFLOAD_PARAMS", "true")]
)
def test_what_is_asked_of_fsdp_and_would_not_be_done(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv(f"FSDP_{name}", value)
    with pytest.raises(ValueError, match=f"FSDP_{name}={value}, and here it is .*experiments/accelerate/fsdp.yaml"):
        run(experiment(dataset, tmp_path))


def test_fsdp_is_taken_up_again_and_no_other_engine_goes_on_with_it(dataset: Path, tmp_path: Path) -> None:
    argv = arguments(dataset, tmp_path, "--train.epochs=1", "--name=split")
    assert launch(starts_twice, 2, argv, fsdp=True) == [0, 0]
    assert launch(train, 2, argv, tmp_path, fsdp=True) == [0, 0]
    assert launch(train, 2, [*argv, "--resume"], tmp_path) == [1, 1]
    assert (
        "was started with engine=FSDP2, and now there is engine=none; launch it as then"
        in (tmp_path / "0.txt").read_text()
    )
    assert "rank 0 (process " in (tmp_path / "1.txt").read_text()  # and no traceback that buries what rank 0 said
    alone = ["--model.loss=full", "--distill.graph", "--train.candidates=process", "--name=alone"]
    assert launch(train, 2, arguments(dataset, tmp_path, *alone), tmp_path, fsdp=True) == [1, 1]
    assert "look up the whole catalogue for itself, which FSDP2 has split" in (tmp_path / "1.txt").read_text()


def test_a_process_that_refuses_waits_until_all_are_connected(dataset: Path, tmp_path: Path) -> None:
    """Otherwise one that comes later ends in a traceback of the transport, and not in the reason."""
    alone = arguments(dataset, tmp_path, "--model.loss=full", "--distill.graph", "--train.candidates=process")
    assert launch(comes_late, 2, alone, tmp_path, fsdp=True) == [1, 1]
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()
    assert (tmp_path / "0 found all").exists()


def comes_late(rank: int, argv: list[str], folder: Path) -> None:
    connect = torch.distributed.init_process_group

    def later(*args: Any, **kwargs: Any) -> None:
        connect(*args, **kwargs)
        time.sleep(1)
        (folder / "connected").touch()

    if rank == 1:
        torch.distributed.init_process_group = later
    try:
        train(rank, argv, folder)
    finally:
        if (folder / "connected").exists():
            (folder / f"{rank} found all").touch()


def starts_twice(rank: int, argv: list[str]) -> None:
    del rank
    for _ in range(2):
        fresh_accelerator()
        assert engine_of(start(parse(argv, configs=Path(argv[0])))) == "FSDP2"


def test_zero_1_trains_in_half_precision_and_not_with_lazy_ids(dataset: Path, tmp_path: Path) -> None:
    argv = arguments(dataset, tmp_path, "--train.epochs=1", "--train.clip=0.5")
    assert launch(train, 1, argv, tmp_path, zero=1) == [0]
    assert launch(train, 1, [*argv, "--train.bf16", "--name=half"], tmp_path, zero=1) == [0]
    plain, half = (flat(lines(path.parent)[0]) for path in sorted(tmp_path.glob("*/metrics.jsonl"), reverse=True))
    assert half != pytest.approx(plain, rel=1e-5)
    assert half == pytest.approx(plain, rel=0.02)
    assert launch(train, 1, [*argv, "--train.id-updates=lazy", "--name=lazy"], tmp_path, zero=1) == [1]
    assert "lazy under DeepSpeed would leave ids out of what it clips" in (tmp_path / "0.txt").read_text()


@pytest.mark.parametrize(
    ("setting", "deepspeed", "told"),
    [
        (f"--model.encoders=text={TINY}", {}, "the encoder of text equally often, .*experiments/accelerate/zero2.yaml"),
        ("--train.compile", {}, "--train.compile: ZeRO-3 gathers parameters within the blocks"),
        ("--train.clip=1", {"zero_optimization": {"stage": 3, "offload_param": NVME}}, "offload_param_device nvme"),
    ],
)
def test_what_parameters_cannot_be_split_with(
    dataset: Path, tmp_path: Path, setting: str, deepspeed: dict[str, Any], told: str
) -> None:
    argv = arguments(dataset, tmp_path, setting)
    assert launch(train, 1, argv, tmp_path, zero=3, deepspeed=deepspeed) == [1]
    assert re.search(told, (tmp_path / "0.txt").read_text())


def settled(file: dict[str, Any], *settings: str) -> dict[str, Any]:
    """Give what DeepSpeed is told by two processes where its configuration file says so."""
    plugin = DeepSpeedPlugin(hf_ds_config={"zero_optimization": {"stage": 2}, **file})
    settle_deepspeed(plugin, parse(["--dataset=x", *settings], configs=Path("none")).train, processes=2)
    return plugin.deepspeed_config


def test_deepspeed_is_told_what_our_settings_say() -> None:
    told = settled({"gradient_clipping": "auto"}, "--train.batch-size=33", "--train.clip=0.5", "--train.bf16")
    assert (told["train_batch_size"], told["train_micro_batch_size_per_gpu"]) == (34, 17)
    assert (told["gradient_clipping"], told["gradient_accumulation_steps"]) == (0.5, 1)
    assert told["torch_autocast"] == {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    assert not told["bf16"]["enabled"]
    assert not told["zero_force_ds_cpu_optimizer"], "accelerate would put another in place of the one that is scheduled"
    assert "optimizer" not in told
    own = settled({"optimizer": {"type": "AdamW", "params": {"lr": "auto"}}}, "--train.lr=0.3")
    assert own["optimizer"]["params"] == {
        "lr": 0.3,
        "weight_decay": parse(["--dataset=x"], configs=Path()).train.weight_decay,
    }


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ({"train_batch_size": 64}, "train_batch_size=64, and ours comes to 1024"),
        ({"gradient_clipping": 3.0}, r"gradient_clipping=3.0, and ours comes to .* \(--train.clip\); leave it out"),
        ({"bf16": {"enabled": True}}, r"bf16.enabled=True, and ours comes to False \(--train.bf16 sets precision"),
        ({"optimizer": {"type": "Adam", "params": {"lr": 7}}}, "optimizer.params.lr=7, and ours comes to 0.01"),
        ({"scheduler": {"type": "WarmupLR"}}, "has a scheduler, and ours is --train.schedule; leave it out"),
    ],
)
def test_a_file_that_contradicts_our_settings(file: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        settled(file, "--train.batch-size=1024", "--train.lr=0.01")


@pytest.mark.parametrize("name", ["ddp", "zero1", "zero2", "zero3", "zero3-offload", "fsdp"])
def test_configurations_say_nothing_that_ours_say(repository: Path, name: str) -> None:
    path = repository / "experiments" / "accelerate" / f"{name}.yaml"
    settings = yaml.safe_load(path.read_text())
    assert settings["mixed_precision"] == "no"
    engine = {"fsdp": "fsdp_config", "ddp": "none"}.get(name, "deepspeed_config")
    assert set(settings) - {engine} == {"compute_environment", "distributed_type", "mixed_precision"}
    if name == "fsdp":
        assert {
            f"FSDP_{key[5:].upper()}": str(value) for key, value in settings[engine].items()
        }.items() <= FSDP.items()
    split = {"zero3_init_flag", "offload_optimizer_device", "offload_param_device"}
    said = settings.get("deepspeed_config", {})
    assert set(said) <= {"zero_stage", "deepspeed_multinode_launcher"} | (split if "zero3" in name else set())
    assert str(said.get("zero_stage", "")) in name
    offloaded = {key for key in said if key.startswith("offload") and said[key] == "cpu"}
    assert len(offloaded) == (2 if "offload" in name else 0)
    assert f"--config_file experiments/accelerate/{name}.yaml" in path.read_text()

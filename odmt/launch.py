"""How this process was launched, and refusing launches that would silently do something else than they seem to."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedDataParallelKwargs,
    DummyOptim,
    InitProcessGroupKwargs,
    KwargsHandler,
    ProjectConfiguration,
    parse_flag_from_env,
)

from odmt.config import ConfigError, Experiment, TrainConfig

__all__ = ["innermost", "optimizer_of", "settle_deepspeed", "start"]

TWO_PROCESSES = (
    "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
    "--dynamo_backend no"
)
"""How accelerate launches processes without GPUs; --multi_gpu is its word for several processes."""
INSTEAD = "--config_file experiments/accelerate/zero2.yaml, which splits gradients and the optimizer's state"


def start(experiment: Experiment) -> Accelerator:
    """Take the place of this process among those that were launched.

    Raises ConfigError where the launch and the settings contradict each other, where something was asked for that this
    launch silently leaves out, or a tracker is not installed.
    """
    available = [str(tracker) for tracker in get_available_trackers()]
    for name in experiment.trackers:
        if name not in available:
            raise ConfigError(f"tracker {name!r} is not installed; there is {', '.join(available) or 'none'}")
    _check_engine()
    # buffers are constants of the catalogue's size, or set once per epoch: no use in sending them at every step
    handlers: list[KwargsHandler] = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)  # accelerate has no other
    by_deepspeed = parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")
    if by_deepspeed and not torch.cuda.is_available():
        handlers.append(InitProcessGroupKwargs(backend="gloo"))  # left alone, it takes each process for the only one
    accelerator = Accelerator(
        mixed_precision="bf16" if experiment.train.bf16 and not by_deepspeed else None,  # None: what it was told
        log_with=list(experiment.trackers) or None,
        project_config=ProjectConfiguration(project_dir=experiment.output, logging_dir=str(experiment.folder)),
        kwargs_handlers=handlers,
    )
    _check_processes(accelerator)
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None:
        plugin.dschf = None  # transformers would have it split models of its own while they are built
        if plugin.zero_stage == 3:
            _check_split(experiment, parameters_on=plugin.offload_param_device)
    if plugin is not None and experiment.train.id_updates == "lazy":
        raise ConfigError(
            "--train.id-updates lazy under DeepSpeed would leave ids out of what it clips; train with dense, or launch "
            "with --config_file experiments/accelerate/ddp.yaml"
        )
    if accelerator.mixed_precision != ("bf16" if experiment.train.bf16 and not by_deepspeed else "no"):
        raise ConfigError(
            f"accelerate was launched with --mixed_precision {accelerator.mixed_precision}, and --train.bf16 is "
            f"{'on' if experiment.train.bf16 else 'off'}; precision is set by that alone: launch with "
            "--mixed_precision no"
        )
    return accelerator


def settle_deepspeed(plugin: DeepSpeedPlugin | None, settings: TrainConfig, *, processes: int) -> None:
    """Tell DeepSpeed, where it trains, what our settings say, so that its file need not repeat them.

    Raises ConfigError where its file says otherwise.
    """
    if plugin is None:
        return
    batch = -(-settings.batch_size // processes)
    # DeepSpeed's own bf16 keeps parameters so, too, and a catalogue would be ranked by scores of three digits
    precision = "--train.bf16 sets precision, and keeps parameters in float32"
    settled = {
        "train_micro_batch_size_per_gpu": (batch, "--train.batch-size shared among processes"),
        "train_batch_size": (batch * processes, "--train.batch-size"),
        "gradient_accumulation_steps": (1, "a batch is one step"),
        "gradient_clipping": (settings.clip, "--train.clip"),
        "fp16.enabled": (False, precision),
        "bf16.enabled": (False, precision),
        "torch_autocast.enabled": (settings.bf16, precision),
        "torch_autocast.dtype": ("bfloat16", precision),
        "torch_autocast.lower_precision_safe_modules": ([], "gradients are added up in float32"),
        "zero_force_ds_cpu_optimizer": (False, "its own optimizer is used where the file has an optimizer"),
    }
    if "optimizer" in plugin.deepspeed_config:
        settled["optimizer.params.lr"] = (settings.lr, "--train.lr")
        settled["optimizer.params.weight_decay"] = (settings.weight_decay, "--train.weight-decay")
    if "scheduler" in plugin.deepspeed_config:
        raise ConfigError("DeepSpeed's configuration has a scheduler, and ours is --train.schedule; leave it out")
    for name, (ours, why) in settled.items():
        *outer, key = name.split(".")
        config = plugin.deepspeed_config
        for part in outer:
            config = config.setdefault(part, {})
        if config.get(key, "auto") not in ("auto", ours):
            raise ConfigError(
                f"DeepSpeed's configuration has {name}={config[key]}, and ours comes to {ours} ({why}); leave it out"
            )
        config[key] = ours


def optimizer_of(accelerator: Accelerator, groups: list[dict[str, Any]]) -> torch.optim.Optimizer | DummyOptim:
    """Make torch's AdamW over groups of parameters, or stand in for the optimizer that DeepSpeed's file asks for."""
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None and "optimizer" in plugin.deepspeed_config:
        return DummyOptim(groups)
    return torch.optim.AdamW(groups, fused=True)


def innermost(prepared: Any) -> torch.optim.Optimizer:
    """Find the optimizer that takes the steps in what `accelerator.prepare` made of it."""
    while hasattr(prepared, "optimizer"):
        prepared = prepared.optimizer
    return prepared


def _check_engine() -> None:
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        raise ConfigError(
            "FSDP is not supported (on a CPU accelerate would train without it, on GPUs models trained so could not be "
            "validated and saved); launch with --config_file experiments/accelerate/zero3.yaml, which splits "
            "parameters, too"
        )
    left_out = parse_flag_from_env("ACCELERATE_USE_CPU") or "LOCAL_RANK" not in os.environ
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED") and left_out:
        raise ConfigError(
            "DeepSpeed was asked for, but accelerate would train without it: unset ACCELERATE_USE_CPU, which keeps it "
            "out, and launch with --config_file experiments/accelerate/zero2.yaml"
        )


def _check_split(experiment: Experiment, *, parameters_on: str | None) -> None:
    """Refuse what does not go together with parameters that each process holds a share of."""
    live = [name for name, (_, policy) in experiment.model.encoders_of_streams().items() if policy != "frozen"]
    if live:
        raise ConfigError(
            f"--model.encoders: under ZeRO-3 all processes must call the encoder of {live[0]} equally often, and they "
            f"do not, because items lack content and come in chunks; launch with {INSTEAD}, or take stored features"
        )
    if experiment.train.compile:
        raise ConfigError(
            "--train.compile: ZeRO-3 gathers parameters within the blocks that would be compiled; train without it, "
            f"or launch with {INSTEAD}"
        )
    if parameters_on == "nvme":
        raise ConfigError(
            "offload_param_device nvme is not supported: shares on a disk are not checked before they are saved; "
            "launch with --config_file experiments/accelerate/zero3-offload.yaml, which keeps them in memory"
        )


def _check_processes(accelerator: Accelerator) -> None:
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise ConfigError(
            f"{launched} processes were launched, but each believes that it is one of {accelerator.num_processes} and "
            "would train a model of its own; without GPUs, set ACCELERATE_USE_CPU=true"
        )
    asked = _processes_asked_for(_command_of(os.getppid()), os.environ)
    if asked > accelerator.num_processes:
        raise ConfigError(
            f"accelerate was asked for {asked} processes and started {accelerator.num_processes}, as it does with "
            f"--cpu; launch them as: {TWO_PROCESSES.replace('2', str(asked), 1)} experiments/train.py ..."
        )


def _command_of(process: int) -> list[str]:
    """Read how a process was started, where the system tells."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text().split("\0")
    except OSError:
        return []


def _processes_asked_for(command: list[str], environment: Mapping[str, str]) -> int:
    """Say how many processes `accelerate launch` was asked for, as far as its command line tells; 1 where not."""
    if "WORLD_SIZE" in environment or "launch" not in command[:4]:
        return 1
    options = command[: next((i for i, word in enumerate(command) if word.endswith("train.py")), len(command))]
    for word, following in zip(options, [*options[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name.replace("-", "_") == "__num_processes" and (value or following).isdigit():
            return int(value or following)
    return 1

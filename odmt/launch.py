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

from odmt.components import LOSSES
from odmt.config import ConfigError, Experiment, TrainConfig
from odmt.model import ODMT
from odmt.spec import parse_call

__all__ = ["engine_of", "innermost", "optimizer_of", "place", "settle_deepspeed", "start"]

TWO_PROCESSES = (
    "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
    "--dynamo_backend no"
)
"""How accelerate launches processes without GPUs; --multi_gpu is its word for several processes."""
BY_FSDP = "ODMT_USE_FSDP"
"""Where a launch that asked for FSDP is kept in mind, for another start in this process."""
FSDP = {
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "NO_WRAP",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
}
"""What accelerate's launcher may say of FSDP; of the rest nothing applies to a model that is split as a whole."""
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
    kind = Accelerator
    if parse_flag_from_env("ACCELERATE_USE_FSDP") or parse_flag_from_env(BY_FSDP):
        from odmt.fsdp import FullyShards

        kind = FullyShards
        # accelerate, and transformers, would split models in ways of their own
        os.environ |= {"ACCELERATE_USE_FSDP": "false", BY_FSDP: "true"}
    accelerator = kind(
        mixed_precision="bf16" if experiment.train.bf16 and not by_deepspeed else None,  # None: what it was told
        log_with=list(experiment.trackers) or None,
        project_config=ProjectConfiguration(project_dir=experiment.output, logging_dir=str(experiment.folder)),
        kwargs_handlers=handlers,
        device_placement=False,  # the loop puts models there; of one on a CPU, "cpu:0" here, torch would make a copy
    )
    accelerator.wait_for_everyone()  # a refusal that ended this process sooner would break into others' connecting
    _check_processes(accelerator)
    if engine_of(accelerator) == "FSDP2":
        _check_rows(experiment)
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


def place(accelerator: Accelerator, model: ODMT, settings: TrainConfig) -> None:
    """Bring a model to the device of this process; under FSDP2 this process's rows of the id tables, unless all are to
    have them whole because they are lazy.
    """
    split = getattr(accelerator, "split_tables", None)
    if split is not None and settings.id_updates == "dense":
        split(model)
    model.to(accelerator.device)


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


def engine_of(accelerator: Accelerator) -> str:
    """Name what splits parameters or state over processes; checkpoints of one are not of another."""
    if (plugin := accelerator.state.deepspeed_plugin) is not None:
        return f"ZeRO-{plugin.zero_stage}"
    return "FSDP2" if hasattr(accelerator, "split_tables") and accelerator.num_processes > 1 else "none"


def innermost(prepared: Any) -> torch.optim.Optimizer:
    """Find the optimizer that takes the steps in what `accelerator.prepare` made of it."""
    while hasattr(prepared, "optimizer"):
        prepared = prepared.optimizer
    return prepared


def _check_engine() -> None:
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        for name, meant in FSDP.items():
            if (found := os.environ.get(name, meant)) != meant:
                raise ConfigError(
                    f"FSDP was asked for with {name}={found}, and here it is {meant}: torch's second, of the whole "
                    "model, on the device; launch with --config_file experiments/accelerate/fsdp.yaml, or, to keep "
                    "shares in the memory of processors, zero3-offload.yaml"
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


def _check_rows(experiment: Experiment) -> None:
    """Refuse what would ask every process for all rows of split id tables, once for each."""
    full = parse_call(experiment.model.loss, known=LOSSES, kind="loss").name == "full"
    if full and experiment.train.candidates == "process" and experiment.train.id_updates == "dense":
        raise ConfigError(
            "--train.candidates process: with the full softmax every process would look up the whole catalogue for "
            "itself, which FSDP2 has split; take --train.candidates global, or launch with "
            "--config_file experiments/accelerate/ddp.yaml"
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

"""How this process was launched, and refusing launches that would silently do something else than they seem to."""

from __future__ import annotations

import os

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration

from odmt.config import ConfigError, Experiment

__all__ = ["start"]


def start(experiment: Experiment) -> Accelerator:
    """Take the place of this process among those that were launched.

    Raises ConfigError where the launch and the settings contradict each other, or a tracker is not installed.
    """
    available = [str(tracker) for tracker in get_available_trackers()]
    for name in experiment.trackers:
        if name not in available:
            raise ConfigError(f"tracker {name!r} is not installed; there is {', '.join(available) or 'none'}")
    accelerator = Accelerator(
        mixed_precision="bf16" if experiment.train.bf16 else None,  # None: what `accelerate launch` was told
        log_with=list(experiment.trackers) or None,
        project_config=ProjectConfiguration(project_dir=experiment.output, logging_dir=experiment.output),
        # buffers are constants of the catalogue's size, or set once per epoch: no use in sending them at every step
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise ConfigError(
            f"{launched} processes were launched, but each believes that it is one of {accelerator.num_processes} and "
            "would train a model of its own; without GPUs, set ACCELERATE_USE_CPU=true"
        )
    if accelerator.mixed_precision != ("bf16" if experiment.train.bf16 else "no"):
        raise ConfigError(
            f"accelerate was launched with --mixed_precision {accelerator.mixed_precision}, but --train.bf16 is off; "
            "precision is set by --train.bf16 alone"
        )
    return accelerator

"""A run's numbers in tensorboard, wandb or mlflow, through accelerate: one run there for one here, resumed or not."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from typing import Any

from accelerate import Accelerator

from odmt.config import Experiment
from odmt.run_folder import RunFolder, flat, write_whole
from odmt.stopping import Stopped

__all__ = ["closing_trackers", "numbers", "open_trackers"]

PROJECT = "odmt"
"""What wandb calls the project and mlflow the experiment that runs are listed in; tensorboard's folder in a run's."""
OF_THE_COMMAND = ("overwrite", "resume")
"""Settings that say how the command takes up the run, and not what the run is."""


def open_trackers(experiment: Experiment, folder: RunFolder, accelerator: Accelerator, *, step: int) -> None:
    """Begin to log in the trackers that were asked for, or go on where the run had begun; settings are told once.

    step: of the checkpoint that the run goes on from, 0 for none. What tensorboard was told of later ones, it drops;
        mlflow and wandb's offline files keep both, which are equal but for timings.
    """
    if not experiment.trackers:
        return
    known: dict[str, str] = json.loads(folder.trackers.read_text()) if folder.trackers.exists() else {}
    wandb_id = known.get("wandb") or uuid.uuid4().hex[:8]
    name = folder.path.name
    accelerator.init_trackers(
        PROJECT,
        init_kwargs={
            "tensorboard": {"purge_step": step + 1},
            "wandb": {
                "name": name, "id": wandb_id, "resume": "allow", "dir": os.environ.get("WANDB_DIR", str(folder.path))
            },
            "mlflow": {"run_name": name, "run_id": known.get("mlflow")},
        },
    )  # fmt: skip
    settings = {_plain(name): value for name, value in flat(asdict(experiment)).items() if name not in OF_THE_COMMAND}
    for tracker in accelerator.trackers:
        if tracker.name not in known:
            tracker.store_init_configuration(settings)
    if accelerator.is_main_process:
        told = known | dict.fromkeys(experiment.trackers, "")
        if "wandb" in told:
            told["wandb"] = wandb_id
        if "mlflow" in experiment.trackers:
            run: Any = accelerator.get_tracker("mlflow", unwrap=True)
            told["mlflow"] = run.info.run_id
        write_whole(folder.trackers, json.dumps(told) + "\n")


def numbers(line: Mapping[str, Any]) -> dict[str, Any]:
    """Give what trackers are told of a line of metrics.jsonl: every number under a name that all of them take."""
    return {_plain(name): value for name, value in flat(line).items() if name != "step"}


@contextmanager
def closing_trackers(accelerator: Accelerator) -> Iterator[None]:
    """End training however it ends, so that no tracker loses what it holds back, and show there that a run failed."""
    try:
        yield
    except Stopped:
        _end(accelerator, failed=False)
        raise
    except BaseException:
        _end(accelerator, failed=True)
        raise
    accelerator.end_training()


def _end(accelerator: Accelerator, *, failed: bool) -> None:
    """Close trackers, and not the group of processes: one of them may be gone, and others still be communicating."""
    if not accelerator.is_main_process:
        return
    for tracker in accelerator.trackers:
        if tracker.name == "wandb":
            tracker.tracker.finish(exit_code=int(failed))
        elif tracker.name == "mlflow":
            import_module("mlflow").end_run("FAILED" if failed else "KILLED")
        else:
            tracker.finish()


def _plain(name: str) -> str:
    return re.sub(r"[^\w./ -]", "_", name.replace("@", "_at_"))

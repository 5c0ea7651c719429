"""Train one model: load, optimise, evaluate after every epoch, keep the best, stop, resume, and test once.

A run's folder: `experiment.yaml` (resolved configuration, commit, versions, data and features), `metrics.jsonl` (a line
per logging step and per evaluation), `checkpoints/` (everything needed to go on, and the best weights), and at the end
`model/` (`odmt.pretrained.from_pretrained` reads it), `test_ranks.npz` and `result.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import set_seed

from odmt.checkpoints import Checkpoints, Progress
from odmt.config import Experiment
from odmt.data.format import find_dataset, open_dataset
from odmt.data.splits import LeaveTwoOut
from odmt.evaluate import metrics, popularity_ranks
from odmt.inputs import encoders_of, features_of
from odmt.launch import engine_of, start
from odmt.loop import fit
from odmt.model import ODMT
from odmt.newcomers import TrainedItems
from odmt.peers import naming_the_dead
from odmt.pretrained import build_model, save_pretrained
from odmt.run_folder import RunFolder, write_whole
from odmt.trackers import closing_trackers
from odmt.validation import evaluate

__all__ = ["fit", "run"]


def run(experiment: Experiment) -> Path:
    """Do what `experiments/train.py` does: read the dataset, train, and leave the run's folder, which is returned."""
    accelerator = start(experiment)
    with naming_the_dead(accelerator):
        return _run(experiment, accelerator)


def _run(experiment: Experiment, accelerator: Accelerator) -> Path:
    dataset = open_dataset(find_dataset(experiment.dataset, experiment.data.root))
    set_seed(experiment.seed)
    split = LeaveTwoOut(dataset.offsets, dataset.items, num_items=dataset.num_items, length=experiment.data.length)
    encoders = encoders_of(experiment)
    features = features_of(experiment, dataset, encoders, counts=split.item_counts())
    folder = RunFolder(experiment.folder)
    for encoder in encoders.values():  # what starts from the catalogue's content encodes it
        encoder.to(accelerator.device)
    checkpoint = Checkpoints(folder.checkpoints).newest(accelerator) if experiment.resume else None
    fresh = checkpoint is None
    model = build_model(experiment, features, item_counts=split.item_counts(), encoders=encoders, start=fresh)
    set_seed(experiment.seed, device_specific=True)  # models start alike everywhere, but each process drops its own
    if accelerator.is_main_process:  # only now: what was asked for can be done
        inputs = {"dataset": dataset.fingerprint, "features": json.dumps(features.keys)}
        launched = {"processes": str(accelerator.num_processes), "engine": engine_of(accelerator)}
        folder.claim(experiment, inputs | launched)
    accelerator.wait_for_everyone()
    if folder.result.exists():
        accelerator.print(f"{folder.path} is finished; its result is {folder.result}")
        return folder.path
    if experiment.resume and fresh:
        accelerator.print(f"{folder.path}: nothing to resume, beginning anew")
    with closing_trackers(accelerator):
        progress = fit(model, split, experiment, folder=folder, accelerator=accelerator, checkpoint=checkpoint)
        questions = split.questions("test")
        found = evaluate(model, questions, experiment, accelerator)
        if accelerator.is_main_process:
            how = {"mask_history": experiment.train.mask_history, "repeats": experiment.train.repeats}
            found["most-popular"] = popularity_ranks(split.item_counts(), questions, **how)
            save_pretrained(model, experiment, folder.model, items=TrainedItems(dataset.ids(), split.item_counts()[1:]))
            folder.save_ranks(questions.users, found)
            _write_result(folder, dataset.name, experiment, progress, model, found)
        accelerator.wait_for_everyone()
    return folder.path


def _write_result(
    folder: RunFolder,
    dataset: str,
    experiment: Experiment,
    progress: Progress,
    model: ODMT,
    found: Mapping[str, np.ndarray],
) -> None:
    test = {head: metrics(r) for head, r in found.items()}
    popular = test.pop("most-popular")
    result = {
        "dataset": dataset,
        "seed": experiment.seed,
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "valid": progress.best_valid,
        "test": test,
        "most_popular": popular,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(progress.seconds, 1),
    }
    write_whole(folder.result, json.dumps(result, indent=2) + "\n")
    for head, values in test.items():
        shown = "  ".join(f"{name} {values[name]:.4f}" for name in ("HR@10", "NDCG@10", "HR@20", "MRR"))
        print(f"test {head:>10}: {shown}")
    print(f"wrote {folder.result}")

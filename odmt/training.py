"""Train one model: load, optimise, evaluate after every epoch, keep the best, stop, resume, and test once.

A run's folder: `experiment.yaml` (resolved configuration, commit, versions, data and features), `metrics.jsonl` (a line
per logging step and per evaluation), `checkpoints/` (everything needed to go on, and the best weights), and at the end
`model/` (`odmt.pretrained.from_pretrained` reads it), `test_ranks.npz` and `result.json`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors import SafetensorError
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from odmt.attention import compile_blocks
from odmt.config import Experiment, TrainConfig
from odmt.data.format import find_dataset, open_dataset
from odmt.data.loading import UserBatches, training_loader
from odmt.data.splits import LeaveTwoOut
from odmt.encoders.last_read import naming_files
from odmt.evaluate import metrics, popularity_ranks
from odmt.inputs import encoders_of, features_of, unreadable_files
from odmt.launch import start
from odmt.model import ODMT
from odmt.pretrained import build_model, load_weights, save_pretrained, save_weights
from odmt.run_folder import RunFolder, flat, write_whole
from odmt.schedules import distillation_weight, learning_rate
from odmt.validation import SELECTED_BY, evaluate, reduced, validate, validation_users

__all__ = ["Progress", "fit", "run"]


@dataclass
class Progress:
    """Everything the loop needs to go on, beside the states of model, optimizer, schedule and random generators."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_valid: dict[str, Any] | None = None
    seconds: float = 0.0
    metrics_bytes: int = 0

    @property
    def best_score(self) -> float:
        return self.best_valid["ensemble"][SELECTED_BY] if self.best_valid else -math.inf

    def is_over(self, settings: TrainConfig) -> bool:
        """Say whether all epochs are done, or validation has not improved for `patience` of them."""
        waited = self.epoch - self.best_epoch
        return self.epoch >= settings.epochs or 0 < settings.patience <= waited


def run(experiment: Experiment) -> Path:
    """Do what `experiments/train.py` does: read the dataset, train, and leave the run's folder, which is returned."""
    accelerator = start(experiment)
    dataset = open_dataset(find_dataset(experiment.dataset, experiment.data.root))
    set_seed(experiment.seed)
    split = LeaveTwoOut(dataset.offsets, dataset.items, num_items=dataset.num_items, length=experiment.data.length)
    encoders = encoders_of(experiment)
    features = features_of(experiment, dataset, encoders, counts=split.item_counts())
    folder = RunFolder(experiment.folder)
    for encoder in encoders.values():  # what starts from the catalogue's content encodes it
        encoder.to(accelerator.device)
    resumed = experiment.resume and folder.newest_checkpoint() is not None
    model = build_model(experiment, features, item_counts=split.item_counts(), encoders=encoders, start=not resumed)
    set_seed(experiment.seed, device_specific=True)  # models start alike everywhere, but each process drops its own
    if accelerator.is_main_process:  # only now: what was asked for can be done
        inputs = {"dataset": dataset.fingerprint, "features": json.dumps(features.keys)}
        folder.claim(experiment, inputs | {"processes": str(accelerator.num_processes)})
    accelerator.wait_for_everyone()
    if folder.result.exists():
        accelerator.print(f"{folder.path} is finished; its result is {folder.result}")
        return folder.path
    progress = fit(model, split, experiment, folder=folder, accelerator=accelerator)
    questions = split.questions("test")
    found = evaluate(model, questions, experiment, accelerator)
    if accelerator.is_main_process:
        how = {"mask_history": experiment.train.mask_history, "repeats": experiment.train.repeats}
        found["most-popular"] = popularity_ranks(split.item_counts(), questions, **how)
        save_pretrained(model, experiment, folder.model)
        folder.save_ranks(questions.users, found)
        _write_result(folder, dataset.name, experiment, progress, model, found)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return folder.path


def fit(
    model: ODMT, split: LeaveTwoOut, experiment: Experiment, *, folder: RunFolder, accelerator: Accelerator
) -> Progress:
    """Train until the last epoch or until validation stops improving; leave the best weights in `model`.

    With `experiment.resume` it goes on from the newest checkpoint in `folder`, and ends where an uninterrupted run
    would.
    """
    settings = experiment.train
    rank, world = accelerator.process_index, accelerator.num_processes
    shared = settings.candidates == "global"
    batches = UserBatches(
        split.num_users, settings.batch_size, seed=experiment.seed, rank=rank, world=world, shared=shared
    )
    loader = training_loader(
        split,
        model.features,
        model.modalities,
        batches,
        workers=experiment.data.workers,
        ahead=1 if model.encoders else 2,  # a batch of clips takes gigabytes
        draws=model.loss.draws,
        shares=model.draw_shares,
    )
    optimizer = torch.optim.AdamW(_groups(model, settings), fused=True)
    schedule = LambdaLR(optimizer, partial(learning_rate, settings=settings, steps=settings.epochs * len(batches)))
    if settings.compile:
        compile_blocks(model)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(schedule)
    progress = Progress()
    if experiment.resume:
        progress = _resume(accelerator, folder)
    if experiment.trackers:
        accelerator.init_trackers(experiment.folder.name, config=flat(asdict(experiment)))
    questions = split.questions("valid", validation_users(split, settings, experiment.seed))

    while not progress.is_over(settings):
        started = time.monotonic()
        batches.epoch = progress.epoch
        progress.epoch += 1
        distill_weight = distillation_weight(experiment.distill, progress.epoch)
        what = f"epoch {progress.epoch}/{settings.epochs}"
        bar = tqdm(loader, total=len(batches), desc=what, unit="step", disable=not accelerator.is_main_process)
        wrapped.train()
        with naming_files():
            for number, batch in enumerate(bar, start=1):
                if experiment.distill.ramp_by == "step":
                    distill_weight = distillation_weight(experiment.distill, progress.epoch - 1 + number / len(batches))
                losses = wrapped(batch.to(accelerator.device), distill_weight=distill_weight)
                accelerator.backward(sum(losses.values()))
                if settings.clip:
                    accelerator.clip_grad_norm_(wrapped.parameters(), settings.clip)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                progress.step += 1
                if progress.step % settings.log_every == 0 or number == len(batches):
                    values = {name: reduced(accelerator, loss.detach(), "mean").item() for name, loss in losses.items()}
                    _stop_if_broken(values, progress)
                    bar.set_postfix({name: f"{value:.4f}" for name, value in values.items()})
                    rate = schedule.get_last_lr()[0]
                    line = {"step": progress.step, "epoch": progress.epoch, "lr": rate, "loss": values}
                    _log(accelerator, folder, line)

        valid = validate(model, questions, experiment, accelerator)
        broken = unreadable_files(model)
        if broken and accelerator.is_main_process and not folder.unreadable.exists():
            print(folder.write_unreadable(broken))
        if valid["ensemble"][SELECTED_BY] > progress.best_score:
            progress.best_epoch, progress.best_valid = progress.epoch, valid
            if accelerator.is_main_process:
                save_weights(model, folder.weights_of(progress.epoch))
        progress.seconds += time.monotonic() - started
        line = {"step": progress.step, "epoch": progress.epoch, "seconds": round(progress.seconds, 1), "valid": valid}
        _log(accelerator, folder, line)
        accelerator.print(_summary(valid, progress))
        _checkpoint(accelerator, folder, progress)
    if progress.epoch < settings.epochs:
        accelerator.print(f"stopped: no better validation {SELECTED_BY} for {settings.patience} epochs")
    load_weights(model, folder.weights_of(progress.best_epoch))
    return progress


def _groups(model: ODMT, settings: TrainConfig) -> list[dict[str, Any]]:
    """Give the parameters that are trained: those of encoders apart, with a learning rate and a decay of their own."""
    of_encoders = {parameter for parameter in model.encoders.parameters() if parameter.requires_grad}
    others = [p for p in model.parameters() if p.requires_grad and p not in of_encoders]
    groups = [{"params": others, "lr": settings.lr, "weight_decay": settings.weight_decay}]
    if of_encoders:
        ordered = [p for p in model.encoders.parameters() if p in of_encoders]
        apart = {"lr": settings.encoder_lr, "weight_decay": settings.encoder_weight_decay}
        groups.append({"params": ordered, **apart})
    return groups


def _resume(accelerator: Accelerator, folder: RunFolder) -> Progress:
    checkpoint = folder.newest_checkpoint()
    progress = Progress()
    if checkpoint is not None:
        accelerator.load_state(str(checkpoint))
        progress = Progress(**json.loads((checkpoint / "progress.json").read_text()))
        accelerator.print(f"resumed after epoch {progress.epoch} from {checkpoint}")
    if accelerator.is_main_process:
        folder.truncate_metrics(progress.metrics_bytes)
    return progress


def _checkpoint(accelerator: Accelerator, folder: RunFolder, progress: Progress) -> None:
    if accelerator.is_main_process:
        folder.clear_partial_checkpoint()
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(folder.partial_checkpoint))
    except (RuntimeError, SafetensorError) as error:  # how torch and safetensors report a full disk
        raise OSError(f"{folder.partial_checkpoint} cannot be written: {error}") from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        progress.metrics_bytes = folder.metrics_bytes()
        write_whole(folder.partial_checkpoint / "progress.json", json.dumps(asdict(progress)))
        folder.add_checkpoint(epoch=progress.epoch, best_epoch=progress.best_epoch)
    accelerator.wait_for_everyone()


def _log(accelerator: Accelerator, folder: RunFolder, line: Mapping[str, Any]) -> None:
    if accelerator.is_main_process:
        folder.append_metrics(line)
    # not every tracker takes an @ in a name
    numbers = {name.replace("@", "_at_"): value for name, value in flat(line).items() if name != "step"}
    accelerator.log(numbers, step=line["step"])


def _stop_if_broken(losses: Mapping[str, float], progress: Progress) -> None:
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        raise FloatingPointError(
            f"the {' and '.join(broken)} loss is {losses[broken[0]]} at step {progress.step} (epoch {progress.epoch}); "
            "lower --train.lr or --train.clip, raise --train.warmup-steps, or train without --train.bf16"
        )


def _summary(valid: Mapping[str, Mapping[str, float]], progress: Progress) -> str:
    heads = "  ".join(f"{head} {values[SELECTED_BY]:.4f}" for head, values in valid.items())
    mark = "  (best so far)" if progress.best_epoch == progress.epoch else ""
    return f"epoch {progress.epoch}: validation {SELECTED_BY}  {heads}{mark}"


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

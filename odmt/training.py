"""Train one model: load, optimise, evaluate after every epoch, keep the best, stop, resume, and score the test set
once.

A run's folder: `experiment.yaml` (resolved configuration, commit, versions), `metrics.jsonl` (a line per logging step
and per evaluation), `checkpoints/` (everything needed to go on, and the best weights), and at the end `model/`
(`odmt.pretrained.from_pretrained` reads it), `test_ranks.npz` and `result.json`.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from odmt.config import ConfigError, Experiment, TrainConfig
from odmt.data.features import ItemFeatures, open_features
from odmt.data.format import Dataset, find_dataset, open_dataset
from odmt.data.loading import UserBatches, training_loader
from odmt.data.splits import LeaveTwoOut
from odmt.distill import sigmoid_ramp
from odmt.evaluate import metrics, popularity_ranks, ranks
from odmt.model import ODMT
from odmt.pretrained import build_model, load_weights, save_pretrained, save_weights
from odmt.run_folder import RunFolder, write_whole
from odmt.types import Questions, Tensor

__all__ = ["fit", "run"]

SELECTED_BY = "NDCG@10"
"""The checkpoint is chosen by this metric of the ensemble on validation; the test set is scored once, at the end."""


@dataclass
class Progress:
    """Everything the loop needs to go on, beside the states of model, optimizer, schedule and random generators."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_score: float = -math.inf
    best_valid: dict[str, Any] | None = None
    seconds: float = 0.0
    metrics_bytes: int = 0


def run(experiment: Experiment) -> Path:
    """Do what `experiments/train.py` does: read the dataset, train, and leave the run's folder, which is returned."""
    accelerator = Accelerator(
        mixed_precision="bf16" if experiment.train.bf16 else None,  # None: what `accelerate launch` was told
        log_with=list(experiment.trackers) or None,
        project_config=ProjectConfiguration(project_dir=experiment.output, logging_dir=experiment.output),
    )
    if (
        accelerator.mixed_precision not in ("no", "bf16")
        or (accelerator.mixed_precision == "bf16") != experiment.train.bf16
    ):
        raise ConfigError(
            f"accelerate was launched with --mixed_precision {accelerator.mixed_precision}, but --train.bf16 is off; "
            "precision is set by --train.bf16 alone"
        )
    dataset = open_dataset(find_dataset(experiment.dataset, experiment.data.root))
    set_seed(experiment.seed)
    split = LeaveTwoOut(dataset.offsets, dataset.items, num_items=dataset.num_items, length=experiment.data.length)
    model = build_model(experiment, _features(experiment, dataset), item_counts=split.item_counts())
    folder = RunFolder(experiment.folder)
    if accelerator.is_main_process:  # only now: what was asked for can be done
        folder.claim(experiment, dataset.fingerprint)
    accelerator.wait_for_everyone()
    if folder.result.exists():
        accelerator.print(f"{folder.path} is finished; its result is {folder.result}")
        return folder.path
    progress = fit(model, split, experiment, folder=folder, accelerator=accelerator)
    _finish(model, split, experiment, progress, folder=folder, accelerator=accelerator)
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
    batches = UserBatches(split.num_users, settings.batch_size, seed=experiment.seed, rank=rank, world=world)
    loader = training_loader(split, model.features, model.modalities, batches, workers=experiment.data.workers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    schedule = LambdaLR(optimizer, partial(learning_rate, settings=settings, steps=settings.epochs * len(batches)))
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(schedule)
    progress = Progress()
    if experiment.resume and (checkpoint := folder.newest_checkpoint()):
        accelerator.load_state(str(checkpoint))
        progress = Progress(**json.loads((checkpoint / "progress.json").read_text()))
        folder.truncate_metrics(progress.metrics_bytes)
        accelerator.print(f"resumed after epoch {progress.epoch} from {checkpoint}")
    if experiment.trackers:
        accelerator.init_trackers(experiment.folder.name, config=_flat(asdict(experiment)))
    questions = split.questions("valid", _validation_users(split, settings, experiment.seed))

    while progress.epoch < settings.epochs:
        started = time.monotonic()
        batches.epoch = progress.epoch
        distill_weight = experiment.distill.weight * sigmoid_ramp(progress.epoch + 1, experiment.distill.ramp_epochs)
        wrapped.train()
        bar = tqdm(
            loader,
            desc=f"epoch {progress.epoch + 1}/{settings.epochs}",
            unit="step",
            disable=not accelerator.is_main_process,
        )
        for batch in bar:
            losses = wrapped(batch.to(accelerator.device), distill_weight=distill_weight)
            accelerator.backward(sum(losses.values()))
            if settings.clip:
                accelerator.clip_grad_norm_(wrapped.parameters(), settings.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            progress.step += 1
            if progress.step % settings.log_every == 0:
                values = {name: _reduce(accelerator, loss.detach(), "mean").item() for name, loss in losses.items()}
                _stop_if_broken(values, progress)
                bar.set_postfix({name: f"{value:.4f}" for name, value in values.items()})
                line = {"step": progress.step, "epoch": progress.epoch + 1, "lr": schedule.get_last_lr()[0]}
                _log(accelerator, folder, line | {f"loss/{name}": value for name, value in values.items()})
        progress.epoch += 1

        valid = {head: metrics(r) for head, r in evaluate(model, questions, experiment, accelerator).items()}
        improved = valid["ensemble"][SELECTED_BY] > progress.best_score
        if improved:
            progress.best_epoch, progress.best_score, progress.best_valid = (
                progress.epoch,
                valid["ensemble"][SELECTED_BY],
                valid,
            )
            if accelerator.is_main_process:
                save_weights(model, folder.best_weights)
        progress.seconds += time.monotonic() - started
        _log(
            accelerator,
            folder,
            {"step": progress.step, "epoch": progress.epoch, "seconds": round(progress.seconds, 1), "valid": valid},
        )
        accelerator.print(_summary(valid, progress))
        progress.metrics_bytes = folder.metrics_bytes()
        _checkpoint(accelerator, folder, progress)
        if settings.patience and progress.epoch - progress.best_epoch >= settings.patience:
            accelerator.print(f"stopped: no better validation {SELECTED_BY} for {settings.patience} epochs")
            break
    accelerator.wait_for_everyone()
    load_weights(model, folder.best_weights)
    return progress


def evaluate(
    model: ODMT, questions: Questions, experiment: Experiment, accelerator: Accelerator
) -> dict[str, np.ndarray]:
    """Rank the targets of `questions` with every stream and the ensemble, shared among processes, in float32."""
    tables = model.encode_catalogue()
    found = ranks(
        lambda histories: model.states(histories, tables),
        tables,
        questions,
        mask_history=experiment.train.mask_history,
        repeats=experiment.train.repeats,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        progress=partial(tqdm, desc="evaluate", unit="tile", leave=False, disable=not accelerator.is_main_process),
    )
    if accelerator.num_processes == 1:
        return found
    device = accelerator.device
    return {
        head: _reduce(accelerator, torch.from_numpy(r).to(device), "sum").cpu().numpy() for head, r in found.items()
    }


def _reduce(accelerator: Accelerator, value: Tensor, how: str) -> Tensor:
    reduced = accelerator.reduce(value, how)
    assert isinstance(reduced, Tensor)
    return reduced


def learning_rate(step: int, settings: TrainConfig, steps: int) -> float:
    """Scale the learning rate at `step` of `steps`: linear warm-up, then constant, cosine or linear down to 0."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = min(1.0, (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps))
    return {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[settings.schedule]


def _features(experiment: Experiment, dataset: Dataset) -> ItemFeatures:
    modalities = [name for name in experiment.model.streams if name != "id"]
    select, limits = experiment.data.selected_features(), experiment.data.token_limits()
    return open_features(
        dataset,
        modalities,  # settings of a modality that an ablation leaves out do not concern this run
        select={name: key for name, key in select.items() if name in modalities},
        max_tokens={name: limit for name, limit in limits.items() if name in modalities},
    )


def _validation_users(split: LeaveTwoOut, settings: TrainConfig, seed: int) -> np.ndarray:
    """Choose the users who validate: all, or a fixed subset that every process and every resumed run draws alike."""
    if not 0 < settings.eval_users < split.num_users:
        return np.arange(split.num_users)
    return np.sort(np.random.default_rng([seed, 1]).choice(split.num_users, settings.eval_users, replace=False))


def _checkpoint(accelerator: Accelerator, folder: RunFolder, progress: Progress) -> None:
    partial_folder = folder.checkpoints / ".partial"
    if accelerator.is_main_process:
        shutil.rmtree(partial_folder, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial_folder))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_whole(partial_folder / "progress.json", json.dumps(asdict(progress)))
        folder.add_checkpoint(partial_folder, progress.epoch)
    accelerator.wait_for_everyone()


def _log(accelerator: Accelerator, folder: RunFolder, line: dict[str, Any]) -> None:
    if accelerator.is_main_process:
        folder.append_metrics(line)
    numbers = {name: value for name, value in _flat(line).items() if name not in ("step", "epoch")}
    accelerator.log(numbers, step=line["step"])


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}/")
        else:  # trackers take numbers and text
            flat[prefix + name] = value if isinstance(value, int | float | str) else str(value)
    return flat


def _stop_if_broken(losses: dict[str, float], progress: Progress) -> None:
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        raise FloatingPointError(
            f"the {' and '.join(broken)} loss is {losses[broken[0]]} at step {progress.step} "
            f"(epoch {progress.epoch + 1}); lower --train.lr or --train.clip, raise --train.warmup-steps, or train "
            "without --train.bf16"
        )


def _summary(valid: dict[str, Mapping[str, float]], progress: Progress) -> str:
    heads = "  ".join(f"{head} {values[SELECTED_BY]:.4f}" for head, values in valid.items())
    mark = "  (best so far)" if progress.best_epoch == progress.epoch else ""
    return f"epoch {progress.epoch}: validation {SELECTED_BY}  {heads}{mark}"


def _finish(
    model: ODMT,
    split: LeaveTwoOut,
    experiment: Experiment,
    progress: Progress,
    *,
    folder: RunFolder,
    accelerator: Accelerator,
) -> None:
    """Score the test set with the best weights and write what the run is worth."""
    questions = split.questions("test")
    found = evaluate(model, questions, experiment, accelerator)
    if not accelerator.is_main_process:
        return
    settings = experiment.train
    popular = popularity_ranks(
        split.item_counts(), questions, mask_history=settings.mask_history, repeats=settings.repeats
    )
    save_pretrained(model, experiment, folder.model)
    test = {head: metrics(r) for head, r in found.items()}
    result = {
        "dataset": Path(experiment.dataset).name,
        "seed": experiment.seed,
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "valid": progress.best_valid,
        "test": test,
        "most_popular": metrics(popular),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(progress.seconds, 1),
    }
    folder.save_ranks(questions.users, {**found, "most-popular": popular})
    write_whole(folder.result, json.dumps(result, indent=2) + "\n")
    for head, values in test.items():
        accelerator.print(
            f"test {head:>10}: "
            + "  ".join(f"{name} {values[name]:.4f}" for name in ("HR@10", "NDCG@10", "HR@20", "MRR"))
        )
    accelerator.print(f"wrote {folder.result}")

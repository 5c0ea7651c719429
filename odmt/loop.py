"""The training loop: steps, a validation and a checkpoint after every epoch, checkpoints within it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from odmt.attention import compile_blocks
from odmt.checkpoints import Checkpoints, Progress
from odmt.config import Experiment, TrainConfig
from odmt.data.loading import UserBatches, training_loader
from odmt.data.splits import LeaveTwoOut
from odmt.encoders.last_read import naming_files
from odmt.inputs import unreadable_files
from odmt.launch import innermost, optimizer_of, place, settle_deepspeed
from odmt.lazy_ids import LazyTables, lazy_tables
from odmt.meters import Meter
from odmt.model import ODMT
from odmt.peers import naming_the_dead
from odmt.pretrained import load_weights, save_weights
from odmt.run_folder import RunFolder, write_whole
from odmt.schedules import distillation_weight, learning_rate
from odmt.shards import call_alike, gather, shares, whole
from odmt.stopping import Requests, Stopped
from odmt.trackers import numbers, open_trackers
from odmt.types import Batch, Tensor
from odmt.validation import SELECTED_BY, reduced, validate, validation_users

__all__ = ["fit"]


def fit(
    model: ODMT,
    split: LeaveTwoOut,
    experiment: Experiment,
    *,
    folder: RunFolder,
    accelerator: Accelerator,
    checkpoint: Path | None = None,
) -> Progress:
    """Train until the last epoch or until validation stops improving; leave the best weights in `model`.

    From a `checkpoint` in `folder` it goes on, and ends where an uninterrupted run would. Raises `Stopped` where the
    process is asked to stop by a signal, after saving.
    """
    settings = experiment.train
    loop = _Loop(model, split, experiment, folder, accelerator, checkpoint)
    with loop.requests, naming_the_dead(accelerator):  # signals last: a launcher sends one to those that are left
        while not loop.is_over():
            loop.train_an_epoch()
            loop.end_an_epoch()
    if loop.progress.epoch < settings.epochs:
        accelerator.print(f"stopped: no better validation {SELECTED_BY} for {settings.patience} epochs")
    loop.lazy.release()
    gather(loop.wrapped)  # for good: no step follows
    load_weights(model, loop.checkpoints.weights_of(loop.progress.best_epoch))
    return loop.progress


class _Loop:
    """Hold what a run is made of, and take it through its epochs."""

    def __init__(
        self,
        model: ODMT,
        split: LeaveTwoOut,
        experiment: Experiment,
        folder: RunFolder,
        accelerator: Accelerator,
        checkpoint: Path | None,
    ) -> None:
        self.model, self.split, self.experiment = model, split, experiment
        self.folder, self.accelerator = folder, accelerator
        self.settings = settings = experiment.train
        self.batches = UserBatches(
            split.num_users,
            settings.batch_size,
            seed=experiment.seed,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            shared=settings.candidates == "global",
        )
        self.loader = training_loader(
            split,
            model.features,
            model.modalities,
            self.batches,
            workers=experiment.data.workers,
            ahead=1 if model.encoders else 2,  # a batch of clips takes gigabytes
            draws=model.loss.draws,
            shares=model.draw_shares,
        )
        steps = settings.epochs * len(self.batches)
        place(accelerator, model, settings)
        self.lazy = lazy_tables(model, settings, steps=steps)
        optimizer = optimizer_of(accelerator, _groups(model, settings, self.lazy))
        if settings.compile:
            compile_blocks(model)
        settle_deepspeed(accelerator.state.deepspeed_plugin, settings, processes=accelerator.num_processes)
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        rates = partial(learning_rate, settings=settings, steps=steps)
        self.schedule = LambdaLR(innermost(self.optimizer), rates)
        call_alike(self.wrapped)
        loop = {"schedule": self.schedule} | ({"lazy": self.lazy} if self.lazy.tables else {})
        self.checkpoints = Checkpoints(folder.checkpoints, keep=settings.keep_checkpoints, loop=loop)
        self.requests = Requests(accelerator, minutes=settings.checkpoint_minutes)
        self.progress = Progress()
        if checkpoint is not None:
            self.progress = self.checkpoints.load(accelerator, checkpoint)
            accelerator.print(f"resumed after step {self.progress.step:,} from {checkpoint}")
        if experiment.resume and accelerator.is_main_process:
            folder.truncate_metrics(self.progress.metrics_bytes)
        open_trackers(experiment, folder, accelerator, step=self.progress.step)
        self.questions = split.questions("valid", validation_users(split, settings, experiment.seed))
        self.meter = Meter(accelerator.device, gather_object)
        self.losses: tuple[str, ...] = ()
        self.unseen: list[Tensor] = []
        """Losses of the steps since they were looked at last, [losses] each: to look makes a GPU wait."""
        self.saved = self.progress.step, self.progress.epoch
        self.since = time.monotonic()

    def is_over(self) -> bool:
        """Say whether all epochs are done, or validation has not improved for `patience` of them."""
        waited = self.progress.epoch - self.progress.best_epoch
        return self.progress.epoch >= self.settings.epochs or 0 < self.settings.patience <= waited

    def train_an_epoch(self) -> None:
        """Take the steps that are left of the epoch under way."""
        progress, accelerator = self.progress, self.accelerator
        self.batches.epoch, self.batches.first = progress.epoch, progress.batch
        randomness = torch.get_rng_state()
        with naming_files():  # workers begin to read at once
            batches = self.meter.watch(self.loader)  # draws a number, which a resumed epoch drew when it began
        if progress.batch:
            torch.set_rng_state(randomness)
        bar = tqdm(
            batches,
            initial=progress.batch,
            total=len(self.batches),
            desc=f"epoch {progress.epoch + 1}/{self.settings.epochs}",
            unit="step",
            disable=not accelerator.is_main_process,
        )
        self.wrapped.train()
        with naming_files():
            for batch in bar:
                losses = self._step(batch.to(accelerator.device))
                self.losses = tuple(losses)
                self.unseen.append(torch.stack(list(losses.values())))
                if progress.step % self.settings.log_every == 0 or progress.batch == len(self.batches):
                    values = self._checked()
                    bar.set_postfix({name: f"{value:.4f}" for name, value in values.items()})
                    self._log({"lr": self.schedule.get_last_lr()[0], "loss": values})
                self._save_if_asked()

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        progress, accelerator = self.progress, self.accelerator
        progress.batch += 1
        done = progress.epoch + (progress.batch / len(self.batches) if self.experiment.distill.ramp_by == "step" else 1)
        losses = self.wrapped(batch, distill_weight=distillation_weight(self.experiment.distill, done))
        accelerator.backward(sum(losses.values()))
        rows = self.lazy.collect(accelerator, batch.items, shared=batch.part is not None)
        if self.settings.clip:
            accelerator.clip_grad_norm_([*self.wrapped.parameters(), *rows], self.settings.clip)
        self.optimizer.step()
        self.lazy.step(float(self.schedule.get_last_lr()[0]))
        self.schedule.step()
        self.optimizer.zero_grad()
        progress.step += 1
        return {name: loss.detach() for name, loss in losses.items()}

    def _checked(self) -> dict[str, float]:
        """Give the losses of the last step, averaged over processes; all stop where one since the last look broke."""
        means = reduced(self.accelerator, torch.stack(self.unseen), "mean")
        steps = len(self.unseen)
        self.unseen.clear()
        if not means.isfinite().all():
            first = int((~means.isfinite()).any(1).nonzero()[0])
            values = dict(zip(self.losses, means[first].tolist(), strict=True))
            self._stop(values, batch=self.progress.batch - steps + first, step=self.progress.step - steps + first + 1)
        return dict(zip(self.losses, means[-1].tolist(), strict=True))

    def _stop(self, losses: Mapping[str, float], *, batch: int, step: int) -> NoReturn:
        users = self.batches.whole()[batch]
        if self.accelerator.is_main_process:
            items = np.unique(self.split.training(users))
            told = {"step": step, "losses": {name: str(value) for name, value in losses.items()}}
            told |= {"users": users.tolist(), "items": items[items > 0].tolist()}
            write_whole(self.folder.broken_batch, json.dumps(told) + "\n")
        broken = [name for name, value in losses.items() if not math.isfinite(value)]
        raise FloatingPointError(
            f"the {' and '.join(broken)} loss is {losses[broken[0]]} at step {step} (epoch {self.progress.epoch + 1}); "
            "lower --train.lr or --train.clip, raise --train.warmup-steps, or train without --train.bf16. The users "
            f"and items of that batch, by row, stand in {self.folder.broken_batch}"
        )

    def end_an_epoch(self) -> None:
        """Validate, keep the best weights, and save."""
        progress, folder = self.progress, self.folder
        self.lazy.settle()
        epoch = progress.epoch + 1
        with whole(self.wrapped):
            valid = validate(self.model, self.questions, self.experiment, self.accelerator)
            broken = unreadable_files(self.model)
            if broken and self.accelerator.is_main_process and not folder.unreadable.exists():
                print(folder.write_unreadable(broken))
            best = progress.best_valid["ensemble"][SELECTED_BY] if progress.best_valid else -math.inf
            if valid["ensemble"][SELECTED_BY] > best:
                progress.best_epoch, progress.best_valid = epoch, valid
                if self.accelerator.is_main_process:
                    save_weights(self.model, self.checkpoints.weights_of(epoch))
        self._keep_time()
        figures = self.meter.end(progress.seen)
        self._log({"seconds": round(progress.seconds, 1), **figures, "valid": valid})
        progress.epoch, progress.batch = epoch, 0
        self.accelerator.print(_summary(valid, progress, figures["speed"]))
        self._save()
        if not self.is_over():
            self._save_if_asked()

    def _save_if_asked(self) -> None:
        stop, save = self.requests.agree()
        if save and self.saved != (self.progress.step, self.progress.epoch):
            if self.unseen:
                self._checked()
            with self.meter.aside(self.progress.seen):
                self._save()
        if stop:
            self.accelerator.print(f"stopped after step {self.progress.step:,}; the same command with --resume goes on")
            raise Stopped

    def _save(self) -> None:
        self._keep_time()
        broken = not all(bool(share.isfinite().all()) for share in shares(self.wrapped))
        if reduced(self.accelerator, torch.tensor(float(broken), device=self.accelerator.device), "sum") > 0:
            raise FloatingPointError(  # and not saved: a run could not go on from it
                f"parameters are no numbers after step {self.progress.step}; lower --train.lr or --train.clip, or "
                "train without --train.bf16; the last checkpoint is from before that"
            )
        self.progress.metrics_bytes = self.folder.metrics_bytes()
        self.checkpoints.save(self.accelerator, self.progress)
        self.saved = self.progress.step, self.progress.epoch
        self.requests.saved()

    def _keep_time(self) -> None:
        now = time.monotonic()
        self.progress.seconds += now - self.since
        self.since = now

    def _log(self, values: Mapping[str, Any]) -> None:
        line = {"step": self.progress.step, "epoch": self.progress.epoch + 1, **values}
        if self.accelerator.is_main_process:
            self.folder.append_metrics(line)
        self.accelerator.log(numbers(line), step=line["step"])


def _groups(model: ODMT, settings: TrainConfig, lazy: LazyTables) -> list[dict[str, Any]]:
    """Give the parameters that are trained: those of encoders apart, with a learning rate and a decay of their own."""
    of_encoders = {parameter for parameter in model.encoders.parameters() if parameter.requires_grad}
    apart_from = of_encoders | {table.weight for table in lazy.tables.values()}
    others = [p for p in model.parameters() if p.requires_grad and p not in apart_from]
    groups = [{"params": others, "lr": settings.lr, "weight_decay": settings.weight_decay}]
    if of_encoders:
        ordered = [p for p in model.encoders.parameters() if p in of_encoders]
        apart = {"lr": settings.encoder_lr, "weight_decay": settings.encoder_weight_decay}
        groups.append({"params": ordered, **apart})
    return groups


def _summary(valid: Mapping[str, Mapping[str, float]], progress: Progress, speed: Mapping[str, float]) -> str:
    heads = "  ".join(f"{head} {values[SELECTED_BY]:.4f}" for head, values in valid.items())
    mark = "  (best so far)" if progress.best_epoch == progress.epoch else ""
    pace = f"  {speed['users_per_s']:,.0f} users/s" if "users_per_s" in speed else ""
    return f"epoch {progress.epoch}: validation {SELECTED_BY}  {heads}{pace}{mark}"

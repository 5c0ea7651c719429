"""Validation and test: every target of some users ranked by every head, shared among processes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from tqdm import tqdm

from odmt.config import Experiment, TrainConfig
from odmt.data.splits import LeaveTwoOut
from odmt.encoders.last_read import naming_files
from odmt.evaluate import metrics, ranks
from odmt.model import ODMT
from odmt.types import Questions, Streams, Tensor

__all__ = ["SELECTED_BY", "evaluate", "reduced", "validate", "validation_users"]

SELECTED_BY = "NDCG@10"
"""The epoch is chosen by this metric of the ensemble on validation; the test set is scored once, at the end."""


def validate(
    model: ODMT, questions: Questions, experiment: Experiment, accelerator: Accelerator
) -> dict[str, Mapping[str, float]]:
    """Fit the ensemble where it is fitted, and measure every head on validation."""
    tables = encode_catalogue(model, experiment, accelerator)
    if refit := getattr(model.ensemble, "fit", None):
        refit(partial(model.states, tables=tables), tables, questions, mask_history=experiment.train.mask_history)
        for buffer in model.ensemble.buffers():
            broadcast(buffer)  # machines need not round alike
    return {name: metrics(r) for name, r in evaluate(model, questions, experiment, accelerator, tables).items()}


def encode_catalogue(model: ODMT, experiment: Experiment, accelerator: Accelerator) -> Streams:
    """Encode every item once, shared among processes; `model.unreadable` then tells what none of them could read."""
    shown = accelerator.is_main_process and bool(model.encoders)
    with naming_files():
        tables = model.encode_catalogue(
            workers=experiment.data.workers if model.encoders else 0,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            add=_summed,
            progress=partial(tqdm, desc="encode", unit="chunk", leave=False, disable=not shown),
        )
    if model.encoders:
        everywhere: dict[str, dict[int, str]] = {}
        for found in gather_object([model.unreadable]):
            for modality, reasons in found.items():
                everywhere.setdefault(modality, {}).update(reasons)
        model.unreadable = {modality: dict(sorted(reasons.items())) for modality, reasons in everywhere.items()}
    return tables


def evaluate(
    model: ODMT, questions: Questions, experiment: Experiment, accelerator: Accelerator, tables: Streams | None = None
) -> dict[str, np.ndarray]:
    """Rank the targets of `questions` with every head, shared among processes, in float32; `tables` save encoding the
    catalogue again.
    """
    tables = tables or encode_catalogue(model, experiment, accelerator)
    found = ranks(
        partial(model.states, tables=tables),
        {name: tables[name] for name in model.streams},
        questions,
        combine=model.ensemble,
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
        head: reduced(accelerator, torch.from_numpy(r).to(device), "sum").cpu().numpy() for head, r in found.items()
    }


def _summed(table: Tensor) -> Tensor:
    """Add up what all processes have, in place: a large catalogue's table is too large to hold twice."""
    torch.distributed.all_reduce(table)
    return table


def validation_users(split: LeaveTwoOut, settings: TrainConfig, seed: int) -> np.ndarray:
    """Choose the users who validate: all, or a fixed subset that every process and every resumed run draws alike."""
    if not 0 < settings.eval_users < split.num_users:
        return np.arange(split.num_users)
    return np.sort(np.random.default_rng([seed, 1]).choice(split.num_users, settings.eval_users, replace=False))


def reduced(accelerator: Accelerator, value: Tensor, how: str) -> Tensor:
    """Give the sum or mean of all processes' values."""
    reduced = accelerator.reduce(value, how)
    assert isinstance(reduced, Tensor)
    return reduced

"""Seconds of a step, an epoch and an evaluation, disk, and the host's memory, from counts.

    step        operations of matrix products (`hollow` counts them, padding included) / rate
                + bytes of clipping and AdamW (`floor.update_bytes`; under ZeRO of a share of the parameters) and of
                activations written and read / bandwidth
                + bytes sent, twice (N-1)/N of all gradients (reduced and gathered, or all-reduced) / link; three times
                under ZeRO-3, which gathers parameters for both passes; nothing of id tables under FSDP2, where rows of
                a batch are sent, which as item vectors under every engine are not counted
    evaluation  operations of encoding the catalogue and of users x items x dim products per head / rate / N
                + 7 passes of 4 bytes over every score of every head and the ensemble (`odmt.evaluate.rank_targets`)
    epoch       ceil(users / batch) steps and an evaluation of the users that validate
    features    items x (tokens x width x 2 + 16) bytes: fp16, and where each item's tokens are
    histories   8 (users + 1) + 4 interactions, and 8 more per interaction where there are times
    checkpoints 12 bytes per parameter each (weights and moments), as many as are kept, and the best weights, 4
    host        per process 24 users (first and last events, the epoch's order) + items x (16 per modality + 16)
                + of the users that are asked about 4 (2 length + 5) for their histories, and length + 24 in ranking

The formula for a step is a floor in time as `growth.py`'s is: small products do not reach the rate of large ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from odmt.model import ODMT

from .. import machine
from ..floor import update_bytes
from .hollow import Step, table_names
from .laws import DatasetShape
from .memory import Engine
from .readings import ItemTokens

__all__ = ["Rates", "Times", "disk_bytes", "host_bytes", "slower_than_formula", "times"]

SCORE_PASSES = 7
"""Each score is written, read to compare twice, and two arrays of comparisons are written and read."""


@dataclass(frozen=True)
class Rates:
    """Hold operations and bytes per second, of products, memory and the link between processes; None leaves it out."""

    operations: float
    bandwidth: float | None
    link: float | None
    told: str

    @classmethod
    def here(cls, link: float | None) -> Rates:
        """Measure this machine's processor."""
        device = torch.device("cpu")
        told = "measured on THIS machine's processor, which is not the one that is planned for unless you say so"
        return cls(machine.matrix_rate(device), machine.bandwidth(device), link, told)


@dataclass(frozen=True)
class Times:
    """Hold seconds."""

    step: float
    steps: int
    evaluation: float

    @property
    def epoch(self) -> float:
        return self.steps * self.step + self.evaluation


def times(
    engine: Engine,
    model: ODMT,
    step: Step,
    encoding: Step,
    rates: Rates,
    *,
    dim: int,
    users: int,
    batch: int,
    asked: int,
    encoded: int,
    updated: int,
) -> Times:
    """Give the seconds of a configuration.

    asked: users that validate; encoded: items of the chunk that `encoding` is of; updated: parameters that take a step
    with every batch.
    """
    seconds = step.operations / rates.operations
    sharing = 1 if engine.name == "ddp" else engine.processes
    moved = update_bytes(updated) / sharing + 2 * step.kept.total
    if rates.bandwidth:
        seconds += moved / rates.bandwidth
    if rates.link and engine.processes > 1:
        tables = 0 if engine.lazy else sum(step.parameters[name] for name in table_names(model))
        sent = {"zero3": 3 * updated, "fsdp": 2 * (updated - tables)}.get(engine.name, 2 * updated)
        seconds += 4 * sent * (1 - 1 / engine.processes) / rates.link
    scores, heads = asked * (model.num_items + 1), len(model.streams)
    evaluation = encoding.operations * model.num_items / encoded + 2 * scores * dim * heads
    evaluation /= rates.operations
    if rates.bandwidth:
        evaluation += SCORE_PASSES * 4 * scores * (heads + 1) / rates.bandwidth
    return Times(seconds, math.ceil(users / batch), evaluation / engine.processes)


def disk_bytes(shape: DatasetShape, tokens: Mapping[str, ItemTokens], parameters: int, kept: int) -> dict[str, int]:
    """Give what lies on the disk, by what it is."""
    found = {
        f"features of {name}": round(shape.items * one.mean * one.width * 2) + 16 * (shape.items + 1)
        for name, one in tokens.items()
    }
    found["histories"] = 8 * (shape.users + 1) + 4 * shape.interactions
    found["their times, where there are any"] = 8 * shape.interactions
    found[f"{kept} checkpoints and the best weights"] = (12 * kept + 4) * parameters
    return found


def host_bytes(shape: DatasetShape, modalities: int, length: int, asked: int) -> dict[str, int]:
    """Give what each process holds in the host's memory, by what it is; the test asks about all users."""
    return {
        "users and their order": 24 * shape.users,
        "items": shape.items * (16 * modalities + 16),
        "users that validate": 4 * asked * (2 * length + 5),
        "users that test, while they are ranked": shape.users * (4 * (2 * length + 5) + length + 24),
    }


def slower_than_formula(results: Path) -> tuple[float, float] | None:
    """Say between what times the formula steps took where `bench.py --suite growth` measured them."""
    if not results.is_file():
        return None
    points = [p for p in json.loads(results.read_text())["growth"] if "step_s" in p]
    ratios = [p["step_s"] / p["formula_s"] for p in points]
    return min(ratios), max(ratios)

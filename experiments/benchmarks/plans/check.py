"""The plan's memory beside what processes here really hold, over shapes and engines that differ.

On a CPU, where the model reads batches in parts: `hollow` follows these, too. The plan is given the batch that was
measured (its distinct items and lengths; `laws` estimates them for a batch that nobody has), and what is a process's
own is added on both sides: features in memory, and what a step of the tiniest shape takes under the same engine
(libraries that load at first use). Memory of GPUs could not be measured.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from odmt.config import parse
from odmt.data.format import Dataset
from odmt.data.splits import LeaveTwoOut

from ..workload import Shape
from .configurations import lazy_ids
from .hollow import hollow_encoding, hollow_model, hollow_step
from .laws import DatasetShape, Laws
from .measured import CONFIGS, Measured, measure_steps
from .memory import BUCKET, Engine, moments
from .readings import BatchShape, ItemTokens

__all__ = ["POINTS", "check", "distinct_items"]

WITHIN = 0.15
BATCHES, DRAWN = (64, 256, 1024, 4096), 20
ALL = (("text", 30), ("image", 50), ("video", 50))


@dataclass(frozen=True)
class Point:
    """Say what is measured: overlays and flags of train.py, data, processes."""

    name: str
    overlay: str
    shape: Shape
    engine: str = "ddp"
    processes: int = 1
    how: str = ""
    flags: tuple[str, ...] = ()

    @property
    def argv(self) -> list[str]:
        shape = self.shape
        limits = [f"{name}={most}" for name, most in shape.tokens if name in shape.streams]
        return [
            *("--dataset", "microlens", "--ablation", "microlens-cpu", self.overlay, "--model.streams", *shape.streams),
            *(f"--model.dim={shape.dim}", f"--data.length={shape.length}", f"--train.batch-size={shape.batch}"),
            *("--data.max-tokens", *limits, *self.flags),
        ]


IDS = Shape(dim=64, batch=256, num_items=400_000, streams=("id",), tokens=())
LAZY = ("--train.id-updates=lazy",)
TEXT = Shape(dim=128, streams=("id", "text"), tokens=ALL)
WIDE = TEXT.but(dim=512, batch=64, num_items=2000)
POINTS = (
    Point("ids, 100,000 items", "id_only", IDS.but(num_items=100_000)),
    Point("ids, a million items, dim 128", "id_only", IDS.but(num_items=1_000_000, dim=128)),
    Point("ids, evaluated, too", "id_only", IDS, how="evaluated"),
    Point("ID-aware transformer, id and text, batch 64", "paper", TEXT.but(batch=64)),
    Point("the same, batch 256", "paper", TEXT.but(batch=256)),
    Point("the same, allocator as it is", "paper", TEXT.but(batch=256), how="kept"),
    Point("four streams, batch 64", "paper", TEXT.but(batch=64, streams=("id", "text", "image", "video"))),
    Point(
        "preset, three streams, batch 256",
        "odmt",
        TEXT.but(batch=256, num_items=100_000, width=768, streams=("id", "text", "image")),
    ),
    Point("DDP x 2, ids", "id_only", IDS, processes=2),
    Point("DDP x 2, ID-aware transformer, batch 256", "paper", TEXT.but(batch=256), processes=2),
    Point("lazy ids, a million items", "id_only", IDS.but(num_items=1_000_000), flags=LAZY),
    Point("DDP x 2, lazy ids", "id_only", IDS, processes=2, flags=LAZY),
    Point("DDP x 2, lazy ids, evaluated, too", "id_only", IDS, processes=2, how="evaluated", flags=LAZY),
    Point("ZeRO-1 x 2, ids", "id_only", IDS, engine="zero1", processes=2),
    Point("ZeRO-2 x 2, ids", "id_only", IDS, engine="zero2", processes=2),
    Point("ZeRO-3 x 2, ids", "id_only", IDS, engine="zero3", processes=2),
    Point("ZeRO-3 x 4, ids", "id_only", IDS, engine="zero3", processes=4),
    Point("ZeRO-3 x 2, ID-aware transformer, dim 512", "paper", WIDE, engine="zero3", processes=2),
    Point("FSDP2 x 2, ids", "id_only", IDS, engine="fsdp", processes=2),
    Point("FSDP2 x 4, ids", "id_only", IDS, engine="fsdp", processes=4),
    Point("FSDP2 x 2, ids, evaluated, too", "id_only", IDS, engine="fsdp", processes=2, how="evaluated"),
    Point("FSDP2 x 4, ids, evaluated, too", "id_only", IDS, engine="fsdp", processes=4, how="evaluated"),
    Point("FSDP2 x 2, ID-aware transformer, dim 512", "paper", WIDE, engine="fsdp", processes=2),
    Point("FSDP2 x 2, lazy ids", "id_only", IDS, engine="fsdp", processes=2, flags=LAZY),
)
TINIEST = Shape(dim=16, width=16, batch=8, num_items=100, streams=("id", "text"), users=16, tokens=(("text", 30),))


def distinct_items(dataset: Dataset, length: int) -> list[dict[str, Any]]:
    """Set the laws of distinct items beside the batches of a dataset, print them, and give them."""
    shape = DatasetShape(dataset.num_users, dataset.num_items, len(dataset.items), {})
    split = LeaveTwoOut(dataset.offsets, dataset.items, num_items=dataset.num_items, length=length)
    stated, own = Laws.stated(shape), Laws.of_dataset(dataset, length)
    generator, found = np.random.default_rng(0), []
    for users in BATCHES:
        drawn = [split.training(generator.choice(split.num_users, users, replace=False)) for _ in range(DRAWN)]
        entry = {
            "data": dataset.name,
            "users": users,
            "events": sum(int((one > 0).sum()) for one in drawn) / DRAWN,
            "distinct": sum(len(np.unique(one[one > 0])) for one in drawn) / DRAWN,
            "zipf_distinct": stated.batch(users, length).distinct,
            "own_distinct": own.batch(users, length).distinct,
        }
        found.append(entry)
        print(
            f"{dataset.name}: batches of {users:5} users hold {entry['distinct']:7.0f} distinct items; by the stated "
            f"laws {entry['zipf_distinct']:6}, by its own {entry['own_distinct']:6}"
        )
    return found


def check(about: str, points: Sequence[Point]) -> dict[str, Any]:
    """Measure every point, print it beside its plan, and give all as a tree."""
    print(about)
    found = []
    for point in points:
        measured = measure_steps(point.argv, point.shape, world=point.processes, engine=point.engine, how=point.how)
        planned = _planned(point, measured) + _least(point.engine, point.processes)
        ratio = measured.peak / planned
        print(
            f"{point.name:45} {measured.distinct:5} distinct items  measured {measured.peak / 1e9:6.3f} GB  planned "
            f"{planned / 1e9:6.3f} GB  ratio {ratio:.2f}",
            flush=True,
        )
        entry = {"name": point.name, "flags": " ".join(point.argv), "how": point.how, "engine": point.engine}
        entry |= {"processes": point.processes, "items": point.shape.num_items, "distinct": measured.distinct}
        found.append({**entry, "peak_bytes": measured.peak, "planned_bytes": planned, "ratio": ratio})
    ratios = [one["ratio"] for one in found if one["how"] != "kept"]
    print(
        f"measured over planned: {min(ratios):.2f} to {max(ratios):.2f} where freed memory is given back; all within "
        f"{WITHIN:.0%}: {all(abs(ratio - 1) <= WITHIN for ratio in ratios)}"
    )
    return {"check": found}


def _planned(point: Point, measured: Measured) -> int:
    """Plan for the batch that was measured, on a CPU; nothing of a bucket of ZeRO's counts there until it is filled."""
    experiment = parse(point.argv, configs=CONFIGS)
    tokens = {name: ItemTokens(measured.widths[name], lengths) for name, lengths in measured.tokens.items()}
    model = hollow_model(experiment, point.shape.num_items, tokens)
    batch = BatchShape(measured.lengths, measured.distinct)
    how = {"world": point.processes, "bf16": experiment.train.bf16, "lazy": lazy_ids(experiment), "gpu": False}
    step, encoding = hollow_step(model, batch, tokens, **how), hollow_encoding(model, tokens, gpu=False)
    bucket = min(BUCKET, sum(step.parameters.values()))
    engine = Engine(point.engine, point.processes, lazy_ids(experiment))
    found = moments(engine, model, step, encoding, dim=point.shape.dim, bucket=bucket, device="cpu")
    if point.how != "evaluated":
        found = [moment for moment in found if moment.name != "evaluation"]
    return max(moment.total for moment in found) + measured.constant


@functools.cache
def _least(engine: str, processes: int) -> int:
    """Measure what an engine takes for almost nothing."""
    point = Point("", "paper", TINIEST, engine, processes)
    measured = measure_steps(point.argv, point.shape, world=processes, engine=engine)
    return measured.peak - _planned(point, measured)

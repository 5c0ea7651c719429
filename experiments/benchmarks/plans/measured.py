"""Steps as training takes them, in processes of their own, and the most memory that one of them held.

The system's allocator keeps freed blocks for later, by which a process takes 1.0 to 1.4 times what its tensors hold;
the processes here are told to give them back, so that what is measured is what is held. On Linux alone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from odmt.config import Experiment, parse
from odmt.meters import peak_bytes
from odmt.types import Batch, Tokens

from .. import machine
from ..workload import Shape, make_workload

__all__ = ["CONFIGS", "Measured", "measure_steps"]

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
"""What tells glibc to give blocks back to the system as soon as they are freed."""
STEPS = 3
EVALUATED = 64
"""Users that are ranked: two groups whose scores are held at once."""


@dataclass(frozen=True)
class Measured:
    """Hold the peak of the process that held most, beside what it held before any tensor, and the largest batch.

    lengths: events per user, ascending; tokens: per modality those of the batch's items, ascending; constant: bytes of
    features, in memory here, and of the chances of items to be drawn.
    """

    peak: int
    distinct: int
    lengths: np.ndarray
    tokens: Mapping[str, np.ndarray]
    widths: Mapping[str, int]
    constant: int
    seconds: float


def measure_steps(argv: Sequence[str], shape: Shape, *, world: int = 1, engine: str = "ddp", how: str = "") -> Measured:
    """Train for a few steps what `argv` says, settings of train.py, on the synthetic data of `shape`.

    engine: "ddp", "fsdp", or "zero1" to "zero3", every parameter split there. how: "kept" lets the allocator keep what
        is freed, as it does by itself; "evaluated" ranks some users' targets at the end.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(world)}
    if by_deepspeed := engine.startswith("zero"):
        address |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": engine[-1]}
    else:
        address |= {"ACCELERATE_USE_CPU": "true"}
    if engine == "zero3":
        split = {"stage": 3, "stage3_param_persistence_threshold": 0}
        address["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = json.dumps({"zero_optimization": split})
    if engine == "fsdp":
        address |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    processes = []
    for rank in range(world):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}
        with _environment((address | own if world > 1 else {}) | ({} if how == "kept" else GIVEN_BACK)):
            processes.append(context.Process(target=_steps, args=(queue, list(argv), shape, by_deepspeed, how)))
            processes[-1].start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"a process that was to be measured ended with {[p.exitcode for p in processes]}: {argv}")
    return max((queue.get() for _ in processes), key=lambda found: found.peak)


def _steps(queue: Any, argv: list[str], shape: Shape, by_deepspeed: bool, how: str) -> None:
    torch.set_num_threads(1)
    import odmt.training  # noqa: F401  # pyright: ignore[reportUnusedImport]

    if by_deepspeed:
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would be compiled, for minutes
    before = peak_bytes(torch.device("cpu"))
    found = _train(parse(argv, configs=CONFIGS), shape, evaluated=how == "evaluated")
    queue.put(Measured(peak_bytes(torch.device("cpu")) - before, **found))


def _train(experiment: Experiment, shape: Shape, *, evaluated: bool) -> dict[str, Any]:
    """Take steps as `odmt.loop` does, each of another batch."""
    from odmt.data.loading import make_batch
    from odmt.launch import place, settle_deepspeed, start
    from odmt.lazy_ids import lazy_tables
    from odmt.loop import _groups
    from odmt.pretrained import build_model
    from odmt.shards import call_alike, whole
    from odmt.types import Part
    from odmt.validation import evaluate

    accelerator = start(experiment)
    workload = make_workload(shape)
    model = build_model(experiment, workload.features, item_counts=workload.item_counts, start=False)
    constant = sum(table.values.nbytes + table.spans.nbytes for table in workload.features.tables.values())
    constant += 2 * model.draw_shares.nbytes  # and what they are made of
    place(accelerator, model, experiment.train)
    lazy = lazy_tables(model, experiment.train, steps=STEPS)
    optimizer = torch.optim.AdamW(_groups(model, experiment.train, lazy), fused=True)
    settle_deepspeed(accelerator.state.deepspeed_plugin, experiment.train, processes=accelerator.num_processes)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    call_alike(wrapped)
    wrapped.train()
    world, largest, seconds = accelerator.num_processes, {"distinct": 0}, []
    for number in range(STEPS):
        part = Part(accelerator.process_index, world, shape.batch) if world > 1 else None
        batch = make_batch(workload.histories(number), workload.features, model.modalities, part=part)
        if len(batch.items) > largest["distinct"]:
            largest = _described(batch)  # and not the batch, which would be held

        def step() -> None:
            losses = wrapped(batch, distill_weight=1.0)  # noqa: B023 - called at once
            accelerator.backward(sum(losses.values()))
            rows = lazy.collect(accelerator, batch.items, shared=world > 1)  # noqa: B023
            accelerator.clip_grad_norm_([*wrapped.parameters(), *rows], experiment.train.clip)
            optimizer.step()
            lazy.step(experiment.train.lr)
            optimizer.zero_grad()

        seconds.append(machine.seconds(step, torch.device("cpu")))
    if evaluated:
        with whole(wrapped):
            evaluate(model, workload.split.questions("test", np.arange(EVALUATED)), experiment, accelerator)
    return {**largest, "widths": shape.widths, "constant": constant, "seconds": min(seconds[1:])}


def _described(batch: Batch) -> dict[str, Any]:
    stored = {name: one for name, one in batch.content.items() if isinstance(one, Tokens)}
    return {
        "distinct": len(batch.items),
        "lengths": np.sort(batch.mask.sum(1).numpy()),
        "tokens": {name: np.sort(one.mask.sum(1).numpy()) for name, one in stored.items()},
    }


@contextmanager
def _environment(variables: Mapping[str, str]):
    """Set variables while processes are started, which take them over."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]

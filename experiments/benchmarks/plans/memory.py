"""Bytes that a process holds on its device, at the moments of training that ask for most.

With P numbers in the model's parameters, N processes, 4 bytes a number, and the peak of a step that `hollow` finds:

    DDP         parameters 4P, AdamW's moments 8P, gradients 4P, and where there are several processes 4P again, because
                DistributedDataParallel reduces copies of the gradients (its buckets)
    ZeRO-1, 2   parameters 4P, its own copy of a share of them 4P/N with moments 8P/N; in the backward pass a bucket of
                5e8 numbers (DeepSpeed's default); at its end, in full, the gradients of all parameters that this
                process's share touches: a table that spans several shares is in all of them, so that ZeRO-2 does not
                split its gradient; and the gradient of a parameter larger than the bucket, which is reduced in place
    lazy ids    tables 4T with moments 8T and a row's last step, on every process, and gradients of a batch's rows alone

    ZeRO-3      a share of the parameters, twice, of moments and of gradients 20P/N; in a step, parameters whole 4P, the
                gradient of the largest, and a bucket of gradients (as large as the largest, or 5e8 numbers) and what is
                sent of it
    FSDP2       a share of the parameters 4P/N and of moments 8P/N; of id tables a share of gradients 4T/N; of the other
                numbers R = P - T, parameters whole in a step 4R, gradients 4R, and while they are split a copy 4R

    start       under FSDP2 on a CPU, the model whole while a share is taken of it; elsewhere that is the host's memory
    training    all that lives between batches + what the step's forward and backward pass hold at their peak
    update      the same with all gradients and no activations
    evaluation  the same without gradients, parameters whole (but for FSDP2's id tables, which then lie in the
                processor's memory) + the tables of the catalogue and the most of: a chunk of it being encoded; scores
                of the users that are scored at once

The catalogue's numbers are float32 also under --train.bf16, which multiplies in bfloat16 and keeps everything else.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from odmt.evaluate import _ROWS, _SCORES
from odmt.model import ODMT

from .hollow import Held, Step, table_names

__all__ = ["ENGINES", "Engine", "Moment", "moments"]

ENGINES = {"ddp": "DDP", "zero1": "ZeRO-1", "zero2": "ZeRO-2", "zero3": "ZeRO-3", "fsdp": "FSDP2"}
READ_AT_ONCE = 1024
"""Users whose histories `odmt.evaluate.ranks` reads at once, of whom it scores some at a time."""
BUCKET = 500_000_000
"""Numbers in DeepSpeed's reduce_bucket_size, which the files of experiments/accelerate leave as it is."""


@dataclass(frozen=True)
class Engine:
    """Say how processes share the work, by a name of `ENGINES`; "ddp" is alone with one process."""

    name: str
    processes: int = 1
    lazy: bool = False

    def __str__(self) -> str:
        name = ENGINES[self.name] if self.processes > 1 else "alone"
        return f"{name}, lazy ids" if self.lazy else name


@dataclass(frozen=True)
class Moment:
    """Hold the bytes of one moment, by what they are."""

    name: str
    parameters: int
    optimizer: int
    buckets: int
    buffers: int
    gradients: int = 0
    activations: int = 0
    logits: int = 0
    gathered: int = 0
    batch: int = 0
    tables: int = 0
    scores: int = 0

    @property
    def parts(self) -> dict[str, int]:
        return {part.name: getattr(self, part.name) for part in fields(self) if part.name != "name"}

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def moments(
    engine: Engine, model: ODMT, step: Step, encoding: Step, *, dim: int, bucket: int = BUCKET, device: str = "cuda"
) -> list[Moment]:
    """Give the moments of training and evaluation.

    step: of one of the engine's processes. encoding: of a chunk of the catalogue. bucket: numbers of ZeRO's bucket.
    """
    lasting = _lasting(engine, model, step)
    sizes = list(step.parameters.values())
    dense = sum(_dense(engine, model, step).values())
    rows = step.peak.gradients if engine.lazy else 0
    if engine.name == "ddp":
        training = Moment("training", **lasting, gradients=step.peak.gradients, **_held(step.peak))
        update = Moment("update", **lasting, gradients=4 * dense + rows)
        return [training, update, _evaluation(lasting, model, encoding, dim, device)]
    if engine.name == "fsdp":
        tables = 0 if engine.lazy else sum(step.parameters[name] for name in table_names(model))
        others = dense - tables
        in_a_step = {**lasting, "buckets": 4 * others, "gradients": 4 * others + 4 * tables // engine.processes + rows}
        splitting = {**in_a_step, "buckets": 8 * others + 4 * others // engine.processes}
        read = {**lasting, "buckets": 4 * others + (4 * tables if device == "cpu" else 0)}
        found = [Moment("training", **in_a_step, **_held(step.kept)), Moment("update", **splitting)]
        if device == "cpu":
            whole = 4 * sum(sizes) + 4 * tables // engine.processes
            found.append(Moment("start", parameters=whole, optimizer=0, buckets=0, buffers=lasting["buffers"]))
        return [*found, _evaluation(read, model, encoding, dim, device)]
    if engine.name == "zero3":
        reduced = min(dense, max(bucket, max(sizes)))
        whole = {**lasting, "buckets": 4 * dense}
        training = {**lasting, "buckets": 4 * dense + 8 * reduced, "gradients": 4 * max(sizes)}
        found = [Moment("training", **training, **_held(step.kept)), Moment("update", **lasting)]
        return [*found, _evaluation(whole, model, encoding, dim, device)]
    shares = _shares(sizes, engine.processes)
    touched = 4 * max(sum(sizes[k] for k in share) for share in shares)
    large = [size for size in sizes if size > bucket]
    in_place = 4 * (sum(large) if engine.name == "zero1" else max(large, default=0))
    buckets = {**lasting, "buckets": lasting["buckets"] + 4 * bucket}
    training = Moment("training", **buckets, **_held(step.kept))
    update = Moment("update", **buckets, gradients=in_place + touched)
    return [training, update, _evaluation(lasting, model, encoding, dim, device)]


def _held(held: Held) -> dict[str, int]:
    return {"activations": held.others, "logits": held.logits, "gathered": held.gathered, "batch": held.batch}


def _dense(engine: Engine, model: ODMT, step: Step) -> dict[str, int]:
    """Give the parameters whose gradients are as large as they are."""
    lazy = table_names(model) if engine.lazy else set()
    return {name: size for name, size in step.parameters.items() if name not in lazy}


def _lasting(engine: Engine, model: ODMT, step: Step) -> dict[str, int]:
    """Give what lives between batches."""
    all_numbers, dense = sum(step.parameters.values()), sum(_dense(engine, model, step).values())
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    rows = (model.num_items + 1) * len(table_names(model)) if engine.lazy else 0  # the last step of each
    copies = 4 * dense if engine.processes > 1 else 0
    share, lazy = -(-dense // engine.processes), all_numbers - dense
    parameters, optimizer, buckets = {
        "ddp": (4 * all_numbers, 8 * all_numbers + 4 * rows, copies),
        "zero1": (4 * all_numbers, 12 * share, 0),
        "zero2": (4 * all_numbers, 12 * share, 0),
        "zero3": (4 * share, 16 * share, 0),
        "fsdp": (4 * share + 4 * lazy, 8 * share + 8 * lazy + 4 * rows, 0),
    }[engine.name]
    return {"parameters": parameters, "optimizer": optimizer, "buckets": buckets, "buffers": buffers}


def _shares(sizes: Sequence[int], processes: int) -> list[list[int]]:
    """Say which parameters each process's share touches, laid side by side in their order."""
    ends = list(itertools.accumulate(sizes))
    share = -(-ends[-1] // processes)
    spans = [(rank * share, (rank + 1) * share) for rank in range(processes)]
    return [
        [k for k, (end, size) in enumerate(zip(ends, sizes, strict=True)) if end - size < last and end > first]
        for first, last in spans
    ]


def _evaluation(lasting: Mapping[str, int], model: ODMT, encoding: Step, dim: int, device: str) -> Moment:
    """Give the moment of evaluation that asks for most: encoding, or ranking.

    Scores of some users: every head's, the ensemble's where it is another, and what tells them from the target's.
    """
    rows, heads = model.num_items + 1, len(model.streams)
    tables = 4 * rows * dim * (len(model.vectors) + len(model.apart))
    users = min(READ_AT_ONCE, max(_ROWS, _SCORES[device] // rows))
    scores = 4 * rows * users * (heads + (heads > 1) + 1)
    made = [
        Moment("evaluation", **lasting, tables=tables, activations=encoding.peak.total),
        Moment("evaluation", **lasting, tables=tables, scores=scores),
    ]
    return max(made, key=lambda moment: moment.total)

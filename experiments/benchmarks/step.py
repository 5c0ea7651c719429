"""One training step (forward, backward, clipping, optimizer) beside the plain reference and the arithmetic floor.

Loss and gradients are shown to be equal without dropout, in float32 and in float64, before anything is timed. Then the
two sides take turns in one process, on the same batches; which goes first alternates.
"""

from __future__ import annotations

import math
import os
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from odmt.parts import item_parts, user_parts
from odmt.types import Tokens

from . import machine
from .floor import compared, optimizer_bytes, step_operations
from .sides import Ours, Reference
from .workload import Shape, Workload, make_workload, real_workload

__all__ = ["add_arguments", "compare", "compare_precisely", "describe", "measure"]

LOSS_TOLERANCE, WHOLE_TOLERANCE, PRECISE_TOLERANCE = 2e-6, 1e-3, 1e-9
"""Largest relative difference of the loss and of the whole gradient in float32, ||ours - theirs|| / ||theirs||; and of
the loss and of each parameter's gradient in float64."""
PRECISE_USERS = 64
"""Users of the comparison in float64, whatever the batch size: `odmt.parts` reads so many in two parts."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add what this suite takes."""
    machine.add_arguments(parser, repeats=5)
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 768], metavar="D", help="default 128 and 768")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128], metavar="B", help="default 32 and 128")
    parser.add_argument("--tokens", type=int, nargs=2, default=[30, 50], metavar="N", help="text, image (30 50)")
    parser.add_argument("--items", type=int, default=19_220, metavar="N", help="synthetic catalogue (default 19220)")
    parser.add_argument("--dataset", type=Path, metavar="DIR", help="measure on this dataset folder's users, too")
    parser.add_argument("--dropout", type=float, default=0.0, metavar="P", help="of both while timing (default 0)")
    parser.add_argument("--bf16", action="store_true", help="autocast both sides while timing")
    parser.add_argument(
        "--compile", action="store_true", help="compile our blocks; the first step, cold, is given, too"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out the fresh processes that measure memory")


def measure(arguments: Namespace) -> list[dict[str, Any]]:
    """Return, per data, width and batch size, the times of both sides, the floor, and the ratios."""
    machine.setup(arguments)
    tokens = tuple(zip(("text", "image"), arguments.tokens, strict=True))
    found = []
    for dataset in (None, arguments.dataset) if arguments.dataset else (None,):
        for dim in arguments.dims:
            shape = Shape(dim=dim, num_items=arguments.items, tokens=tokens, dropout=arguments.dropout)
            device = torch.device(arguments.device)
            compiled = _first_steps_of(shape, dataset, arguments) if arguments.compile else {}
            precise = compare_precisely(_workload(shape, dataset), device)
            for batch in arguments.batches:
                found.append({**_measure_one(shape.but(batch=batch), dataset, arguments, precise), **compiled})
                print(_line(found[-1]), flush=True)
    return found


def describe(results: Sequence[Mapping[str, Any]]) -> str:
    """Say what was compared, and what the floor is made of."""
    lowest, highest = (f(r[key] for r in results) / 1e9 for f, key in ((min, "rate_min"), (max, "rate_max")))
    lines = [
        f"equal before timing: {results[0]['equal_in']}",
        "reference: tests/parity/plain_batch.py; floor: the operations that the batches need (benchmarks/floor.py) at "
        f"the best rate seen beside each shape; rates were {lowest:.0f} to {highest:.0f} G/s",
    ]
    if any(r["reference_pieces"] > 1 for r in results):
        lines.append("a reference in pieces does the same operations in less memory, which is therefore not given")
    return "\n".join(lines)


def compare(
    workload: Workload, device: torch.device, *, pieces: int = 1, bf16: bool = False, compiled: bool = False
) -> dict[str, Any]:
    """Compare both sides on one batch in float32: how far apart are the loss, and the gradient as a whole.

    Float32 tells little of single gradients: a feed-forward's ReLU whose input is 0 but for rounding is open on one
    side only. They are compared one by one in float64, by `compare_precisely`. With bf16, give also how far our loss
    under autocast is from the reference's in float32; that is a price, not a test.
    """
    losses, gradients = _both(workload, device, torch.float32, pieces, compiled)
    norm = torch.stack([theirs.norm() for _, theirs in gradients.values()]).norm()
    apart = torch.stack([(ours - theirs).norm() for ours, theirs in gradients.values()]).norm()
    found = {"loss_difference": _relative(*losses), "gradient_difference": (apart / norm).item()}
    equal = found["loss_difference"] <= LOSS_TOLERANCE and found["gradient_difference"] <= WHOLE_TOLERANCE
    if bf16:
        ours = Ours(workload, device, dropout=0.0, bf16=True, compiled=compiled)
        found["bf16_loss_difference"] = _relative(ours.backward(ours.load(0)).item(), losses[1])
    return {"equal": equal, **found}


def compare_precisely(workload: Workload, device: torch.device) -> dict[str, Any]:
    """Compare the loss and every parameter's gradient in float64, on as many users as are read in several parts.

    Nothing is compiled here: what torch makes of it is compared in float32, the precision that is timed.
    """
    users = min(PRECISE_USERS, workload.split.num_users)
    some = replace(workload, shape=workload.shape.but(batch=users))
    losses, gradients = _both(some, device, torch.float64, _pieces(some.shape, device, 8), compiled=False)
    each = {name: ((ours - theirs).norm() / theirs.norm()).item() for name, (ours, theirs) in gradients.items()}
    found = {"float64_loss_difference": _relative(*losses), "float64_gradient_difference": max(each.values())}
    batch = some.batch(0)
    stored = {name: one for name, one in batch.content.items() if isinstance(one, Tokens)}
    parts = len(user_parts(batch.mask)[1]), len(item_parts(stored))
    read = {"float64_users": users, "float64_user_parts": parts[0], "float64_item_parts": parts[1]}
    return {"equal": max(found.values()) <= PRECISE_TOLERANCE, **found, **read}


def _both(
    workload: Workload, device: torch.device, dtype: torch.dtype, pieces: int, compiled: bool
) -> tuple[tuple[float, float], dict[str, tuple[Tensor, Tensor]]]:
    """Give our loss and the reference's, and the gradients of both where they are not zero on both."""
    ours = Ours(workload, device, dropout=0.0, dtype=dtype, compiled=compiled)
    theirs = Reference(workload, device, dropout=0.0, dtype=dtype, pieces=pieces)
    losses = ours.backward(ours.load(0)).item(), theirs.backward(theirs.load(0)).item()
    found = [
        {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in side.model.named_parameters()}
        for side in (ours, theirs)
    ]
    pairs = {name: (found[0][name], found[1][name]) for name in found[0]}
    return losses, {name: pair for name, pair in pairs.items() if any(gradient.any() for gradient in pair)}


def _relative(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / abs(theirs)


def _measure_one(
    shape: Shape, dataset: Path | None, arguments: Namespace, precise: Mapping[str, Any]
) -> dict[str, Any]:
    device = torch.device(arguments.device)
    workload = _workload(shape, dataset)
    pieces = _pieces(shape, device)
    differences = compare(workload, device, pieces=pieces, bf16=arguments.bf16, compiled=arguments.compile)
    differences = {**precise, **differences, "equal": precise["equal"] and differences["equal"]}
    if not differences["equal"]:
        raise RuntimeError(f"nothing was timed, because both sides' loss or gradients differ: {differences}")
    options = {"dropout": shape.dropout, "bf16": arguments.bf16}
    ours = Ours(workload, device, **options, compiled=arguments.compile)
    theirs = Reference(workload, device, **options, pieces=pieces)
    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    sides = [partial(_timed, side, device) for side in (ours, theirs)]
    if arguments.compile:
        for number in range(arguments.repeats + 1):
            _timed(ours, device, number)
    times, rates = machine.take_turns(sides, device, repeats=arguments.repeats, dtype=dtype)
    operations = [
        step_operations(workload.features, workload.histories(number), dim=shape.dim, streams=shape.streams)
        for number in range(1, arguments.repeats + 1)
    ]
    parameters = sum(p.numel() for p in ours.model.parameters())
    batch = ours.load(1)
    del theirs, ours
    peaks = {} if arguments.no_memory else _peaks(shape, dataset, arguments, pieces)
    return {
        "data": workload.name,
        "dim": shape.dim,
        "batch": shape.batch,
        "widths": dict(workload.features.widths),
        "slots": batch.histories.shape[0] * (shape.length + 1),
        "filled": int(batch.mask.sum()),
        "distinct": len(batch.items),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "bf16": arguments.bf16,
        "compile": arguments.compile,
        "dropout": shape.dropout,
        **differences,
        "equal_in": f"float32, relative: loss {LOSS_TOLERANCE:.0e}, whole gradient {WHOLE_TOLERANCE:.0e}; float64, "
        f"{precise['float64_users']} users: loss and every parameter's gradient {PRECISE_TOLERANCE:.0e}",
        **compared(times, operations, rates),
        "reference_pieces": pieces,
        "users_per_s": shape.batch / median(times[0]),
        "optimizer_floor_s": optimizer_bytes(parameters) / machine.bandwidth(device),
        "parameters": parameters,
        **peaks,
    }


def _workload(shape: Shape, dataset: Path | None) -> Workload:
    return real_workload(dataset, shape) if dataset else make_workload(shape)


def _timed(side: Ours | Reference, device: torch.device, number: int) -> float:
    batch = side.load(number)
    return machine.seconds(lambda: side.step(batch), device)  # pyright: ignore[reportArgumentType]


def _pieces(shape: Shape, device: torch.device, width: int = 4) -> int:
    """Choose in how many pieces the reference encodes its positions: most of the free memory may be used.

    A block leaves about 20 arrays of [tokens, dim] and 5 of attention weights behind for its backward pass; `width` is
    the bytes of a number.
    """
    rows = shape.batch * (shape.length + 1)
    tokens = 1 + sum(most for name, most in shape.tokens if name in shape.streams)
    needed = width * rows * (2 * 20 * tokens * shape.dim + 2 * 5 * 2 * tokens**2 + tokens * max(shape.widths.values()))
    return max(1, math.ceil(needed / (0.6 * machine.available_bytes(device))))


def _peaks(shape: Shape, dataset: Path | None, arguments: Namespace, pieces: int) -> dict[str, Any]:
    _, ours = machine.in_child(_steps, "ours", shape, dataset, arguments, device=arguments.device)
    if pieces > 1:
        return {"ours_peak_bytes": ours, "reference_peak_bytes": None}
    _, theirs = machine.in_child(_steps, "reference", shape, dataset, arguments, device=arguments.device)
    return {"ours_peak_bytes": ours, "reference_peak_bytes": theirs}


def _steps(which: str, shape: Shape, dataset: Path | None, arguments: Namespace) -> None:
    device = machine.setup(arguments)
    workload, options = _workload(shape, dataset), {"dropout": shape.dropout, "bf16": arguments.bf16}
    if which == "ours":
        side = Ours(workload, device, **options, compiled=arguments.compile)
    else:
        side = Reference(workload, device, **options)
    for number in range(2):
        side.step(side.load(number))  # pyright: ignore[reportArgumentType]


def _first_steps_of(shape: Shape, dataset: Path | None, arguments: Namespace) -> dict[str, float]:
    return machine.in_child(_first_steps, shape, dataset, arguments, device=arguments.device)[0]


def _first_steps(shape: Shape, dataset: Path | None, arguments: Namespace) -> dict[str, float]:
    """Time the first step of a process, with nothing kept from earlier ones, and steps of batches that it has seen.

    Of the batch sizes the largest is taken. Later batches may compile again, for shapes that were special before;
    `compile_s` is the time of all batches' first steps.
    """
    device = machine.setup(arguments)
    workload = _workload(shape.but(batch=max(arguments.batches)), dataset)
    ours = Ours(workload, device, dropout=shape.dropout, bf16=arguments.bf16, compiled=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        first, again = ([_timed(ours, device, number) for number in range(arguments.repeats + 1)] for _ in range(2))
    return {"cold_s": first[0], "compile_s": sum(first), "warm_s": median(again)}


def _line(r: Mapping[str, Any]) -> str:
    memory = "".join(
        f"  {side} {r[f'{side}_peak_bytes'] / 1e9:.2f} GB"
        for side in ("ours", "reference")
        if r.get(f"{side}_peak_bytes")
    )
    first = f"  first step {r['cold_s']:.1f} s cold" if "cold_s" in r else ""
    return (
        f"{r['data']:>10}  dim {r['dim']:4}  batch {r['batch']:4}  ours {r['ours_s']:7.3f} s  "
        f"reference {r['reference_s']:8.3f} s  ratio {r['ratio']:5.1f}  {r['users_per_s']:6.0f} users/s  "
        f"floor {r['floor_s']:6.3f} s, {r['floor_ratio']:4.2f} times it (reference {r['reference_floor_ratio']:.1f})"
        f"{memory}{first}"
    )

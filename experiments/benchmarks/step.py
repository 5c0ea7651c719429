"""One training step (forward, backward, clipping, optimizer) beside the plain reference and the arithmetic floor.

Loss and gradients are shown to be equal, without dropout and in float32, before anything is timed. Then the two sides
take turns in one process, on the same batches; which goes first alternates.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from . import machine
from .floor import optimizer_bytes, step_operations
from .sides import Ours, Reference
from .workload import Shape, Workload, make_workload, real_workload

__all__ = ["add_arguments", "assert_equal", "describe", "measure"]

LOSS_TOLERANCE, WHOLE_TOLERANCE, PRECISE_TOLERANCE = 2e-6, 1e-3, 1e-9
"""Largest relative difference of the loss and of the whole gradient in float32, ||ours - theirs|| / ||theirs||; and of
the loss and of each parameter's gradient in float64."""


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
    parser.add_argument("--compile", action="store_true", help="compile our blocks; the first step is given, too")
    parser.add_argument("--no-memory", action="store_true", help="leave out the fresh processes that measure memory")


def measure(arguments: Namespace) -> list[dict[str, Any]]:
    """Return, per data, width and batch size, the times of both sides, the floor, and the ratios."""
    machine.setup(arguments)
    tokens = tuple(zip(("text", "image"), arguments.tokens, strict=True))
    found = []
    for dataset in (None, arguments.dataset) if arguments.dataset else (None,):
        for dim in arguments.dims:
            for batch in arguments.batches:
                shape = Shape(dim=dim, batch=batch, num_items=arguments.items, tokens=tokens, dropout=arguments.dropout)
                found.append(_measure_one(shape, dataset, arguments))
                print(_line(found[-1]), flush=True)
    return found


def describe(results: Sequence[Mapping[str, Any]]) -> str:
    """Say what was compared, and what the floor is made of."""
    rates = sorted({round(r["operations_per_s"] / 1e9) for r in results})
    lines = [
        f"before timing, in float32 losses were equal to {LOSS_TOLERANCE} and the gradient to {WHOLE_TOLERANCE}, "
        f"and in float64 the loss and every parameter's gradient to {PRECISE_TOLERANCE}",
        "reference: tests/parity/plain_batch.py; floor: the operations that the batches need (benchmarks/floor.py) at "
        f"{' to '.join(map(str, {rates[0]: 0, rates[-1]: 0}))} G/s, measured beside each shape",
    ]
    if any(r["reference_pieces"] > 1 for r in results):
        lines.append("a reference in pieces does the same operations in less memory, which is therefore not given")
    return "\n".join(lines)


def assert_equal(
    workload: Workload, device: torch.device, *, pieces: int = 1, compiled: bool = False
) -> dict[str, float]:
    """Compare both sides on one batch in float32, and on its first users in float64; give the differences found.

    Float32 tells little of single gradients: a feed-forward's ReLU whose input is 0 but for rounding is open on one
    side only. So they are compared as a whole there, and one parameter after the other in float64.
    """
    loss, ours, theirs = _both(workload, device, torch.float32, pieces, compiled)
    assert loss <= LOSS_TOLERANCE, f"losses differ by {loss:.1e}"
    norm = torch.stack([gradient.norm() for gradient in theirs.values()]).norm()
    whole = (torch.stack([(ours[name] - theirs[name]).norm() for name in theirs]).norm() / norm).item()
    assert whole <= WHOLE_TOLERANCE, f"gradients differ by {whole:.1e} of their norm"
    some = replace(workload, shape=workload.shape.but(batch=min(8, workload.shape.batch)))
    precise_loss, ours, theirs = _both(some, device, torch.float64, 1, compiled)
    each = {name: ((ours[name] - theirs[name]).norm() / theirs[name].norm()).item() for name in theirs}
    for name, difference in {**each, "the loss": precise_loss}.items():
        assert difference <= PRECISE_TOLERANCE, f"{name}: differs by {difference:.1e} in float64"
    return {
        "loss_difference": loss,
        "gradient_difference": whole,
        "float64_loss_difference": precise_loss,
        "float64_gradient_difference": max(each.values()),
    }


def _both(
    workload: Workload, device: torch.device, dtype: torch.dtype, pieces: int, compiled: bool
) -> tuple[float, dict[str, Tensor], dict[str, Tensor]]:
    """Give the relative difference of the losses, and both sides' gradients where they are not zero on both."""
    ours = Ours(workload, device, dropout=0.0, dtype=dtype, compiled=compiled)
    theirs = Reference(workload, device, dropout=0.0, dtype=dtype, pieces=pieces)
    loss, reference = ours.backward(ours.load(0)).item(), theirs.backward(theirs.load(0)).item()
    found = [
        {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in side.model.named_parameters()}
        for side in (ours, theirs)
    ]
    some = [name for name in found[0] if any(gradients[name].any() for gradients in found)]
    return (
        abs(loss - reference) / abs(reference),
        {name: found[0][name] for name in some},
        {name: found[1][name] for name in some},
    )


def _measure_one(shape: Shape, dataset: Path | None, arguments: Namespace) -> dict[str, Any]:
    device = torch.device(arguments.device)
    workload = _workload(shape, dataset)
    pieces = _pieces(shape, device)
    differences = assert_equal(workload, device, pieces=pieces, compiled=arguments.compile)
    options = {"dropout": shape.dropout, "bf16": arguments.bf16}
    ours = Ours(workload, device, **options, compiled=arguments.compile)
    theirs = Reference(workload, device, **options, pieces=pieces)
    first_step_s = _timed(ours, 0, device)
    ours_s, reference_s, rate = _take_turns(ours, theirs, arguments.repeats, device)
    operations = [
        step_operations(workload.features, workload.histories(number), dim=shape.dim, streams=shape.streams)
        for number in range(1, arguments.repeats + 1)
    ]
    parameters = sum(p.numel() for p in ours.model.parameters())
    batch = ours.load(1)
    del theirs, ours
    peaks = {} if arguments.no_memory else _peaks(shape, dataset, arguments, pieces)
    step_s, floor_s = median(ours_s), median(operations) / rate
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
        "equal": True,
        **differences,
        "ours_s": step_s,
        "reference_s": median(reference_s),
        "reference_pieces": pieces,
        "first_step_s": first_step_s,
        "ratio": median(theirs / ours for theirs, ours in zip(reference_s, ours_s, strict=True)),
        "users_per_s": shape.batch / step_s,
        "operations": median(operations),
        "operations_per_s": rate,
        "floor_s": floor_s,
        "floor_ratio": median(s * rate / n for s, n in zip(ours_s, operations, strict=True)),
        "reference_floor_ratio": median(s * rate / n for s, n in zip(reference_s, operations, strict=True)),
        "optimizer_floor_s": optimizer_bytes(parameters) / machine.bandwidth(device),
        "parameters": parameters,
        **peaks,
    }


def _workload(shape: Shape, dataset: Path | None) -> Workload:
    return real_workload(dataset, shape) if dataset else make_workload(shape)


def _take_turns(
    ours: Ours, theirs: Reference, repeats: int, device: torch.device
) -> tuple[list[float], list[float], float]:
    """Time both sides' steps and, in between, the machine's rate, of which the best is given."""
    sides = (ours, theirs)
    times: dict[Ours | Reference, list[float]] = {side: [] for side in sides}
    rates = []
    for number in range(repeats + 1):
        for side in sides if number % 2 else reversed(sides):
            times[side].append(_timed(side, number, device))
        rates.append(machine.matrix_rate(device, torch.bfloat16 if ours.bf16 else torch.float32, repeats=1))
    return times[ours][1:], times[theirs][1:], max(rates)  # the first turn warms up


def _timed(side: Ours | Reference, number: int, device: torch.device) -> float:
    batch = side.load(number)
    return machine.seconds(lambda: side.step(batch), device)  # pyright: ignore[reportArgumentType]


def _pieces(shape: Shape, device: torch.device) -> int:
    """Choose in how many pieces the reference encodes its positions: most of the free memory may be used.

    A block leaves about 20 arrays of [tokens, dim] and 5 of attention weights behind for its backward pass.
    """
    rows = shape.batch * (shape.length + 1)
    tokens = 1 + sum(most for name, most in shape.tokens if name in shape.streams)
    needed = 4 * rows * (2 * 20 * tokens * shape.dim + 2 * 5 * 2 * tokens**2 + tokens * max(shape.widths.values()))
    return max(1, math.ceil(needed / (0.6 * machine.available_bytes(device))))


def _peaks(shape: Shape, dataset: Path | None, arguments: Namespace, pieces: int) -> dict[str, Any]:
    _, ours = machine.in_child(_steps, "ours", shape, dataset, arguments, device=arguments.device)
    if pieces > 1:
        return {"ours_peak_bytes": ours, "reference_peak_bytes": None}
    _, theirs = machine.in_child(_steps, "reference", shape, dataset, arguments, device=arguments.device)
    return {"ours_peak_bytes": ours, "reference_peak_bytes": theirs}


def _steps(which: str, shape: Shape, dataset: Path | None, arguments: Namespace) -> None:
    device = machine.setup(arguments)
    side = (Ours if which == "ours" else Reference)(
        _workload(shape, dataset), device, dropout=shape.dropout, bf16=arguments.bf16
    )
    for number in range(2):
        side.step(side.load(number))  # pyright: ignore[reportArgumentType]


def _line(r: Mapping[str, Any]) -> str:
    memory = "".join(
        f"  {side} {r[f'{side}_peak_bytes'] / 1e9:.2f} GB"
        for side in ("ours", "reference")
        if r.get(f"{side}_peak_bytes")
    )
    return (
        f"{r['data']:>10}  dim {r['dim']:4}  batch {r['batch']:4}  ours {r['ours_s']:7.3f} s  "
        f"reference {r['reference_s']:8.3f} s  ratio {r['ratio']:5.1f}  {r['users_per_s']:6.0f} users/s  "
        f"floor {r['floor_s']:6.3f} s, {r['floor_ratio']:4.2f} times it (reference {r['reference_floor_ratio']:.1f})"
        f"{memory}"
    )

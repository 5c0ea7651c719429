"""How a step's time and memory grow with batch, tokens, catalogue, streams and history, beside the formulas for them.

Each point is measured in a fresh process, the others at the base shape (dim 128, batch 32, 30 text and 50 image tokens,
19,220 items, history 12). Histories are full where their length is what grows. The formulas:

    time   = operations (benchmarks/floor.py) / matrix rate + bytes of AdamW's and clipping's passes / bandwidth
             + activations written and read / bandwidth
    memory = 16 bytes per parameter (weight, gradient, two moments) + activations + logits + features in memory
             + tables of the catalogue + what a step of the tiniest shape takes (libraries that load at first use)

with rate and bandwidth measured beside each point. They are no fit: what they leave out shows as the distance.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from . import machine
from .curves import Panel, draw
from .floor import step_operations, token_counts, update_bytes
from .sides import Ours
from .workload import Shape, Workload, make_workload

__all__ = ["add_arguments", "describe", "measure"]

SWEEPS = {
    "batch": (8, 16, 32, 64, 128, 256),
    "tokens": (4, 8, 16, 32, 64, 128),
    "catalogue": (10_000, 100_000, 1_000_000, 10_000_000),
    "streams": (1, 2, 3, 4),
    "history": (12, 25, 50, 100, 200),
}
STREAMS = ("id", "text", "image", "video")
CATALOGUE_DIM = 64
"""Width while the catalogue grows: 10 million items of it take 10 GB with gradient and moments."""
TINIEST = Shape(dim=16, width=16, batch=2, num_items=100, streams=("id", "text"), users=16)
KEPT = {"token": 16, "state": 18}
"""Arrays of [rows, dim] that a block keeps for its backward pass, the feed-forward's two of 4*dim included."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add what this suite takes."""
    machine.add_arguments(parser, repeats=3)
    parser.add_argument("--sweeps", nargs="+", default=list(SWEEPS), choices=list(SWEEPS), help="default: all")
    parser.add_argument("--most", type=int, metavar="N", help="leave out points beyond N (of every sweep)")
    parser.add_argument("--dim", type=int, default=128, metavar="D", help="default 128 (64 while the catalogue grows)")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the curves there")


def measure(arguments: Namespace) -> list[dict[str, Any]]:
    """Return one entry per point; one that would not fit into memory says so instead of a time."""
    machine.setup(arguments)
    _, least = machine.in_child(_step, TINIEST, arguments, device=arguments.device)
    found = []
    for sweep in arguments.sweeps:
        for value in SWEEPS[sweep]:
            if arguments.most is None or value <= arguments.most:
                point = _point(_shape(sweep, value, arguments.dim), arguments, least)
                found.append({"sweep": sweep, "value": value, **point})
                print(_line(found[-1]), flush=True)
    if arguments.plot:
        panels = [panel for sweep in arguments.sweeps for panel in _panels(sweep, found)]
        caption = f"a training step and its peak memory, a process per point; measured over formula: {_spread(found)}"
        arguments.plot.write_text(draw(panels, columns=2, caption=caption))
    return found


def describe(results: Sequence[Mapping[str, Any]]) -> str:
    """Give, per sweep, how far measured and predicted lie apart."""
    lines = [f"measured over formula, of all points: {_spread(results)}; from the smallest point to the largest:"]
    for sweep in dict.fromkeys(r["sweep"] for r in results):
        points = [r for r in results if r["sweep"] == sweep and "step_s" in r]
        for name, formula in (("step_s", "formula_s"), ("peak_bytes", "formula_bytes")):
            ratios = ", ".join(f"{r[name] / r[formula]:.2f}" for r in points)
            lines.append(f"{sweep:>10}  {'time' if name == 'step_s' else 'memory':6}  {ratios}")
    return "\n".join(lines)


def _spread(results: Sequence[Mapping[str, Any]]) -> str:
    """Say between which values measured over formula lies, over all points."""
    told = []
    for what, name, formula in (("time", "step_s", "formula_s"), ("memory", "peak_bytes", "formula_bytes")):
        ratios = [r[name] / r[formula] for r in results if "step_s" in r]
        told.append(f"{what} {min(ratios):.2f} to {max(ratios):.2f}" if ratios else f"{what} of no point")
    return ", ".join(told)


def _shape(sweep: str, value: int, dim: int) -> Shape:
    base = Shape(dim=dim, batch=32)
    if sweep == "batch":
        return base.but(batch=value)
    if sweep == "tokens":  # of one modality, as many in every item
        return base.but(streams=("id", "image"), tokens=(("image", value),))
    if sweep == "catalogue":
        return base.but(num_items=value, dim=min(dim, CATALOGUE_DIM))
    if sweep == "streams":
        return base.but(streams=STREAMS[:value], tokens=(("text", 30), ("image", 50), ("video", 50)))
    return base.but(length=value, full=True)


def _point(shape: Shape, arguments: Namespace, least: int) -> dict[str, Any]:
    needed = 16 * shape.num_items * shape.dim
    device = machine.setup(arguments)
    free = machine.available_bytes(device)
    if needed > 0.9 * free:
        reason = f"the id table takes {needed / 1e9:.1f} GB with gradient and moments, {free / 1e9:.1f} GB are free"
        return {"dim": shape.dim, "skipped": reason}
    entry, peak = machine.in_child(_step, shape, arguments, device=arguments.device)
    rate, moved = machine.matrix_rate(device), machine.bandwidth(device)
    formula_s = entry["operations"] / rate + entry["bytes_moved"] / moved
    entry["formula_bytes"] += least
    rates = {"operations_per_s": rate, "bytes_per_s": moved}
    return {"dim": shape.dim, **entry, "formula_s": formula_s, "peak_bytes": peak, **rates}


def _step(shape: Shape, arguments: Namespace) -> dict[str, float]:
    device = machine.setup(arguments)
    workload = make_workload(shape)
    ours = Ours(workload, device, dropout=0.0)
    times = []
    for number in range(arguments.repeats + 1):
        batch = ours.load(number)
        times.append(machine.seconds(lambda: ours.step(batch), device))  # noqa: B023 - called at once
    parameters = sum(p.numel() for p in ours.model.parameters())
    activations = [_activation_bytes(workload, number) for number in range(1, arguments.repeats + 1)]
    histories = workload.histories(1)
    operations = step_operations(workload.features, histories, dim=shape.dim, streams=shape.streams)
    return {
        "step_s": median(times[1:]),
        "formula_bytes": 16 * parameters + max(activations) + _table_bytes(workload),
        "operations": operations,
        "bytes_moved": update_bytes(parameters) + 2 * median(activations),
        "parameters": parameters,
        "distinct": len(np.unique(histories[histories > 0])),
    }


def _activation_bytes(workload: Workload, number: int) -> int:
    """Predict what the forward pass of a batch keeps: tokens (padded to the batch's longest), states, logits."""
    shape, histories = workload.shape, workload.histories(number)
    items = np.unique(histories[histories > 0])
    counts = token_counts(workload.features, items)
    width = {name: int(n.max()) for name, n in counts.items()}
    tokens = len(items) * (sum(width.values()) + 1)
    features = len(items) * sum(n * shape.widths[name] for name, n in width.items())
    states = int((histories > 0).any(0).sum() - 1) * shape.batch
    rows = int((histories > 0).sum() - shape.batch)
    num_logits = len(shape.streams) * 6 + 2  # logits and softmax terms of every stream and of the edges; multiplicity
    kept = KEPT["token"] * tokens + 2 * len(shape.streams) * KEPT["state"] * states
    return 4 * (kept * shape.dim + features + num_logits * rows * len(items))


def _table_bytes(workload: Workload) -> int:
    """Count what a catalogue takes beside parameters: features, spans, counts, log popularity, and the drawn law."""
    pool = sum(table.values.nbytes for table in workload.features.tables.values())
    return pool + workload.shape.num_items * (16 * len(workload.modalities) + 8 + 4 + 8)


def _panels(sweep: str, results: Sequence[Mapping[str, Any]]) -> list[Panel]:
    points = [r for r in results if r["sweep"] == sweep and "step_s" in r]
    x = [r["value"] for r in points]
    title = f"{sweep} (dim {points[0]['dim']})"
    seconds = {"measured": [r["step_s"] for r in points], "formula": [r["formula_s"] for r in points]}
    memory = {
        "measured": [r["peak_bytes"] / 1e9 for r in points],
        "formula": [r["formula_bytes"] / 1e9 for r in points],
    }
    return [Panel(title, sweep, "seconds", x, seconds), Panel(title, sweep, "GB", x, memory)]


def _line(r: Mapping[str, Any]) -> str:
    what = f"{r['sweep']:>10} {r['value']:9}  dim {r['dim']:4}"
    if "skipped" in r:
        return f"{what}  left out: {r['skipped']}"
    return (
        f"{what}  step {r['step_s']:7.3f} s (formula {r['formula_s']:7.3f})  "
        f"memory {r['peak_bytes'] / 1e9:6.2f} GB (formula {r['formula_bytes'] / 1e9:6.2f})"
    )

"""What a large catalogue costs: a training step with dense and with lazy id updates, the full softmax, the ranking.

Users follow the laws of `workload`, items are ids alone. Each figure is taken in a fresh process, after one step that
is not counted; a tiny catalogue's memory is taken off. Beside it stands what is held, in bytes per number of the
id table, which has one row per item:

    dense    16: weights, gradient, and AdamW's two moments
    lazy     12: weights and the moments; and per item the 4 bytes of its last step
    full     28: weights and moments, the vectors of all items, their gradient as it is made and as it is scaled, and
             the table's; the logits, of 128 rows at a time, are gone by then
    ranking  8: weights, and the table that users are scored against; and per item a score and its comparison, for 32
             users at a time
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from odmt import ODMT
from odmt.data.loading import make_batch
from odmt.evaluate import ranks
from odmt.lazy_ids import LazyTables

from . import machine
from .workload import Shape, Workload, make_workload

__all__ = ["add_arguments", "describe", "measure"]

ITEMS = (100_000, 1_000_000, 10_000_000)
MOST = {"dense": 10_000_000, "lazy": 10_000_000, "full": 1_000_000, "ranking": 1_000_000}
"""Items beyond which a kind is left out: the full softmax of a batch over 10 million takes minutes on a processor."""
BYTES = {"dense": 16, "lazy": 12, "full": 28, "ranking": 8}
HELD = {"dense": 0, "lazy": 4, "full": 0, "ranking": 4 * 2 * 32}
"""Bytes per item beside the table's."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add what this suite takes."""
    machine.add_arguments(parser, repeats=5)
    parser.add_argument("--items", type=int, nargs="+", default=list(ITEMS), metavar="N", help=f"default {ITEMS}")
    parser.add_argument("--kinds", nargs="+", default=list(BYTES), choices=list(BYTES), help="default: all")
    parser.add_argument("--dim", type=int, default=64, metavar="D", help="default 64")
    parser.add_argument("--batch", type=int, default=256, metavar="B", help="users per batch (default 256)")
    parser.add_argument("--users", type=int, default=1024, metavar="U", help="users that are ranked (default 1024)")


def measure(arguments: Namespace) -> list[dict[str, Any]]:
    """Return one entry per kind and catalogue; one that would not fit into memory says so instead of a time."""
    device = machine.setup(arguments)
    least = {kind: machine.in_child(_of(kind), 100, arguments, device=arguments.device)[1] for kind in arguments.kinds}
    found = []
    for items in arguments.items:
        for kind in arguments.kinds:
            if items > MOST[kind]:
                continue
            entry: dict[str, Any] = {"kind": kind, "items": items, "dim": arguments.dim}
            entry["formula_bytes"] = items * (BYTES[kind] * arguments.dim + HELD[kind])
            free = machine.available_bytes(device)
            if entry["formula_bytes"] > 0.9 * free:
                entry["skipped"] = f"it takes {entry['formula_bytes'] / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
            else:
                entry["seconds"], peak = machine.in_child(_of(kind), items, arguments, device=arguments.device)
                entry["peak_bytes"] = peak - least[kind]
            found.append(entry)
            print(_line(entry), flush=True)
    return found


def describe(results: Sequence[Mapping[str, Any]]) -> str:
    """Compare lazy steps with dense ones of the same catalogue."""
    taken = {(r["kind"], r["items"]): r["seconds"] for r in results if "seconds" in r}
    told = []
    for (kind, items), seconds in taken.items():
        if kind == "lazy" and ("dense", items) in taken:
            told.append(f"{items:,} items: a dense step takes {taken['dense', items] / seconds:.1f} times a lazy one")
    return "\n".join(told) or "no catalogue was measured with dense and with lazy updates"


def _of(kind: str) -> Any:
    return _ranking if kind == "ranking" else partial(_step, kind)


def _step(kind: str, items: int, arguments: Namespace) -> float:
    """Take steps, and give the median of their seconds."""
    device = machine.setup(arguments)
    workload = _workload(items, arguments)
    model = _model(workload, arguments, loss="full" if kind == "full" else "in_batch").to(device)
    accelerator = Accelerator(cpu=device.type == "cpu")
    tables = {"ids": model.id_table} if kind == "lazy" else {}
    lazy = LazyTables(tables, lr=1e-3, weight_decay=0.1, steps=arguments.repeats + 1)
    others = [p for p in model.parameters() if not tables or p is not model.id_table.weight]
    optimizer = torch.optim.AdamW(others, lr=1e-3, weight_decay=0.1, fused=True)

    def step(number: int) -> None:
        batch = make_batch(workload.histories(number), workload.features, ()).to(device)
        torch.stack(list(model(batch).values())).sum().backward()
        rows = lazy.collect(accelerator, batch.items)
        torch.nn.utils.clip_grad_norm_([*model.parameters(), *rows], 5.0)
        optimizer.step()
        lazy.step(1e-3)
        optimizer.zero_grad()

    times = [machine.seconds(partial(step, number), device) for number in range(arguments.repeats + 1)]
    return median(times[1:])


def _ranking(items: int, arguments: Namespace) -> float:
    """Encode the catalogue and rank the test targets of some users among it; give the seconds."""
    device = machine.setup(arguments)
    workload = _workload(items, arguments)
    model = _model(workload, arguments, loss="in_batch").to(device)
    questions = workload.split.questions("test", np.arange(arguments.users))

    def rank() -> None:
        tables = model.encode_catalogue()
        ranks(partial(model.states, tables=tables), tables, questions, combine=model.ensemble)

    return machine.seconds(rank, device)


def _workload(items: int, arguments: Namespace) -> Workload:
    users = max(4096, arguments.users)
    return make_workload(Shape(dim=arguments.dim, batch=arguments.batch, num_items=items, streams=("id",), users=users))


def _model(workload: Workload, arguments: Namespace, *, loss: str) -> ODMT:
    torch.manual_seed(0)
    made = {"fusion": "independent", "loss": loss, "item_counts": workload.item_counts, "length": workload.shape.length}
    return ODMT(workload.features, streams=("id",), dim=arguments.dim, **made)


def _line(r: Mapping[str, Any]) -> str:
    what = f"{r['kind']:>8} {r['items']:11,} items  dim {r['dim']:4}"
    if "skipped" in r:
        return f"{what}  left out: {r['skipped']}"
    memory = f"memory {r['peak_bytes'] / 1e9:6.2f} GB (formula {r['formula_bytes'] / 1e9:6.2f})"
    return f"{what}  {r['seconds'] * 1e3:9.1f} ms  {memory}"

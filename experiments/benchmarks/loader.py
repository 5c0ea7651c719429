"""Reading a batch's tokens beside the step that uses it, from cached features in a folder, on one core.

The files are as `odmt.data.features` writes them: all items' tokens in fp16 side by side, mapped, with as many items
as MicroLens-50k, each with a content of its own. `wait_share` is the loader's part of loader + step, without workers:
how long the step's core waits. `cold` is the same reading after the file's pages were dropped from memory: random
access to a disk, as with features larger than memory. How much the system then read from the disk is its own count
(/proc/self/io), beside the bytes asked for: those of the items' real tokens, without the padding of the batch that they
are copied into. Above 1 byte per byte, it read whole pages and ahead; below, some pages were in memory all the same.
"""

from __future__ import annotations

import os
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from odmt import ItemFeatures
from odmt.data.loading import UserBatches, training_loader
from odmt.data.tokens import TokenTable
from odmt.types import Raw, Tokens

from . import machine
from .sides import Ours
from .workload import Shape, Workload, make_workload

__all__ = ["add_arguments", "asked_bytes", "describe", "measure"]

DIMS = {384: 128, 768: 768}
"""Width of the model that goes with features of a width."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add what this suite takes."""
    machine.add_arguments(parser, repeats=10)
    parser.set_defaults(threads=1)
    parser.add_argument("--widths", type=int, nargs="+", default=[384, 768], choices=list(DIMS), help="of the features")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128], metavar="B", help="default 32 and 128")
    parser.add_argument("--items", type=int, default=19_220, metavar="N", help="default 19220")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the files go (default: the temporary folder)")
    parser.add_argument("--no-step", action="store_true", help="read only")


def measure(arguments: Namespace) -> list[dict[str, Any]]:
    """Return, per width and batch size, the loader's and the step's time, and the loader's with a cold file."""
    device = machine.setup(arguments)
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    found = []
    for width in arguments.widths:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            shape = Shape(dim=DIMS[width], width=width, num_items=arguments.items)
            num_bytes = _write(shape, Path(folder))
            for batch in arguments.batches:
                workload = _open(shape.but(batch=batch), Path(folder))
                entry = {"width": width, "dim": shape.dim, "batch": batch, "items": shape.num_items}
                entry |= {
                    "file_bytes": num_bytes,
                    "threads": torch.get_num_threads(),
                    **_warm(workload, arguments.repeats),
                }
                if not arguments.no_step:
                    step_s = _step(workload, device, arguments.repeats)
                    entry |= {"step_s": step_s, "wait_share": entry["loader_s"] / (entry["loader_s"] + step_s)}
                del workload  # its maps keep pages in memory
                found.append(entry | _cold(shape.but(batch=batch), Path(folder), arguments.repeats))
                print(_line(found[-1]), flush=True)
    return found


def describe(results: Sequence[Mapping[str, Any]]) -> str:
    """Say whether the cold figures are a disk's."""
    shares = [r["cold_disk_bytes"] / r["cold_asked_bytes"] for r in results]
    return f"cold: for every byte asked for, {min(shares):.2f} to {max(shares):.2f} were read from the disk"


def _write(shape: Shape, folder: Path) -> int:
    rng = np.random.default_rng(0)
    lengths = {name: np.full(shape.num_items, most) for name, most in shape.tokens}
    lengths["text"] = rng.integers(14, 31, shape.num_items)
    total = 0
    for name, counts in lengths.items():
        (folder / name).mkdir()
        rows, width = int(counts.sum()), shape.widths[name]
        values = np.lib.format.open_memmap(folder / name / "tokens.npy", "w+", np.float16, (rows, width))
        for begin in range(0, rows, 1 << 16):
            values[begin : begin + (1 << 16)] = rng.standard_normal(values[begin : begin + (1 << 16)].shape, np.float32)
        values.flush()
        spans = np.stack([np.cumsum(counts) - counts, counts], axis=1)
        np.save(folder / name / "spans.npy", np.concatenate([np.zeros((1, 2), np.int64), spans]))
        total += values.nbytes
    return total


def _open(shape: Shape, folder: Path) -> Workload:
    made = make_workload(shape)
    tables = {name: TokenTable.open(folder / name) for name in made.modalities}
    return Workload("files", shape, ItemFeatures(tables, num_items=shape.num_items), made.split, made.item_counts)


def _warm(workload: Workload, repeats: int) -> dict[str, float]:
    """Time the training loader, as an epoch runs it."""
    batches = UserBatches(workload.split.num_users, workload.shape.batch, seed=0)
    loader = iter(training_loader(workload.split, workload.features, workload.modalities, batches))
    times, sizes = [], []
    for _ in range(min(repeats + 2, len(batches))):
        began = time.perf_counter()
        batch = next(loader)
        times.append(time.perf_counter() - began)
        sizes.append(sum(one.values.nbytes for one in batch.content.values() if isinstance(one, Tokens)))
    return {"loader_s": median(times[2:]), "batch_bytes": median(sizes[2:])}


def asked_bytes(content: Mapping[str, Tokens | Raw]) -> int:
    """Count what a batch's tokens take in the files: without padding, which is never read."""
    return sum(
        int(tokens.mask.sum()) * tokens.values.shape[-1] * tokens.values.element_size()
        for tokens in content.values()
        if isinstance(tokens, Tokens)
    )


def _step(workload: Workload, device: torch.device, repeats: int) -> float:
    ours = Ours(workload, device, dropout=0.1)
    batches = [ours.load(number) for number in range(min(repeats, 3) + 1)]
    return median([machine.seconds(lambda b=b: ours.step(b), device) for b in batches][1:])


def _cold(shape: Shape, folder: Path, repeats: int) -> dict[str, float]:
    times, disk, asked = [], 0, 0
    for number in range(repeats):
        for path in folder.glob("*/tokens.npy"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        workload = _open(shape, folder)
        before, began = _read_from_disk(), time.perf_counter()
        batch = workload.batch(number)
        times.append(time.perf_counter() - began)
        disk += _read_from_disk() - before
        asked += asked_bytes(batch.content)
        del workload  # its map keeps pages in memory
    return {"cold_s": median(times), "cold_disk_bytes": disk, "cold_asked_bytes": asked}


def _read_from_disk() -> int:
    return int(Path("/proc/self/io").read_text().split("read_bytes:")[1].split()[0])


def _line(r: Mapping[str, Any]) -> str:
    step = f"  step {r['step_s']:7.3f} s  wait {r['wait_share']:.1%}" if "step_s" in r else ""
    return (
        f"width {r['width']}  batch {r['batch']:4}  file {r['file_bytes'] / 1e9:.2f} GB  "
        f"batch {r['batch_bytes'] / 1e6:6.1f} MB in {1e3 * r['loader_s']:6.1f} ms"
        f"{step}  cold {1e3 * r['cold_s']:7.1f} ms, {r['cold_asked_bytes'] / 1e6:.0f} MB asked for, "
        f"{r['cold_disk_bytes'] / 1e6:.0f} MB from disk"
    )

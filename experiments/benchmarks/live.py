"""Training through an encoder, from clips in files: seconds, peak memory, frames per second, and who waits for whom.

Three ways of a step, each in a process of its own: `whole` encodes a batch's items at once, `chunks` some at a time,
twice (gradient caching), `blocks` at once, keeping of each block what goes in (activation checkpointing). Memory is
what the first forward and backward pass takes beyond what is there; `carried_bytes` is what a batch brings from the
loader, which with `--store` leaves on the disk what is decoded there. The users are those of the suite `step`; clips
are drawn, and few: items share them, each is decoded all the same. `wait_share` is the part of loader + step that the
trainer waits for its batch; with workers it includes that they take cores from it. `peak_share` counts the operations
of one forward and backward pass through the encoder, without what is computed again, per second, over the rate of large
matrix products in the same precision.
"""

from __future__ import annotations

import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from data_adapters.sample_content import draw_clip
from odmt import ODMT, ItemFeatures
from odmt.data.loading import UserBatches, training_loader
from odmt.encoders.contents import LiveContent, LiveFeatures
from odmt.encoders.network import Network
from odmt.encoders.pixel_store import PixelStore
from odmt.encoders.policies import TrainedEncoder
from odmt.types import Batch, Raw, Tokens

from . import machine
from .workload import Shape, Workload, make_workload

__all__ = ["add_arguments", "describe", "measure"]

ENCODER = "vit_tiny_patch16_224(frames=4, size=64, pretrained=False)"
CLIPS = 64
"""Different clips in the catalogue."""
WAYS = ("whole", "chunks", "blocks")


def add_arguments(parser: ArgumentParser) -> None:
    """Add what this suite takes."""
    machine.add_arguments(parser, repeats=3)
    parser.add_argument("--encoder", default=ENCODER, help=f"of clips (default {ENCODER})")
    parser.add_argument("--policy", default="full", help="how far training reaches into it (default full)")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[8, 32, 128], metavar="B", help="users; default 8 32 128"
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default: all")
    parser.add_argument("--chunk", type=int, default=16, metavar="N", help="items in a chunk (default 16)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that decode (default 0)")
    parser.add_argument(
        "--store", action="store_true", help="keep decoded pixels on the disk; batches leave them there"
    )
    parser.add_argument("--bf16", action="store_true", help="autocast")


def measure(arguments: Namespace) -> list[dict[str, Any]]:
    """Return, per batch size and way, seconds, memory, frames per second and the loader's part."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(CLIPS):
            draw_clip(Path(folder) / f"{number}.mp4", number % 8, number % 5, np.random.default_rng(number))
        for batch, way in product(arguments.batches, arguments.ways):
            entry, _ = machine.in_child(_steps, way, batch, Path(folder), arguments, device=arguments.device)
            found.append(entry)
            print(_line(found[-1]), flush=True)
    return found


def describe(results: Sequence[Mapping[str, Any]]) -> str:
    """Say how memory went with the batch, way by way."""
    lines = []
    for way in dict.fromkeys(r["way"] for r in results):
        few, many = (pick((r for r in results if r["way"] == way), key=lambda r: r["batch"]) for pick in (min, max))
        lines.append(
            f"{way}: {many['items'] / few['items']:.1f} times the items take "
            f"{many['peak_bytes'] / few['peak_bytes']:.1f} times the memory"
        )
    return "\n".join(lines)


def _steps(way: str, batch: int, folder: Path, arguments: Namespace) -> dict[str, Any]:
    device = machine.setup(arguments)
    workload = make_workload(Shape(streams=("video",), tokens=(), batch=batch))
    network = Network.load("video", arguments.encoder)
    encoder = TrainedEncoder(network, arguments.policy, checkpointing=way == "blocks")
    store = None
    if arguments.store:
        example, counts = network.example()["pixels"][0].numpy(), workload.item_counts
        capacity = example.nbytes * workload.shape.num_items
        store = PixelStore(folder / "decoded", {}, example=example, capacity=capacity, counts=counts)
    chunk = arguments.chunk if way == "chunks" else 0
    model = _model(workload, encoder, folder, chunk=chunk, store=store).to(device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def backward(given: Batch) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=arguments.bf16):
            loss = torch.stack(list(model(given).values())).sum()
        loss.backward()

    def step(given: Batch) -> None:
        backward(given)
        optimizer.step()
        optimizer.zero_grad()

    batches = UserBatches(workload.split.num_users, batch, seed=0)
    loader = iter(training_loader(workload.split, model.features, ["video"], batches, workers=arguments.workers))
    waits, steps, items, carried = [], [], [], []
    peak = machine.peak_above(partial(backward, next(loader).to(device)), device)  # of a process that has freed nothing
    for wait_s, given in _timed(loader, min(arguments.repeats + 1, len(batches) - 1)):
        waits.append(wait_s)
        items.append(len(given.items))
        carried.append(sum(x.nbytes for raw in given.content.values() for x in _arrays(raw)))
        steps.append(machine.seconds(partial(step, given.to(device)), device))
    frames = int(network.example()["pixels"].shape[1])
    step_s, num_items = median(steps[1:]), median(items[1:])  # the first warms up
    entry = {"way": way, "encoder": arguments.encoder, "policy": arguments.policy, "device": str(device)}
    entry |= {"batch": batch, "items": num_items, "chunk": arguments.chunk, "bf16": arguments.bf16}
    entry |= {"workers": arguments.workers, "threads": torch.get_num_threads(), "step_s": step_s, "peak_bytes": peak}
    entry |= {"wait_s": median(waits[1:]), "wait_share": sum(waits[1:]) / sum(waits[1:] + steps[1:])}
    entry |= {
        "frames_per_s": frames * num_items / step_s,
        "store": arguments.store,
        "carried_bytes": median(carried[1:]),
    }
    rate = machine.matrix_rate(device, torch.bfloat16 if arguments.bf16 else torch.float32)
    return {**entry, "peak_share": _operations(encoder, device) * num_items / step_s / rate}


def _arrays(content: Tokens | Raw) -> Iterable[torch.Tensor]:
    return content.inputs.values() if isinstance(content, Raw) else (content.values,)


def _model(workload: Workload, encoder: TrainedEncoder, folder: Path, *, chunk: int, store: PixelStore | None) -> ODMT:
    num_items = workload.shape.num_items
    contents = [folder / f"{item % CLIPS}.mp4" for item in range(num_items)]
    content = LiveContent(contents, encoder.network.preparation, encoder.width, store)
    features = LiveFeatures(ItemFeatures({}, num_items=num_items), {"video": content}, order=["video"])
    return ODMT(
        features,
        streams=("video",),
        dim=workload.shape.dim,
        fusion="independent",
        item_counts=workload.item_counts,
        length=workload.shape.length,
        encoders={"video": encoder},
        chunk=chunk,
    ).train()


def _timed(loader: Iterator[Batch], number: int) -> Iterator[tuple[float, Batch]]:
    for _ in range(number):
        began = time.perf_counter()
        batch = next(loader)
        yield time.perf_counter() - began, batch


def _operations(encoder: TrainedEncoder, device: torch.device) -> float:
    """Count what an item costs forward and backward, nothing computed twice."""
    inputs = {name: x.to(device) for name, x in encoder.network.example().items()}
    with FlopCounterMode(display=False) as counter:
        encoder(inputs).values.float().sum().backward()
    return counter.get_total_flops()


def _line(r: Mapping[str, Any]) -> str:
    return (
        f"{r['way']:6}  batch {r['batch']:4}, {r['items']:5.0f} items  step {r['step_s']:7.3f} s  "
        f"peak {r['peak_bytes'] / 1e9:6.2f} GB  {r['frames_per_s']:7.1f} frames/s  {r['peak_share']:5.1%} of the peak  "
        f"waits {r['wait_share']:.1%}  batch holds {r['carried_bytes'] / 1e6:.1f} MB"
    )

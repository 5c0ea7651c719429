"""Plan a run that is too large to try: memory per GPU, disk, time, and which configuration fits.

    python experiments/plan.py --dataset-shape users=34e6 items=1.1e6 interactions=1e9 --gpus 8 --gpu-memory 80 \\
        --dataset microlens --ablation odmt
    python experiments/plan.py --dataset-shape users=34e6 items=1.1e6 interactions=1e9 text=30x768 image=50x768 \\
        --gpus 8 --rate 50e12 --bandwidth 2e12 --link 200e9 --dataset microlens --train.batch-size 4096
    python experiments/plan.py --check --dataset microlens --json experiments/results/plan.json

All other flags are settings of train.py, from the same YAML files. Nothing is trained and no data are needed; where
--dataset names a folder that is there, popularity and the users' events are measured on it. The formulas stand in
benchmarks/plans/: laws.py (what a batch holds), hollow.py (what a step holds and multiplies: the model's own code on
tensors without content), memory.py (DDP and ZeRO), times.py (time, disk, the host's memory). Gigabytes are 1e9 bytes.
--check sets the formulas for memory beside steps that run here (check.py).
"""

from __future__ import annotations

import argparse
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from odmt.config import ConfigError, Experiment, parse
from odmt.data.format import DatasetError, find_dataset, open_dataset

from ..workload import customary_width
from .configurations import Configuration, Planned
from .laws import ZIPF, DatasetShape, Laws, read_shape
from .memory import ENGINES, Engine
from .readings import ItemTokens
from .tables import told
from .times import Rates

__all__ = ["main"]

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"


def parser() -> argparse.ArgumentParser:
    """Make the parser of what is the plan's own; settings of train.py are left to `odmt.config`."""
    style = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=__doc__, formatter_class=style, allow_abbrev=False)
    shape = "users=N items=N interactions=N, and per modality TOKENSxWIDTH, what is stored of an item: text=30x768"
    made.add_argument("--dataset-shape", nargs="+", metavar="NAME=N", help=f"{shape} (default: those of the folder)")
    made.add_argument("--gpus", type=int, default=1, metavar="N", help="processes, one per GPU (default 1)")
    made.add_argument("--gpu-memory", type=float, default=80, metavar="GB", help="of each GPU (default 80)")
    part = "part of it that is left to the driver, libraries and gaps between blocks (default 0.1; an assumption)"
    made.add_argument("--spare", type=float, default=0.1, metavar="PART", help=part)
    made.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES, help="default: all")
    made.add_argument(
        "--zipf", type=float, metavar="S", help=f"popularity as rank^-S (default {ZIPF}, or the folder's)"
    )
    made.add_argument("--rate", type=float, metavar="N", help="operations per second (default: measured here)")
    made.add_argument("--bandwidth", type=float, metavar="N", help="bytes per second of a GPU's memory")
    made.add_argument("--link", type=float, metavar="N", help="bytes per second between GPUs (default: not counted)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    made.add_argument("--check", action="store_true", help="measure here what the formulas say; takes minutes")
    made.add_argument("--points", nargs="+", metavar="WORDS", help="of --check, those whose names hold these words")
    return made


def main(argv: Sequence[str], about: str = "") -> int:
    """Print the plan, or the check; wrong input ends in one line that says what to do."""
    arguments, settings = parser().parse_known_args(argv)
    try:
        tree = _checked(settings, about, arguments.points) if arguments.check else _plan(arguments, settings)
    except (ConfigError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        words = [w for k, w in enumerate(argv) if w != "--json" and (not k or argv[k - 1] != "--json")]
        arguments.json.write_text(json.dumps({"about": about, "command": " ".join(words), **tree}, indent=1) + "\n")
    return 0


def _plan(arguments: Namespace, settings: Sequence[str]) -> dict[str, Any]:
    _check(arguments)
    experiment = parse(settings, configs=CONFIGS)
    if encoded := experiment.model.encoders_of_streams():
        raise ConfigError(
            f"model.encoders: {', '.join(encoded)} would be trained from raw content, which is not planned; plan "
            "stored features (--model.encoders without a value), and measure the encoder with bench.py --suite live"
        )
    shape, laws = _dataset(arguments, experiment)
    planned = Planned(shape, laws, _stored(shape, experiment))
    rates = _rates(arguments)
    room = arguments.gpu_memory * 1e9 * (1 - arguments.spare)
    return told(planned, _configurations(experiment, arguments), rates, room, print=print)


def _checked(settings: Sequence[str], about: str, words: Sequence[str] | None) -> dict[str, Any]:
    """Set plans beside what is measured here, and, where --dataset names a folder, laws beside its batches."""
    from .check import POINTS, check, distinct_items

    points = [point for point in POINTS if not words or any(word in point.name for word in words)]
    if not points:
        raise ConfigError(f"--points {' '.join(words or ())}: there are {'; '.join(point.name for point in POINTS)}")
    found: dict[str, Any] = {}
    if settings:
        experiment = parse(settings, configs=CONFIGS)
        dataset = open_dataset(find_dataset(experiment.dataset, experiment.data.root))
        found["distinct_items"] = distinct_items(dataset, experiment.data.length)
    return {**found, **check(about, points)}


def _check(arguments: Namespace) -> None:
    for name, least in (("gpus", 1), ("gpu_memory", 1e-9), ("rate", 1), ("bandwidth", 1), ("link", 1), ("zipf", 0)):
        value = getattr(arguments, name)
        if value is not None and not least <= value < float("inf"):
            raise ConfigError(
                f"--{name.replace('_', '-')} {value:g} is out of range; it is finite and at least {least:g}"
            )
    if not 0 <= arguments.spare < 1:
        raise ConfigError(f"--spare {arguments.spare:g} is out of range; it is at least 0 and below 1")


def _dataset(arguments: Namespace, experiment: Experiment) -> tuple[DatasetShape, Laws]:
    """Take the shape that is given or the folder's, and its laws or stated ones."""
    shape = read_shape(arguments.dataset_shape) if arguments.dataset_shape else None
    try:
        dataset = open_dataset(find_dataset(experiment.dataset, experiment.data.root))
    except DatasetError:
        if shape is None:
            raise
        return shape, Laws.stated(shape, ZIPF if arguments.zipf is None else arguments.zipf)
    measured = Laws.of_dataset(dataset, experiment.data.length)
    if shape is None:
        shape = DatasetShape(dataset.num_users, dataset.num_items, len(dataset.items), {})
        return shape, measured
    stated = Laws.stated(shape, ZIPF if arguments.zipf is None else arguments.zipf)
    if arguments.zipf is not None:
        return shape, stated
    popularity = measured.stretched(shape.items)
    words = f"popularity {popularity.told}; users' events 5 + geometric, {shape.events:.1f} on average"
    return shape, replace(popularity, events=stated.events, told=words)


def _stored(shape: DatasetShape, experiment: Experiment) -> dict[str, ItemTokens]:
    """Say what is stored of each stream: what --dataset-shape says, or as much as is read, of customary width."""
    limits, found = experiment.data.token_limits(), {}
    for name in experiment.model.streams:
        if name == "id":
            continue
        if name not in shape.tokens and name not in limits:
            raise ConfigError(
                f"--dataset-shape says nothing of {name!r}, nor does data.max_tokens; add {name}=30x768, tokens per "
                "item times their width"
            )
        most, width = shape.tokens.get(name) or (limits[name], customary_width(experiment.model.dim))
        found[name] = ItemTokens(width, np.array([most]))
    if unknown := [name for name in shape.tokens if name not in experiment.model.streams]:
        raise ConfigError(
            f"--dataset-shape names {unknown[0]!r}, but model.streams are {', '.join(experiment.model.streams)}; "
            "leave it out, or add the stream with --model.streams"
        )
    return found


def _rates(arguments: Namespace) -> Rates:
    if arguments.rate is None:
        here = Rates.here(arguments.link)
        return replace(here, bandwidth=arguments.bandwidth or here.bandwidth)
    words = "as given" if arguments.bandwidth else "as given; memory traffic is not counted without --bandwidth"
    return Rates(arguments.rate, arguments.bandwidth, arguments.link, words)


def _configurations(experiment: Experiment, arguments: Namespace) -> list[Configuration]:
    """Give what is compared: one GPU, and every engine on all; ids lazy where odmt.launch accepts it."""
    found = [Configuration(experiment, Engine("ddp"))]
    if arguments.gpus > 1:
        plain = replace(experiment, train=replace(experiment.train, id_updates="dense"))
        found += [
            Configuration(plain if name.startswith("zero") else experiment, Engine(name, arguments.gpus))
            for name in arguments.engines
        ]
    return found

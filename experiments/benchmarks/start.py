"""What it costs to start: every command in fresh processes, medians, beside the bare interpreter and torch alone.

Commands take turns, after a round that is not counted, so that a machine that changes its pace changes it for all.

`first step` is what a training run does up to its first update: open the dataset and its features, split, build model
and optimizer, and step, in one process, with the time of each stage. Files are warm.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

__all__ = ["add_arguments", "describe", "measure", "run_first_step"]

ROOT = Path(__file__).resolve().parent.parent.parent


def add_arguments(parser: ArgumentParser) -> None:
    """Add what this suite takes."""
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="medians of N (default 5)")
    parser.add_argument("--dataset", type=Path, metavar="DIR", help="dataset folder to open (default: one made for it)")


def measure(arguments: Namespace) -> list[dict[str, Any]]:
    """Return, per command, the seconds of a fresh process from start to end; for the first step, of its stages, too."""
    with tempfile.TemporaryDirectory() as name:
        dataset = arguments.dataset or _made(Path(name) / "made")
        commands = _commands(dataset.resolve())
        rounds = [{what: _run(command) for what, command in commands.items()} for _ in range(arguments.repeats + 1)]
    found = [{"what": what, **_typical([one[what] for one in rounds[1:]])} for what in commands]
    for entry in found:
        print(_line(entry), flush=True)
    return found


def describe(results: Sequence[Mapping[str, Any]]) -> str:
    """Say what comes on top of torch."""
    seconds = {r["what"]: r["seconds"] for r in results}
    bare, used = (seconds[f"import odmt{use}"] for use in ("", ", use it"))
    return (
        f"import odmt: {bare - seconds['python']:.3f} s; using it: {used - seconds['import torch']:.2f} s beyond torch"
    )


def run_first_step(path: str) -> dict[str, float]:
    """Do in this process what a training run does up to its first update; give the seconds of each stage."""
    stages, began = {}, time.perf_counter()

    def done(stage: str) -> None:
        nonlocal began
        now = time.perf_counter()
        stages[stage], began = now - began, now

    import torch

    from odmt import ODMT, DistillationGraph, LeaveTwoOut, make_batch
    from odmt.data.features import open_features
    from odmt.data.format import open_dataset

    done("import")
    dataset = open_dataset(Path(path))
    done("open dataset")
    features = open_features(dataset, ["text"])
    done("open features")
    split = LeaveTwoOut(dataset.offsets, dataset.items, num_items=dataset.num_items, length=12)
    counts = split.item_counts()
    done("split")
    model = ODMT(features, distill=DistillationGraph("id -> text"), item_counts=counts, length=12)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    done("model")
    losses = model(make_batch(split.training(np.arange(min(128, split.num_users))), features))
    sum(losses.values(), torch.zeros(())).backward()
    optimizer.step()
    done("step")
    return stages


def _commands(dataset: Path) -> dict[str, list[str]]:
    step = f"from benchmarks import start; import json; print(json.dumps(start.run_first_step({str(dataset)!r})))"
    opened = f"from odmt.data.format import open_dataset; open_dataset(__import__('pathlib').Path({str(dataset)!r}))"
    return {
        "python": ["-c", "pass"],
        "import torch": ["-c", "import torch"],
        "import odmt": ["-c", "import odmt"],
        "import odmt, use it": ["-c", "import odmt; odmt.ODMT"],
        "train.py --help": ["experiments/train.py", "--help"],
        "data_adapters --help": ["-m", "data_adapters", "--help"],
        "data_adapters microlens --help": ["-m", "data_adapters", "microlens", "--help"],
        "odmt.encoders --help": ["-m", "odmt.encoders", "--help"],
        "open dataset": ["-c", opened],
        "first step": ["-c", f"import sys; sys.path.insert(0, 'experiments'); {step}"],
    }


def _run(command: Sequence[str]) -> tuple[float, dict[str, float]]:
    """Give the seconds of one fresh process, and of the stages that it reports."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr[-2000:]}")
    return seconds, json.loads(done.stdout) if done.stdout.startswith('{"import"') else {}


def _typical(runs: Sequence[tuple[float, Mapping[str, float]]]) -> dict[str, Any]:
    times = [seconds for seconds, _ in runs]
    found: dict[str, Any] = {"seconds": median(times), "fastest": min(times), "slowest": max(times)}
    if runs[0][1]:
        found["stages"] = {stage: median(stages[stage] for _, stages in runs) for stage in runs[0][1]}
    return found


def _made(path: Path) -> Path:
    """Write a dataset of MicroLens-50k's size with text features of 24 tokens and width 384."""
    from odmt.data.feature_writer import FeatureWriter
    from odmt.data.format import write_dataset

    num_items, rng = 19_220, np.random.default_rng(0)
    users = ((f"u{u}", (1 + rng.permutation(num_items)[:7]).tolist(), None) for u in range(2_000))
    items = {"id": [str(i) for i in range(num_items)], "text": ["a title"] * num_items}
    dataset = write_dataset(path, name="made", histories=users, items=items, tie_rule="none", made_by="bench.py")
    recipe = {"modality": "text", "dataset": dataset.content_fingerprint("text"), "encoder": "random"}
    recipe |= {"width": 384, "settings": {}}
    with FeatureWriter(path / "features", recipe=recipe, num_items=num_items) as writer:
        block = rng.standard_normal((24, 384), dtype=np.float32)
        writer.append(range(1, num_items + 1), [block] * num_items)
        writer.finish({})
    return path


def _line(r: Mapping[str, Any]) -> str:
    stages = ", ".join(f"{stage} {seconds:.3f}" for stage, seconds in r.get("stages", {}).items())
    return f"{r['what']:>32}  {r['seconds']:6.3f} s{'  (' + stages + ')' if stages else ''}"

"""SASRec on ids alone: odmt beside RecBole and RecTools, on the same machine, data, sizes and threads.

Each library runs in a process of its own, the peers in the environments that `make peers` builds, in turn, as often as
--repeats says. They get the same events (the newest 13 of every user), hold themselves to the same training examples
and validation questions, or fail, and are validated by the same code. Nothing here looks at test targets.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tqdm import tqdm

from odmt.data.format import Dataset, find_dataset, open_dataset

from .peer_task import Settings, Task
from .tables import peer_table

__all__ = ["LIBRARIES", "add_arguments", "describe", "measure"]

REPOSITORY = Path(__file__).resolve().parents[2]
LIBRARIES = {
    "odmt": ("", "peer_odmt", ["in-batch"]),
    "odmt-catalogue": ("", "peer_odmt", ["catalogue"]),
    "recbole": ("recbole", "peer_recbole", []),
    "rectools": ("rectools", "peer_rectools", []),
}
"""What may be compared: environment (none is ours), module of experiments/benchmarks, its arguments."""

LIMIT = 10
"""A run may take so many times its budget on the wall: start, validation after epochs and evaluation come on top."""


class PeerError(Exception):
    """Report that a library could not be run, and what to do about it."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add what this suite takes."""
    add, settings = parser.add_argument, Settings()
    add("--datasets", nargs="+", default=["microlens", "ml-1m"], metavar="NAME", help="folders under data/, or paths")
    add("--libraries", nargs="+", default=list(LIBRARIES), choices=LIBRARIES, help="what to compare (default all)")
    add("--environments", type=Path, default=Path(".peers"), metavar="DIR", help="as `make peers` (default .peers)")
    add("--users", type=int, metavar="N", help="only the first N users, for a trial")
    add("--epochs", type=int, metavar="N", help="end a run after N epochs, even if there is time left (default: go on)")
    add(
        "--budget",
        type=float,
        default=600,
        metavar="S",
        help="training seconds of every run; no epoch begins after them (default 600)",
    )
    add("--repeats", type=int, default=1, metavar="N", help="runs per library, in turn (default 1)")
    add("--threads", type=int, default=settings.threads, metavar="N", help=f"default {settings.threads}")
    add("--dim", type=int, default=settings.dim, metavar="N", help=f"default {settings.dim}")
    add("--dropout", type=float, default=settings.dropout, metavar="P", help=f"default {settings.dropout}")


def measure(arguments: Namespace) -> list[dict[str, Any]]:
    """Run every library on every dataset in turn; one entry per run, with its figures and the machine's load."""
    pythons = {name: python_of(name, arguments.environments) for name in arguments.libraries}
    settings = Settings(
        dim=arguments.dim,
        dropout=arguments.dropout,
        threads=arguments.threads,
        epochs=arguments.epochs,
        budget_s=arguments.budget,
    )
    tasks = {
        name: task_of(open_dataset(find_dataset(name, "data")), arguments.users, settings)
        for name in arguments.datasets
    }
    rounds = [(r, d, name) for r in range(arguments.repeats) for d in tasks for name in arguments.libraries]
    found = []
    for number, dataset, name in tqdm(rounds, unit="run", disable=None):
        task = tasks[dataset]
        about = {"dataset": dataset, "users": task.split.num_users, "items": task.num_items, "repeat": number}
        found.append({**about, "name": name, "threads": settings.threads, **run(name, pythons[name], task)})
        tqdm.write(line(found[-1]))
    return with_targets(found)


def task_of(dataset: Dataset, users: int | None, settings: Settings) -> Task:
    """Take the first `users` of a dataset (all, if None), with the whole catalogue."""
    offsets = np.asarray(dataset.offsets[: None if users is None else users + 1])
    items = np.asarray(dataset.items[: offsets[-1]])
    return Task(offsets, items, num_items=dataset.num_items, settings=settings)


def python_of(name: str, environments: Path) -> Path:
    """Find the interpreter that runs a library."""
    environment = LIBRARIES[name][0]
    if not environment:
        return Path(sys.executable)
    python = environments / environment / "bin" / "python"
    if not python.exists():
        raise PeerError(f"{python} is not there: build the peers' environments by `make peers PEERS={environments}`")
    return python.absolute()


def run(name: str, python: Path, task: Task) -> dict[str, Any]:
    """Run one library in a process of its own and give its figures.

    A run that is still going after `LIMIT` times its budget is ended, and says so instead of giving figures.
    """
    _, module, rest = LIBRARIES[name]
    threads = {variable: str(task.settings.threads) for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "experiments")])
    environment = {**os.environ, **threads, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "ODMT_CHECK_SHAPES": ""}
    about = {"budget_s": task.settings.budget_s, "load": round(os.getloadavg()[0], 2)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        task.save(folder)
        command = [str(python), "-W", "ignore", "-m", f"benchmarks.{module}", str(folder), *rest]
        with (folder / "log").open("w") as log:
            child = subprocess.Popen(
                command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                status = child.wait(timeout=LIMIT * task.settings.budget_s)
            except subprocess.TimeoutExpired:
                return {**about, "over_budget": True}
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        if status:
            tail = (folder / "log").read_text().splitlines()[-15:]
            raise PeerError("\n".join([f"{' '.join(command)} ended with status {status}; its last lines:", *tail]))
        figures = json.loads((folder / "figures.json").read_text())
    return {**about, "load_after": round(os.getloadavg()[0], 2), "over_budget": False, **figures}


def line(result: Mapping[str, Any]) -> str:
    """Say in a line what a run took."""
    start = f"{result['dataset']:>10}  {result['name']:<15}"
    if result["over_budget"]:
        return f"{start} ended after {LIMIT} x {result['budget_s']} s: no epoch within the budget that it could tell of"
    return (
        f"{start} epoch {median(result['epoch_s']):7.1f} s  evaluation {result['evaluation_s']:6.2f} s  "
        f"prepare {result['prepare_s']:6.1f} s  peak {result['training_bytes'] / 1e9:5.2f} GB  "
        f"NDCG@10 {max(result['ndcg10']):.4f} after {len(result['epoch_s'])}  load {result['load']:.2f}"
    )


def describe(results: Sequence[Mapping[str, Any]]) -> str:
    """Lay out, per dataset, every run, and how odmt's times compare with the faster peer's."""
    lines = []
    for dataset in dict.fromkeys(result["dataset"] for result in results):
        here = [result for result in results if result["dataset"] == dataset]
        done = [result for result in here if not result["over_budget"]]
        by_name = {name: [r for r in done if r["name"] == name] for name in dict.fromkeys(r["name"] for r in done)}
        lines += ["", f"{dataset}, {here[0]['users']} users, {here[0]['threads']} threads", *peer_table(here)]
        lines += against_peers(by_name)
    return "\n".join([*lines, "", *NOTES])


def against_peers(by_name: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Say how many times as long as odmt the faster peer takes; below 1, odmt is the slower."""
    lines = []
    rivals = [runs for name, runs in by_name.items() if not name.startswith("odmt")]
    for name in [name for name in by_name if name.startswith("odmt") and rivals]:
        times = {key: min(_typical(r, key) for r in rivals) / _typical(by_name[name], key) for key in TIMES}
        told = ", ".join(f"{what} {times[key]:.2f}" for key, what in TIMES.items())
        lines.append(f"  the faster peer's time over {name}'s: {told}")
    return lines


def with_targets(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Say in each run's figures when it came to the best validation NDCG@10 of the peers in its round, if ever.

    Among runs of odmt alone, to the best of all.
    """
    told = []
    for run in results:
        here = [r for r in results if (r["dataset"], r["repeat"]) == (run["dataset"], run["repeat"])]
        done = [r for r in here if not r["over_budget"]]
        if run["over_budget"]:
            told.append(dict(run))
            continue
        goal = max(max(r["ndcg10"]) for r in [r for r in done if not r["name"].startswith("odmt")] or done)
        came = next((n for n, ndcg in enumerate(run["ndcg10"], start=1) if ndcg >= goal), None)
        told.append({**run, "target_ndcg10": goal, "target_s": time_to(run, goal), "target_evaluations": came})
    return told


def time_to(run: Mapping[str, Any], goal: float) -> float | None:
    """Count the training seconds until validation reached `goal`, at the end of an epoch; None where it did not."""
    spent = 0.0
    for seconds, ndcg in zip(run["epoch_s"], run["ndcg10"], strict=True):
        spent += seconds
        if ndcg >= goal:
            return spent
    return None


def _typical(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    return median(value for run in runs for value in (run[key] if isinstance(run[key], list) else [run[key]]))


TIMES = {"epoch_s": "epoch", "evaluation_s": "evaluation"}
NOTES = (
    "Same in all: events, examples, questions, width, layers, heads, length, dropout, learning rate, threads, float32.",
    "Not the same: losses and batches as listed, the peers' defaults (an example of RecBole's is one prefix of a",
    "history, so that 2048 are some 500 users); optimizers (AdamW, decay 0.1, clipping here; Adam there); feed-forward",
    "width, as listed; where norms stand and how weights start; RecTools knows only items that occur in",
    "training; odmt leaves a user's own other items out of the in-batch candidates, the full softmax nobody's.",
    "Evaluation is each library's own: odmt ranks exactly, per stream and ensemble, history masked; RecBole takes the",
    "top ten, nothing masked; RecTools takes the top ten, history masked. Seconds to an NDCG@10 count training alone,",
    "in whole epochs, and the metric is the same code for all. Peak memory is of training, with all that was imported.",
)

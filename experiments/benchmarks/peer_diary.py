"""What a library did with its task: seconds per epoch, validation after each of them, evaluation, memory.

The clock runs over training alone. Validation ranks the library's own user states and item vectors by odmt.evaluate,
so that NDCG@10 is the same code for all of them.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from odmt.evaluate import metrics, ranks
from odmt.types import Tensor

from .peer_task import Task

__all__ = ["Diary", "Scorer", "table_for_our_ids", "with_one"]

Scorer = tuple[Callable[[Tensor], Tensor], Tensor]


class Diary:
    """Keep one run's figures; `epoch_begins` and `epoch_ends` bracket what is timed."""

    def __init__(self, task: Task, **about: Any) -> None:
        torch.set_num_threads(task.settings.threads)
        torch.manual_seed(task.settings.seed)
        self.task = task
        self.figures: dict[str, Any] = {**about, "epoch_s": [], "ndcg10": []}
        self._began = time.perf_counter()

    def prepared(self, optimizer: torch.optim.Optimizer, **hyper_parameters: Any) -> None:
        """Note how long it took from the sequences to a model that is ready to train, and what it will train with."""
        settings = asdict(self.task.settings)
        same = {name: settings[name] for name in ("dim", "layers", "heads", "length", "dropout", "seed")}
        used = {name: optimizer.defaults[name] for name in ("lr", "betas", "weight_decay")}
        self.figures["hyper_parameters"] = {**same, "optimizer": type(optimizer).__name__, **used, **hyper_parameters}
        self.figures["prepare_s"] = round(time.perf_counter() - self._began, 2)
        self.figures["before_training_bytes"] = peak_bytes()

    def epoch_begins(self) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def epoch_ends(self, model: Callable[[], Scorer]) -> bool:
        """Stop the clock, validate, and say whether another epoch is wanted and there is training time left for it.

        model() gives a function to user states [users, dim] from histories of our item ids, left-padded, and the item
        vectors [our items + 1, dim] that they are to be multiplied with.
        """
        self.figures["epoch_s"].append(round(time.perf_counter() - self._began, 3))
        self.figures.setdefault("training_bytes", peak_bytes())
        self.figures["ndcg10"].append(self.ndcg10(model))
        spent, settings = sum(self.figures["epoch_s"]), self.task.settings
        print(f"  epoch {self.epochs}: {self.figures['epoch_s'][-1]:.1f} s, NDCG@10 {self.figures['ndcg10'][-1]:.4f}")
        return spent < settings.budget_s and (settings.epochs is None or self.epochs < settings.epochs)

    @torch.no_grad()
    def ndcg10(self, model: Callable[[], Scorer], *, mask_history: bool = True) -> float:
        """Rank the validation targets of all users by odmt.evaluate."""
        states, table = model()
        found = ranks(
            lambda histories: {"item": states(histories)},
            {"item": table},
            self.task.split.questions("valid"),
            combine=lambda scores: scores["item"],
            mask_history=mask_history,
        )
        return metrics(found["item"])["NDCG@10"]

    @property
    def epochs(self) -> int:
        """Number of epochs that have ended."""
        return len(self.figures["epoch_s"])

    def evaluation(self, run: Callable[[], Mapping[str, float]]) -> None:
        """Time the library's own evaluation of all users over its whole catalogue, and keep what it reports."""
        began = time.perf_counter()
        reported = run()
        self.figures["evaluation_s"] = round(time.perf_counter() - began, 3)
        self.figures["evaluation_reports"] = dict(reported)
        self.figures["peak_bytes"] = peak_bytes()

    def write(self, folder: Path) -> None:
        """Leave the figures for the parent."""
        seconds = self.figures["epoch_s"]
        self.figures["epoch_range_s"] = [min(seconds), max(seconds)]
        self.figures["training_s"] = round(sum(seconds), 3)
        self.figures["evaluations"] = self.epochs  # one after each
        (folder / "figures.json").write_text(json.dumps(self.figures))


def table_for_our_ids(table: Tensor, lookup: Tensor) -> Tensor:
    """Order a library's item vectors by our ids; an item that it does not know must score below all that it knows.

    To that end the vectors get a column more, 0 for known items and -1e30 for the others, and `with_one` gives the
    states a 1 to go with it. Scores of known items stay what they were.
    """
    known = (lookup >= 0).to(table.dtype)[:, None]
    return torch.cat([table[lookup.clamp(min=0)] * known, (1 - known) * -1e30], dim=1)


def with_one(states: Tensor) -> Tensor:
    """Add the column that `table_for_our_ids` needs."""
    return torch.cat([states, torch.ones_like(states[:, :1])], dim=1)


def peak_bytes() -> int:
    """Give the most memory that this process has held.

    Not `machine.peak_bytes`: this module runs in environments that hold torch and a peer, and nothing else of ours.
    """
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts, on Linux, what the parent held when it forked
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

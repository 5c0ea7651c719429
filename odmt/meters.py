"""What an epoch's training cost and what its batches were made of, over all processes.

Counts are taken of batches as they leave the loader, on the CPU, so that no GPU is waited for.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from odmt.types import Batch, Tokens

__all__ = ["Meter", "counted", "peak_bytes", "shares"]


class Meter:
    """Measure the training of one epoch after the other.

    device: which one's memory is measured.
    gather: gives all processes what each of them puts into a list, and must be called by all.
    """

    def __init__(self, device: torch.device, gather: Callable[[list[Any]], list[Any]]) -> None:
        self.device = device
        self.gather = gather
        self._own: Counter[str] = Counter()
        """What this process saw since it last told the others."""
        self._done: Counter[str] = Counter()
        """What all processes saw of the epoch since this one took it up."""
        self._seconds = self._waited = self._aside = 0.0

    def watch(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Begin an epoch, or to take up one: give the batches, count them, and take the time that they take.

        What it takes to start the loader's workers is time waited for it.
        """
        self._own.clear()
        self._done.clear()
        self._seconds = self._waited = self._aside = 0.0
        began = time.perf_counter()
        return self._watched(iter(loader), began)

    def _watched(self, batches: Iterator[Batch], began: float) -> Iterator[Batch]:
        asked = began
        while True:
            batch = next(batches, None)
            self._waited += time.perf_counter() - asked
            if batch is None:
                break
            self._own.update(counted(batch))
            yield batch
            asked = time.perf_counter()
        self._seconds = time.perf_counter() - began - self._aside

    @contextmanager
    def aside(self, seen: dict[str, int]) -> Iterator[None]:
        """Leave out the time that something else takes than training, and first add to `seen` what all processes have
        counted since they last told each other.
        """
        began = time.perf_counter()
        self._tell(seen)
        yield
        self._aside += time.perf_counter() - began

    def end(self, seen: dict[str, int]) -> dict[str, Any]:
        """Give the figures of the epoch that has ended, and empty `seen`, which holds what was counted of it before.

        `batches`: its `shares`, which follow from the data, whoever was stopped when.
        `speed`: what this machine made of it, since the process took the epoch up where it was resumed, and validation
            and saving left out: users and items encoded per second; `loader_wait`, the share of the time in which the
            trainer waited for a batch, of the process that waited most, since all wait for it (a GPU may have been busy
            meanwhile); `peak_gb`, the most memory (10^9 bytes) that any process ever held, validation included: on the
            GPU where there is one, resident otherwise. Where no step was left to take, memory alone.
        """
        everyone = self._tell(seen)
        seconds, waits, peaks = (max(values) for values in zip(*everyone, strict=True))
        speed: dict[str, float] = {}
        if self._done["users"]:
            speed["users_per_s"] = round(self._done["users"] / seconds, 1)
            speed["items_per_s"] = round(self._done["items"] / seconds, 1)
            speed["loader_wait"] = round(waits, 4)
        speed["peak_gb"] = round(peaks / 1e9, 3)
        figures = {"batches": shares(seen), "speed": speed}
        seen.clear()
        return figures

    def _tell(self, seen: dict[str, int]) -> list[tuple[float, float, int]]:
        """Add up counts; give every process's seconds, the share of them that it waited, and its memory."""
        wait = self._waited / self._seconds if self._seconds else 0.0
        told = self.gather([(dict(self._own), (self._seconds, wait, peak_bytes(self.device)))])
        self._own.clear()
        for counts, _ in told:
            self._done.update(counts)
            for name, count in counts.items():
                seen[name] = seen.get(name, 0) + count
        return [times for _, times in told]


def counted(batch: Batch) -> dict[str, int]:
    """Count what this process has of a batch that lies on the CPU; what all count of it adds up to the whole.

    users; slots of their histories, and events in them; items that are encoded, and those of them that occur in
    histories (others were drawn); and per modality places for tokens, and tokens.
    """
    mask, counts = batch.mask.numpy(), batch.counts.numpy()
    if batch.part is not None:  # an idle process has somebody else's
        counts = counts[batch.part.rank :: batch.part.world]
        mask = mask[:0] if batch.part.idle else mask
    found = {"users": len(mask), "slots": mask.size, "events": np.count_nonzero(mask)}
    found |= {"items": len(counts), "distinct": np.count_nonzero(counts)}
    for name, content in batch.content.items():
        if isinstance(content, Tokens):
            tokens = content.mask.numpy()[: len(counts)]
            found |= {f"places/{name}": tokens.size, f"tokens/{name}": np.count_nonzero(tokens)}
    return {name: int(count) for name, count in found.items()}


def shares(seen: Mapping[str, int]) -> dict[str, Any]:
    """Say of how much an epoch's batches consist of what, from the sum of what was `counted`.

    `padding`: share of the slots of histories without an event; `distinct_items`: distinct items per event, each
    batch by itself; both are the same for any number of processes that share their batches. `token_padding`: per
    modality, share of the places without a token, as batches carry them to a GPU (a CPU reads them in parts, which
    leaves less); each process pads to the longest of its own items. Where nothing was counted, a share is 0.
    """
    names = [name.partition("/")[2] for name in seen if name.startswith("places/")]
    return {
        "padding": _without(seen.get("events", 0), seen.get("slots", 0)),
        "distinct_items": seen.get("distinct", 0) / max(seen.get("events", 0), 1),
        "token_padding": {name: _without(seen[f"tokens/{name}"], seen[f"places/{name}"]) for name in names},
    }


def _without(filled: int, places: int) -> float:
    return 1 - filled / places if places else 0.0


def peak_bytes(device: torch.device) -> int:
    """Give the most memory that this process has held, on the GPU or resident in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("VmHWM"):  # not getrusage: there, Linux lets a child inherit its parent's peak
            return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

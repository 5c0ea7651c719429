"""What this machine can do, and how time and memory are taken on it: by the clock on a CPU, by CUDA events on a GPU."""

from __future__ import annotations

import multiprocessing
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from odmt.meters import peak_bytes

__all__ = [
    "add_arguments",
    "available_bytes",
    "bandwidth",
    "in_child",
    "matrix_rate",
    "peak_above",
    "seconds",
    "setup",
    "take_turns",
]


def add_arguments(parser: ArgumentParser, *, repeats: int) -> None:
    """Add what every suite that runs torch takes."""
    parser.add_argument("--threads", type=int, metavar="N", help="torch's threads (default: its own choice)")
    parser.add_argument("--repeats", type=int, default=repeats, metavar="N", help=f"medians of N (default {repeats})")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda, where CUDA events take the time")


def setup(arguments: Namespace) -> torch.device:
    """Set threads and seeds, and full float32 products on GPUs; every process that measures calls it."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    return torch.device(arguments.device)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Time one call."""
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1e3
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32, *, size: int = 0, repeats: int = 5) -> float:
    """Measure the rate of large matrix products, in operations per second (a multiplication and an addition are two).

    The best of `repeats`: floors should be low.
    """
    size = size or (8192 if device.type == "cuda" else 2048)
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    return 2 * size**3 / min(seconds(lambda: a @ b, device) for _ in range(repeats + 1))


def take_turns(
    sides: Sequence[Callable[[int], float]],
    device: torch.device,
    *,
    repeats: int,
    dtype: torch.dtype = torch.float32,
) -> tuple[list[list[float]], list[float]]:
    """Have sides take turns after one that is not counted: per side its seconds, and the rates of matrix products.

    A side is given the number of the turn, from 0, and gives the seconds it took. Which goes first alternates. A rate
    is measured before and after every turn, that of the first turn included.
    """
    times: list[list[float]] = [[] for _ in sides]
    rates = [matrix_rate(device, dtype, repeats=1)]
    for number in range(repeats + 1):
        for side in range(len(sides)) if number % 2 else reversed(range(len(sides))):
            times[side].append(sides[side](number))
        rates.append(matrix_rate(device, dtype, repeats=1))
    return [taken[1:] for taken in times], rates


def bandwidth(device: torch.device, *, num_bytes: int = 1 << 28, repeats: int = 5) -> float:
    """Measure bytes moved per second by a copy of an array far larger than the caches: read once, written once."""
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / min(seconds(lambda: target.copy_(source), device) for _ in range(repeats + 1))


def in_child(function: Callable[..., Any], *arguments: Any, device: str = "cpu") -> tuple[Any, int]:
    """Call a function in a fresh process; give what it returns, and the most memory that it held beyond what its
    imports had taken.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_with_peak, function, arguments, device).result()


def _with_peak(function: Callable[..., Any], arguments: tuple[Any, ...], device: str) -> tuple[Any, int]:
    before = peak_bytes(torch.device(device))
    value = function(*arguments)
    return value, peak_bytes(torch.device(device)) - before


def peak_above(run: Callable[[], object], device: torch.device) -> int:
    """Give the most memory that one call held beyond what was held before it; on the CPU, Linux alone can tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew at what is resident now
        before = peak_bytes(device)
    run()
    return peak_bytes(device) - before


def available_bytes(device: torch.device) -> int:
    """Say how much memory is free for tensors."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = Path("/proc/meminfo").read_text().split("MemAvailable:")[1]
    return 1024 * int(found.split()[0])

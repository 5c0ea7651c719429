"""Several processes of one test, forked from one that has imported what they need: to import torch takes seconds."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Callable
from typing import Any

import torch.distributed
from torch.multiprocessing.spawn import start_processes

__all__ = ["free_port", "together"]


def together(function: Callable[..., None], world: int, *arguments: Any) -> None:
    """Run `function(rank, *arguments)` in so many processes that know of each other through gloo; raise what the first
    that fails raised.
    """
    multiprocessing.set_forkserver_preload(["accelerate", "odmt.training", "tests.processes"])
    start_processes(_of_a_group, (free_port(), world, function, arguments), nprocs=world, start_method="forkserver")


def _of_a_group(rank: int, port: int, world: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    function(rank, *arguments)
    torch.distributed.destroy_process_group()


def free_port() -> int:
    """Name a port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]

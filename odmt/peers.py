"""Which of a run's processes has ended, by a refusal of its own or killed, told by those that are left."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

__all__ = ["naming_the_dead"]

LOST = ("gloo", "nccl", "connection", "broken pipe", "reset by peer")
"""What is said where a process is not there to be heard."""
PATIENCE_S = 5.0
"""How long a process is looked for that a broken connection says is gone."""


@contextmanager
def naming_the_dead(accelerator: Accelerator) -> Iterator[None]:
    """Where processes lose each other, raise ChildProcessError that names those of this machine that have ended.

    Errors that are not of their communication, or that no end explains, pass as they are; so do those of one process
    alone.
    """
    if accelerator.num_processes == 1:
        yield
        return
    everyone: list[tuple[str, int]] = gather_object([(_place(), os.getpid())])
    try:
        yield
    except RuntimeError as error:  # torch has no class of its own for all that gloo says
        if not (isinstance(error, torch.distributed.DistError) or any(word in str(error).lower() for word in LOST)):
            raise
        here, _ = everyone[accelerator.process_index]
        beside = {rank: process for rank, (place, process) in enumerate(everyone) if place == here}
        until = time.monotonic() + PATIENCE_S
        while not (dead := [rank for rank, process in beside.items() if not _lives(process)]):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        names = ", ".join(f"{rank} (process {beside[rank]} on {socket.gethostname()})" for rank in dead)
        raise ChildProcessError(
            f"rank {names} of {len(everyone)} has ended, and the others cannot go on: it has said why, or was killed"
        ) from error


def _place() -> str:
    """Name where numbers of processes mean the same: a machine, or a container of it."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # a system without /proc
        return socket.gethostname()


def _lives(process: int) -> bool:
    """Say whether a process runs; one that has ended stays listed until its parent asks for it."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except ProcessLookupError:
        return False
    except OSError:  # not ours to signal, or a system without /proc
        return True

"""Several processes of one test, forked from one that has imported what they need: to import torch takes seconds."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import socket
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext
from typing import Any

import torch
import torch.distributed
from torch.multiprocessing.spawn import start_processes

__all__ = ["launch", "together"]


def together(function: Callable[..., None], world: int, *arguments: Any) -> None:
    """Run `function(rank, *arguments)` in so many processes that know of each other through gloo; raise what the first
    that fails raised.
    """
    _server()
    start_processes(_of_a_group, (_free_port(), world, function, arguments), nprocs=world, start_method="forkserver")


def launch(
    function: Callable[..., None],
    world: int,
    *arguments: Any,
    zero: int = 0,
    fsdp: bool = False,
    deepspeed: Mapping[str, Any] | None = None,
    seconds: float = 120,
) -> list[int | None]:
    """Run `function(rank, *arguments)` as torchrun would, and give the exit status of each process: that of a signal is
    negative, and of one that had to be killed after so many seconds it is None.

    zero: the stage of DeepSpeed's ZeRO, as `accelerate launch` would ask for it; 0 does without. Stage 3 splits even
        small parameters, which DeepSpeed would leave whole up to 100,000 numbers: all that a test has.
    fsdp: ask for torch's FSDP2 as `accelerate launch` would.
    deepspeed: what its configuration file says beside that.
    """
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(world)}
    if fsdp:
        address |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    if zero:
        address |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(zero)}
    if zero == 3 or deepspeed:
        split = {"stage3_param_persistence_threshold": 0} if zero == 3 else {}
        settings = {"zero_optimization": {"stage": zero, **split}, **(deepspeed or {})}
        address["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = json.dumps(settings)
    processes = [
        _server().Process(target=_launched, args=({**address, "RANK": str(rank)}, function, rank, arguments))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(seconds)
    found = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return found


PRELOADED = [
    "odmt.training", "tests.processes", "torch._dynamo", "transformers.integrations", "deepspeed.runtime.engine",
    "deepspeed.runtime.zero.muon.original_muon",
]  # fmt: skip
"""What takes seconds to import, also where it is imported late: by torch's optimizers, accelerate and DeepSpeed."""


def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _of_a_group(rank: int, port: int, world: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    function(rank, *arguments)
    torch.distributed.destroy_process_group()


def _launched(address: dict[str, str], function: Callable[..., None], rank: int, arguments: tuple[Any, ...]) -> None:
    zero = "ACCELERATE_USE_DEEPSPEED" in address
    if address["WORLD_SIZE"] != "1" or zero:
        os.environ |= {**address, "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": address["WORLD_SIZE"]}
    if zero:
        del os.environ["ACCELERATE_USE_CPU"]  # which keeps it out
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would be compiled, for minutes
    torch.set_num_threads(1)
    function(rank, *arguments)


FIRST = 10_000 + os.getpid() * 997 % 20_000  # test runs beside each other begin at different ones
PORTS = itertools.cycle([*range(FIRST, 30_000), *range(10_000, FIRST)])
"""Below those that systems hand out: of these, one could be taken by another test before this one listens to it."""


def _free_port() -> int:
    for port in PORTS:
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
    raise AssertionError("the cycle has no end")

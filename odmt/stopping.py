"""Between two steps, all processes agree whether the run was asked to stop, and whether a checkpoint is due."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator

__all__ = ["RESUME_ME", "Requests", "Stopped"]

RESUME_ME = 75
"""Exit status of a run that stopped when asked to and goes on with --resume: EX_TEMPFAIL of sysexits.h."""
ASKING = ("SIGTERM", "SIGUSR1")
"""What batch systems send before they take a machine away."""


class Stopped(SystemExit):
    """End the process with the status `RESUME_ME`: its run was asked to stop, and has saved its state."""

    def __init__(self) -> None:
        super().__init__(RESUME_ME)


class Requests:
    """Listen for signals while training, and keep the time since the last checkpoint.

    minutes: between checkpoints within an epoch; 0 asks for none.
    """

    def __init__(self, accelerator: Accelerator, *, minutes: float) -> None:
        self.minutes = minutes
        self.asked = ""
        self._interrupted = False
        self._shown = accelerator.is_local_main_process
        self._saved = time.monotonic()
        self._before: dict[str, Any] = {}
        # on the processor, so that agreeing does not wait for a GPU
        self._group = dist.new_group(backend="gloo") if accelerator.num_processes > 1 else None

    def __enter__(self) -> Requests:
        if threading.current_thread() is threading.main_thread():  # in others there are no signals
            self._before = {name: signal.signal(getattr(signal, name), self._ask) for name in ASKING}
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # `nohup` and & may have it ignored
                self._before["SIGINT"] = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(getattr(signal, name), handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.asked = signal.Signals(number).name
        if self._shown:
            print(f"{self.asked}: saving after this step", flush=True)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        signal.default_int_handler(number, frame)

    def agree(self) -> tuple[bool, bool]:
        """Say whether to stop and whether to save, the same in all processes, which all must ask."""
        if self._interrupted and self._group is None:  # Python drops what is raised while a worker is forked
            raise KeyboardInterrupt
        due = 0 < self.minutes * 60 <= time.monotonic() - self._saved
        flags = torch.tensor([bool(self.asked), due], dtype=torch.uint8)
        if self._group is not None:
            dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._group)
        stop, save = flags.bool().tolist()
        return stop, save or stop

    def saved(self) -> None:
        """Begin to wait for the next checkpoint."""
        self._saved = time.monotonic()

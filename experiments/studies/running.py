"""Train the runs of a suite one after the other, each a process group of its own that ends with this one."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .planning import PlannedRun
from .suite import EXPERIMENTS, SuiteError

__all__ = ["find_launcher", "interrupted_by_sigterm", "train", "train_command"]

TAIL = 15
"""Lines of a failed run's log that are shown."""
PATIENCE_S = 10.0
"""Seconds that a run is given to end before it is killed; its checkpoints survive both."""


def find_launcher(words: str) -> list[str]:
    """Read --launch, by default this Python; a program beside this Python counts as found (`accelerate`)."""
    launcher = shlex.split(words) or [sys.executable]
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    program = shutil.which(launcher[0], path=places)
    if program is None:
        raise SuiteError(f"--launch: there is no program {launcher[0]!r}, neither beside this Python nor on the PATH")
    return [program, *launcher[1:]]


def train_command(run: PlannedRun, launcher: Sequence[str], *, overwrite: bool = False) -> list[str]:
    """Give the command that starts the run, or goes on with it where it was begun, or begins anew with `overwrite`."""
    mode = "--overwrite" if overwrite else "--resume"
    return [*launcher, str(EXPERIMENTS / "train.py"), *run.argv, mode]


def train(run: PlannedRun, command: Sequence[str]) -> str | None:
    """Train one run, its output in its log; give None where it succeeded, else its status and last lines."""
    run.log.parent.mkdir(parents=True, exist_ok=True)
    with run.log.open("a", encoding="utf-8") as log:
        log.write(f"$ {shlex.join(command)}\n")
        log.flush()
        begin = log.tell()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # the log can be followed, and is whole after a kill
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = child.wait()
        finally:
            if child.poll() is None:
                _end(child)
    if status == 0 and run.state == "finished":
        return None
    how = f"ended with status {status}" if status else "ended without a result"
    return "\n".join([f"{how}; the end of {run.log}:", *_tail(run.log, begin)])


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the run with all processes that its launcher started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            pass  # killed next
        finally:  # a second Ctrl-C comes here at once
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _tail(log: Path, begin: int) -> list[str]:
    """Give the last lines since `begin`; of a progress bar, what it showed last."""
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode(errors="replace")
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return [f"  {line}" for line in lines if line][-TAIL:]


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let a polite kill end like Ctrl-C: the run that is being trained ends, too, and can be gone on with."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

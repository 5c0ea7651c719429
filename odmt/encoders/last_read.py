"""Which file a worker process was reading when it died: decoders are C code, and a damaged file may kill them.

A worker notes every file before it reads it, in a small file of its own; whoever waits for it looks there.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

__all__ = ["LostWorkerError", "naming_files", "noting"]

LENGTH = 4096


class LostWorkerError(ChildProcessError):
    """Say that a process that read files is gone, and which file it was reading."""


def noting(read: Callable[..., Any]) -> Callable[..., Any]:
    """Note the path that a reader is called with before it is called."""

    def noted(path: Path, *further: object) -> Any:
        os.pwrite(_note_of_this_process(os.getpid()), str(path).encode()[-LENGTH:].ljust(LENGTH, b"\0"), 0)
        return read(path, *further)

    return noted


@contextmanager
def naming_files() -> Iterator[None]:
    """Go through batches of a loader; where one of its workers dies, tell what it was reading.

    The loader speaks up wherever its process is, waiting for a batch or busy with one: all of it belongs within.
    Raises `LostWorkerError` in the place of the loader's own error.
    """
    try:
        yield
    except RuntimeError as error:
        dead = [int(pid) for pid in re.findall(r"\d+", " ".join(re.findall(r"pid\(?s?\)? ([\d, ]+)", str(error))))]
        files = [file for pid in dead if (file := _read_note(pid))]
        if not dead:
            raise
        was = f"while it read {' or '.join(files)}" if files else "while it read no file"
        raise LostWorkerError(
            f"a process that prepares batches is gone ({error}), {was}. Take that file out of the dataset, or, if "
            "memory was short, lower --data.workers"
        ) from error


@cache
def _note_of_this_process(pid: int) -> int:
    # by process, because a forked one inherits what its parent has cached
    Finalize(None, _path(pid).unlink, kwargs={"missing_ok": True}, exitpriority=0)
    return os.open(_path(pid), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)


def _read_note(pid: int) -> str:
    path = _path(pid)
    if not path.is_file():
        return ""
    note = path.read_bytes().rstrip(b"\0").decode(errors="replace")
    path.unlink(missing_ok=True)
    return note


def _path(pid: int) -> Path:
    return Path(tempfile.gettempdir()) / f"odmt-reads-{os.getuid()}-{pid}"

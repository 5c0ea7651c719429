"""Decode pictures and clips in processes that may crash or hang, and say of each file what came of it.

Processes, not threads: a decoder that crashes takes its process along, and one that never returns can only be stopped
by ending its process. Each works on one file at a time, so that it is known whose fault it was; another takes its
place. They are spawned, not forked: forked copies of a program with threads can lock up.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import signal
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Literal

from PIL import Image

from odmt.data.clips import BrokenClipError, read_clip
from odmt.data.pictures import BrokenPictureError, read_picture

__all__ = ["Job", "Outcome", "decode", "decode_all"]

LIMIT = 60.0
"""Seconds that one file may take."""
START = 120.0
"""Seconds more for a process's first file: a busy machine imports slowly."""
THUMBNAIL = 168
"""Pixels of a thumbnail's longer side."""
FULL = 1 << 20
"""No picture is larger, so none is decoded at a smaller scale."""
CLIP_FRAMES = 3


@dataclass(frozen=True)
class Job:
    """Name a file to decode, and whether to return a small picture of it."""

    item: int
    kind: Literal["image", "video", "frames"]
    path: Path
    thumbnail: bool = False


@dataclass(frozen=True)
class Outcome:
    """Hold what came of decoding a file."""

    reason: str = ""
    """Why it could not be decoded; empty where it could."""
    digest: bytes = b""
    """Of a picture's size and pixels."""
    thumbnail: bytes = b""
    """JPEG."""


def decode_all(jobs: Iterable[Job], *, workers: int, limit: float = LIMIT) -> Iterator[tuple[Job, Outcome]]:
    """Decode every file in `workers` processes; yield each with what came of it, in the order in which they finish."""
    context, waiting = get_context("spawn"), iter(jobs)
    busy = [_Worker(context, job, limit) for job in itertools.islice(waiting, workers)]
    try:
        while busy:
            soonest = min(worker.deadline for worker in busy)
            ready = wait([worker.connection for worker in busy], timeout=max(0.0, soonest - time.monotonic()))
            for worker in list(busy):
                answered = worker.connection in ready or worker.connection.poll()  # others' results take time to use
                if not answered and time.monotonic() < worker.deadline:
                    continue
                outcome = worker.outcome() if answered else worker.overdue(limit)
                yield worker.job, outcome
                if (job := next(waiting, None)) is None:
                    busy.remove(worker)
                    worker.end()
                elif worker.process.is_alive():
                    worker.give(job, limit)
                else:
                    busy[busy.index(worker)] = _Worker(context, job, limit)
    finally:
        for worker in busy:
            worker.end()


class _Worker:
    """Hold a process that decodes one file at a time."""

    def __init__(self, context: SpawnContext, job: Job, limit: float) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.give(job, START + limit)

    def give(self, job: Job, limit: float) -> None:
        self.job, self.deadline = job, time.monotonic() + limit
        self.connection.send(job)

    def outcome(self) -> Outcome:
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.end()
            code = self.process.exitcode or 0
            cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            return Outcome(reason=f"its decoder crashed ({cause})")

    def overdue(self, limit: float) -> Outcome:
        self.end()
        return Outcome(reason=f"its decoder did not finish within {limit:.0f} seconds")

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever interrupts the check ends this process too
    warnings.filterwarnings("ignore", module=r"PIL\.")
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(decode(job))


def decode(job: Job) -> Outcome:
    """Decode one file in this process."""
    try:
        if job.kind == "video":
            clip = read_clip(job.path, frames=CLIP_FRAMES, side=THUMBNAIL)
            picture, digest = Image.fromarray(clip.frames[CLIP_FRAMES // 2]), b""
        else:
            picture = read_picture(job.path, side=FULL)
            digest = hashlib.blake2b(repr(picture.size).encode() + picture.tobytes(), digest_size=16).digest()
    except (BrokenPictureError, BrokenClipError) as error:
        return Outcome(reason=str(error))
    except MemoryError:
        return Outcome(reason="too large for this machine's memory")
    return Outcome(digest=digest, thumbnail=_thumbnail(picture) if job.thumbnail else b"")


def _thumbnail(picture: Image.Image) -> bytes:
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=75, optimize=True)
    return file.getvalue()

"""The content check survives decoders that die or hang."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from data_adapters import check_media
from data_adapters.check_media import Job, decode_all
from tests.pictures import two_halves


def dies(connection: Connection) -> None:
    """Decode, but die over files named so, as a decoder with a fault in it would; or never return."""

    def decode(job: Job) -> check_media.Outcome:
        if job.path.name == "deadly.png":
            os.kill(os.getpid(), signal.SIGSEGV)
        if job.path.name == "endless.png":
            time.sleep(600)
        return original(job)

    original = check_media.decode
    check_media.decode = decode
    check_media._serve(connection)


def test_a_decoder_that_dies_or_hangs_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.png", "b.png", "deadly.png", "c.png", "endless.png", "d.png", "e.png"]
    for name in names:
        two_halves().save(tmp_path / name)
    monkeypatch.setattr(check_media, "_serve", dies)
    jobs = [Job(n, "image", tmp_path / name) for n, name in enumerate(names)]
    found = {job.path.name: outcome.reason for job, outcome in decode_all(jobs, workers=2, limit=15)}
    assert found.keys() == set(names)
    assert found["deadly.png"] == "its decoder crashed (SIGSEGV)"
    assert found["endless.png"] == "its decoder did not finish within 15 seconds"
    assert [found[name] for name in names if found[name]] == [found["deadly.png"], found["endless.png"]]

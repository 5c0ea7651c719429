"""A preparation that is stopped or killed leaves nothing, and the next clears up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.adapters.toy import run

STOPPABLE = """
import sys, time
from argparse import Namespace
from pathlib import Path
import pyarrow as pa
from data_adapters.release import Adapter, Batches, Catalogue, Delimited, Release

stage, folder = sys.argv[1], Path(sys.argv[2])

def events():
    number = 0
    while number < 8 or stage == "events":
        yield pa.RecordBatch.from_pydict({"user": ["u"], "item": [str(number)]})
        if stage == "events":
            (folder / "reached").touch()
        number += 1
        time.sleep(0.01)

def items():
    yield "1", {"title": "a title"}
    while stage == "items":
        (folder / "reached").touch()
        time.sleep(0.01)

adapter = Adapter("toy", "", lambda raw, arguments: Release(
    [Batches(folder / "file", events, ("user", "item"))], [Catalogue(folder / "file", items)], ("title",), "title"))
from data_adapters.options import Options
from data_adapters.preparation import prepare
try:
    prepare(adapter, folder, folder / "out", options=Options(), name="toy", arguments=Namespace(), memory="500MB")
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("stage", "with_signal"),
    [("events", signal.SIGKILL), ("items", signal.SIGTERM), ("events", signal.SIGINT), ("items", signal.SIGINT)],
)
def test_a_stopped_preparation_leaves_nothing(tmp_path: Path, stage: str, with_signal: signal.Signals) -> None:
    (tmp_path / "file").touch()
    process = subprocess.Popen([sys.executable, "-c", STOPPABLE, stage, str(tmp_path)], start_new_session=True)
    try:
        wait_until(lambda: (tmp_path / "reached").exists())
        assert [p.name for p in tmp_path.glob(".out.partial-*")]
        os.killpg(process.pid, with_signal) if with_signal == signal.SIGINT else process.send_signal(with_signal)
        assert process.wait(timeout=120) == (130 if with_signal == signal.SIGINT else -with_signal)
    finally:
        process.kill()
    wait_until(lambda: not list(tmp_path.glob(".*")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "reached"]


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_leftovers_of_the_dead_are_removed(raw: Path, tmp_path: Path) -> None:
    for name in ("out", "o[u]t"):
        dead = tmp_path / f".{name}.partial-999999"
        (dead / "scratch").mkdir(parents=True)
        (dead / "scratch/held").touch()
        (tmp_path / f".{name}.partial-999998/histories").mkdir(parents=True)
        run(raw, tmp_path / name)
        assert not list(tmp_path.glob(".*"))

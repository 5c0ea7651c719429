"""Ctrl-C ends a query, whenever it comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data_adapters import engine as module
from data_adapters.engine import Engine

ROWS = 400
READ = "CREATE TABLE t AS SELECT * FROM batches"


class Slow:
    """Batches of one row, a hundredth of a second each."""

    def __init__(self) -> None:
        self.read, self.begun = 0, threading.Event()

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(pa.schema([("item", pa.int64())]), self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for number in range(ROWS):
            self.read = number
            yield pa.RecordBatch.from_pydict({"item": [number]})
            self.begun.set()
            time.sleep(0.01)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path, memory="500MB") as found:
        yield found


def test_while_the_query_is_handed_over(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Slow()

    class Interrupted(ThreadPoolExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            super().submit(fn, *args, **kwargs)
            assert rows.begun.wait(30)
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "ThreadPoolExecutor", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.run(READ, label="reading", batches=rows.reader())
    assert rows.read < ROWS - 1


def test_before_the_query_has_begun(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, connection, interrupted = Slow(), engine._connection, threading.Event()

    class Late:
        """A connection whose queries begin when the first interruption is over."""

        def __getattr__(self, name: str) -> Any:
            return getattr(connection, name)

        def execute(self, sql: str) -> Any:
            assert interrupted.wait(30)
            return connection.execute(sql)

        def interrupt(self) -> None:
            connection.interrupt()
            interrupted.set()

    def wait(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "wait", wait)
    monkeypatch.setattr(engine, "_connection", Late())
    with pytest.raises(KeyboardInterrupt):
        engine.run(READ, label="reading", batches=rows.reader())
    assert rows.read < ROWS - 1


ENDLESS = "SELECT count(*) AS n FROM range(1000000000) a, range(1000000000) b WHERE (a.range * 7 + b.range) % 11 = 12"


@pytest.mark.parametrize("how", [Engine.run, Engine.one, lambda engine, sql: list(engine.stream(sql))])
def test_while_any_query_runs(engine: Engine, monkeypatch: pytest.MonkeyPatch, how: Callable[..., Any]) -> None:
    """One without a progress bar, or between whose batches other work is done, is waited for like the others."""
    real, waited = module.wait, 0

    def wait(tasks: Any, timeout: float) -> Any:
        nonlocal waited
        waited += 1
        done = real(tasks, timeout=timeout)
        if not done.done:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(module, "wait", wait)
    with pytest.raises(KeyboardInterrupt):
        how(engine, ENDLESS)
    assert waited
    assert engine.one("SELECT 1") == (1,)
    assert [len(batch) for batch in engine.stream("SELECT * FROM range(3)")] == [3]

"""DuckDB with bounded memory, a work file on the disk of the output, and a progress bar."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from tqdm import tqdm

from data_adapters.text_files import ReleaseError

__all__ = ["Engine"]

BATCH = 1 << 19


class Engine:
    """Run SQL over tables in `folder`, within `memory` (such as "2GB"); what does not fit waits on disk."""

    def __init__(self, folder: Path, *, memory: str) -> None:
        if memory.strip().startswith("-"):
            raise ReleaseError(f"--memory {memory}: must be more than nothing; write a size such as 2GB")
        try:
            self._connection = duckdb.connect(
                folder / "work.duckdb",
                config={
                    "memory_limit": memory,
                    "temp_directory": str(folder / "spilled"),
                    "preserve_insertion_order": True,  # rowid is the order of lines, which decides between equal times
                    "enable_external_access": True,
                    "autoinstall_known_extensions": False,  # nothing is fetched from anywhere
                    "TimeZone": "UTC",
                },
            )
        except duckdb.ParserException as error:
            raise ReleaseError(f"--memory {memory}: {str(error).splitlines()[0]}; write a size such as 2GB") from error

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def run(self, sql: str, *, label: str = "", batches: pa.RecordBatchReader | pa.Table | None = None) -> None:
        """Run a statement, with a progress bar if it has a label; `batches` is a table of that name for it."""
        if batches is not None:
            self._connection.register("batches", batches)
        try:
            self._wait_for(lambda: self._connection.execute(sql).fetchall(), self._connection, label)
        finally:
            if batches is not None:
                self._connection.unregister("batches")

    def one(self, sql: str) -> tuple[Any, ...]:
        """Return the one row of a query."""
        (row,) = self._wait_for(lambda: self._connection.execute(sql).fetchall(), self._connection)
        return row

    def stream(self, sql: str) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a query in batches, without holding the rest."""
        with self._connection.cursor() as cursor:  # other statements may run between two batches
            reader = self._wait_for(lambda: cursor.sql(sql).to_arrow_reader(BATCH), cursor)
            while (batch := self._wait_for(lambda: next(reader, None), cursor)) is not None:
                yield batch

    def _wait_for(self, query: Callable[[], Any], connection: duckdb.DuckDBPyConnection, label: str = "") -> Any:
        """Run a query in another thread, for in this one DuckDB would not let Ctrl-C through or call it an error of its
        own; with a progress bar if it has a label.
        """
        running, stopped = threading.Lock(), threading.Event()

        def unless_stopped() -> Any:
            with running:
                return None if stopped.is_set() else query()

        form = "{desc}: {percentage:.0f}%|{bar}| {elapsed}"
        with (
            ThreadPoolExecutor(1) as pool,
            tqdm(total=100, desc=label, bar_format=form, disable=None if label else True) as bar,
        ):
            try:
                done = pool.submit(unless_stopped)
                while not wait([done], timeout=0.2).done:
                    if label:
                        bar.update(max(0.0, connection.query_progress() - bar.n))
            except BaseException:  # Ctrl-C: the query runs in the other thread, or is about to
                stopped.set()
                _interrupt(connection, running)
                raise
            found = done.result()
            bar.update(100 - bar.n)
            return found


def _interrupt(connection: duckdb.DuckDBPyConnection, running: threading.Lock) -> None:
    ended = False
    while not ended:
        with suppress(KeyboardInterrupt):  # a second Ctrl-C has nothing else to end
            connection.interrupt()  # again and again: DuckDB forgets one that comes before the query
            ended = running.acquire(timeout=0.1)
    running.release()

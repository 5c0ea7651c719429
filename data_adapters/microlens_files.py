"""Read MicroLens' files of items: titles in both conventions, tags, durations, likes and views."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb

from data_adapters.text_files import ReleaseError, read_lines, read_records

__all__ = ["open_database", "read_quoted", "read_split", "starts_with_header"]

MEMORY = "1GB"


def starts_with_header(path: Path) -> bool:
    """Return whether the first line begins with something else than an item id.

    Raises:
        ReleaseError: where the file is empty or not UTF-8.
    """
    _, first = next(read_lines(path))
    return not first.split(",")[0].strip().strip('"').isdigit()


def read_quoted(path: Path, field: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (item, field) per record of a CSV file with a header and two columns, quoted where they hold commas.

    Raises:
        ReleaseError: naming file, line and field.
    """
    for number, fields in read_records(path):
        if number == 1 and len(fields) != 2:
            raise ReleaseError(
                f"{path}, line {number}: the header {fields} has {len(fields)} fields, must be item,{field}; "
                "check the delimiter"
            )
        if len(fields) != 2:
            raise ReleaseError(
                f"{path}, line {number}: {len(fields)} fields where item,{field} are expected: {fields[:3]}; "
                f"quote {field}s that hold commas"
            )
        if number > 1:
            yield _item(fields[0], path, number), {field: fields[1].strip()}


def open_database() -> duckdb.DuckDBPyConnection:
    """Open DuckDB in memory for queries over one file; it takes MEMORY at most."""
    return duckdb.connect(config={"memory_limit": MEMORY})


def read_split(path: Path, delimiter: str, *names: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (item, fields) per line; quotes are plain characters, and the last field is all that is left of the line.

    Raises:
        ReleaseError: naming file, line and field.
    """
    for number, line in read_lines(path):
        item, *fields = line.split(delimiter, len(names))
        if len(fields) != len(names):
            raise ReleaseError(
                f"{path}, line {number}: {len(fields)} times {delimiter!r} where item, {', '.join(names)} are expected "
                f"with that between: {line[:80]!r}; check the delimiter"
            )
        if number == 1 and not item.strip().isdigit():
            continue  # a header
        yield _item(item, path, number), {name: field.strip() for name, field in zip(names, fields, strict=True)}


def _item(field: str, path: Path, number: int) -> str:
    # int() alone would also take signs and underscores
    if not field.strip().isdecimal():
        raise ReleaseError(
            f"{path}, line {number}: item is {field.strip()[:40]!r}, must be a number; check delimiter and columns"
        )
    return str(int(field))

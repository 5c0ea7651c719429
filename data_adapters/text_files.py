"""Read vendors' text files, and say file, line and field where one is not what it should be."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

__all__ = ["ReleaseError", "read_lines", "read_quoted", "read_text"]


class ReleaseError(ValueError):
    """Say what is wrong with a vendor's release, where, and what to do."""


def read_text(path: Path) -> str:
    """Return a file's text; a byte order mark is dropped, line ends stay.

    Raises:
        ReleaseError: where the file is empty or not UTF-8 (names line and byte).
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line_start = data.rfind(b"\n", 0, error.start) + 1
        line = data.count(b"\n", 0, error.start) + 1
        raise ReleaseError(
            f"{path}, line {line}, byte {error.start - line_start + 1}: 0x{data[error.start]:02x} is not UTF-8 "
            f"({error.reason}); convert the file to UTF-8 or download it again"
        ) from error
    if not text.strip():
        raise ReleaseError(f"{path}: the file is empty ({len(data)} bytes); download it again")
    return text


def read_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) for every line that is not blank; LF and CRLF alike.

    Only LF ends a line: titles may hold the other separators that `str.splitlines` would cut at.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


def read_quoted(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number from 1, fields) per record of a CSV file with quoting; a quoted field may span lines.

    Raises:
        ReleaseError: where a quote is not closed or not doubled; names the line that the record starts on.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ReleaseError(
                f"{path}, line {start}: broken quotes in the record that starts here "
                f"({error}, noticed on line {reader.line_num}); "
                'close the quote, or write a quote inside a title as ""'
            ) from error
        if fields:
            yield start, fields

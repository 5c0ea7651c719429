"""Read vendors' text files line by line, plain or gzipped, and say file, line and field where one is wrong."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from tqdm import tqdm

__all__ = ["ReleaseError", "first_record", "read_json_lines", "read_lines", "read_records", "read_rows"]

csv.field_size_limit(1 << 30)


class ReleaseError(ValueError):
    """Say what is wrong with a vendor's release, where, and what to do."""


def read_lines(path: Path, *, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) for every line that is not blank; LF and CRLF alike.

    A byte order mark is dropped. Only LF ends a line: titles may hold the other separators that `str.splitlines` would
    cut at.

    Raises:
        ReleaseError: where the file is missing, empty, cut off (gzip), not in `encoding` (names line and byte), or its
            lines end with CR alone.
    """
    for number, line in _decoded_lines(path, encoding):
        if line.strip():
            yield number, line.removesuffix("\n").removesuffix("\r")


def _decoded_lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    blank = True
    for number, data in enumerate(_raw_lines(path), start=1):
        if number == 1:
            data = data.removeprefix(b"\xef\xbb\xbf")
            _check_line_ends(path, data)
        try:
            line = data.decode(encoding)
        except UnicodeDecodeError as error:
            raise ReleaseError(
                f"{path}, line {number}, byte {error.start + 1}: 0x{data[error.start]:02x} is not "
                f"{encoding.upper()} ({error.reason}); convert the file to {encoding.upper()} or download it again"
            ) from error
        blank = blank and not line.strip()
        yield number, line
    if blank:
        raise ReleaseError(f"{path}: the file is empty ({path.stat().st_size} bytes); download it again")


def _check_line_ends(path: Path, first: bytes) -> None:
    if not first.endswith(b"\n") and b"\r" in first.strip():
        raise ReleaseError(
            f"{path}: lines end with CR (0x0D) alone, as old Macintosh programs write them; rewrite the file with LF: "
            f"tr '\\r' '\\n' < {path.name} > lf-{path.name}"
        )


def _raw_lines(path: Path) -> Iterator[bytes]:
    try:
        size = path.stat().st_size
        with (
            path.open("rb") as file,
            tqdm(total=size, desc=path.name, unit="B", unit_scale=True, disable=None, delay=1) as bar,
        ):
            # what is read of a gzip file is told from the compressed file's position
            lines = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if path.suffix == ".gz" else file
            for number, line in enumerate(lines):
                yield line
                if number % 10_000 == 0:
                    bar.update(file.tell() - bar.n if path.suffix == ".gz" else 0)
                    bar.update(0 if path.suffix == ".gz" else len(line))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ReleaseError(f"{path}: the gzip file is cut off or damaged ({error}); download it again") from error
    except FileNotFoundError as error:
        raise ReleaseError(f"no file at {path}") from error


def read_records(
    path: Path, *, delimiter: str = ",", quote: str = '"', encoding: str = "utf-8"
) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the line that it starts on, fields) per record of a delimited file.

    With `quote`, a quoted field may hold delimiters and line ends, and a doubled quote; without (""), quotes are plain
    characters and `delimiter` may be several.

    Raises:
        ReleaseError: as `read_lines`, and where a quote is not closed or not doubled.
    """
    if not quote:
        for number, line in _decoded_lines(path, encoding):
            if line := line.removesuffix("\n").removesuffix("\r"):
                yield number, line.split(delimiter)
        return
    lines = (line for _, line in _decoded_lines(path, encoding))
    reader = csv.reader(lines, delimiter=delimiter, quotechar=quote, strict=True)
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "new-line character" in str(error):
                raise ReleaseError(
                    f"{path}, line {start}: a CR (0x0D) that ends no line, outside quotes, in the record that starts "
                    "here; remove it, or quote the field that it belongs to"
                ) from error
            raise ReleaseError(
                f"{path}, line {start}: broken quotes in the record that starts here ({error}, noticed on line "
                f"{reader.line_num}); close the quote, or write a quote inside a field as {quote * 2}"
            ) from error
        if fields:
            yield start, fields


def read_rows(
    path: Path, *, delimiter: str = ",", quote: str = '"', encoding: str = "utf-8", columns: tuple[str, ...] = ()
) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Yield (line number, fields by column name) per record; names come from the header, or from `columns` if given.

    Raises:
        ReleaseError: as `read_records`, and where a record has another number of fields than there are names.
    """
    names = list(columns)
    for number, fields in read_records(path, delimiter=delimiter, quote=quote, encoding=encoding):
        if not names:
            names = [name.strip() for name in fields]
            continue
        if len(fields) != len(names):
            raise ReleaseError(
                f"{path}, line {number}: {len(fields)} fields where {len(names)} are expected "
                f"({', '.join(names[:6])}{', ...' if len(names) > 6 else ''}): {fields[:3]}; quote fields that hold "
                f"{delimiter!r}, or check the delimiter"
            )
        yield number, dict(zip(names, fields, strict=True))


def first_record(path: Path, *, delimiter: str = ",", quote: str = '"', encoding: str = "utf-8") -> list[str]:
    """Return the fields of the first record, stripped: the header where the file has one.

    Raises:
        ReleaseError: as `read_records`.
    """
    _, fields = next(read_records(path, delimiter=delimiter, quote=quote, encoding=encoding))
    return [field.strip() for field in fields]


def read_json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield (line number, object) per line of a JSON lines file.

    Raises:
        ReleaseError: as `read_lines`, and where a line is no JSON object.
    """
    for number, line in read_lines(path):
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise ReleaseError(
                f"{path}, line {number}, column {error.colno}: no JSON ({error.msg}): {line[:80]!r}; download it again"
            ) from error
        if not isinstance(value, dict):
            raise ReleaseError(f"{path}, line {number}: {line[:80]!r} is no JSON object; one object per line is needed")
        yield number, value

"""How each kind of event file is read: as SQL over text, and line by line with the same rules."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from data_adapters.release import Batches, Delimited, EventFile, JsonLines, Parquet
from data_adapters.text_files import ReleaseError, first_record, read_json_lines, read_records

__all__ = [
    "DATE",
    "NUMBER",
    "Reader",
    "as_date",
    "by_python",
    "column_name",
    "open_batches",
    "open_events",
    "quoted",
    "roles_of",
    "stripped",
    "walk",
]

# both passes use these patterns, so that they are written for Python and RE2 alike
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]+)?)?"
    r"( UTC|Z|[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?)?)?"
)
BLANK = [
    *range(9, 14),
    *range(28, 33),
    0x85,
    0xA0,
    0x1680,
    *range(0x2000, 0x200B),
    0x2028,
    0x2029,
    0x202F,
    0x205F,
    0x3000,
]
"""The characters that `str.strip` takes away; DuckDB's trim knows others."""
ROWS = 1 << 16
LONGEST_LINE = 1 << 23
"""What DuckDB makes room for, several times over; longer lines are read by Python."""


@dataclass(frozen=True)
class Reader:
    """How one file is read: SQL that yields its roles as text, and the same as records with line numbers."""

    file: EventFile
    roles: Mapping[str, str]
    """Per role, the SQL expression of its text."""
    source: str
    """What SQL selects from."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Per role, the key in a JSON object."""
    plain: bool = False
    """Whether the columns are numbers already, because the file holds nothing but digits and delimiters."""


def roles_of(file: EventFile) -> set[str]:
    """Return the roles that a file gives."""
    if isinstance(file, Batches):
        return set(file.roles)
    return set(file.columns)


def open_events(file: EventFile, *, numbers: bool = False) -> Reader:
    """Look at a file's header, or first line, and say how it is read; `numbers` tells that ids are whole numbers.

    Raises:
        ReleaseError: where a column is not there; names those that are.
    """
    match file:
        case Delimited():
            return _delimited(file, numbers=numbers)
        case JsonLines():
            _, first = next(read_json_lines(file.path))
            names = {role: _named(role, choices, list(first), file.path) for role, choices in file.columns.items()}
            columns = ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in dict.fromkeys(names.values()))
            source = (
                f"read_json({_located(file.path)}, format='newline_delimited', columns={{{columns}}}, "
                f"maximum_object_size={LONGEST_LINE})"
            )
            return Reader(file, {role: column_name(name) for role, name in names.items()}, source, names)
        case Parquet():
            source = f"read_parquet({_located(file.path)})"
            try:
                types = {row[0]: row[1] for row in duckdb.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}
            except duckdb.Error as error:
                raise ReleaseError(f"{file.path}: not a readable parquet file ({error}); download it again") from error
            names = {role: _named(role, choices, list(types), file.path) for role, choices in file.columns.items()}
            return Reader(file, {r: _as_varchar(r, n, types[n]) for r, n in names.items()}, source)
        case Batches():
            roles = {r: column_name(r) if r == "items" else f"{column_name(r)}::VARCHAR" for r in file.roles}
            return Reader(file, roles, "batches")


def _delimited(file: Delimited, *, numbers: bool) -> Reader:
    first = first_record(file.path, delimiter=file.delimiter, quote=file.quote)
    positions, header = _positions(file, first)
    blank = next(read_records(file.path, delimiter=file.delimiter, quote=file.quote))[0] - 1  # lines before the first
    names = [f"c{place}" for place in range(len(first))]
    plain = numbers and "items" not in positions and _holds_digits_only(file, header=header)
    columns = ", ".join(f"'{name}': '{'BIGINT' if plain else 'VARCHAR'}'" for name in names)
    source = (
        f"read_csv({_located(file.path)}, auto_detect=false, delim={quoted(file.delimiter)}, "
        f"quote={quoted(file.quote)}, escape={quoted(file.quote)}, header={header}, skip={blank}, "
        f"columns={{{columns}}}, max_line_size={LONGEST_LINE}, strict_mode=true, null_padding=false, nullstr='')"
    )
    return Reader(file, {role: f"c{place}" for role, place in positions.items()}, source, plain=plain)


def _holds_digits_only(file: Delimited, *, header: bool) -> bool:
    # a look at the bytes is far cheaper than a look at every number: 1.5, 1e3, +7 and quotes are out of the way
    if file.path.suffix == ".gz":
        return False
    allowed = b"0123456789\r\n" + file.delimiter.encode()
    with file.path.open("rb") as data:
        if header:
            data.readline()
        while piece := data.read(1 << 24):
            if piece.translate(None, allowed):
                return False
    return True


def _positions(file: Delimited, first: Sequence[str]) -> tuple[dict[str, int], bool]:
    """Say where each role stands, and whether the first line is a header."""
    named = {
        role: first.index(name)
        for role, choices in file.columns.items()
        for name in [next((c for c in choices if isinstance(c, str) and c in first), None)]
        if name is not None
    }
    if len(named) == len(file.columns):
        return named, True
    placed = {role: c for role, choices in file.columns.items() for c in choices if isinstance(c, int)}
    numbers = [first[place] for role, place in placed.items() if role in ("time", "rating") and place < len(first)]
    is_header = bool(named) or any(not NUMBER.fullmatch(value) and not as_date(value) for value in numbers)
    for role, choices in file.columns.items():
        names = [repr(c) for c in choices if isinstance(c, str)]
        if role in named or (role in placed and placed[role] < len(first) and not (is_header and names)):
            continue  # by position only where no header could name it
        wanted = " or ".join(names) or f"field {placed[role] + 1}"
        raise ReleaseError(
            f"{file.path}, line 1: {len(first)} fields separated by {file.delimiter!r} "
            f"({', '.join(first)[:120]}), none of which is {wanted} ({role}); check delimiter and header"
        )
    return {role: named.get(role, placed.get(role, 0)) for role in file.columns}, is_header


def _named(role: str, choices: tuple[str | int, ...], present: Sequence[str], path: Path) -> str:
    for name in choices:
        if isinstance(name, str) and name in present:
            return name
    wanted = " or ".join(repr(name) for name in choices if isinstance(name, str))
    raise ReleaseError(f"{path}: no column {wanted} ({role}); it has {', '.join(present)}")


def walk(reader: Reader) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number of the line, or row, values by role), as the fast pass should have seen them."""
    match reader.file:
        case Batches():
            rows = (row for batch in reader.file.read() for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
        case Parquet():
            with duckdb.connect() as database:
                found = database.execute(f"SELECT {', '.join(reader.roles.values())} FROM {reader.source}")
                rows = itertools.chain.from_iterable(iter(lambda: found.fetchmany(ROWS), []))
                yield from enumerate((dict(zip(reader.roles, row, strict=True)) for row in rows), start=1)
        case JsonLines():
            for number, record in read_json_lines(reader.file.path):
                yield number, {role: _as_text(record.get(name)) for role, name in reader.names.items()}
        case Delimited():
            yield from _walk_delimited(reader.file)


def _walk_delimited(file: Delimited) -> Iterator[tuple[int, dict[str, Any]]]:
    first = first_record(file.path, delimiter=file.delimiter, quote=file.quote)
    positions, header = _positions(file, first)
    for place, (number, fields) in enumerate(read_records(file.path, delimiter=file.delimiter, quote=file.quote)):
        if place == 0 and header:
            continue
        if len(fields) == len(first) + 1 and not fields[-1]:
            fields.pop()  # a delimiter at the end of the line
        if len(fields) != len(first):
            raise ReleaseError(
                f"{file.path}, line {number}: {len(fields)} fields separated by {file.delimiter!r} where "
                f"{len(first)} are expected: {file.delimiter.join(fields)[:80]!r}; a line is cut or has another "
                "delimiter: download the file again, or rewrite it with one delimiter"
            )
        yield number, {role: fields[place] for role, place in positions.items()}


def _as_varchar(role: str, name: str, kind: str) -> str:
    column = column_name(name)
    if role in ("user", "item") and kind in ("DOUBLE", "FLOAT"):
        # what pandas makes of whole numbers where one is missing: 7.0 means 7
        return f"CASE WHEN {column} = floor({column}) THEN {column}::HUGEINT::VARCHAR ELSE {column}::VARCHAR END"
    return column if role == "items" else f"{column}::VARCHAR"


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def column_name(name: str) -> str:
    """Quote a name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def quoted(text: str) -> str:
    """Quote a text for SQL."""
    return "'" + text.replace("'", "''") + "'"


def _located(path: Path) -> str:
    # DuckDB takes a name for a pattern
    return quoted(re.sub(r"([*?[])", r"[\1]", str(path)))


def stripped(column: str) -> str:
    """Return SQL for what `str.strip` does."""
    blank = "".join(f"\\x{{{code:x}}}" for code in BLANK)
    characters = quoted("".join(map(chr, BLANK)))
    # only few texts have any, and trim is slow
    has_blanks = f"regexp_matches({column}, '^[{blank}]|[{blank}]$')"
    return f"CASE WHEN {has_blanks} THEN trim({column}, {characters}) ELSE {column} END"


def by_python(reader: Reader) -> Reader:
    """Read the same file through `walk`: slowly, and whatever DuckDB refuses of it."""
    return Reader(reader.file, {role: column_name(role) for role in reader.roles}, "batches", reader.names)


def open_batches(reader: Reader) -> pa.RecordBatchReader | None:
    """Return the batches of a file that Python reads, None for others.

    Raises:
        ReleaseError: where there are none.
    """
    if reader.source != "batches":
        return None
    rest = reader.file.read() if isinstance(reader.file, Batches) else _batches(reader)
    first = next(rest, None)
    if first is None:
        raise ReleaseError(f"{reader.file.path}: holds no events; download it again")
    return pa.RecordBatchReader.from_batches(first.schema, itertools.chain([first], rest))


def _batches(reader: Reader) -> Iterator[pa.RecordBatch]:
    rows, schema = walk(reader), pa.schema([(role, pa.string()) for role in reader.roles])
    while piece := list(itertools.islice(rows, ROWS)):
        yield pa.RecordBatch.from_pylist([values for _, values in piece], schema)


def as_date(value: str) -> datetime | None:
    """Return the time that a date, or a date and time, in ISO form means; without a zone it is in UTC."""
    if not DATE.fullmatch(value):
        return None
    try:
        read = datetime.fromisoformat(value.removesuffix(" UTC"))
    except ValueError:
        return None
    return read if read.tzinfo else read.replace(tzinfo=UTC)

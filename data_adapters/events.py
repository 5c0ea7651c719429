"""Load files of events into a table of DuckDB, which keeps on disk what memory does not hold.

The fast pass reads everything as text and marks what is no id, time or rating. Only where something is, a slow pass
walks the file line by line with the same rules, to say file, line and field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from data_adapters.engine import Engine
from data_adapters.release import ROLES, Batches, Delimited, EventFile, JsonLines, Parquet, Release
from data_adapters.text_files import ReleaseError, first_record, read_json_lines, read_records

__all__ = ["EventFacts", "load_events"]

TO_MILLISECONDS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds", "date": "dates"}
EARLIEST, LATEST = 31_536_000_000, 7_258_118_400_000
"""Unix milliseconds of 1971 and 2200: what lies outside is no time of an event, or in another unit."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
WHOLE = re.compile(r"\d{1,18}")


@dataclass(frozen=True)
class EventFacts:
    """Say what the table `events` (user, item, time in ms or NULL, rating or NULL) holds; rowid is the files' order."""

    rows: int
    has_times: bool
    has_ratings: bool
    time_unit: str
    """What the times were counted in, "" where there are none."""

    @property
    def keeps_times(self) -> bool:
        """Whether the times are those of a clock, and not numbers that only order."""
        return self.time_unit not in ("", "order")


@dataclass(frozen=True)
class _Reader:
    """How one file is read: SQL that yields its roles as text, and the same as records with line numbers."""

    file: EventFile
    roles: Mapping[str, str]
    """Per role, the SQL expression of its text."""
    source: str
    """What SQL selects from."""
    relation: pa.RecordBatchReader | None = None


def load_events(engine: Engine, release: Release) -> EventFacts:
    """Read all event files into the table `events`.

    Raises:
        ReleaseError: naming file, line, field and value of the first that cannot be read.
    """
    key = "BIGINT" if release.integer_ids else "VARCHAR"
    engine.run(f"CREATE TABLE events (user {key}, item {key}, time BIGINT, rating DOUBLE)")
    unit, names = "", [sorted(_roles(file)) for file in release.events]
    for file, roles in zip(release.events, names, strict=True):
        if ("time" in roles) != ("time" in names[0]) or ("rating" in roles) != ("rating" in names[0]):
            raise ReleaseError(
                f"{file.path}: has {', '.join(roles)}, but {release.events[0].path} has {', '.join(names[0])}; all "
                "files must give times and ratings, or none"
            )
    for file in release.events:
        reader = _reader(file)
        if not unit and "time" in reader.roles:
            unit = release.time_unit if release.time_unit != "auto" else _guess_unit(file, reader)
        _load(engine, reader, release, unit)
    (rows,) = engine.one("SELECT count(*) FROM events")
    if not rows:
        raise ReleaseError(f"{release.events[0].path}: has a header but no events; download it again")
    return EventFacts(rows, bool(unit), "rating" in names[0], unit)


def _roles(file: EventFile) -> set[str]:
    if isinstance(file, Batches):
        return set(next(iter(file.read())).schema.names)
    return set(file.columns)


def _reader(file: EventFile) -> _Reader:
    match file:
        case Delimited():
            return _delimited(file)
        case JsonLines():
            _, first = next(read_json_lines(file.path))
            names = {role: _named(role, choices, list(first), file.path) for role, choices in file.columns.items()}
            columns = ", ".join(f"{_quoted(name)}: 'VARCHAR'" for name in dict.fromkeys(names.values()))
            source = (
                f"read_json({_quoted(str(file.path))}, format='newline_delimited', columns={{{columns}}}, "
                "maximum_object_size=268435456)"
            )
            return _Reader(file, {role: _column(name) for role, name in names.items()}, source)
        case Parquet():
            source = f"read_parquet({_quoted(str(file.path))})"
            try:
                present = [row[0] for row in duckdb.sql(f"DESCRIBE SELECT * FROM {source}").fetchall()]
            except duckdb.Error as error:
                raise ReleaseError(f"{file.path}: not a readable parquet file ({error}); download it again") from error
            names = {role: _named(role, choices, present, file.path) for role, choices in file.columns.items()}
            return _Reader(
                file, {r: _column(n) if r == "items" else f"{_column(n)}::VARCHAR" for r, n in names.items()}, source
            )
        case Batches():
            batches = file.read()
            first = next(batches)
            rest = pa.RecordBatchReader.from_batches(first.schema, _chained(first, batches))
            roles = {r: _column(r) if r == "items" else f"{_column(r)}::VARCHAR" for r in first.schema.names}
            return _Reader(file, roles, "batches", rest)


def _delimited(file: Delimited) -> _Reader:
    first = first_record(file.path, delimiter=file.delimiter, quote=file.quote)
    positions, header = _positions(file, first)
    names = [f"c{place}" for place in range(len(first))]
    columns = ", ".join(f"'{name}': 'VARCHAR'" for name in names)
    source = (
        f"read_csv({_quoted(str(file.path))}, auto_detect=false, delim={_quoted(file.delimiter)}, "
        f"quote={_quoted(file.quote)}, escape={_quoted(file.quote)}, header={header}, columns={{{columns}}}, "
        f"max_line_size={1 << 26}, strict_mode=true, null_padding=false, nullstr=''"
        + (", buffer_size=268435456" if "items" in positions else "")
        + ")"
    )
    return _Reader(file, {role: f"c{place}" for role, place in positions.items()}, source)


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
    missing = [role for role in file.columns if role not in named and role not in placed]
    too_far = [role for role, place in placed.items() if place >= len(first) and role not in named]
    if missing or too_far:
        role = (missing or too_far)[0]
        choices = " or ".join(repr(c) for c in file.columns[role] if isinstance(c, str)) or f"field {placed[role] + 1}"
        raise ReleaseError(
            f"{file.path}, line 1: {len(first)} fields separated by {file.delimiter!r} "
            f"({', '.join(first)[:120]}), none of which is {choices} ({role}); check delimiter and header"
        )
    numbers = [place for role, place in placed.items() if role in ("time", "rating")]
    is_header = bool(named) or any(
        not NUMBER.fullmatch(first[place]) and not _is_date(first[place]) for place in numbers
    )
    return {role: named.get(role, placed.get(role, 0)) for role in file.columns}, is_header


def _named(role: str, choices: tuple[str | int, ...], present: Sequence[str], path: Path) -> str:
    for name in choices:
        if isinstance(name, str) and name in present:
            return name
    wanted = " or ".join(repr(name) for name in choices if isinstance(name, str))
    raise ReleaseError(f"{path}: no column {wanted} ({role}); it has {', '.join(present)}")


def _load(engine: Engine, reader: _Reader, release: Release, unit: str) -> None:
    (before,) = engine.one("SELECT count(*) FROM events")
    roles = dict(reader.roles)
    source = f"(SELECT {', '.join(f'{sql} AS {_column(role)}' for role, sql in roles.items())} FROM {reader.source})"
    if "items" in roles:
        padding = reader.file.padding if isinstance(reader.file, Parquet) else ""
        # blanks between items may be several; a list column and text alike become a list of texts
        listed = 'CASE WHEN typeof("items") LIKE \'%[]\' THEN "items"::VARCHAR[] END'
        if not isinstance(reader.file, Parquet | Batches):
            listed = "string_split_regex(trim(items), '\\s+')"
        kept = [c for c in ("user", "time", "rating") if c in roles]
        source = f"(SELECT {', '.join(kept)}, unnest({listed}) AS item FROM {source}) WHERE item <> {_quoted(padding)}"
        roles = {**{c: c for c in kept}, "item": "item"}
    key = _whole if release.integer_ids else _text
    item = key("item")
    if release.item_width and not release.integer_ids:
        width = release.item_width
        item = f"CASE WHEN length({item}) < {width} THEN lpad({item}, {width}, '0') ELSE {item} END"
    time = _milliseconds("time", unit) if "time" in roles else "NULL"
    rating = "TRY_CAST(trim(rating) AS DOUBLE)" if "rating" in roles else "NULL"
    sql = f"INSERT INTO events SELECT {key('user')}, {item}, {time}, {rating} FROM {source}"
    label = f"reading {reader.file.path.name}"
    try:
        engine.run(sql, label=label, batches=reader.relation)
    except duckdb.Error as error:
        _explain(reader, release, unit)
        if not isinstance(reader.file, Delimited):
            raise ReleaseError(f"{reader.file.path}: cannot be read: {str(error).splitlines()[0]}") from error
        # every line is good, so only its end can be what strict reading refuses: LF here and CRLF there
        engine.run(sql.replace("strict_mode=true", "strict_mode=false"), label=label)
    wrong = ["user IS NULL", "item IS NULL"]
    if "time" in roles:
        wrong += ["time IS NULL"] if unit == "order" else ["time IS NULL", f"time NOT BETWEEN {EARLIEST} AND {LATEST}"]
    if "rating" in roles:
        wrong.append("rating IS NULL")
    (first,) = engine.one(f"SELECT min(rowid) FROM events WHERE rowid >= {before} AND ({' OR '.join(wrong)})")
    if first is not None:
        _explain(reader, release, unit)
        row = engine.one(f"SELECT user, item, time, rating FROM events WHERE rowid = {first}")
        raise ReleaseError(
            f"{reader.file.path}, row {first - before + 1}: user, item, time, rating are read as {row}, one of which "
            "cannot be; correct the file"
        )


def _text(column: str) -> str:
    return f"nullif(trim({column}), '')"


def _whole(column: str) -> str:
    # a cast alone would round 1.5 and read 1e3; a number written the plain way has as many digits as its text
    text = f"trim({column})"
    number = f"TRY_CAST({text} AS BIGINT)"
    return (
        f"CASE WHEN length({number}::VARCHAR) = length({text}) AND {number} >= 0 THEN {number} "
        f"WHEN regexp_full_match({text}, '{WHOLE.pattern}') THEN {number} END"
    )


def _milliseconds(column: str, unit: str) -> str:
    text = f"trim({column})"
    if unit == "date":
        return f"epoch_ms(TRY_CAST({text} AS TIMESTAMP))"
    whole, real = f"TRY_CAST({text} AS BIGINT)", f"TRY_CAST({text} AS DOUBLE)"
    factor = TO_MILLISECONDS.get(unit, 1.0)
    scaled = f"{whole} * {factor:.0f}" if factor >= 1 else f"{whole} // {round(1 / factor)}"
    limit = 8 * 10**15 * max(1, round(1 / factor))  # far beyond any time, and its product still fits
    return (
        f"CASE WHEN length({whole}::VARCHAR) = length({text}) AND abs({whole}) < {limit} THEN {scaled} "
        f"WHEN isfinite({real}) AND abs({real}) < {limit} THEN round({real} * {factor})::BIGINT END"
    )


def _guess_unit(file: EventFile, reader: _Reader) -> str:
    """Tell the unit from the first time: every unit has its range of magnitudes in our century."""
    value = _first_time(file, reader)
    if _is_date(value) and not NUMBER.fullmatch(value):
        return "date"
    if not NUMBER.fullmatch(value):
        return "s"  # no number: the pass over the file says where
    for unit, factor in TO_MILLISECONDS.items():
        if EARLIEST <= float(value) * factor <= LATEST:
            return unit
    raise ReleaseError(
        f"{file.path}: the first time is {value}, which is no unix time in seconds, milliseconds, microseconds or "
        "nanoseconds between 1971 and 2200, and no date; convert the column"
    )


def _first_time(file: EventFile, reader: _Reader) -> str:
    if reader.relation is not None:
        assert isinstance(file, Batches)
        return str(next(iter(file.read())).column("time")[0].as_py())
    if isinstance(file, Parquet):
        row = duckdb.sql(f"SELECT {reader.roles['time']} FROM {reader.source} LIMIT 1").fetchone()
        return str(row[0]) if row else ""
    return next((str(values["time"]) for _, values in _walk(reader)), "").strip()


def _is_date(value: str) -> bool:
    try:
        datetime.fromisoformat(value.strip())
    except ValueError:
        return False
    return True


def _walk(reader: _Reader) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, values by role) of a text file, as the fast pass should have seen them."""
    file = reader.file
    if isinstance(file, JsonLines):
        for number, record in read_json_lines(file.path):
            yield number, {role: record.get(name.strip('"')) for role, name in reader.roles.items()}
    elif isinstance(file, Delimited):
        first = first_record(file.path, delimiter=file.delimiter, quote=file.quote)
        positions, header = _positions(file, first)
        for place, (number, fields) in enumerate(read_records(file.path, delimiter=file.delimiter, quote=file.quote)):
            if place == 0 and header:
                continue
            if len(fields) != len(first):
                raise ReleaseError(
                    f"{file.path}, line {number}: {len(fields)} fields separated by {file.delimiter!r} where "
                    f"{len(first)} are expected: {file.delimiter.join(fields)[:80]!r}; a line is cut or has another "
                    "delimiter: download the file again, or rewrite it with one delimiter"
                )
            yield number, {role: fields[place] for role, place in positions.items()}


def _explain(reader: _Reader, release: Release, unit: str) -> None:
    """Raise `ReleaseError` for the first line that breaks a rule; return where none does."""
    first_line: dict[str, int] = {}
    for number, values in _walk(reader):
        where = f"{reader.file.path}, line {number}"
        for role, value in values.items():
            for one in str(value or "").split() or [""] if role == "items" else [value]:
                problem = _problem(role, "" if one is None else str(one).strip(), release, unit)
                if problem:
                    raise ReleaseError(f"{where}: {role.removesuffix('s')} is {str(one or '')[:40]!r}, {problem}")
        if "items" in values:
            user = str(values["user"]).strip()
            if user in first_line:
                raise ReleaseError(f"{where}: user {user} was on line {first_line[user]} already; merge the lines")
            first_line[user] = number


def _problem(role: str, value: str, release: Release, unit: str) -> str:
    if role in ("user", "item", "items"):
        if not value:
            return "must not be empty" if role != "items" else ""
        if release.integer_ids and not WHOLE.fullmatch(value):
            return "must be a number; check delimiter and columns"
    elif role == "rating" and not NUMBER.fullmatch(value):
        return "must be a number; check delimiter and columns"
    elif role == "time":
        return _problem_of_time(value, unit)
    return ""


def _problem_of_time(value: str, unit: str) -> str:
    if unit == "date":
        return "" if _is_date(value) else "must be a date such as 2020-09-22, or 2020-09-22 10:00:00, like the first"
    if not NUMBER.fullmatch(value):
        return "must be a number; check delimiter and columns"
    if unit == "order" or EARLIEST <= float(value) * TO_MILLISECONDS[unit] <= LATEST:
        return ""
    fitting = [u for u, factor in TO_MILLISECONDS.items() if EARLIEST <= float(value) * factor <= LATEST]
    looks = f" (it looks like {UNITS[fitting[0]]})" if fitting else ""
    return f"no unix time in {UNITS[unit]} between 1971 and 2200{looks}; convert the column to one unit"


def _column(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _chained(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


assert set(ROLES) == {"user", "item", "items", "time", "rating"}

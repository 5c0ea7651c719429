"""Load files of events into a table of DuckDB, which keeps on disk what memory does not hold.

The fast pass reads everything as text and marks what is no id, time or rating. Only where something is, a slow pass
walks the file line by line with the same rules, to say file, line and field.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import duckdb

from data_adapters.engine import Engine
from data_adapters.event_files import (
    DATE,
    NUMBER,
    Reader,
    as_date,
    by_python,
    column_name,
    open_batches,
    open_events,
    quoted,
    roles_of,
    stripped,
    walk,
)
from data_adapters.release import Delimited, JsonLines, Parquet, Release
from data_adapters.text_files import ReleaseError

__all__ = ["EventFacts", "load_events"]

TO_MILLISECONDS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds", "date": "dates"}
EARLIEST, LATEST = 31_536_000_000, 7_258_118_400_000
"""Unix milliseconds of 1971 and 2200: what lies outside is no time of an event, or in another unit."""
WHOLE = re.compile(r"[0-9]+")
LARGEST = 2**63 - 1


@dataclass(frozen=True)
class EventFacts:
    """Say what the table `events` (user, item, time in ms or NULL, rating or NULL) holds; rowid is the files' order.

    Ids that are text may have blanks behind them, which `number_events` takes away from each distinct one.
    """

    rows: int
    has_times: bool
    has_ratings: bool
    time_unit: str
    """What the times were counted in, "" where there are none."""


def load_events(engine: Engine, release: Release) -> EventFacts:
    """Read all event files into the table `events`.

    Raises:
        ReleaseError: naming file, line, field and value of the first that cannot be read.
    """
    key = "BIGINT" if release.integer_ids else "VARCHAR"
    # texts are read twice and then dropped: packing them would cost more than the disk that it saves
    engine.run(f"SET force_compression = '{'auto' if release.integer_ids else 'uncompressed'}'")
    engine.run(f"CREATE TABLE events (user {key}, item {key}, time BIGINT, rating DOUBLE)")
    unit, names = "", [sorted(roles_of(file)) for file in release.events]
    for file, roles in zip(release.events, names, strict=True):
        if ("time" in roles) != ("time" in names[0]) or ("rating" in roles) != ("rating" in names[0]):
            raise ReleaseError(
                f"{file.path}: has {', '.join(roles)}, but {release.events[0].path} has {', '.join(names[0])}; all "
                "files must give times and ratings, or none"
            )
    for file in release.events:
        reader = open_events(file, numbers=release.integer_ids)
        if not unit and "time" in reader.roles:
            unit = release.time_unit if release.time_unit != "auto" else _guess_unit(reader)
        _load(engine, reader, release, unit)
    engine.run("RESET force_compression")
    (rows,) = engine.one("SELECT count(*) FROM events")
    if not rows:
        raise ReleaseError(f"{release.events[0].path}: has a header but no events; download it again")
    return EventFacts(rows, bool(unit), "rating" in names[0], unit)


def _load(engine: Engine, reader: Reader, release: Release, unit: str) -> None:
    path = reader.file.path
    (before,) = engine.one("SELECT count(*) FROM events")
    try:
        _insert(engine, reader, release, unit)
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        _explain(reader, release, unit)
        if not isinstance(reader.file, Delimited | JsonLines):
            raise ReleaseError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
        # every line is good: lines that end with LF here and CRLF there, or a number too long in a column not needed
        reader = by_python(reader)
        _insert(engine, reader, release, unit)
    if "items" in reader.roles and reader.source != "batches":
        key = _whole if release.integer_ids else stripped
        users = f"(SELECT {key('user')} AS user FROM (SELECT {reader.roles['user']} AS user FROM {reader.source}))"
        if engine.one(f"SELECT count(*) > count(DISTINCT user) FROM {users}") == (True,):
            _explain(reader, release, unit)
            raise ReleaseError(f"{path}: a user has two histories; merge them")
    wrong = ["user IS NULL", "item IS NULL"]
    if "time" in reader.roles:
        wrong += ["time IS NULL", f"time NOT BETWEEN {EARLIEST} AND {LATEST}"]
    if "rating" in reader.roles:
        wrong.append("rating IS NULL")
    (first,) = engine.one(f"SELECT min(rowid) FROM events WHERE rowid >= {before} AND ({' OR '.join(wrong)})")
    if first is not None:
        _explain(reader, release, unit)
        row = engine.one(f"SELECT user, item, time, rating FROM events WHERE rowid = {first}")
        raise ReleaseError(
            f"{path}, row {first - before + 1}: user, item, time, rating are read as {row}, one of which cannot be; "
            "correct the file"
        )


def _insert(engine: Engine, reader: Reader, release: Release, unit: str) -> None:
    roles = list(reader.roles)
    named = ", ".join(f"{sql} AS {column_name(role)}" for role, sql in reader.roles.items())
    source = f"(SELECT {named} FROM {reader.source})"
    if "items" in roles:
        padding = reader.file.padding if isinstance(reader.file, Parquet) else ""
        # a list column, or text in which blanks between items may be several, becomes a list of texts
        listed = (
            'CASE WHEN typeof("items") LIKE \'%[]\' THEN "items"::VARCHAR[] '
            f"ELSE string_split_regex({stripped('items::VARCHAR')}, '\\s+') END"
        )
        kept = ", ".join(c for c in roles if c != "items")
        padded = f"{stripped('item')} IN ('', {quoted(padding)})"
        source = f"(SELECT {kept}, unnest({listed}) AS item FROM {source}) WHERE NOT {padded}"
    key = str if reader.plain else _whole if release.integer_ids else _text
    time = _milliseconds("time", unit, plain=reader.plain) if "time" in roles else "NULL"
    rating = "NULL" if "rating" not in roles else "rating::DOUBLE" if reader.plain else _number(stripped("rating"))
    engine.run(
        f"INSERT INTO events SELECT {key('user')}, {key('item')}, {time}, {rating} FROM {source}",
        label=f"reading {reader.file.path.name}",
        batches=open_batches(reader),
    )


def _text(column: str) -> str:
    # what begins with a letter or digit is no blank text; the others are looked at closely
    return f"CASE WHEN {column} > '!' AND {column} < chr(127) THEN {column} ELSE nullif({stripped(column)}, '') END"


def _number(text: str) -> str:
    number = f"TRY_CAST({text} AS DOUBLE)"
    return f"CASE WHEN regexp_full_match({text}, '{NUMBER.pattern}') AND isfinite({number}) THEN {number} END"


def _whole(column: str) -> str:
    # a cast alone would round 1.5 and read 1e3; most are written the plain way
    number, text = f"TRY_CAST({column} AS BIGINT)", stripped(column)
    return (
        f"CASE WHEN {number}::VARCHAR = {column} AND {number} >= 0 THEN {number} "
        f"WHEN regexp_full_match({text}, '{WHOLE.pattern}') THEN TRY_CAST({text} AS BIGINT) END"
    )


def _milliseconds(column: str, unit: str, *, plain: bool) -> str:
    text = stripped(column)
    if unit == "date":
        text = stripped(f"{column}::VARCHAR")
        return (
            f"CASE WHEN regexp_full_match({text}, '{DATE.pattern}') THEN epoch_ms(TRY_CAST({text} AS TIMESTAMPTZ)) END"
        )
    whole, real = f"TRY_CAST({column} AS BIGINT)", _number(text)
    factor = TO_MILLISECONDS[unit]
    scaled = f"{whole} * {factor:.0f}" if factor >= 1 else f"{whole} // {round(1 / factor)}"
    limit = 8 * 10**15 * max(1, round(1 / factor))  # far beyond any time, and its product still fits
    if plain:
        return f"CASE WHEN {column} < {limit} THEN {scaled} END"
    return (
        f"CASE WHEN {whole}::VARCHAR = {column} AND {whole} BETWEEN -{limit} AND {limit} THEN {scaled} "
        f"WHEN abs({real}) < {limit} THEN round({real} * {factor})::BIGINT END"
    )


def _guess_unit(reader: Reader) -> str:
    """Tell the unit from the first time: every unit has its range of magnitudes in our century."""
    value = next((str(values["time"]) for _, values in walk(reader)), "").strip()
    if as_date(value):
        return "date"
    if not NUMBER.fullmatch(value):
        return "s"  # no number: the pass over the file says where
    for unit, factor in TO_MILLISECONDS.items():
        if EARLIEST <= float(value) * factor <= LATEST:
            return unit
    raise ReleaseError(
        f"{reader.file.path}: the first time is {value}, which is no unix time in seconds, milliseconds, microseconds "
        "or nanoseconds between 1971 and 2200, and no date; convert the column"
    )


def _explain(reader: Reader, release: Release, unit: str) -> None:
    """Raise `ReleaseError` for the first line that breaks a rule; return where none does."""
    what = "line" if isinstance(reader.file, Delimited | JsonLines) else "row"
    first_line: dict[str, int] = {}
    for number, values in walk(reader):
        where = f"{reader.file.path}, {what} {number}"
        for role, value in values.items():
            for one in _entries(value) if role == "items" else [value]:
                problem = _problem(role, "" if one is None else str(one).strip(), release, unit)
                if problem:
                    written = "" if one is None else str(one)
                    raise ReleaseError(f"{where}: {role.removesuffix('s')} is {written[:40]!r}, {problem}")
        if "items" in values:
            user = str(values["user"]).strip()
            if user in first_line:
                raise ReleaseError(f"{where}: user {user} was on {what} {first_line[user]} already; merge the {what}s")
            first_line[user] = number


def _entries(items: Any) -> list[Any]:
    return [one for one in items if one is not None] if isinstance(items, list) else str(items or "").split()


def _problem(role: str, value: str, release: Release, unit: str) -> str:
    if role in ("user", "item", "items"):
        if not value:
            return "must not be empty" if role != "items" else ""
        if release.integer_ids and not WHOLE.fullmatch(value):
            return "must be a whole number; check delimiter and columns"
        if release.integer_ids and int(value) > LARGEST:
            return f"must be at most {LARGEST}; check delimiter and columns"
    elif role == "rating":
        return _problem_of_number(value)
    elif role == "time":
        return _problem_of_time(value, unit)
    return ""


def _problem_of_number(value: str) -> str:
    if NUMBER.fullmatch(value) and math.isfinite(float(value)):
        return ""
    return "must be a number; check delimiter and columns"


def _problem_of_time(value: str, unit: str) -> str:
    if unit == "date":
        date = as_date(value)
        if date is None:
            return "must be a date such as 2020-09-22, or 2020-09-22 10:00:00, like the first"
        return "" if EARLIEST <= date.timestamp() * 1000 <= LATEST else "must be between 1971 and 2200"
    if _problem_of_number(value):
        return "must be a number, or an ISO date such as 2020-09-22 throughout; check delimiter and columns"
    if EARLIEST <= float(value) * TO_MILLISECONDS[unit] <= LATEST:
        return ""
    fitting = [u for u, factor in TO_MILLISECONDS.items() if EARLIEST <= float(value) * factor <= LATEST]
    looks = f" (it looks like {UNITS[fitting[0]]})" if fitting else ""
    way_out = "correct or remove the line, or convert the column to one unit"
    return f"no unix time in {UNITS[unit]} between 1971 and 2200{looks}; {way_out}"

"""Load files of events into a table of DuckDB, which keeps on disk what memory does not hold.

The fast pass reads everything as text and marks what is no id, time or rating. Only where something is, a slow pass
walks the file line by line with the same rules, to say file, line and field.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import duckdb

from data_adapters.engine import Engine
from data_adapters.event_files import (
    NUMBER,
    Reader,
    column_name,
    is_date,
    open_batches,
    open_events,
    quoted,
    roles_of,
    walk,
)
from data_adapters.release import Batches, Delimited, EventFile, Parquet, Release
from data_adapters.text_files import ReleaseError

__all__ = ["EventFacts", "load_events"]

TO_MILLISECONDS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds", "date": "dates"}
EARLIEST, LATEST = 31_536_000_000, 7_258_118_400_000
"""Unix milliseconds of 1971 and 2200: what lies outside is no time of an event, or in another unit."""
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


def load_events(engine: Engine, release: Release) -> EventFacts:
    """Read all event files into the table `events`.

    Raises:
        ReleaseError: naming file, line, field and value of the first that cannot be read.
    """
    key = "BIGINT" if release.integer_ids else "VARCHAR"
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
            unit = release.time_unit if release.time_unit != "auto" else _guess_unit(file, reader)
        _load(engine, reader, release, unit)
    (rows,) = engine.one("SELECT count(*) FROM events")
    if not rows:
        raise ReleaseError(f"{release.events[0].path}: has a header but no events; download it again")
    return EventFacts(rows, bool(unit), "rating" in names[0], unit)


def _load(engine: Engine, reader: Reader, release: Release, unit: str) -> None:
    (before,) = engine.one("SELECT count(*) FROM events")
    roles = dict(reader.roles)
    source = (
        f"(SELECT {', '.join(f'{sql} AS {column_name(role)}' for role, sql in roles.items())} FROM {reader.source})"
    )
    if "items" in roles:
        padding = reader.file.padding if isinstance(reader.file, Parquet) else ""
        # blanks between items may be several; a list column and text alike become a list of texts
        listed = 'CASE WHEN typeof("items") LIKE \'%[]\' THEN "items"::VARCHAR[] END'
        if not isinstance(reader.file, Parquet | Batches):
            listed = "string_split_regex(trim(items), '\\s+')"
        kept = [c for c in ("user", "time", "rating") if c in roles]
        source = f"(SELECT {', '.join(kept)}, unnest({listed}) AS item FROM {source}) WHERE item <> {quoted(padding)}"
        roles = {**{c: c for c in kept}, "item": "item"}
    key = str if reader.plain else _whole if release.integer_ids else _text
    item = key("item")
    if release.item_width and not release.integer_ids:
        width = release.item_width
        item = f"CASE WHEN length({item}) < {width} THEN lpad({item}, {width}, '0') ELSE {item} END"
    time = _milliseconds("time", unit, plain=reader.plain) if "time" in roles else "NULL"
    rating = "TRY_CAST(trim(rating::VARCHAR) AS DOUBLE)" if "rating" in roles else "NULL"
    sql = f"INSERT INTO events SELECT {key('user')}, {item}, {time}, {rating} FROM {source}"
    label = f"reading {reader.file.path.name}"
    try:
        engine.run(sql, label=label, batches=open_batches(reader.file))
    except duckdb.Error as error:
        _explain(reader, release, unit)
        if not isinstance(reader.file, Delimited):
            raise ReleaseError(f"{reader.file.path}: cannot be read: {str(error).splitlines()[0]}") from error
        # every line is good, so only its end can be what strict reading refuses: LF here and CRLF there
        engine.run(sql.replace("strict_mode=true", "strict_mode=false"), label=label)
    if "items" in reader.roles and not isinstance(reader.file, Batches):
        lines = f"(SELECT {reader.roles['user']} AS user FROM {reader.source})"
        if engine.one(f"SELECT count(*) > count(DISTINCT user) FROM {lines}") == (True,):
            _explain(reader, release, unit)
            raise ReleaseError(f"{reader.file.path}: a user has two histories; merge them")
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
    number, text = f"TRY_CAST({column} AS BIGINT)", f"trim({column})"
    return (
        f"CASE WHEN length({number}::VARCHAR) = length({column}) AND {number} >= 0 THEN {number} "
        f"WHEN regexp_full_match({text}, '{WHOLE.pattern}') THEN TRY_CAST({text} AS BIGINT) END"
    )


def _milliseconds(column: str, unit: str, *, plain: bool) -> str:
    text = f"trim({column}::VARCHAR)"
    if unit == "date":
        return f"epoch_ms(TRY_CAST({text} AS TIMESTAMP))"
    whole, real = f"TRY_CAST({column} AS BIGINT)", f"TRY_CAST({text} AS DOUBLE)"
    factor = TO_MILLISECONDS.get(unit, 1.0)
    scaled = f"{whole} * {factor:.0f}" if factor >= 1 else f"{whole} // {round(1 / factor)}"
    limit = 8 * 10**15 * max(1, round(1 / factor))  # far beyond any time, and its product still fits
    if plain:
        return f"CASE WHEN {column} < {limit} THEN {scaled} END"
    return (
        f"CASE WHEN length({whole}::VARCHAR) = length({column}) AND abs({whole}) < {limit} THEN {scaled} "
        f"WHEN isfinite({real}) AND abs({real}) < {limit} THEN round({real} * {factor})::BIGINT END"
    )


def _guess_unit(file: EventFile, reader: Reader) -> str:
    """Tell the unit from the first time: every unit has its range of magnitudes in our century."""
    value = _first_time(file, reader)
    if is_date(value) and not NUMBER.fullmatch(value):
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


def _first_time(file: EventFile, reader: Reader) -> str:
    if isinstance(file, Batches):
        return str(next(file.read()).column("time")[0].as_py())
    if isinstance(file, Parquet):
        row = duckdb.execute(f"SELECT {reader.roles['time']} FROM {reader.source} LIMIT 1").fetchone()
        return str(row[0]) if row else ""
    return next((str(values["time"]) for _, values in walk(reader)), "").strip()


def _explain(reader: Reader, release: Release, unit: str) -> None:
    """Raise `ReleaseError` for the first line that breaks a rule; return where none does."""
    first_line: dict[str, int] = {}
    for number, values in walk(reader):
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
        return "" if is_date(value) else "must be a date such as 2020-09-22, or 2020-09-22 10:00:00, like the first"
    if not NUMBER.fullmatch(value):
        return "must be a number; check delimiter and columns"
    if unit == "order" or EARLIEST <= float(value) * TO_MILLISECONDS[unit] <= LATEST:
        return ""
    fitting = [u for u, factor in TO_MILLISECONDS.items() if EARLIEST <= float(value) * factor <= LATEST]
    looks = f" (it looks like {UNITS[fitting[0]]})" if fitting else ""
    return f"no unix time in {UNITS[unit]} between 1971 and 2200{looks}; convert the column to one unit"

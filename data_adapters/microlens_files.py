"""Parse MicroLens' pairs and titles, in each of the forms that its releases use."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_adapters.text_files import ReleaseError, read_lines, read_quoted, read_text

__all__ = ["Events", "read_events", "read_titles"]

MILLISECONDS = range(100_000_000_000, 10_000_000_000_000)
"""Stamps from 1973 to 2286; seconds of our time fall below, microseconds above."""


@dataclass(frozen=True)
class Events:
    """Hold events in the order of the file: vendor ids of users and items, unix milliseconds where given."""

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray | None


def read_events(path: Path) -> Events:
    """Read pairs.csv (`user,item,timestamp`, header or not) or pairs.tsv (`user<tab>item item ...`, no header).

    Raises:
        ReleaseError: naming file, line and field.
    """
    text = read_text(path)
    events = _read_csv(text, path) if path.suffix == ".csv" else _read_tsv(text, path)
    if not len(events.users):
        raise ReleaseError(f"{path}: has a header but no events; download it again")
    return events


def _read_csv(text: str, path: Path) -> Events:
    users, items, times = array("q"), array("q"), array("q")
    for number, line in tqdm(read_lines(text), desc=path.name, unit=" lines", disable=None):
        fields = line.split(",")
        if len(fields) != 3:
            raise ReleaseError(
                f"{path}, line {number}: {len(fields)} comma-separated fields where user,item,timestamp are expected: "
                f"{line[:80]!r}; a file with another delimiter must be rewritten with commas"
            )
        if number == 1 and not fields[2].strip().isdigit():
            continue  # a header; columns count by position, since readers disagree about their names
        users.append(_id(fields[0], "user", path, number))
        items.append(_id(fields[1], "item", path, number))
        times.append(_milliseconds(fields[2], path, number))
    return Events(np.array(users, np.int64), np.array(items, np.int64), np.array(times, np.int64))


def _read_tsv(text: str, path: Path) -> Events:
    first_line: dict[int, int] = {}
    lengths, items = array("q"), array("q")
    for number, line in tqdm(read_lines(text), desc=path.name, unit=" lines", disable=None):
        user, tab, sequence = line.partition("\t")
        if not tab or "\t" in sequence:
            raise ReleaseError(
                f"{path}, line {number}: {line.count(chr(9))} tabs where `user<tab>item item ...` has one: "
                f"{line[:80]!r}; a file with another delimiter must be rewritten with tabs"
            )
        key = _id(user, "user", path, number)
        if key in first_line:
            raise ReleaseError(
                f"{path}, line {number}: user {key} was on line {first_line[key]} already; merge the lines"
            )
        first_line[key] = number
        row = [_id(item, "item", path, number) for item in sequence.split()]
        lengths.append(len(row))
        items.extend(row)
    users = np.repeat(np.fromiter(first_line, np.int64, len(first_line)), np.array(lengths, np.int64))
    return Events(users, np.array(items, np.int64), None)


def _id(field: str, what: str, path: Path, number: int) -> int:
    # int() alone would also take signs, underscores and more digits than an id column holds
    digits = field.strip()
    if not digits.isdecimal() or len(digits) > 18:
        raise ReleaseError(
            f"{path}, line {number}: {what} is {field[:40]!r}, must be a number; check delimiter and columns"
        )
    return int(digits)


def _milliseconds(field: str, path: Path, number: int) -> int:
    stamp = _id(field, "timestamp", path, number)
    if stamp not in MILLISECONDS:
        raise ReleaseError(
            f"{path}, line {number}: timestamp {stamp} is no unix time in milliseconds "
            f"({MILLISECONDS.start}..{MILLISECONDS.stop}); convert the column, seconds by 1000"
        )
    return stamp


def read_titles(paths: Sequence[Path]) -> dict[str, str]:
    """Return titles by vendor item id; an item whose title is empty is left out.

    A file with a header is quoted CSV; without one, the title is all that follows the first comma, quotes included.
    Quoted files win, because titles of the other kind are often cut at their first comma; those fill what is missing.

    Raises:
        ReleaseError: naming file, line and field.
    """
    texts = {path: read_text(path) for path in paths}
    titles: dict[str, str] = {}
    for path in sorted(paths, key=lambda p: (not _has_header(texts[p]), p.name)):
        read = _read_quoted_titles if _has_header(texts[path]) else _read_plain_titles
        titles = read(texts[path], path) | titles
    return titles


def _has_header(text: str) -> bool:
    _, first = next(read_lines(text))
    return not first.split(",")[0].strip().strip('"').isdigit()


def _read_quoted_titles(text: str, path: Path) -> dict[str, str]:
    records = read_quoted(text, path)
    number, header = next(records)
    if len(header) != 2:
        raise ReleaseError(
            f"{path}, line {number}: the header {header} has {len(header)} fields, must be item,title; "
            "check the delimiter"
        )
    titles: dict[str, str] = {}
    for number, fields in records:
        if len(fields) != 2:
            raise ReleaseError(
                f"{path}, line {number}: {len(fields)} fields where item,title are expected: {fields[:3]}; "
                "quote titles that hold commas"
            )
        _add(titles, fields[0], fields[1], path, number)
    return titles


def _read_plain_titles(text: str, path: Path) -> dict[str, str]:
    titles: dict[str, str] = {}
    for number, line in read_lines(text):
        item, comma, title = line.partition(",")
        if not comma:
            raise ReleaseError(
                f"{path}, line {number}: no comma where item,title is expected: {line[:80]!r}; check the delimiter"
            )
        _add(titles, item, title, path, number)
    return titles


def _add(titles: dict[str, str], item: str, title: str, path: Path, number: int) -> None:
    key = str(_id(item, "item", path, number))
    if title.strip():
        titles.setdefault(key, title.strip())

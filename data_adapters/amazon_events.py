"""Amazon's files of reviews and ratings: which of a folder's files to read, and which release's columns they hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from data_adapters.release import Columns, Delimited, EventFile, JsonLines
from data_adapters.text_files import ReleaseError, first_record, read_json_lines, read_records

__all__ = ["PAIR", "Source", "describe", "find_events", "plain_name"]

PAIR = "interactions.tsv"
REVIEW = ("reviewerID", "asin", "overall", "unixReviewTime")
NAMES = {"2014": REVIEW, "2018": REVIEW, "2023": ("user_id", "parent_asin", "rating", "timestamp")}
COPY = ("UserId", "ProductId", "Rating", "Timestamp")
"""The header that Kaggle's copy of ratings_Beauty.csv (2014) has."""
POSITIONS = {"2014": (0, 1, 2, 3), "2018": (1, 0, 2, 3), "2023": (0, 1, 2, 3)}
"""Where csv files without header hold user, item, rating and time."""
ITEM = re.compile(r"B[0-9A-Z]{9}|[0-9]{9}[0-9X]")
"""An asin, or the ISBN of a book; ids of users start with A and are longer, or with #oc-."""
SNIFFED = 200
AGREE = 0.9
SPLITS = ("train", "valid", "test")
SPLIT = re.compile(rf"\.({'|'.join(SPLITS)})\.csv(\.gz)?$")


@dataclass(frozen=True)
class Source:
    """Hold how to read a file of events, which release it is of, and how that was told."""

    file: EventFile
    year: str
    why: str


def plain_name(path: Path) -> str:
    """Return a file's name without .gz."""
    return path.name.removesuffix(".gz")


def find_events(raw: Path, files: Sequence[Path]) -> list[Path]:
    """Return the one file of events among `files`, or the three of a split.

    Raises:
        ReleaseError: where there is none, several to choose from, or a split with a part missing.
    """
    groups: dict[Path, list[Path]] = {}
    for path in files:
        name = plain_name(path)
        if name == PAIR or (name.endswith((".csv", ".json", ".jsonl")) and not name.lower().startswith("meta")):
            groups.setdefault(path.with_name(SPLIT.sub("", path.name)), []).append(path)
    if not groups:
        present = ", ".join(str(path.relative_to(raw)) for path in files[:20]) or "nothing"
        raise ReleaseError(f"{raw}: no file of reviews or ratings; it holds {present}")
    (stem, paths), *others = groups.items()
    if others:
        found = ", ".join(str(path.relative_to(raw)) for paths in groups.values() for path in paths)
        raise ReleaseError(
            f"{raw}: several files may hold the events ({found}); name those to read: --events "
            f"{' '.join(str(path.relative_to(raw)) for path in paths)}"
        )
    return paths if stem == paths[0] else _all_parts(paths)


def _all_parts(paths: Sequence[Path]) -> list[Path]:
    parts = {plain_name(path).split(".")[-2]: path for path in paths}
    if missing := [part for part in SPLITS if part not in parts]:
        raise ReleaseError(
            f"{paths[0]}: one part of a split whose {' and '.join(missing)} part is missing, so that histories would "
            "have gaps; download all three"
        )
    return [parts[part] for part in SPLITS]


def describe(path: Path, year: str) -> Source:
    """Tell from the first lines of `path` how to read it; `year` says it where it is not "auto".

    Raises:
        ReleaseError: where it cannot be told, or contradicts `year`.
    """
    if ".csv" not in path.name:
        number, record = next(read_json_lines(path))
        return _describe_named(path, number, tuple(record), year)
    header = tuple(first_record(path))
    if {"parent_asin", "ProductId"} & set(header):
        return _describe_named(path, 1, header, year)
    if year == "auto":
        year, why = _year_by_content(path)
    else:
        why = "as --year says"
    columns: Columns = dict(zip(("user", "item", "rating", "time"), ((at,) for at in POSITIONS[year]), strict=True))
    return Source(Delimited(path, columns), year, why)


def _describe_named(path: Path, number: int, fields: Sequence[str], said: str) -> Source:
    for year, names in (*NAMES.items(), ("2014", COPY)):
        if set(names) <= set(fields) and (names != REVIEW or (year == "2018") == ("verified" in fields)):
            break
    else:
        raise ReleaseError(
            f"{path}, line {number}: the fields {', '.join(fields)} are of no release: 2014 and 2018 have "
            f"{', '.join(REVIEW)}, 2023 has {', '.join(NAMES['2023'])}; other files are for the adapter `table`"
        )
    if said not in ("auto", year):
        raise ReleaseError(f"{path}, line {number}: its fields are those of {year}, --year is {said}; leave it out")
    columns: Columns = dict(zip(("user", "item", "rating", "time"), ((name,) for name in names), strict=True))
    file = Delimited(path, columns) if ".csv" in path.name else JsonLines(path, columns)
    return Source(file, year, f"by its fields {', '.join(names)}")


def _year_by_content(path: Path) -> tuple[str, str]:
    """Tell the release of a csv without header by which column holds items, and by the unit of its times."""
    rows = list(islice(_rows(path), SNIFFED))
    flipped = sum(_is_item(first) and not _is_item(second) for first, second, _ in rows) / len(rows)
    straight = sum(_is_item(second) and not _is_item(first) for first, second, _ in rows) / len(rows)
    if max(flipped, straight) < AGREE:
        raise ReleaseError(
            f"{path}: cannot tell which of its first two columns holds items: of its first {len(rows)} lines "
            f"{straight:.0%} look like user,item and {flipped:.0%} like item,user (line 1: {rows[0][0]},{rows[0][1]}); "
            "say --year 2014 or --year 2023 for user,item, or --year 2018 for item,user"
        )
    if flipped > straight:
        return "2018", "item,user by the look of its ids"
    milliseconds = len(rows[0][2].split(".")[0]) > 11
    return "2023" if milliseconds else "2014", "user,item by the look of its ids"


def _is_item(field: str) -> bool:
    return bool(ITEM.fullmatch(field))


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the first, second and fourth field of a csv without header."""
    for number, fields in read_records(path):
        if len(fields) not in (4, 5):  # the fifth is the history in *_w_his
            raise ReleaseError(
                f"{path}, line {number}: {len(fields)} fields where user, item, rating and time are expected: "
                f"{fields[:5]}; other files are for the adapter `table`"
            )
        if number == 1 and not re.fullmatch(r"-?\d+(\.\d+)?", fields[3].strip()):
            raise ReleaseError(
                f"{path}, line 1: field 4 is {fields[3]!r}, neither a time nor the name of one in a release's header "
                f"({','.join(NAMES['2023'])}); other files are for the adapter `table`"
            )
        yield fields[0].strip(), fields[1].strip(), fields[3].strip()

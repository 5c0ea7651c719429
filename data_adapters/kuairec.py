"""KuaiRec: plays of short videos with the share that was watched, and captions. No pictures.

Some plays of the small matrix have no time, and are left out and counted. Captions hold commas and line ends, quoted
or not: a record ends where three categories, each a number and a name, end its line.
"""

from __future__ import annotations

import csv
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
from pyarrow import csv as arrow_csv

from data_adapters.event_files import NUMBER
from data_adapters.release import Adapter, Batches, Catalogue, Release
from data_adapters.text_files import ReleaseError, first_record, read_lines, read_rows
from data_adapters.vendor_files import check_folder, find_file, held

__all__ = ["ADAPTER", "read", "read_captions"]

LAYOUT = """KuaiRec, from https://kuairec.com: the unpacked archive or its folder data/

  big_matrix.csv, small_matrix.csv   plays: user_id,video_id,...,timestamp,watch_ratio; choose with --matrix
  kuairec_caption_category.csv       optional: captions and categories; without it, items have no text

A play is an event if the video was watched at least --min-rating times over (2 by default, the authors' "like").
Text: {caption}. {manual_cover_text}. {first_level_category_name}"""

ROLES = {"user_id": "user", "video_id": "item", "timestamp": "time", "watch_ratio": "rating"}
CAPTIONS = "kuairec_caption_category.csv"
FIELDS = (
    "manual_cover_text", "caption", "topic_tag", "first_level_category_id", "first_level_category_name",
    "second_level_category_id", "second_level_category_name", "third_level_category_id", "third_level_category_name",
)  # fmt: skip
CATEGORIES = re.compile(r"(?:,-?\d+(?:\.0)?,[^,\n]*){3}\s*$")
"""How a record ends."""
UNKNOWN = ("UNKNOWN", "UNK", "-124", "[]")
UNTIMED = "plays without a time"
UNTIMED_AS = ("", "NULL", "null", "NaN", "nan", "NA", "N/A")
EARLIEST, LATEST = 31_536_000, 7_258_118_400
"""Seconds: 1971 and 2200."""


def read(raw: Path, arguments: Namespace) -> Release:
    """Find one of the two matrices, and the captions if they are there.

    Raises:
        ReleaseError: where the matrix is missing or lacks a column.
    """
    check_folder(raw, LAYOUT)
    matrix = find_file(raw, f"**/{arguments.matrix}_matrix.csv")
    if matrix is None:
        raise ReleaseError(f"{raw}: no {arguments.matrix}_matrix.csv; it holds {held(raw)}\n{LAYOUT}")
    header = first_record(matrix)
    if missing := [name for name in ROLES if name not in header]:
        raise ReleaseError(f"{matrix}, line 1: no column {', '.join(missing)}; the header is {', '.join(header)}")
    captions = find_file(raw, f"**/{CAPTIONS}")
    dropped = {UNTIMED: 0}
    return Release(
        events=[Batches(matrix, lambda: _read_matrix(matrix, dropped), tuple(ROLES.values()))],
        catalogues=[Catalogue(captions, lambda: read_captions(captions))] if captions else [],
        fields=FIELDS if captions else (),
        text="{caption}. {manual_cover_text}. {first_level_category_name}" if captions else "",
        media_root=raw,
        time_unit="s",
        integer_ids=True,
        dropped=dropped,
    )


def _read_matrix(path: Path, dropped: dict[str, int]) -> Iterator[pa.RecordBatch]:
    whole, number = pa.int64(), pa.float64()
    types = dict(zip(ROLES, (whole, whole, number, number), strict=True))
    untimed = 0
    try:
        for batch in arrow_csv.open_csv(
            path,
            convert_options=arrow_csv.ConvertOptions(
                include_columns=[*ROLES], column_types=types, null_values=[*UNTIMED_AS]
            ),
        ):
            timed = batch.filter(batch.column("timestamp").is_valid())
            untimed += len(batch) - len(timed)
            dropped[UNTIMED] = untimed
            if not _is_sound(timed):
                raise pa.ArrowInvalid("a value is missing, or out of bounds")
            yield timed.rename_columns([*ROLES.values()])
    except pa.ArrowInvalid as error:
        _explain(path)
        raise ReleaseError(f"{path}: {error}; download it again") from error


def _is_sound(batch: pa.RecordBatch) -> bool:
    user, item, time, _ = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
    complete = not any(column.null_count for column in batch.columns)
    return complete and bool((user >= 0).all() and (item >= 0).all() and ((time >= EARLIEST) & (time <= LATEST)).all())


def _explain(path: Path) -> None:
    """Raise `ReleaseError` for the first line with a wrong value; the quick reader counts neither lines nor columns."""
    for number, row in read_rows(path):
        values = {name: row[name].strip() for name in ROLES}
        if values["timestamp"] in UNTIMED_AS:
            continue
        for name, value in values.items():
            if not re.fullmatch(r"\d{1,18}" if ROLES[name] in ("user", "item") else NUMBER, value):
                what = "a whole number" if ROLES[name] in ("user", "item") else "a number"
                raise ReleaseError(
                    f"{path}, line {number}: {name} is {value[:40]!r}, must be {what}; download it again"
                )
        if not EARLIEST <= float(values["timestamp"]) <= LATEST:
            raise ReleaseError(
                f"{path}, line {number}: timestamp is {values['timestamp']}, no unix time in seconds between 1971 and "
                "2200; download it again"
            )


def read_captions(path: Path) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    """Yield (video, its fields) per record.

    Raises:
        ReleaseError: where a record does not start with a video or does not end in three categories.
    """
    record, start = "", 0
    for number, line in read_lines(path):
        if number == 1 and line.startswith("video_id,"):
            continue
        if record and CATEGORIES.search(record, record.rfind("\n") + 1) and re.match(r"\d+,", line):
            yield _parse(path, start, record)
            record = ""
        start = start if record else number
        record = f"{record}\n{line}" if record else line
    if record:
        yield _parse(path, start, record)


def _parse(path: Path, number: int, record: str) -> tuple[str, Mapping[str, str | None]]:
    ending = CATEGORIES.search(record)
    front = re.sub(r"[\r\n]+", " ", record[: ending.start()] if ending else record)
    tagged = re.fullmatch(r'(.*?),"?(\[[^\[\]]*\]|[^,]*)"?', front)  # tags have commas, quoted or not
    fields = next(csv.reader([tagged[1]])) if tagged else []
    if tagged and len(fields) != 3:
        fields = tagged[1].split(",", 2)  # commas that nothing quotes are the caption's
    if not ending or not tagged or len(fields) != 3 or not fields[0].isdecimal():
        raise ReleaseError(
            f"{path}, line {number}: {record[:60]!r} does not read as video, cover text, caption, [tags] and three "
            "categories of a number and a name each; download it again"
        )
    video, *rest = [*fields, tagged[2], *ending[0].strip().split(",")[1:]]
    return video, {name: None if value.strip() in UNKNOWN else value for name, value in zip(FIELDS, rest, strict=True)}


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--matrix", choices=("big", "small"), default="big", help="which plays (default %(default)s); small is dense"
    )


ADAPTER = Adapter(
    help="KuaiRec: big and small matrix",
    layout=LAYOUT,
    read=read,
    add_arguments=_add_arguments,
    defaults={"min_rating": 2.0},
    licence="CC BY-SA 4.0, see https://kuairec.com",
    citation="Gao et al., KuaiRec: A Fully-Observed Dataset and Insights for Evaluating Recommender Systems, CIKM 2022",
)

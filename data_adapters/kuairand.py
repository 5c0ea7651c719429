"""KuaiRand: what 27,000 users of Kuaishou were shown and did, as logs with a dozen signals per row. No pictures.

A row of the log is an exposure, not an interest: `--signal` names the column that makes it an event.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_adapters.release import Adapter, Catalogue, Columns, Delimited, Release
from data_adapters.text_files import ReleaseError, first_record, read_rows
from data_adapters.vendor_files import check_folder, find_files, held

__all__ = ["ADAPTER", "read"]

LAYOUT = """KuaiRand, from https://kuairand.com (Pure, 1K, 27K): the unpacked archive or its folder data/

  log_*.csv                        log_standard_4_08_to_4_21_1k.csv and so on, also in parts
  kuairand_video_captions.csv      optional: captions of videos and texts on their covers
  kuairand_video_categories.csv    optional: names of categories
  video_features_basic_*.csv       optional: author_id, upload_dt, video_duration, music_id, tag, ... for --columns
  video_features_statistic_*.csv   optional: counters of what the logs hold, which leak; for --columns

Text: {caption}. {show_cover_text}. {first_level_category_name}. {second_level_category_name}, of those that are there;
without captions and categories, which were published apart from the logs, items have none.
An event is a row whose --signal is at least --min-rating (1 by default); --min-rating 0 takes every exposure."""

LOG_COLUMNS = (
    "user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "is_follow", "is_comment",
    "is_forward", "is_hate", "long_view", "play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time",
    "is_profile_enter", "is_rand", "tab",
)  # fmt: skip
SIGNALS = ("is_click", "long_view", "is_like", "is_follow", "is_comment", "is_forward", "is_profile_enter")
TABLES = {
    "kuairand_video_captions.csv": "final_video_id",
    "kuairand_video_categories.csv": "final_video_id",
    "video_features_basic_*.csv": "video_id",
    "video_features_statistic_*.csv": "video_id",
}
"""Files about videos, and the column of each that holds ids."""
TEXTS = ("caption", "show_cover_text", "first_level_category_name", "second_level_category_name")
UNKNOWN = ("UNKNOWN", "UNK", "-124", "-124.0")


def read(raw: Path, arguments: Namespace) -> Release:
    """List the logs in the order of their times, and the files about videos.

    Raises:
        ReleaseError: where there is no log, or a file about videos has no column of ids.
    """
    check_folder(raw, LAYOUT)
    pattern = "log_*.csv" if arguments.logs == "all" else f"log_{arguments.logs}_*.csv"
    logs = sorted(
        find_files(raw, f"**/{pattern}"), key=lambda path: (path.name.replace("_random", "_standard"), path.name)
    )
    if not logs:
        raise ReleaseError(f"{raw}: no {pattern}; it holds {held(raw)}\n{LAYOUT}")
    headers = {
        path: (key, _header(path, key)) for name, key in TABLES.items() for path in find_files(raw, f"**/{name}")
    }  # fmt: skip
    fields = tuple(dict.fromkeys(name for key, header in headers.values() for name in header if name != key))
    text = ". ".join(f"{{{name}}}" for name in TEXTS if name in fields)
    return Release(
        events=[Delimited(path, _columns(arguments.signal)) for path in logs],
        catalogues=[
            Catalogue(
                path,
                lambda path=path, key=key: _read_videos(path, key),
                fields=[name for name in header if name != key],  # 20 GB of counters are opened for those who ask
            )
            for path, (key, header) in headers.items()
        ],
        fields=fields,
        text=text,
        media_root=raw,
        time_unit="ms",
        integer_ids=True,
        leaks={
            name: "averaged over the month that the logs cover, what is to be predicted included"
            for path, (key, header) in headers.items()
            for name in header
            if "statistic" in path.name and name != key
        },
    )


def _columns(signal: str) -> Columns:
    names = {"user": "user_id", "item": "video_id", "time": "time_ms", "rating": signal}
    return {role: (name, LOG_COLUMNS.index(name)) for role, name in names.items()}


def _header(path: Path, key: str) -> list[str]:
    header = first_record(path)
    if key not in header:
        raise ReleaseError(f"{path}, line 1: no column {key}, the header is {', '.join(header)}; download it again")
    return header


def _read_videos(path: Path, key: str) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    for _, row in read_rows(path):
        yield row[key], {name: None if value in UNKNOWN else value for name, value in row.items() if name != key}


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--signal",
        choices=SIGNALS,
        default="is_click",
        help="what makes a row of the log an event (default %(default)s)",
    )
    parser.add_argument(
        "--logs",
        choices=("all", "standard", "random"),
        default="all",
        help="random: exposures that were drawn at random (default %(default)s)",
    )


ADAPTER = Adapter(
    help="KuaiRand: Pure, 1K, 27K",
    layout=LAYOUT,
    read=read,
    add_arguments=_add_arguments,
    defaults={"min_rating": 1.0},  # a signal is 0 or 1
    licence="CC BY-SA 4.0, see https://kuairand.com",
    citation="Gao et al. KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos, CIKM 22",
)

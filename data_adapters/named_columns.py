"""Find the columns of a table that has no fixed layout: named by an option, else by the names that are usual."""

from __future__ import annotations

import difflib
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_adapters.release import Media
from data_adapters.text_files import ReleaseError
from data_adapters.vendor_files import SUFFIXES, chosen_folder, folders_in

__all__ = [
    "USUAL_NAMES",
    "add_column_arguments",
    "add_media_arguments",
    "choose",
    "event_columns",
    "item_column",
    "media_of",
]

USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "user": (
        "user_id", "userID", "userId", "user", "session_id", "visitor_id", "customer_id", "anonymous_user_id",
        "student_id",
    ),
    "item": (
        "item_id", "itemID", "itemId", "item", "product_id", "business_id", "venue_id", "artist_id", "artists_id",
        "albums_id", "tracks_id", "news_id", "video_id", "movie_id",
    ),
    "time": ("timestamp", "time", "date", "transaction_date"),
    "rating": ("rating", "stars", "weight", "label"),
}  # fmt: skip
"""Per role, what a column is called in RecBole's catalogue of datasets and elsewhere; the first that is there wins."""


def add_column_arguments(parser: ArgumentParser) -> None:
    """Add --user, --item, --time, --rating and --in-order."""
    add = parser.add_argument_group("which columns").add_argument
    for role, names in USUAL_NAMES.items():
        only = "; read where --min-rating asks" if role == "rating" else ""
        add(f"--{role}", metavar="COLUMN", help=f"default: the first that is there of {', '.join(names)}{only}")
    add("--in-order", action="store_true", help="take rows as they stand, oldest first, and no time")


def add_media_arguments(parser: ArgumentParser) -> None:
    """Add --image, --video and --audio."""
    add = parser.add_argument_group("where media are").add_argument
    for modality in SUFFIXES:
        add(
            f"--{modality}",
            metavar="PATH",
            help='column or template of paths from --raw, such as "covers/{id}.jpg"; or a folder of files named by '
            "item, as typed or else inside --raw",
        )


def event_columns(arguments: Namespace, present: Sequence[str], where: Path | str) -> dict[str, str]:
    """Return the column of each role: rating only where it is named or --min-rating asks, time not with --in-order.

    Raises:
        ReleaseError: where a column that an option names, or that is needed, is not there.
    """
    if arguments.in_order and arguments.time:
        raise ReleaseError(f"--in-order takes no time, but --time {arguments.time} names one; give one of the two")
    found = {role: choose(role, getattr(arguments, role), present, where) for role in USUAL_NAMES}
    if arguments.rating is None and arguments.min_rating is None:
        found["rating"] = None  # so that a field that nobody needs may be empty
    elif found["rating"] is None:
        raise ReleaseError(
            f"{where}: no column of ratings ({', '.join(USUAL_NAMES['rating'])}) among {', '.join(present)}, which "
            "--min-rating needs; name it with --rating"
        )
    if arguments.in_order:
        found["time"] = None
    elif found["time"] is None:
        raise ReleaseError(
            f"{where}: no column of times ({', '.join(USUAL_NAMES['time'])}) among {', '.join(present)}; name it with "
            "--time, or say --in-order where each user's rows are oldest first"
        )
    for role in ("user", "item"):
        if found[role] is None:
            raise ReleaseError(
                f"{where}: no column of {role}s ({', '.join(USUAL_NAMES[role])}) among {', '.join(present)}; name it "
                f"with --{role}"
            )
    return {role: name for role, name in found.items() if name is not None}


def choose(role: str, given: str | None, present: Sequence[str], where: Path | str, *, option: str = "") -> str | None:
    """Return the column that `option` (--`role`) names, else the first usual one that is there, else None.

    Raises:
        ReleaseError: where `given` is not there.
    """
    if given is None:
        return next((name for name in USUAL_NAMES[role] if name in present), None)
    if given in present:
        return given
    close = difflib.get_close_matches(given, present, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(present) or 'none'}"
    raise ReleaseError(f"{where}: no column '{given}' ({option or f'--{role}'}); {hint}")


def item_column(arguments: Namespace, present: Sequence[str], in_events: str, where: Path | str) -> str:
    """Return the column of ids in a table of items: --item-id, else as in the events, else a usual one or `id`.

    Raises:
        ReleaseError: where there is none.
    """
    if arguments.item_id is None and in_events in present:
        return in_events
    name = choose("item", arguments.item_id, present, where, option="--item-id")
    if name is None and "id" in present:
        return "id"
    if name is None:
        raise ReleaseError(
            f"{where}: no column '{in_events}' as in the events, nor {', '.join(USUAL_NAMES['item'])} or id, among "
            f"{', '.join(present)}; name the column of items' ids"
        )
    return name


def media_of(arguments: Namespace, fields: Sequence[str], root: Path) -> dict[str, Media]:
    """Return where the media are that --image, --video and --audio name: by a field, or in a folder.

    Raises:
        ReleaseError: where a name is neither, or a folder is elsewhere while others are paths from `root`.
    """
    given = {modality: value for modality in SUFFIXES if (value := getattr(arguments, modality))}
    media = {modality: _media(modality, value, fields, root) for modality, value in given.items()}
    outside = [m for m, one in media.items() for folder in one.folders if not _is_below(folder, root)]
    paths = [modality for modality, one in media.items() if one.field]
    if outside and paths:
        raise ReleaseError(
            f"--{outside[0]} {given[outside[0]]} is outside {root}, where the paths of --{paths[0]} start; move the "
            "folder there"
        )
    return media


def _media(modality: str, value: str, fields: Sequence[str], root: Path) -> Media:
    if value in fields or "{" in value:
        return Media(field=value)
    folder = chosen_folder(value, root)
    if folder is None:
        near = [*fields, *(path.name for path in folders_in(root))] if root.is_dir() else fields
        close = difflib.get_close_matches(value, near, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"fields are {', '.join(fields) or 'none'}"
        raise ReleaseError(
            f"--{modality} {value}: no field '{value}', and no folder there or at {root / value}; {hint}"
        )
    return Media([folder], SUFFIXES[modality])


def _is_below(folder: Path, root: Path) -> bool:
    return Path(os.path.abspath(folder)).is_relative_to(os.path.abspath(root))

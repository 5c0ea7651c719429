"""The choices that every adapter offers: which events stay, what the text is made of, where media live."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from data_adapters.text_files import ReleaseError

__all__ = ["FEWEST_EVENTS", "Options", "Repeats"]

FEWEST_EVENTS = 4
"""Leave-two-out needs two events to train on, one to validate and one to test; to recommend, none is needed."""

Repeats = Literal["keep", "exact", "consecutive", "first", "last"]
Html = Literal["keep", "unescape", "strip"]


@dataclass(frozen=True)
class Options:
    """Hold the common options, applied in this order: rating, repeats, core, length, users."""

    min_rating: float | None = None
    """Events with a lower rating are left out."""
    repeats: Repeats = "keep"
    """Of a user's events with the same item: keep all; drop those at the same time too (exact); drop those that follow
    directly (consecutive); keep the first, or the last, alone."""
    min_events: int = 5
    """Users with fewer events are left out, again and again until nothing changes."""
    k_core: int = 1
    """Users and items with fewer events are left out, again and again until nothing changes."""
    max_events: int | None = None
    """Of longer histories, only so many newest events are kept."""
    users: int | None = None
    """Only the first so many of the users that are left, by id: for a trial."""
    text: str = ""
    """Template of the text, such as "{title}. {brand}"; the vendor's own where empty."""
    html: Html = "unescape"
    """What to do with HTML in text: keep it, turn &amp; and the like into characters, or strip tags as well."""
    columns: tuple[str, ...] = ()
    """Vendor's fields to keep as columns of items.parquet."""
    pack: bool = False
    """Copy media into the dataset folder, so that it needs no other; else it records their paths."""
    all_items: bool = False
    """Keep the items of the vendor's catalogues that no kept event shows, too, behind those with events."""

    def __post_init__(self) -> None:
        for name, least, why in (
            ("min_events", 1, ""),
            ("max_events", FEWEST_EVENTS, ", because leave-two-out trains on two events and takes one each to validate "
             "and test"),
            ("k_core", 1, ""),
            ("users", 1, ""),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise ReleaseError(f"--{name.replace('_', '-')} {value}: must be at least {least}{why}")
        if self.max_events is not None and self.max_events < self.min_events:
            raise ReleaseError(f"--max-events {self.max_events}: must be at least --min-events ({self.min_events})")

    @classmethod
    def of(cls, arguments: Namespace) -> Options:
        """Take the options from a parsed command line."""
        given: dict[str, Any] = {spec.name: getattr(arguments, spec.name) for spec in fields(cls)}
        given["columns"] = tuple(given["columns"])
        return cls(**given)

    def recorded(self) -> dict[str, str]:
        """Return the options as dataset.yaml records them."""
        return {
            spec.name: ", ".join(value) if isinstance(value := getattr(self, spec.name), tuple) else _written(value)
            for spec in fields(self)
            if spec.name != "all_items" or self.all_items  # unknown to folders that were made before it
        }

    @classmethod
    def add_arguments(cls, parser: ArgumentParser, defaults: Mapping[str, Any]) -> None:
        """Add an option per field, with the vendor's defaults."""
        given = {spec.name: spec.default for spec in fields(cls)} | dict(defaults)
        group = parser.add_argument_group("which events")
        add = group.add_argument
        add("--min-events", type=int, metavar="N", help="leave out users with fewer events (default %(default)s)")
        add("--max-events", type=int, metavar="N", help="keep only the newest N events of a user")
        add(
            "--k-core",
            type=int,
            metavar="K",
            help="leave out users and items with fewer than K events, until all have K",
        )
        add(
            "--min-rating",
            type=float,
            metavar="R",
            help=f"leave out events rated lower (default {given['min_rating'] or 'none'})",
        )
        add(
            "--repeats",
            choices=get_args(Repeats),
            help="events of a user with the same item: keep all; drop those at the same time (exact) or directly after "
            "each other (consecutive); keep the first or the last alone (default %(default)s)",
        )
        add("--users", type=int, metavar="N", help="only the first N users that are left, for a trial")
        group = parser.add_argument_group("what items are")
        add = group.add_argument
        add("--text", metavar="TEMPLATE", help='text of an item, such as "{title}. {brand}" (default: see above)')
        add("--html", choices=get_args(Html), help="HTML in texts (default %(default)s)")
        add("--columns", nargs="+", metavar="FIELD", help="vendor's fields to keep as columns of items.parquet")
        add("--pack", action="store_true", help="copy media into the dataset folder instead of recording paths")
        add("--all-items", action="store_true", help="keep the catalogue's items that have no kept event, too")
        parser.set_defaults(**given)


def _written(value: object) -> str:
    return "" if value is None else str(value)

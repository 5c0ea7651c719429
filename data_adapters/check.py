"""Look at a prepared folder before training on it: what histories hold, what cannot be decoded, how items look.

Reads all of it: the files against the hashes of dataset.yaml, every history, every picture whole, and three frames of
every clip. Prints a table, and writes one page of HTML that needs no other file, with covers and sample histories.

Exit status: 0 where all content can be used; 1 where some cannot (each file is listed with its reason), where times go
back, where media were replaced since the folder was written, or where the folder is damaged. Ties, repeats, duplicates
and items without a cover are facts of the data, and no failure.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from data_adapters.check_content import Report, inspect
from data_adapters.check_histories import LENGTH
from data_adapters.check_page import write_page
from data_adapters.check_table import table_of
from data_adapters.text_files import ReleaseError
from odmt.data.format import open_dataset

__all__ = ["add_arguments", "run"]

LISTED = 20
"""Unreadable files printed; the page lists more."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command `check`."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="the dataset folder")
    parser.add_argument("--html", type=Path, metavar="FILE", help="where the page goes (default DIR/check.html)")
    parser.add_argument(
        "--samples",
        type=int,
        default=8,
        metavar="N",
        help="show N histories and 6 N items (default %(default)s), the same ones every time",
    )
    parser.add_argument(
        "--length",
        type=int,
        default=LENGTH,
        metavar="N",
        help="--data.length of the training to come, on which it depends which items are cold (default %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes that decode (default: one per core, %(default)s here)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Check a folder, print the table, write the page; return the exit status."""
    for name in ("samples", "length", "workers"):
        if getattr(arguments, name) < 1:
            raise ReleaseError(f"--{name} {getattr(arguments, name)}: must be at least 1")
    dataset = open_dataset(arguments.folder)
    page = arguments.html or arguments.folder / "check.html"
    if not os.access(page.parent, os.W_OK):  # before hours of decoding, not after
        raise ReleaseError(f"{page}: the folder is missing or cannot be written; name another file with --html")
    report = inspect(dataset, samples=arguments.samples, workers=arguments.workers, length=arguments.length)
    for title, rows in table_of(report):
        print(f"\n{title}")
        for name, value in rows:
            print(f"  {name:<44} {value}")
    _print_failures(report, page)
    try:
        write_page(report, page)
    except OSError as error:
        raise ReleaseError(f"{page}: cannot be written ({error.strerror}); name another file with --html") from error
    print(f"\nlook at it: {page}")
    return 1 if report.problems or report.unreadable else 0


def _print_failures(report: Report, page: Path) -> None:
    if report.unreadable:
        print(f"\nunreadable: {len(report.unreadable):,} files")
        for one in report.unreadable[:LISTED]:
            print(f"  {one.kind} of item {report.ids[one.item - 1]}, {one.path}: {one.reason}")
        if len(report.unreadable) > LISTED:
            print(f"  ... and {len(report.unreadable) - LISTED:,} more; {page} lists them")
    for problem in report.problems:
        print(f"\nproblem: {problem}")

"""Write pictures that a vendor keeps inside other files out as files of their own, whole or not at all, and only once.

A dataset folder stores paths, so pictures that live in an LMDB or in a column of a table need a folder: by default
OUT-images beside the dataset folder OUT. It records what it was made of, so that a second run takes it as it is and a
run over another source is refused.
"""

from __future__ import annotations

import json
import os
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from data_adapters.text_files import ReleaseError
from odmt.data.folder_name import removed_at_last

__all__ = ["add_extract_argument", "extract", "extract_folder", "removed_on_failure"]

RECORD = "extracted.json"


def add_extract_argument(parser: ArgumentParser) -> None:
    """Add --extract."""
    parser.add_argument(
        "--extract", type=Path, metavar="DIR", help="folder for pictures that are no files yet (default OUT-images)"
    )


def extract_folder(arguments: Namespace) -> Path:
    """Return the folder that pictures go to."""
    return arguments.extract or arguments.out.with_name(f"{arguments.out.name}-images")


def extract(
    folder: Path, made_of: Mapping[str, str | int], files: Callable[[], Iterator[tuple[str, bytes]]], *, total: int = 0
) -> int:
    """Write `files`, given as (name, content), into `folder` and return how many there are.

    Where `folder` is there and was made of the same, nothing is read or written.

    Raises:
        ReleaseError: where `folder` was made of something else, or the disk refuses.
    """
    if folder.exists():
        return _count_of(folder, made_of)
    count = 0
    try:
        with _written_aside(folder) as partial:
            for name, content in tqdm(files(), desc=folder.name, total=total or None, disable=None, delay=1):
                (partial / name).write_bytes(content)
                count += 1
            (partial / RECORD).write_text(json.dumps({**made_of, "files": count}, indent=1), encoding="utf-8")
    except OSError as error:
        raise ReleaseError(
            f"cannot write pictures to {folder} after {count:,} of them ({error}); make room or name another folder "
            "with --extract"
        ) from error
    return count


def _count_of(folder: Path, made_of: Mapping[str, str | int]) -> int:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        count = record.pop("files")
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise ReleaseError(
            f"{folder} is taken: pictures would be written there, but it holds no {RECORD} of an earlier run; remove "
            "it or name another folder with --extract"
        ) from error
    if record != dict(made_of):
        raise ReleaseError(
            f"{folder} holds pictures of {record}, not of {dict(made_of)}; remove it to write them anew, or name "
            "another folder with --extract"
        )
    return count


@contextmanager
def removed_on_failure(folder: Path | None) -> Iterator[None]:
    """Remove `folder`, where one is given, if the block fails: pictures that this run wrote for a dataset that is not.

    A process that is killed leaves them; the next run takes them as they are.
    """
    try:
        yield
    except BaseException:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _written_aside(folder: Path) -> Iterator[Path]:
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    with removed_at_last(partial):
        yield partial
        partial.rename(folder)

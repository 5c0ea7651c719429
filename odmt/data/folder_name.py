"""How a dataset folder takes its name: by a rename, once it is whole; and what is done about those that never were."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from odmt.data.manifest import DatasetError
from odmt.data.reading import open_dataset

__all__ = ["LOCK", "check_free", "clear_leftovers", "flush", "lock", "removed_at_last", "take_name"]

WAIT_AND_REMOVE = "import shutil, sys; sys.stdin.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"
LOCK = "scratch/held"
"""The file in an unfinished folder that its living writer holds."""


@contextmanager
def removed_at_last(folder: Path) -> Iterator[None]:
    """Remove `folder` when the block ends, however it ends: a small child process waits for the end of this one."""
    janitor = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", WAIT_AND_REMOVE, str(folder.absolute())],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us; the child acts when we are gone
    )
    try:
        yield
    finally:
        janitor.communicate()


def lock(path: Path) -> TextIO:
    """Hold a lock that goes with the process, however it dies."""
    path.parent.mkdir(exist_ok=True)
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def clear_leftovers(path: Path) -> None:
    """Remove what dead writers of `path` left, and put back a dataset that one of them was about to replace."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.partial-*"):
        if (partial / LOCK).exists():
            try:
                lock(partial / LOCK).close()
            except BlockingIOError:
                continue  # alive, and writing the same folder: the last to finish will be refused
        shutil.rmtree(partial, ignore_errors=True)
    for replaced in path.parent.glob(f".{glob.escape(path.name)}.replaced-*"):
        if path.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            os.rename(replaced, path)


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise `DatasetError` where `path` holds something that must not be replaced; an empty folder is removed."""
    if not path.exists():
        return
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
    elif not overwrite:
        raise DatasetError(f"{path} exists; name another folder, or overwrite it (--overwrite)")
    elif not (path / "dataset.yaml").is_file():
        raise DatasetError(
            f"{path} exists and is no dataset folder (no dataset.yaml), so it is not overwritten; name another folder"
        )


def flush(path: Path) -> None:
    """See that a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def take_name(partial: Path, path: Path, *, overwrite: bool) -> None:
    """Rename `partial` to `path`; of a dataset that is overwritten, features of the same content are kept."""
    open_dataset(partial)  # what cannot be opened must not replace what can
    if not overwrite or not path.exists():
        os.rename(partial, path)  # refused where another writer was faster
    else:
        replaced = path.with_name(f".{path.name}.replaced-{os.getpid()}")
        os.rename(path, replaced)
        try:
            os.rename(partial, path)
        except OSError:
            os.rename(replaced, path)
            raise
        _keep_features(replaced, path)
        shutil.rmtree(replaced)
    flush(path.parent)


def _keep_features(replaced: Path, path: Path) -> None:
    try:
        old, new = open_dataset(replaced), open_dataset(path)
    except DatasetError:
        return  # a damaged folder cannot say what its features were made from
    for modality in old.info.modalities.keys() & new.info.modalities.keys():
        if old.content_fingerprint(modality) != new.content_fingerprint(modality):
            continue
        for cache in (replaced / "features" / modality).glob("*"):
            kept = path / "features" / modality / cache.name
            if not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                os.rename(cache, kept)

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

import yaml

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
            except FileNotFoundError:
                continue  # its own janitor was quicker
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


def take_name(partial: Path, path: Path, *, overwrite: bool) -> dict[Path, str]:
    """Rename `partial` to `path`; of a dataset that is overwritten, features of the same content are kept.

    Returns the feature folders that were not kept, and why.
    """
    open_dataset(partial)  # what cannot be opened must not replace what can
    lost: dict[Path, str] = {}
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
        lost = _keep_features(replaced, path)
        shutil.rmtree(replaced)
    flush(path.parent)
    return lost


def _keep_features(replaced: Path, path: Path) -> dict[Path, str]:
    """Move features of the same content to the new folder; return the others, by the path they had, and why not."""
    lost: dict[Path, str] = {}
    for folder in sorted((replaced / "features").glob("*")):
        why = _why_lost(replaced, path, folder.name)
        for cache in sorted(folder.glob("*")):
            kept = path / "features" / folder.name / cache.name
            if why:
                lost[kept] = why + _made_by(cache)
            elif not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                os.rename(cache, kept)
    return lost


def _why_lost(replaced: Path, path: Path, modality: str) -> str:
    """Say why features of a modality do not belong to the new folder; "" where they do."""
    try:
        old, new = open_dataset(replaced), open_dataset(path)
    except DatasetError:
        return "the replaced folder was damaged, so what they were made from is unknown"
    if modality not in new.info.modalities:
        return f"there is no {modality} any more"
    if modality not in old.info.modalities:
        return f"there was no {modality} that they could be made from"
    if old.content_fingerprint(modality) == new.content_fingerprint(modality):
        return ""
    before, now = (dataset.info.content.get("items.id") for dataset in (old, new))
    return "the items changed" if before and before != now else f"the items' {modality} content changed"


def _made_by(cache: Path) -> str:
    try:
        return f" (encoder: {yaml.safe_load((cache / 'recipe.yaml').read_text(encoding='utf-8'))['encoder']})"
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError):
        return ""  # it goes anyhow

"""What vendor modules look for in a release's folder: files plain or .gz, folders of media, and what else it holds."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_adapters.release import Media
from data_adapters.text_files import ReleaseError

__all__ = [
    "SUFFIXES",
    "add_images_argument",
    "check_folder",
    "check_id",
    "chosen_folder",
    "find_file",
    "find_files",
    "folders_in",
    "held",
    "pictures_in",
    "pictures_of",
]

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "image": (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif", ".tif", ".tiff"),
    "video": (".mp4", ".webm", ".mkv", ".mov", ".avi", ".flv", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp"),
    "audio": (".mp3", ".wav", ".m4a", ".aac", ".flac", ".ogg", ".opus"),
}
"""Per modality, which files of a folder count; of several that are named alike, the first suffix wins."""


def check_folder(folder: Path, layout: str) -> None:
    """Raise `ReleaseError`, which shows the `layout` that is expected, where there is no `folder`."""
    if not folder.is_dir():
        raise ReleaseError(f"no folder at {folder}\n{layout}")


def held(folder: Path) -> str:
    """Name what a folder holds, for a message."""
    return ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"


def find_files(folders: Path | Sequence[Path], *patterns: str) -> list[Path]:
    """Return the files that fit: by folder, then pattern, then name; each plain, or else with .gz behind."""
    found = [
        path
        for folder in ([folders] if isinstance(folders, Path) else folders)
        for pattern in patterns
        for end in ("", ".gz")
        for path in sorted(folder.glob(pattern + end))
        if path.is_file()
    ]
    return [p for p in dict.fromkeys(found) if p.suffix != ".gz" or p.with_suffix("") not in found]


def find_file(folders: Path | Sequence[Path], *patterns: str) -> Path | None:
    """Return the first of the files that fit."""
    return next(iter(find_files(folders, *patterns)), None)


def folders_in(folder: Path, *words: str) -> list[Path]:
    """Return the folders in `folder`, by name; where `words` are given, those whose names contain one of them."""
    found = sorted(path for path in folder.iterdir() if path.is_dir())
    return [path for path in found if not words or any(word in path.name.lower() for word in words)]


def pictures_in(folders: Sequence[Path]) -> dict[str, Media]:
    """Describe pictures named by item in `folders`; where there is no folder, items have no column of pictures."""
    return {"image": Media(folders, SUFFIXES["image"])} if folders else {}


def add_images_argument(parser: ArgumentParser, default: str) -> None:
    """Add --images; `default` says where pictures are looked for without it."""
    parser.add_argument(
        "--images",
        metavar="PATH",
        help=f"folder of pictures named by item, as typed or else inside --raw (default: {default})",
    )


def pictures_of(arguments: Namespace, raw: Path, default: Sequence[Path]) -> dict[str, Media]:
    """Describe the pictures in the folder that --images names, or in those of `default`.

    Raises:
        ReleaseError: where there is no such folder.
    """
    if arguments.images is None:
        return pictures_in(default)
    folder = chosen_folder(arguments.images, raw)
    if folder is None:
        raise ReleaseError(f"--images {arguments.images}: no folder there, nor at {raw / arguments.images}")
    return pictures_in([folder])


def chosen_folder(given: Path | str, raw: Path) -> Path | None:
    """Return the folder that an option names: as typed if it is there, else inside `raw`, else None."""
    return next((path for path in (Path(given), raw / given) if path.is_dir()), None)


def check_id(value: str | None, where: str, column: str) -> str:
    """Return an item's id without blanks around it; raise `ReleaseError` where it is empty."""
    if not (value or "").strip():
        raise ReleaseError(f"{where}, field '{column}': empty; every item needs an id")
    return (value or "").strip()

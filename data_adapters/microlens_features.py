"""Import the features that MicroLens' authors extracted for 100K: row i is of item i + 1.

The authors' loop writes the vector of row i to the key str(i + 1) of the JSON twin, which is read where only that is
there ("Data Processing/video_feature_extraction_(from_lmdb).py").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

from data_adapters.release import ReadyFeatures
from data_adapters.text_files import ReleaseError
from data_adapters.vendor_files import folders_in

__all__ = ["find_features", "open_matrix"]

ENCODERS = {"CLIPRN50": "image", "BgeM3": "text", "VideoMAE": "video"}
VECTOR = re.compile(r'\s*[{,]\s*"(\d+)"\s*:\s*(\[[^\]]*\])')
CHUNK, LONGEST = 1 << 22, 1 << 20
"""Characters read at once, and how many a vector has at most."""


def find_features(raw: Path) -> list[ReadyFeatures]:
    """Describe the published features in `raw` and its folders of features.

    Raises:
        ReleaseError: where a file is no matrix.
    """
    folders = [raw, *folders_in(raw, "feature")]
    return [
        _describe(path, modality, encoder)
        for encoder, modality in ENCODERS.items()
        # the matrix is mapped, its JSON twin must be parsed: the first that is there counts
        for path in [
            p for end in ("npy", "json") for folder in folders for p in sorted(folder.glob(f"*{encoder}.{end}"))
        ][:1]
    ]


def _describe(path: Path, modality: str, encoder: str) -> ReadyFeatures:
    if path.suffix == ".npy":
        ids = [str(row + 1) for row in range(len(open_matrix(path)))]
        return ReadyFeatures(modality, encoder, path, lambda: open_matrix(path), ids)
    ids = [item for item, _ in _vectors(path)]
    if not ids:
        raise ReleaseError(f'{path}: holds no vectors, must be {{"ITEM": [number, ...], ...}}; download it again')
    return ReadyFeatures(modality, encoder, path, lambda: _parse(path), ids)


def open_matrix(path: Path) -> np.ndarray:
    """Map a .npy file of one row per item.

    Raises:
        ReleaseError: where it is cut off, holds Python objects, or is no matrix of numbers.
    """
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ReleaseError(f"{path}: no readable .npy file of numbers ({error}); download it again") from error
    if matrix.ndim != 2 or matrix.dtype.kind != "f":
        raise ReleaseError(
            f"{path}: {matrix.dtype} of shape {matrix.shape}, must be real numbers of shape (items, width); "
            "download it again"
        )
    return matrix


def _parse(path: Path) -> np.ndarray:
    rows = [_row(path, item, numbers) for item, numbers in _vectors(path)]
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise ReleaseError(f"{path}: vectors of different widths, {sorted(widths)[:3]}; download it again")
    return np.stack(rows)


def _row(path: Path, item: str, numbers: str) -> np.ndarray:
    try:
        row = np.array(json.loads(numbers), np.float32)
    except (ValueError, TypeError) as error:
        raise ReleaseError(
            f"{path}, item '{item}': {numbers[:60]!r} is no list of numbers ({error}); download it again"
        ) from error
    if not np.isfinite(row).all():
        raise ReleaseError(f"{path}, item '{item}': {numbers[:60]!r} has a value that is no number; download it again")
    return row


def _vectors(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (item, its numbers as JSON) while holding no more than a piece of the file.

    Raises:
        ReleaseError: where the file is anything but one object of lists, such as one cut off in its download.
    """
    left, start, last = "", "{", ""
    with path.open(encoding="utf-8") as file:
        for piece in _pieces(file, path):
            left += piece
            end = 0
            while (match := VECTOR.match(left, end)) and match[0].lstrip()[0] == start:
                yield match[1], match[2]
                end, start, last = match.end(), ",", match[1]
            left = left[end:]
            if len(left) > LONGEST:
                break
    rest = left.strip()
    if rest != "}" and not (start == "{" and re.fullmatch(r"\{\s*\}", rest)):
        after = f"after item '{last}'" if last else "at its start"
        raise ReleaseError(
            f'{path}: {after} stands {rest[:60]!r}, where {{"ITEM": [number, ...], ...}} goes on or ends; the file is '
            "cut off or damaged, download it again"
        )


def _pieces(file: TextIO, path: Path) -> Iterator[str]:
    try:
        while piece := file.read(CHUNK):
            yield piece
    except UnicodeDecodeError as error:
        raise ReleaseError(f"{path}: not UTF-8 ({error}); download it again") from error

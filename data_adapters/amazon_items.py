"""Amazon's item files: metadata of 2014, 2018 and 2023, and the visual features published with 2014.

The metadata of 2014 are Python literals, one per line; those of later years, and some copies of 2014, are JSON. Both
are only parsed: a line that holds anything to run is refused.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from data_adapters.release import ReadyFeatures
from data_adapters.text_files import ReleaseError, read_lines

__all__ = ["ENCODER", "FIELDS", "RECORD", "read_meta", "visual_features"]

FIELDS = ("title", "brand", "categories", "description", "features", "price", "image_url")
RECORD = np.dtype([("asin", "S10"), ("vector", "<f4", 4096)])
"""Of image_features_*.b: the id, then the activations of a network trained on ImageNet (McAuley et al. 2015)."""
ENCODER = "amazon2014-cnn"
SURROGATE = re.compile("[\ud800-\udfff]")


def read_meta(path: Path) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    """Yield (asin, `FIELDS`) per line of a meta_* file; items may come more than once.

    Lists become text: categories their distinct names from general to special, paragraphs a running text. `brand` is
    the store in 2023, `categories` the main category where there are no others, `image_url` the largest first picture.

    Raises:
        ReleaseError: where a line is no record or has no id; names file and line.
    """
    for number, line in read_lines(path):
        record = _parse(line, path, number)
        asin = record.get("parent_asin") or record.get("asin")
        if not isinstance(asin, str) or not asin.strip():
            name = "parent_asin" if "parent_asin" in record else "asin"
            raise ReleaseError(
                f"{path}, line {number}: field {name} is {record.get(name)!r}, must be an item's id; download it again"
            )
        categories = (record.get(name) for name in ("categories", "category", "main_category", "main_cat"))
        yield (
            asin,
            {
                "title": _text(record.get("title")),
                "brand": _text(record.get("brand") or record.get("store")),
                "categories": next(filter(None, (_text(value, ", ") for value in categories)), None),
                "description": _text(record.get("description")),
                "features": _text(record.get("features") or record.get("feature")),
                "price": _text(record.get("price")),
                "image_url": _url([record.get(name) for name in ("imUrl", "imageURLHighRes", "imageURL", "images")]),
            },
        )


def _parse(line: str, path: Path, number: int) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        try:
            record = ast.literal_eval(line)  # takes literals only and never runs code
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise ReleaseError(
                f"{path}, line {number}: neither JSON nor a Python literal ({str(error) or type(error).__name__}): "
                f"{line[:80]!r}; a record of plain values per line is needed, so download the file again"
            ) from error
    if not isinstance(record, dict):
        raise ReleaseError(f"{path}, line {number}: {line[:80]!r} is no record of fields; download the file again")
    return record


def _text(value: object, separator: str = " ") -> str | None:
    return separator.join(dict.fromkeys(filter(None, map(str.strip, _strings(value))))) or None


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _strings(entry)
    elif isinstance(value, str | int) or (isinstance(value, float) and value == value):  # NaN is no price
        yield str(value) if not SURROGATE.search(str(value)) else _repaired(str(value))


def _repaired(text: str) -> str:
    # Python 2 wrote characters beyond U+FFFF as two halves, which UTF-8 cannot hold
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _url(value: object) -> str | None:
    """Return the first address in nested lists and sizes, such as [{"hi_res": None, "large": "https://..."}]."""
    if isinstance(value, dict):
        value = [value.get(size) for size in ("hi_res", "large", "thumb")]
    if isinstance(value, list):
        return next(filter(None, map(_url, value)), None)
    return value if isinstance(value, str) and value.strip() else None


def visual_features(path: Path) -> ReadyFeatures:
    """Describe image_features_*.b: records of 10 bytes of id and 4,096 little-endian floats, mapped, never read whole.

    Raises:
        ReleaseError: where the file is cut off in the middle of a record.
    """
    size = path.stat().st_size
    if size == 0 or size % RECORD.itemsize:
        raise ReleaseError(
            f"{path}: {size} bytes are no whole number of records of {RECORD.itemsize} (10 of id, 4,096 floats); "
            "download it again"
        )
    return ReadyFeatures("image", ENCODER, path, lambda: np.memmap(path, RECORD, "r")["vector"], _Asins(path))


class _Asins(Sequence[str]):
    """Reads ids off the file when asked; a map would hold every page of a file of tens of gigabytes for them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = range(path.stat().st_size // RECORD.itemsize)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return list(self._read(self._rows[index]))
        return next(self._read([self._rows[index]]))

    def __iter__(self) -> Iterator[str]:
        return self._read(self._rows)

    def _read(self, rows: Sequence[int]) -> Iterator[str]:
        with self._path.open("rb", buffering=0) as file:
            for row in rows:
                file.seek(row * RECORD.itemsize)
                yield file.read(10).decode("ascii", "replace").rstrip("\0 ")

"""What dataset.yaml says: names, counts, sources and hashes of a dataset folder.

The fields of `DatasetInfo` are the schema of the file: a missing, misspelt or ill-typed field is refused by name.
Hashes are optional for a folder that another program wrote; they are then computed when asked for.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from odmt.data import MODALITIES

__all__ = [
    "ANEW",
    "MODALITIES",
    "SCHEMA",
    "ColumnHash",
    "DatasetError",
    "DatasetInfo",
    "FileRecord",
    "hash_column",
    "hash_file",
    "hash_media",
]

SCHEMA = 1
ANEW = "the folder is damaged or foreign: write it anew with its adapter"
"""The way out of an error that only writing the folder again repairs."""


class DatasetError(ValueError):
    """Say which file and field of a dataset folder is wrong, and the way out."""


@dataclass(frozen=True)
class FileRecord:
    """Identify a file by name, size in bytes, and sha256 of its bytes."""

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path, *, name: str) -> FileRecord:
        """Read `path` once and record it under `name`."""
        return cls(name, path.stat().st_size, hash_file(path))


@dataclass(frozen=True)
class DatasetInfo:
    """Hold the content of dataset.yaml."""

    name: str
    num_users: int
    num_items: int
    num_interactions: int
    tie_rule: str
    """How events of one user are ordered, equal times included: the test target depends on it."""
    schema: int = SCHEMA
    time_unit: str = ""
    """"ms since 1970-01-01 UTC" where histories/times.npy exists, else empty."""
    modalities: Mapping[str, int] = field(default_factory=dict)
    """Per content column of items.parquet, how many items have it."""
    media_root: str = "."
    """Folder that image, video and audio paths start from: absolute, or relative to this folder; free to edit."""
    licence: str = ""
    citation: str = ""
    made_by: str = ""
    """The command that wrote the folder."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """What the adapter left out and why, with counts."""
    preparation: Mapping[str, str] = field(default_factory=dict)
    """The adapter and every option that it ran with: with `sources`, all that decides the folder's content."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What the adapter found by looking: the layout, the unit and resolution of times."""
    sources: tuple[FileRecord, ...] = ()
    """The vendor's files that were read; of a folder of media ("covers/"), the listing with sizes."""
    files: tuple[FileRecord, ...] = ()
    """The files of this folder."""
    content: Mapping[str, str] = field(default_factory=dict)
    """sha256 of users' and items' columns as values, independent of how parquet stores them, and, as `media.image` and
    so on, of the media files by path and size."""

    def dump(self) -> str:
        """Write as YAML text that `parse` reads back to an equal object."""
        tree = asdict(self)
        tree = {"schema": tree.pop("schema"), **tree}
        tree["sources"], tree["files"] = list(tree["sources"]), list(tree["files"])
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)

    @classmethod
    def parse(cls, path: Path) -> DatasetInfo:
        """Read dataset.yaml.

        Raises:
            DatasetError: where the file is not YAML, or a field is missing, unknown, of the wrong type or out of range.
        """
        try:
            tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise DatasetError(f"{path}: not UTF-8 at byte {error.start}; {ANEW}") from error
        except yaml.YAMLError as error:
            raise DatasetError(f"{path}: not valid YAML ({error}); {ANEW}") from error
        if not isinstance(tree, dict) or "schema" not in tree:
            raise DatasetError(
                f"{path}: no field 'schema', so this is no dataset folder; point to one that an adapter wrote"
            )
        if tree["schema"] != SCHEMA:
            raise DatasetError(f"{path}: field 'schema' is {tree['schema']!r}, this odmt reads {SCHEMA}; {ANEW}")
        info = cls(**_checked(tree, path))
        for name in ("num_users", "num_items", "num_interactions"):
            if getattr(info, name) < 1:
                raise DatasetError(f"{path}: field '{name}' is {getattr(info, name)}, must be at least 1; {ANEW}")
        return info


def _checked(tree: Mapping[str, Any], path: Path) -> dict[str, Any]:
    known = {f.name: f for f in fields(DatasetInfo)}
    for name in tree:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else f"; known fields: {', '.join(known)}"
            raise DatasetError(f"{path}: unknown field '{name}'{hint}")
    for name, spec in known.items():
        if spec.default is MISSING and spec.default_factory is MISSING and name not in tree:
            raise DatasetError(f"{path}: field '{name}' is missing; {ANEW}")
    return {name: _checked_value(name, value, str(known[name].type), path) for name, value in tree.items()}


def _checked_value(name: str, value: Any, kind: str, path: Path) -> Any:
    if kind == "tuple[FileRecord, ...]":
        return tuple(_checked_record(name, entry, path) for entry in _of_type(name, value, list, path))
    if kind.startswith("Mapping"):
        entry = int if kind.endswith("int]") else str
        return {
            _of_type(name, k, str, path): _of_type(f"{name}.{k}", v, entry, path)
            for k, v in _of_type(name, value, dict, path).items()
        }
    return _of_type(name, value, int if kind == "int" else str, path)


def _checked_record(name: str, entry: Any, path: Path) -> FileRecord:
    if not isinstance(entry, dict) or entry.keys() != {"name", "size", "sha256"}:
        raise DatasetError(f"{path}: an entry of field '{name}' is {entry!r}, must have name, size and sha256; {ANEW}")
    return FileRecord(**{k: _of_type(f"{name}.{k}", v, int if k == "size" else str, path) for k, v in entry.items()})


def _of_type(name: str, value: Any, kind: type, path: Path) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DatasetError(
            f"{path}: field '{name}' is {value!r} ({type(value).__name__}), must be {kind.__name__}; {ANEW}"
        )
    return value


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ColumnHash:
    """Hash a column piece by piece: per value a type byte, the length and the bytes, so that none collide."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, values: Iterable[object]) -> None:
        """Add the next values."""
        pieces = [kind + len(data).to_bytes(8, "little") + data for kind, data in map(_encoded, values)]
        self._digest.update(b"".join(pieces))

    def hexdigest(self) -> str:
        """Return the sha256 of all values so far, in hex."""
        return self._digest.hexdigest()


def hash_column(values: Iterable[object]) -> str:
    """Return the sha256 of a column's values, in hex (see `ColumnHash`)."""
    digest = ColumnHash()
    digest.update(values)
    return digest.hexdigest()


def hash_media(paths: Iterable[str | None], root: Path) -> str:
    """Return the sha256 of media files by their paths from `root` and their sizes in bytes, or that one is absent.

    Sizes stand in for the contents: reading the clips of a catalogue takes hours, and another picture of exactly the
    same size is rare.
    """
    return hash_column(None if path is None else [path, _size_of(root / path)] for path in paths)


def _size_of(path: Path) -> int | str:
    try:
        return path.stat().st_size
    except OSError:
        return "absent"


def _encoded(value: object) -> tuple[bytes, bytes]:
    if value is None:
        return b"0", b""
    if isinstance(value, str):
        return b"s", value.encode()
    if isinstance(value, bytes):
        return b"b", value
    return b"j", json.dumps(value, sort_keys=True, default=str).encode()

"""Tables of any of the usual kinds, told by the file's suffix: csv, tsv, parquet, JSON lines."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_adapters.release import Columns, Delimited, EventFile, JsonLines, Parquet
from data_adapters.text_files import ReleaseError, first_record, read_json_lines, read_rows

__all__ = ["KINDS", "Table", "as_text", "holds_bytes", "open_table"]

KINDS = {
    ".csv": "delimited", ".tsv": "delimited", ".tab": "delimited", ".txt": "delimited",
    ".parquet": "parquet", ".pq": "parquet",
    ".jsonl": "lines", ".ndjson": "lines", ".json": "lines",
}  # fmt: skip
MARKS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas", " ": "blanks"}
"""What separates fields, likeliest first."""
LOOK_AHEAD = 1000
"""How many JSON objects are looked at for their keys, as any of them may lack some."""


@dataclass(frozen=True)
class Table:
    """Describe a file of rows with named columns."""

    path: Path
    kind: str
    columns: tuple[str, ...]
    """Those that can be text: of a parquet file, not those of bytes."""
    delimiter: str = ","
    quote: str = '"'
    headed: bool = True

    def events(self, roles: Mapping[str, str]) -> EventFile:
        """Describe the table as a file of events, given the column of each role."""
        named: Columns = {role: (name,) for role, name in roles.items()}
        if self.kind == "parquet":
            return Parquet(self.path, named)
        if self.kind == "lines":
            return JsonLines(self.path, named)
        if not self.headed:
            named = {role: (int(name),) for role, name in roles.items()}
        return Delimited(self.path, named, delimiter=self.delimiter, quote=self.quote)

    def rows(self, wanted: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str | None]]]:
        """Yield (line or row number, values of the wanted columns as text)."""
        if self.kind == "delimited":
            names = () if self.headed else self.columns
            rows = read_rows(self.path, delimiter=self.delimiter, quote=self.quote, columns=names)
            return ((number, {name: row[name] for name in wanted}) for number, row in rows)
        rows = read_json_lines(self.path) if self.kind == "lines" else _parquet_rows(self.path, wanted)
        return ((number, {name: as_text(row.get(name)) for name in wanted}) for number, row in rows)


def open_table(path: Path, *, delimiter: str | None = None, quote: str = '"', headed: bool = True) -> Table:
    """Look at a table's names and columns.

    Raises:
        ReleaseError: where it is of no known kind, or cannot be read.
    """
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    kind = KINDS.get(suffix.lower())
    if kind is None or (kind == "parquet" and path.suffix == ".gz"):
        raise ReleaseError(f"{path}: suffix {path.suffix!r} tells of no table; {', '.join(KINDS)} do, text also as .gz")
    if kind == "parquet":
        return Table(path, kind, _parquet_columns(path))
    if kind == "lines":
        keys = {key: None for _, row in islice(read_json_lines(path), LOOK_AHEAD) for key in row}
        return Table(path, kind, tuple(keys))
    delimiter = delimiter or ("," if suffix.lower() == ".csv" else "\t")
    first = first_record(path, delimiter=delimiter, quote=quote)
    other = next((mark for mark in MARKS if len(first) == 1 and mark in first[0]), None)
    if other is not None:
        raise ReleaseError(
            f"{path}, line 1: one field where fields are separated by {delimiter!r}: {first[0][:80]!r}; if they are "
            f"separated by {MARKS[other]}, say --delimiter {shlex.quote(other.replace(chr(9), chr(92) + 't'))}"
        )
    repeated = sorted({name for name in first if first.count(name) > 1})
    if headed and repeated:
        raise ReleaseError(f"{path}, line 1: the header names {', '.join(map(repr, repeated))} twice; rename one")
    names = tuple(first) if headed else tuple(str(place) for place in range(len(first)))
    return Table(path, kind, names, delimiter, quote, headed)


def as_text(value: Any) -> str | None:
    """Return a value as text: a list's entries with commas between, an object as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(text for text in map(as_text, value) if text)
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict) else str(value)


def _parquet_columns(path: Path) -> tuple[str, ...]:
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise ReleaseError(f"{path}: not a readable parquet file ({error}); download it again") from error
    return tuple(field.name for field in schema if not holds_bytes(field.type))


def holds_bytes(kind: pa.DataType) -> bool:
    """Say whether values of an Arrow type are or contain bytes, such as a picture's."""
    if kind.num_fields:  # of structs and lists
        return any(holds_bytes(kind.field(place).type) for place in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _parquet_rows(path: Path, wanted: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=list(wanted)):
            for row in batch.to_pylist():
                number += 1
                yield number, row

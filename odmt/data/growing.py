"""The files of a dataset folder while they grow: arrays whose length is not known yet, tables with their checks."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from odmt.data.manifest import MODALITIES, ColumnHash, DatasetError
from odmt.data.reading import ARRAYS

__all__ = ["GrowingArray", "GrowingTable", "check_items"]


class GrowingArray:
    """A .npy file that grows; numpy leaves room in its header for the final number of rows."""

    def __init__(self, path: Path, name: str) -> None:
        self.dtype = ARRAYS[name]
        self.rows = 0
        self._file: BinaryIO = path.open("wb")
        self._write_header()

    def append(self, values: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(values, self.dtype).data)
        self.rows += len(values)

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def abandon(self) -> None:
        # a buffer that a full disk refused would be tried again
        try:
            self._file.close()
        except OSError:
            return

    def _write_header(self) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows,)}
        np.lib.format.write_array_header_1_0(self._file, header)


class GrowingTable:
    """A parquet file that grows, with the hash of every column and a check that ids are text and unique."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self.rows = 0
        self.present: dict[str, int] = {}
        """Per column, how many rows have a value."""
        self._hashes: dict[str, ColumnHash] = {}
        self._ids = array("q")
        self._writer: pq.ParquetWriter | None = None

    def append(self, columns: Mapping[str, Sequence[Any]], types: Mapping[str, pa.DataType] = {}) -> None:
        for value in columns["id"]:
            if not isinstance(value, str):
                raise DatasetError(
                    f"{self.what} id {value!r} is {type(value).__name__}, must be text; write str({value!r})"
                )
        text = {c: pa.string() for c in columns if c == "id" or c in MODALITIES}
        table = pa.table({c: pa.array(v, ({**types, **text}).get(c)) for c, v in columns.items()})
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, table.schema)
            self._hashes = {column: ColumnHash() for column in columns}
            self.present = dict.fromkeys(columns, 0)
        elif table.schema != self._writer.schema:
            raise DatasetError(
                f"{self.what}s have columns {table.schema.names} after {self._writer.schema.names}, or other types; "
                "give every piece the same columns, as pyarrow arrays where types could be guessed differently"
            )
        self._writer.write_table(table)
        for column, values in columns.items():
            self._hashes[column].update(values)
            self.present[column] += len(values) - table.column(column).null_count
        self._ids.extend(map(hash, columns["id"]))
        self.rows += len(columns["id"])

    def check_unique(self) -> None:
        # eight bytes an id instead of a set of texts; equal hashes are looked at closely
        hashes = np.sort(np.frombuffer(self._ids, np.int64))
        doubtful = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        if not doubtful:
            return
        seen: set[str] = set()
        for batch in pq.ParquetFile(self.path).iter_batches(columns=["id"]):
            for value in batch.column(0).to_pylist():
                if value in seen:
                    raise DatasetError(f"{self.what} id '{value}' occurs twice; merge its rows")
                if hash(value) in doubtful:
                    seen.add(value)

    def hashes(self) -> Iterator[tuple[str, str]]:
        return ((column, digest.hexdigest()) for column, digest in self._hashes.items())

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def abandon(self) -> None:
        try:
            self.close()
        except (OSError, pa.ArrowException):
            return


def check_items(items: Mapping[str, Sequence[Any]]) -> None:
    """Raise `DatasetError` where columns differ in length, or content is neither text nor None."""
    if "id" not in items:
        raise DatasetError(
            f"items have no column 'id', only {', '.join(items) or 'none'}; give the vendor's ids as text"
        )
    ids = items["id"]
    for column, values in items.items():
        if len(values) != len(ids):
            raise DatasetError(
                f"items: column '{column}' has {len(values)} rows, column 'id' has {len(ids)}; give a row per item"
            )
    for modality in MODALITIES:
        for row, value in enumerate(items.get(modality, ())):
            if value is not None and (not isinstance(value, str) or not value):
                raise DatasetError(
                    f"items: {modality} of item '{ids[row]}' is {value!r}, must be text, or None where it has none"
                )
            if value is not None and modality != "text" and not _is_inside(value):
                raise DatasetError(
                    f"items: {modality} of item '{ids[row]}' is {value!r}, must be a path inside media_root"
                )


def _is_inside(path: str) -> bool:
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts

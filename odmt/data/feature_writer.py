"""Write a feature folder piece by piece: a killed run goes on where it stopped and ends in the same bytes.

While it grows, a folder is called `.<key>.partial`, a name no reader looks at, and holds a journal. Tokens reach the
disk before the journal line that owns them, so what the journal lists is whole whenever the process dies; anything
behind it is cut off on resuming. Only a finished folder gets its name, in one rename.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from odmt.data.feature_folders import SCHEMA, feature_key
from odmt.data.tokens import FeatureError, TokenTable

__all__ = ["FeatureWriter"]


class FeatureWriter:
    """Collect the tokens of a catalogue under `<root>/<modality>/<key>`, in any order of items, in any number of runs.

    `recipe` is what the key is made of: modality, dataset, encoder settings and width. Use as a context manager, ask
    for `remaining` items, `append` their tokens in pieces, `finish` once. Raises `FeatureError` where another process
    writes the same folder, where tokens do not fit the recipe, and where the disk is full.
    """

    def __init__(self, root: Path, *, recipe: Mapping[str, Any], num_items: int) -> None:
        self.key = feature_key(recipe)
        self.folder = root / str(recipe["modality"]) / self.key
        self.partial = self.folder.with_name(f".{self.key}.partial")
        self.recipe = dict(recipe)
        self.width = int(recipe["width"])
        self.spans = np.zeros((num_items + 1, 2), dtype=np.int64)
        self.seen = np.zeros(num_items + 1, dtype=bool)
        self.unreadable: dict[int, str] = {}
        self.rows = 0
        # numpy leaves room in the header for the number of rows to grow, so that it can be filled in at the end.
        self._header = _npy_header(0, self.width)
        if self.folder.exists():
            raise FeatureError(f"{self.folder} is there already; remove it to encode again")
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
            self._journal = _open_for_update(self.partial / "journal.jsonl")
            self._lock()
            self._tokens = _open_for_update(self.partial / "tokens.npy")
            self._resume()
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tokens.close()
        self._journal.close()

    @property
    def num_done(self) -> int:
        return int(self.seen.sum())

    def remaining(self, items: Iterable[int]) -> list[int]:
        """Keep those of `items` that no earlier piece or run has delivered, in the order given."""
        return [item for item in items if not self.seen[item]]

    def append(
        self,
        items: Sequence[int] | np.ndarray,
        tokens: Sequence[np.ndarray] | np.ndarray,
        *,
        unreadable: Mapping[int, str] | None = None,
    ) -> None:
        """Store one piece durably: an array [tokens, width] per item; `unreadable` gives items without one a reason."""
        items = [int(item) for item in items]  # also of an array of numpy, whose numbers JSON does not know
        if len(set(items)) < len(items):
            raise FeatureError(f"item {max(items, key=items.count)} stands more than once in one piece; give it once")
        stored = [self._checked(item, array) for item, array in zip(items, tokens, strict=True)]
        lengths = [len(array) for array in stored]
        failed = {int(item): reason for item, reason in (unreadable or {}).items()}
        line = {"items": items, "lengths": lengths, "unreadable": failed}
        try:
            _write(self._tokens, b"".join(array.tobytes() for array in stored))
            _write(self._journal, json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise self._failed(error) from error
        self._account(items, lengths, failed)

    def finish(self, notes: Mapping[str, Any]) -> Path:
        """Give the folder its name and return it; `notes` go into recipe.yaml beside the recipe and the counts."""
        import yaml

        with_tokens = int((self.spans[:, 1] > 0).sum())
        recipe = {
            "schema": SCHEMA,
            "key": self.key,
            **self.recipe,
            "dtype": "float16",
            "items": len(self.spans) - 1,
            "items_with_tokens": with_tokens,
            "items_without_content": len(self.spans) - 1 - with_tokens - len(self.unreadable),
            "unreadable": dict(sorted(self.unreadable.items())),
            "tokens": self.rows,
            **notes,
            "done": True,
        }
        try:
            self._tokens.seek(0)
            _write(self._tokens, _npy_header(self.rows, self.width))
            with (self.partial / "spans.npy").open("wb") as file:
                np.save(file, self.spans)
                _sync(file)
            with (self.partial / "recipe.yaml").open("wb") as file:
                file.write(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).encode())
                _sync(file)
            TokenTable.open(self.partial)
            (self.partial / "journal.jsonl").unlink()
            os.rename(self.partial, self.folder)
        except OSError as error:
            raise self._failed(error) from error
        return self.folder

    def _checked(self, item: int, array: np.ndarray) -> np.ndarray:
        if not 1 <= item < len(self.seen):
            raise FeatureError(f"item {item} is not in the catalogue, whose items are 1 to {len(self.seen) - 1}")
        if array.ndim != 2 or array.shape[1] != self.width:
            raise FeatureError(f"item {item}: the encoder gave {array.shape}, expected [tokens, {self.width}]")
        if self.seen[item]:
            raise FeatureError(f"item {item} was written before; write only what `remaining` returns")
        with np.errstate(over="ignore"):
            half = array.astype("<f2")
        if not np.isfinite(half).all():
            raise FeatureError(
                f"item {item}: the encoder gave NaN, infinity or values beyond float16 (largest "
                f"{np.abs(array).max()}); choose another layer, or run without --bf16"
            )
        return half

    def _account(self, items: Sequence[int], lengths: Sequence[int], unreadable: Mapping[int, str]) -> None:
        where = np.asarray(items, dtype=np.int64)
        ends = self.rows + np.cumsum(lengths, dtype=np.int64)
        self.spans[where, 1] = lengths
        self.spans[where, 0] = np.where(self.spans[where, 1] > 0, ends - lengths, 0)
        self.seen[where] = True
        self.unreadable.update(unreadable)
        self.rows += sum(lengths)

    def _resume(self) -> None:
        # Take the longest prefix of whole journal lines whose tokens are on disk, and cut both files behind it.
        size = os.fstat(self._tokens.fileno()).st_size
        good = 0
        for line in self._journal:
            if not line.endswith(b"\n"):
                break
            entry = json.loads(line)
            if self._offset(self.rows + sum(entry["lengths"])) > size:
                break
            # JSON has no integer keys
            failed = {int(item): reason for item, reason in entry["unreadable"].items()}
            self._account(entry["items"], entry["lengths"], failed)
            good += len(line)
        self._journal.truncate(good)
        self._journal.seek(good)
        self._tokens.truncate(self._offset(self.rows) if good else 0)
        self._tokens.seek(0, os.SEEK_END)
        if not good:
            _write(self._tokens, self._header)

    def _offset(self, rows: int) -> int:
        return len(self._header) + 2 * self.width * rows

    def _lock(self) -> None:
        # Two writers would interleave their tokens. The lock goes with the process, however it dies.
        if os.name != "posix":
            return
        import fcntl

        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._journal.close()
            raise FeatureError(
                f"{self.partial} is being written by another process; wait for it, or stop it"
            ) from error

    def _failed(self, error: OSError) -> FeatureError:
        return FeatureError(
            f"{self.partial}: cannot write ({error.strerror or error}); nothing reads this folder, and "
            f"{self.num_done} of {len(self.seen) - 1} items in it are safe: make room (or remove it) and run the same "
            f"command again"
        )


def _npy_header(rows: int, width: int) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f2", "fortran_order": False, "shape": (rows, width)})
    return buffer.getvalue()


def _open_for_update(path: Path) -> io.FileIO:
    path.touch()
    # Unbuffered: a buffer that a full disk refused would be tried again when the file is closed.
    return path.open("r+b", buffering=0)


def _write(file: io.FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while len(rest):
        rest = rest[file.write(rest) :]
    _sync(file)


def _sync(file: io.FileIO | io.BufferedWriter) -> None:
    file.flush()
    os.fsync(file.fileno())

"""Open datasets of Hugging Face's `datasets`: saved ones, folders of data files, and by name from the hub.

Rows come as Arrow batches. Nothing that a dataset holds is executed: local files go to the parquet, csv or JSON reader
by their suffix, and loading scripts are gone from `datasets` since version 4.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from data_adapters.table_files import holds_bytes
from data_adapters.text_files import ReleaseError, first_record
from data_adapters.vendor_files import held

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

__all__ = ["HUB_NAME", "Rows", "near", "open_hub", "open_local"]

READERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".ndjson": "json", ".json": "json"}
ROWS = 10_000
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
SECONDS = 10
"""How long the hub has to say whether it has a dataset."""


@dataclass(frozen=True)
class Rows:
    """Describe rows with named columns that can be read again and again."""

    path: Path
    """The file or folder that they are kept in."""
    dataset: Dataset | IterableDataset
    schema: pa.Schema
    labels: Mapping[str, Sequence[str]]
    """Of columns that hold numbers of labels, the labels."""

    @classmethod
    def of(cls, path: Path, dataset: Dataset | IterableDataset) -> Rows:
        """Look at the first row.

        Raises:
            ReleaseError: where there is none, or it cannot be read.
        """
        first = next(_batches(path, lambda: dataset.with_format("arrow").iter(1)), None)
        if first is None:
            raise ReleaseError(f"{path}: holds no rows; name another split or file")
        labels = {name: kind.names for name, kind in (dataset.features or {}).items() if hasattr(kind, "names")}
        return cls(path, dataset, first.schema, labels)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that can be text."""
        return tuple(field.name for field in self.schema if not holds_bytes(field.type))

    def batches(self, columns: Sequence[str], *, size: int = ROWS) -> Iterator[pa.Table]:
        """Yield tables of the named columns, in that order."""
        wanted = list(dict.fromkeys(columns))
        chosen = self.dataset.select_columns(wanted).with_format("arrow")
        for table in _batches(self.path, lambda: chosen.iter(size)):
            yield table.select(list(columns)).replace_schema_metadata(None)


def _batches(path: Path, read: Callable[[], Iterator[Any]]) -> Iterator[pa.Table]:
    with _explained(path):
        yield from read()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, ValueError, DatasetsError, pa.ArrowException) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ReleaseError(f"{path}: cannot be read ({reason}); correct the file, or download it again") from error


def open_local(place: Path, *, split: str | None = None) -> list[Rows]:
    """Open a dataset saved with `save_to_disk`, a file, or the data files that lie directly in a folder.

    `split` chooses among those of a saved dataset; several are joined with +.

    Raises:
        ReleaseError: where there is nothing of the kind, or the split is open.
    """
    from datasets import Dataset, load_from_disk

    if (place / "dataset_dict.json").is_file():
        kept = sorted(p.name for p in place.iterdir() if (p / "state.json").is_file())
        return [rows for name in _splits(split, kept, place) for rows in open_local(place / name)]
    if split is not None and split != place.name:
        raise ReleaseError(f"{place}: has no splits, so --split {split} names none of it; leave it out")
    if (place / "state.json").is_file():
        try:
            saved = load_from_disk(str(place), keep_in_memory=False)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise ReleaseError(f"{place}: not a dataset that `datasets` saved ({error}); save it again") from error
        assert isinstance(saved, Dataset)
        return [Rows.of(place, saved)]
    files = [place] if place.is_file() else sorted(p for p in place.iterdir() if p.suffix.lower() in READERS)
    if not files or files[0].suffix.lower() not in READERS:
        there = held(place) if place.is_dir() else place.suffix
        raise ReleaseError(
            f"{place}: neither a dataset saved with save_to_disk nor data files ({', '.join(READERS)}); "
            f"it holds {there}"
        )
    return [Rows.of(path, _stream(path)) for path in files]


def _stream(path: Path) -> IterableDataset:
    from datasets import Features, IterableDataset, Value, load_dataset

    reader, separator = READERS[path.suffix.lower()], "\t" if path.suffix.lower() == ".tsv" else ","
    options: dict[str, Any] = {}
    if reader == "csv":
        # as text, so that 007 stays 007 and NA stays NA
        columns = first_record(path, delimiter=separator)
        text = Features({column: Value("string") for column in columns})
        options = {"features": text, "keep_default_na": False, "sep": separator}
    with _explained(path):
        opened = load_dataset(reader, data_files=[str(path.absolute())], split="train", streaming=True, **options)
    assert isinstance(opened, IterableDataset)
    return opened


def open_hub(
    name: str, *, config: str | None = None, split: str | None = None, revision: str | None = None
) -> list[Rows]:
    """Download a dataset from the hub, or find it in the cache of `datasets`.

    Raises:
        ReleaseError: where it cannot be had, or split or configuration are open.
    """
    from datasets import Dataset, load_dataset
    from datasets.exceptions import DatasetsError

    try:
        if not Path(name).exists():
            _check_there(name, revision)
        kept = load_dataset(name, config, revision=revision, keep_in_memory=False)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:  # RuntimeError: it needs a loading script
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ReleaseError(
            f"no file or folder at {name}{near(Path(name))}, nor could it be had from the hub: {reason}"
        ) from error
    assert isinstance(kept, dict)
    found = []
    for part in _splits(split, [str(key) for key in kept], name):
        dataset = kept[part]
        assert isinstance(dataset, Dataset)
        files = [Path(file["filename"]) for file in dataset.cache_files]
        found.append(Rows.of(files[0] if len(files) == 1 else files[0].parent, dataset))
    return found


def near(place: Path) -> str:
    """Say which name beside `place`, where nothing is, may have been meant."""
    beside = [path.name for path in place.parent.iterdir()] if place.parent.is_dir() else []
    close = difflib.get_close_matches(place.name, beside, n=1)
    return f" (did you mean '{place.with_name(close[0])}'?)" if close else ""


def _check_there(name: str, revision: str | None) -> None:
    """Ask the hub once; `datasets` would ask six times, with waits and warnings between.

    Raises:
        OSError: where it has no such dataset or cannot be reached.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        return
    # errors of the HTTP library, whose name depends on the version of huggingface_hub
    unreachable = OSError, cast("type[Exception]", HfHubHTTPError.__bases__[0])
    try:
        HfApi().dataset_info(name, revision=revision, timeout=SECONDS)
    except RevisionNotFoundError as error:
        raise OSError(f"it has no revision '{revision}'") from error
    except RepositoryNotFoundError as error:
        raise OSError("it has no dataset of that name, or shows it only to those who log in") from error
    except unreachable as error:
        raise OSError(
            f"it cannot be reached ({error}); with HF_HUB_OFFLINE=1 in the environment, what was downloaded before is "
            "taken"
        ) from error


def _splits(split: str | None, present: Sequence[str], where: Path | str) -> list[str]:
    if split is None and len(present) > 1:
        raise ReleaseError(
            f"{where}: has the splits {', '.join(present)}; choose with --split, or join all: {'+'.join(present)}"
        )
    chosen = list(present) if split is None else split.split("+")
    for name in chosen:
        if name not in present:
            raise ReleaseError(f"{where}: no split '{name}'; there are {', '.join(present) or 'none'}")
    return chosen

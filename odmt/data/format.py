"""The dataset folder: the one interface between vendors' files and everything here. Any program may write one.

    dataset.yaml            names, counts, tie rule, sources, hashes: the fields of `DatasetInfo`
    histories/offsets.npy   [users + 1] int64: user u's events are offsets[u]..offsets[u + 1]
    histories/items.npy     [interactions] int32: items 1..N, each user's oldest first; 0 is padding and never occurs
    histories/times.npy     [interactions] int64 unix milliseconds, absent where the vendor gives none
    users.parquet           `id`: the vendor's user id; row u is user u
    items.parquet           `id`, and `text`, `image`, `video`, `audio` where there are any: text, or a path from
                            media_root; null where an item has none; row i is item i + 1
    features/               token features of frozen encoders (odmt.data.features)

dataset.yaml must have schema, name, counts and tie_rule; hashes that it does not record are computed when needed.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from odmt.data.folder_writer import DatasetWriter
from odmt.data.making import HELP, RECIPES, recipe_of
from odmt.data.manifest import MODALITIES, DatasetError, DatasetInfo, FileRecord, hash_file
from odmt.data.reading import Dataset, open_dataset
from odmt.data.writing import Histories, write_dataset

__all__ = [
    "MODALITIES",
    "Dataset",
    "DatasetError",
    "DatasetInfo",
    "DatasetWriter",
    "FileRecord",
    "Histories",
    "find_dataset",
    "hash_file",
    "open_dataset",
    "write_dataset",
]


def find_dataset(name_or_path: str | Path, root: str | Path = "data") -> Path:
    """Return the dataset folder that `--dataset` means: `root`/name for a plain name, else the path itself.

    Raises:
        DatasetError: where there is none; names the download page and the commands that make it.
    """
    given = Path(name_or_path)
    is_name = len(given.parts) == 1 and str(name_or_path) not in (".", "..") and os.sep not in str(name_or_path)
    folder = Path(root) / given if is_name else given
    if folder.is_dir():
        return folder
    if is_name and (given / "dataset.yaml").is_file():
        return given
    raise DatasetError(f"no dataset folder at {folder}{_way_out(folder, Path(root))}")


def _way_out(folder: Path, root: Path) -> str:
    if recipe := recipe_of(folder):
        commands = "".join(f"\n  {line}" for line in recipe.lines(folder))
        notes = "; ".join(note for note in (HELP, recipe.without) if note)
        return f". To make it, {recipe.files} run:{commands}\n{notes}"
    present = sorted(p.parent.name for p in root.glob("[!.]*/dataset.yaml"))
    close = difflib.get_close_matches(folder.name, [*present, *RECIPES], n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"{hint}; {root} holds {', '.join(present) or 'none'}. An adapter makes one: python -m data_adapters --help"

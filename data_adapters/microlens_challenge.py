"""MicroLens-1M as the MM-CTR challenge (WWW 2025) released it: parquet files of a click prediction task.

Every row is a user with the sequence of items seen so far, padded with 0 on the left, of which a user has many; there
are no times. A user's history here is the longest of its sequences, of equally long ones the last of the last file:
of `item_seq.parquet` where it is there; else of train, valid and test, where the candidate of a row with label 1 is the
item that came next (others are negatives, and labels of test are withheld). Sequences that the vendor cut stay cut.
`item_emb_d128` of item_info.parquet mixes text and image, so it is no feature of either and is not imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_adapters.microlens_files import open_database
from data_adapters.release import Batches, Catalogue, Media, ReadyFeatures, Release
from data_adapters.text_files import ReleaseError

__all__ = ["is_challenge", "read_challenge"]

SEQUENCES, FEATURES, INFO = "item_seq.parquet", "item_feature.parquet", "item_info.parquet"
FOLDER = "MicroLens_1M_x1"
SPLITS = ("train.parquet", "valid.parquet", "test.parquet")
FIELDS = {"title": "item_title", "tags": "item_tags", "likes": "likes_level", "views": "views_level"}
EMBEDDINGS = {"txt_emb_BERT": "text", "img_emb_CLIPRN50": "image"}
ROWS = 4096

LONGEST = """
WITH rows AS (
    SELECT user_id, list_filter({sequence}, lambda x: x <> 0) AS items, filename AS file, file_row_number AS row
    FROM read_parquet($paths, filename = true, file_row_number = true, union_by_name = true)
), best AS (
    SELECT user_id, max({{'length': len(items), 'file': file, 'row': row}}) AS one FROM rows GROUP BY user_id
)
SELECT rows.user_id AS user, rows.items FROM rows JOIN best ON rows.file = best.one.file AND rows.row = best.one.row
"""
NEXT = "CASE WHEN label = 1 THEN list_append(item_seq, item_id) ELSE item_seq END"

ROLES = ("user", "items")


def is_challenge(raw: Path) -> bool:
    """Return whether `raw` holds the challenge's files."""
    return any(_find(raw, name) for name in (SEQUENCES, FEATURES, SPLITS[0]))


def read_challenge(
    raw: Path, *, media: Mapping[str, Media], notes: Mapping[str, str], leaks: Mapping[str, str]
) -> Release:
    """Describe the challenge's files under `raw`.

    Raises:
        ReleaseError: where the sequences or a column are missing.
    """
    catalogues = [path for path in (_find(raw, FEATURES), _find(raw, INFO)) if path]
    fields = [field for field, column in FIELDS.items() if any(column in _columns(path) for path in catalogues)]
    events, source = _events(raw)
    return Release(
        events=[events],
        catalogues=[Catalogue(path, lambda path=path: _items(path)) for path in catalogues],
        fields=fields,
        text="{title}" if "title" in fields else "",
        media=media,
        media_root=raw,
        integer_ids=True,
        features=[found for path in catalogues for found in _embeddings(path)],
        leaks={field: why for field, why in leaks.items() if field in fields},
        notes={**notes, "layout": "MM-CTR challenge", "histories": f"the longest sequence of each user in {source}"},
    )


def _events(raw: Path) -> tuple[Batches, str]:
    sequences = _find(raw, SEQUENCES)
    if sequences:
        _check(sequences, "user_id", "item_seq")
        return Batches(sequences, lambda: _histories([sequences], "item_seq"), ROLES), sequences.name
    paths = [path for name in SPLITS if (path := _find(raw, name))]
    if not paths:
        raise ReleaseError(f"{raw}: neither {SEQUENCES} nor {FOLDER}/{SPLITS[0]}; download one of them")
    for path in paths:
        _check(path, "user_id", "item_seq", "item_id")
    _check(paths[0], "label")
    return Batches(paths[0], lambda: _histories(paths, NEXT), ROLES, also=paths[1:]), ", ".join(
        path.name for path in paths
    )


def _histories(paths: list[Path], sequence: str) -> Iterator[pa.RecordBatch]:
    with open_database() as database:
        query = database.sql(LONGEST.format(sequence=sequence), params={"paths": [str(path) for path in paths]})
        yield from query.to_arrow_reader(ROWS)


def _items(path: Path) -> Iterator[tuple[str, dict[str, str | None]]]:
    columns = {field: column for field, column in FIELDS.items() if column in _columns(path)}
    for batch in pq.ParquetFile(path).iter_batches(ROWS, columns=["item_id", *columns.values()]):
        for row in batch.to_pylist():
            if row["item_id"]:  # row 0 is padding
                yield str(row["item_id"]), {field: _text(row[column]) for field, column in columns.items()}


def _text(value: object) -> str | None:
    if isinstance(value, list):
        return " ".join(str(tag) for tag in value if tag)  # 0 pads tags, too
    return None if value is None else str(value).strip()


def _embeddings(path: Path) -> Iterator[ReadyFeatures]:
    names = [name for name in EMBEDDINGS if name in _columns(path)]
    ids = [str(item) for item in pq.read_table(path, columns=["item_id"])["item_id"].to_pylist()] if names else []
    for name in names:
        yield ReadyFeatures(EMBEDDINGS[name], name, path, lambda name=name: _matrix(path, name), ids)


def _matrix(path: Path, name: str) -> np.ndarray:
    file = pq.ParquetFile(path)
    rows = [_rows(batch.column(0), path, name) for batch in file.iter_batches(ROWS, columns=[name])]
    return np.concatenate(rows)


def _rows(vectors: pa.Array, path: Path, name: str) -> np.ndarray:
    lengths = set(vectors.value_lengths().to_pylist())
    if len(lengths) != 1 or None in lengths:
        raise ReleaseError(f"{path}, column {name}: vectors of different widths {lengths}; download it again")
    return np.asarray(vectors.flatten(), dtype=np.float32).reshape(len(vectors), -1)


def _find(raw: Path, name: str) -> Path | None:
    places = (name, f"{FOLDER}/{name}", f"*/{name}", f"*/{FOLDER}/{name}")
    return next((path for place in places for path in sorted(raw.glob(place))), None)


def _columns(path: Path) -> list[str]:
    try:
        return pq.read_schema(path).names
    except (pa.ArrowInvalid, OSError) as error:
        raise ReleaseError(f"{path}: no readable parquet file ({error}); download it again") from error


def _check(path: Path, *needed: str) -> None:
    missing = [name for name in needed if name not in _columns(path)]
    if missing:
        raise ReleaseError(
            f"{path}: no column {', '.join(missing)}; it has {', '.join(_columns(path))}; download it again"
        )

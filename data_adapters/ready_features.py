"""Bring features that a vendor published into the dataset folder, one vector per item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_adapters.release import ReadyFeatures
from data_adapters.text_files import ReleaseError
from odmt.data.feature_writer import FeatureWriter
from odmt.data.format import Dataset
from odmt.data.tokens import FeatureError

__all__ = ["write_features"]

ROWS = 4096


def write_features(dataset: Dataset, features: Sequence[ReadyFeatures], hashes: Mapping[Path, str]) -> None:
    """Write each of `features` as a feature folder of `dataset`: one token per item, none for items without a row.

    `hashes` gives the sha256 of each file. A row of zeros stands for missing content, as in the published files.

    Raises:
        ReleaseError: where a file's shape does not fit its ids, or its values do not fit float16.
    """
    for ready in features:
        try:
            _write(dataset, ready, hashes[ready.path])
        except FeatureError as error:
            raise ReleaseError(f"{ready.path}: {error}") from error


def _write(dataset: Dataset, ready: ReadyFeatures, sha256: str) -> None:
    values = ready.load()
    if values.ndim != 2 or len(values) != len(ready.ids):
        raise ReleaseError(
            f"{ready.path}: holds {list(values.shape)}, expected one row for each of {len(ready.ids)} items; it "
            "belongs to another release, or was not downloaded whole"
        )
    row_of = {item: row for row, item in enumerate(ready.ids)}
    recipe = {
        "modality": ready.modality,
        "dataset": dataset.content_fingerprint(ready.modality),
        "encoder": ready.encoder,
        "width": int(values.shape[1]),
        "settings": {"published": ready.path.name, "sha256": sha256},
    }
    rows = np.array([row_of.get(item, -1) for item in dataset.ids()])
    with FeatureWriter(dataset.path / "features", recipe=recipe, num_items=dataset.num_items) as writer:
        for begin in tqdm(
            range(0, len(rows), ROWS), desc=ready.path.name, unit_scale=ROWS, unit=" items", disable=None
        ):
            piece = rows[begin : begin + ROWS]
            tokens = np.asarray(values[np.maximum(piece, 0)], np.float32)
            there = (piece >= 0) & (tokens != 0).any(axis=1)
            items = list(range(begin + 1, begin + 1 + len(piece)))
            writer.append(items, [row[None] if has else row[None][:0] for row, has in zip(tokens, there, strict=True)])
        writer.finish({"made_by": "published by the vendor", "source": ready.path.name})

"""Encode one modality of a dataset into its feature folder: batch by batch, resumable, skipped where it is present."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from odmt.data.feature_folders import feature_key, read_recipe
from odmt.data.feature_writer import FeatureWriter
from odmt.data.features import open_features
from odmt.data.format import Dataset
from odmt.encoders import Content, Encoder, Fitted, Unreadable
from odmt.encoders.contents import contents_of
from odmt.encoders.pooled import MeanPooled

__all__ = ["EncodedModality", "encode_modality"]

ORDER = "items by falling length, then by id; encoded in batches of neighbours"


@dataclass(frozen=True)
class EncodedModality:
    """Say what a feature folder holds; `unreadable` gives reasons per item, the last three what making it took now."""

    folder: Path
    items: int
    items_with_tokens: int
    tokens: int
    unreadable: dict[int, str]
    skipped: bool
    new_tokens: int
    seconds: float


def encode_modality(
    dataset: Dataset, modality: str, encoder: Encoder, *, batch_size: int, progress: bool = True
) -> EncodedModality:
    """Write the features of `modality` made by `encoder`, or find them present; a killed run is continued.

    The same command ends in the same bytes, however often it was interrupted. Another batch size or machine may differ
    in the last bit of a value: sums are then taken in another order.
    """
    started = time.monotonic()
    root = dataset.path / "features"
    if modality != "text":
        dataset.check_media(modality)
    recipe = {
        "modality": modality,
        "dataset": dataset.content_fingerprint(modality),
        "encoder": encoder.name,
        "width": encoder.width,
        "settings": dict(encoder.recipe()),
    }
    folder = root / modality / feature_key(recipe)
    if folder.exists():
        open_features(dataset, [modality], select={modality: folder.name})
        return _report(folder, skipped=True, new_tokens=0, started=started)
    contents = {item: one for item, one in enumerate(contents_of(dataset, modality), start=1) if one is not None}
    fitted = isinstance(encoder.encoder if isinstance(encoder, MeanPooled) else encoder, Fitted)
    if isinstance(encoder, Fitted):
        encoder.fit(list(contents.values()))
    lengths = encoder.lengths(list(contents.values()))
    # Longest first: what does not fit into memory shows at once, and the time left is not underestimated.
    order = [item for _, item in sorted(zip((-length for length in lengths), contents, strict=True))]
    with FeatureWriter(root, recipe=recipe, num_items=dataset.num_items) as writer:
        before = writer.rows
        _encode_remaining(writer, encoder, order, contents, batch_size=batch_size, progress=progress)
        new_tokens = writer.rows - before
        writer.finish({"order": ORDER, "batch_size": batch_size, "versions": _versions(), "fitted": fitted})
    return _report(folder, skipped=False, new_tokens=new_tokens, started=started)


def _encode_remaining(
    writer: FeatureWriter,
    encoder: Encoder,
    order: Sequence[int],
    contents: Mapping[int, Content],
    *,
    batch_size: int,
    progress: bool,
) -> None:
    from tqdm import tqdm

    remaining = writer.remaining(order)
    initial = len(order) - len(remaining)
    with tqdm(total=len(order), initial=initial, unit="item", desc=encoder.name, disable=not progress) as bar:
        for begin in range(0, len(remaining), batch_size):
            batch = remaining[begin : begin + batch_size]
            encoded = encoder.encode([contents[item] for item in batch])
            broken = {i: one.reason for i, one in zip(batch, encoded, strict=True) if isinstance(one, Unreadable)}
            nothing = np.zeros((0, encoder.width), dtype=np.float32)
            writer.append(
                batch, [nothing if isinstance(one, Unreadable) else one for one in encoded], unreadable=broken
            )
            bar.update(len(batch))


def _report(folder: Path, *, skipped: bool, new_tokens: int, started: float) -> EncodedModality:
    recipe = read_recipe(folder)
    return EncodedModality(
        folder=folder,
        items=recipe["items"],
        items_with_tokens=recipe["items_with_tokens"],
        tokens=recipe["tokens"],
        unreadable=recipe["unreadable"],
        skipped=skipped,
        new_tokens=new_tokens,
        seconds=time.monotonic() - started,
    )


def _versions() -> dict[str, str]:
    names = ("odmt", "torch", "transformers", "timm", "scikit-learn", "pillow")
    return {name: importlib.metadata.version(name) for name in names}

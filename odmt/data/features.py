"""Frozen token features of a catalogue: in memory, or as folders beside the dataset that are read without loading them.

A feature folder is `features/<modality>/<key>/` inside a dataset folder:

- `tokens.npy` [total tokens, width] fp16: the tokens of all items, one item's tokens side by side;
- `spans.npy` [num_items + 1, 2] int64: first row and number of rows per item; 0 rows for padding (row 0) and for items
  that lack the modality;
- `recipe.yaml`: what made them (encoder, layer, preprocessing, dataset), from which `key` follows.

The folder's name and the recipe must agree with each other and with the dataset, which is checked on opening. So
write tokens that were computed elsewhere with `odmt.data.feature_writer.FeatureWriter`, which takes plain arrays and
sees to that:

    recipe = {"modality": "text", "dataset": dataset.content_fingerprint("text"), "encoder": "ours", "width": 384,
              "settings": {"whatever": "decides the values"}}
    with FeatureWriter(dataset.path / "features", recipe=recipe, num_items=dataset.num_items) as writer:
        writer.append([1, 2], [tokens_of_item_1, tokens_of_item_2])
        writer.finish({})  # {"fitted": True} where the encoder learnt from this catalogue, and says nothing of others
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from odmt.data.feature_folders import (
    FeaturedDataset,
    MissingFeaturesError,
    Wanted,
    check_present,
    choose,
)
from odmt.data.tokens import FeatureError, TokenTable
from odmt.types import Tokens

__all__ = [
    "FeatureError",
    "FeaturedDataset",
    "ItemFeatures",
    "MissingFeaturesError",
    "TokenTable",
    "open_features",
]

NOTHING: Mapping[str, Any] = MappingProxyType({})


class ItemFeatures:
    """Give the model the stored tokens of any set of items, per modality (the `Features` protocol of `odmt.types`).

    `max_tokens` shortens a modality when it is read, so that one cache serves several lengths. `recipes` say what made
    the tokens of a modality, where they come from a feature folder.
    """

    def __init__(
        self,
        tables: Mapping[str, TokenTable],
        *,
        num_items: int,
        max_tokens: Mapping[str, int] = NOTHING,
        recipes: Mapping[str, Mapping[str, Any]] = NOTHING,
    ) -> None:
        if "id" in tables:
            raise FeatureError(
                "features are called 'id', which is the stream of learned ids; give them another name, as id_text"
            )
        for modality, table in tables.items():
            if table.num_items != num_items:
                raise FeatureError(f"{modality} features cover {table.num_items} items, the catalogue has {num_items}")
        for modality, limit in max_tokens.items():
            if modality not in tables:
                raise FeatureError(f"max_tokens names {modality!r}; the modalities are {', '.join(tables) or 'none'}")
            if limit < 1:
                raise FeatureError(f"max_tokens of {modality} must be at least 1, not {limit}")
        self.tables = dict(tables)
        self.max_tokens = dict(max_tokens)
        self.recipes = dict(recipes)
        self._num_items = num_items

    @classmethod
    def from_arrays(cls, num_items: int, **arrays: np.ndarray | Sequence[np.ndarray | None]) -> ItemFeatures:
        """Take features from memory: `ItemFeatures.from_arrays(2, text=np.ones((2, 5, 8)), image=[first, None])`.

        Entry i belongs to item i + 1. An entry is one token [width] or several [tokens, width]; None or zero tokens
        mean that the item lacks the modality. float16 stays; everything else is stored as float32.
        """
        return cls({name: _table_of(name, num_items, given) for name, given in arrays.items()}, num_items=num_items)

    @property
    def num_items(self) -> int:
        return self._num_items

    @property
    def widths(self) -> Mapping[str, int]:
        """Give the feature width of every modality, in the order in which they were asked for."""
        return {modality: table.width for modality, table in self.tables.items()}

    @property
    def keys(self) -> Mapping[str, str]:
        """Give the name of each modality's feature folder, which says what made it; "" where made from arrays."""
        return {name: "" if table.folder is None else table.folder.name for name, table in self.tables.items()}

    def limited(self, max_tokens: Mapping[str, int]) -> ItemFeatures:
        """Read the same tables with these limits and no others; a modality that is not named is read whole."""
        return ItemFeatures(self.tables, num_items=self.num_items, max_tokens=max_tokens, recipes=self.recipes)

    def gather(self, modality: str, items: np.ndarray | Sequence[int]) -> Tokens:
        """Read the tokens of `items` (ids 0..num_items), padded to the longest of them and to at least one."""
        return self._table(modality).gather(items, self.max_tokens.get(modality))

    def count_tokens(self, modality: str, items: np.ndarray | Sequence[int]) -> np.ndarray:
        """Say how many tokens `gather` finds for each of `items` (ids 0..num_items), [items]."""
        return self._table(modality).lengths(items, self.max_tokens.get(modality))

    def _table(self, modality: str) -> TokenTable:
        if modality not in self.tables:
            raise FeatureError(f"no {modality!r} features here; there are {', '.join(self.tables) or 'none'}")
        return self.tables[modality]


def open_features(
    dataset: FeaturedDataset,
    modalities: Sequence[str],
    *,
    select: Mapping[str, str] = NOTHING,
    max_tokens: Mapping[str, int] = NOTHING,
) -> ItemFeatures:
    """Map the features of `modalities` that belong to `dataset`; milliseconds, whatever their size.

    `select` chooses among several caches of a modality by encoder name (where tokens were pooled, with or without "mean
    of ") or by the beginning of a key; `max_tokens` reads no more than so many tokens per item. A further cache of a
    modality is read beside the first under a name of one's own: `{"text": "minilm", "words": "text:tfidf"}` for the
    modalities "text" and "words". Raises `FeatureError` where there are several, damaged ones, or only ones that were
    made for another dataset, and, of all modalities at once, `MissingFeaturesError` where there are none.
    """
    for modality in select:
        if modality not in modalities:
            raise FeatureError(f"features are chosen for {modality!r}, but the modalities are {', '.join(modalities)}")
    tables: dict[str, TokenTable] = {}
    recipes: dict[str, Mapping[str, Any]] = {}
    of: dict[Path, str] = {}
    streams = [Wanted.of(dataset, name, select.get(name)) for name in modalities]
    check_present(dataset, streams)
    for name, wanted in zip(modalities, streams, strict=True):
        folder, recipe = choose(dataset, wanted)
        if folder in of:
            raise FeatureError(
                f"{of[folder]!r} and {name!r} are the same features, {folder}; choose others for one of them, or leave "
                "it out"
            )
        of[folder] = name
        tables[name], recipes[name] = _open_table(folder, recipe, dataset.num_items), recipe
    return ItemFeatures(tables, num_items=dataset.num_items, max_tokens=max_tokens, recipes=recipes)


def _open_table(folder: Path, recipe: Mapping[str, Any], num_items: int) -> TokenTable:
    table = TokenTable.open(folder)
    if (table.num_items, table.width) != (num_items, recipe["width"]):
        raise FeatureError(
            f"{folder}: holds {table.num_items} items of width {table.width}, expected {num_items} of "
            f"{recipe['width']}; remove it and encode again"
        )
    return table


def _table_of(modality: str, num_items: int, given: np.ndarray | Sequence[np.ndarray | None]) -> TokenTable:
    if len(given) != num_items:
        raise FeatureError(f"{modality}: {len(given)} entries for {num_items} items; entry i must belong to item i + 1")
    if isinstance(given, np.ndarray) and given.ndim not in (2, 3):
        raise FeatureError(f"{modality}: expected [items, width] or [items, tokens, width], not {given.shape}")
    present = {i + 1: np.atleast_2d(np.asarray(entry)) for i, entry in enumerate(given) if entry is not None}
    if not present:
        raise FeatureError(f"{modality}: no item has any features, so that even their width is unknown")
    width = next(iter(present.values())).shape[-1]
    spans = np.zeros((num_items + 1, 2), dtype=np.int64)
    start = 0
    for item, tokens in present.items():
        if tokens.ndim != 2 or tokens.shape[1] != width:
            raise FeatureError(f"{modality}: item {item} has shape {tokens.shape}, expected [tokens, {width}]")
        if not np.isfinite(tokens).all():
            raise FeatureError(f"{modality}: item {item} holds NaN or infinity; give None where there is no content")
        spans[item] = start, len(tokens)
        start += len(tokens)
    stored = np.concatenate(list(present.values()))
    return TokenTable(stored if stored.dtype == np.float16 else stored.astype(np.float32), spans)

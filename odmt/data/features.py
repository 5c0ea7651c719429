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
        writer.finish({})
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np

from odmt.data import MODALITIES
from odmt.data.tokens import FeatureError, TokenTable
from odmt.types import Tokens

__all__ = [
    "FeatureError",
    "FeaturedDataset",
    "ItemFeatures",
    "TokenTable",
    "feature_key",
    "open_features",
    "read_recipe",
]

SCHEMA = 1
NOTHING: Mapping[str, Any] = MappingProxyType({})
KEY = re.compile(r"[0-9a-f]{16}")
IDENTITY = ("modality", "dataset", "settings", "width")
POOLED = "mean of "
"""What stands before an encoder's name where each item has the mean of its tokens alone."""


@runtime_checkable
class FeaturedDataset(Protocol):
    """Name what features need to know of a dataset: its folder, its size, and what its content hashes to."""

    @property
    def path(self) -> Path: ...

    @property
    def num_items(self) -> int: ...

    def content_fingerprint(self, modality: str) -> str: ...


class ItemFeatures:
    """Give the model the stored tokens of any set of items, per modality (the `Features` protocol of `odmt.types`).

    `max_tokens` shortens a modality when it is read, so that one cache serves several lengths.
    """

    def __init__(
        self, tables: Mapping[str, TokenTable], *, num_items: int, max_tokens: Mapping[str, int] = NOTHING
    ) -> None:
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
        return ItemFeatures(self.tables, num_items=self.num_items, max_tokens=max_tokens)

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
    modalities "text" and "words". Raises `FeatureError` where there are no features, several, damaged ones, or only
    ones that were made for another dataset.
    """
    for modality in select:
        if modality not in modalities:
            raise FeatureError(f"features are chosen for {modality!r}, but the modalities are {', '.join(modalities)}")
    tables: dict[str, TokenTable] = {}
    of: dict[Path, str] = {}
    for name in modalities:
        folder, recipe = _choose(dataset, name, select.get(name))
        if folder in of:
            raise FeatureError(
                f"{of[folder]!r} and {name!r} are the same features, {folder}; choose others for one of them, or leave "
                "it out"
            )
        of[folder] = name
        tables[name] = _open_table(folder, recipe, dataset.num_items)
    return ItemFeatures(tables, num_items=dataset.num_items, max_tokens=max_tokens)


def feature_key(recipe: Mapping[str, Any]) -> str:
    """Hash what decides the values of features: modality, dataset, encoder settings, width; 16 hexadecimal digits."""
    identity = {name: recipe[name] for name in IDENTITY}
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def read_recipe(folder: Path) -> Mapping[str, Any]:
    """Read what made the features in `folder`. Raises `FeatureError` where it is missing, foreign or edited."""
    import yaml

    path = folder / "recipe.yaml"
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FeatureError(f"{path}: cannot be read ({error}); remove {folder} and encode again") from error
    missing = [n for n in ("schema", "encoder", "done", *IDENTITY) if not isinstance(recipe, dict) or n not in recipe]
    if missing:
        raise FeatureError(f"{path}: lacks {', '.join(missing)}; remove {folder} and encode again")
    if recipe["schema"] != SCHEMA:
        raise FeatureError(
            f"{path}: schema is {recipe['schema']!r}, this odmt reads {SCHEMA}; encode again with this odmt"
        )
    if feature_key(recipe) != folder.name:
        raise FeatureError(
            f"{path}: the recipe hashes to {feature_key(recipe)}, not to the folder's name {folder.name}: it was "
            f"edited or moved; remove {folder} and encode again"
        )
    return recipe


def _choose(dataset: FeaturedDataset, name: str, wanted: str | None) -> tuple[Path, Mapping[str, Any]]:
    modality, wanted = _source(dataset, name, wanted)
    of = "" if modality == name else f"{modality}:"
    root = dataset.path / "features" / modality
    command = f"python -m odmt.encoders {dataset.path} --modality {modality} --encoder NAME"
    folders = sorted(path for path in root.glob("*") if KEY.fullmatch(path.name))
    unfinished = sorted(path.name for path in root.glob(".*.partial"))
    if not folders:
        hint = (
            f" ({', '.join(unfinished)} is unfinished: the command that began it goes on with it)" if unfinished else ""
        )
        raise FeatureError(f"{dataset.path} has no {modality} features{hint}; make them with: {command}")
    found = _read_recipes(folders, wanted)
    own = dataset.content_fingerprint(modality)
    fitting = {folder: recipe for folder, recipe in found.items() if recipe["dataset"] == own}
    if not fitting:
        made_for = ", ".join(f"{folder.name} for {str(recipe['dataset'])[:16]}" for folder, recipe in found.items())
        raise FeatureError(
            f"{root}: these {modality} features were made for another dataset ({made_for}); this one's {modality} "
            f"content is {own[:16]}. Remove them and run: {command}"
        )
    chosen = {f: r for f, r in fitting.items() if wanted is None or _is_meant(wanted, f.name, str(r["encoder"]))}
    if len(chosen) != 1:
        among = chosen or fitting
        listing = "".join(f"\n  {folder.name}  {recipe['encoder']}" for folder, recipe in among.items())
        problem = "several caches" if wanted is None else f"{len(chosen) or 'no'} caches that match {wanted!r}"
        example = next(iter(among)).name
        raise FeatureError(
            f"{root} has {problem} of {modality} features; choose with --data.features {name}={of}{example} "
            f"among:{listing}"
        )
    return next(iter(chosen.items()))


def _source(dataset: FeaturedDataset, name: str, wanted: str | None) -> tuple[str, str | None]:
    """Tell of which modality features are to be read, and which of them: a stream may name another than its own."""
    modality, colon, rest = (wanted or "").partition(":")
    if modality and colon and (modality in MODALITIES or (dataset.path / "features" / modality).is_dir()):
        if name in MODALITIES and name != modality:
            raise FeatureError(
                f"{name}={wanted} would show {modality} as {name}; give the stream a name of its own, as in "
                f"my_{modality}={wanted}"
            )
        return modality, rest or None
    if name not in MODALITIES and not (dataset.path / "features" / name).is_dir():
        raise FeatureError(
            f"{name!r} is no modality and has no features of its own; say what it reads with --data.features "
            f"{name}=MODALITY:ENCODER, as in {name}=text:tfidf"
        )
    return name, wanted


def _read_recipes(folders: Sequence[Path], wanted: str | None) -> dict[Path, Mapping[str, Any]]:
    # A damaged cache might be the one that is meant, unless a key says that it is not.
    keyed = [folder for folder in folders if wanted is not None and folder.name.startswith(wanted)]
    found: dict[Path, Mapping[str, Any]] = {}
    for folder in folders:
        try:
            found[folder] = read_recipe(folder)
        except FeatureError as error:
            if not keyed:
                others = ", ".join(other.name for other in folders if other != folder)
                choice = f"; or choose another by the beginning of its key, among {others}" if others else ""
                raise FeatureError(f"{error}{choice}") from error
            if folder in keyed:
                raise
    return found


def _is_meant(wanted: str, key: str, encoder: str) -> bool:
    # An encoder is named with or without its revision (`name@revision`) and its arguments (`tfidf(dim=64)`), and so are
    # the means of its tokens, with or without what says so: `tfidf` is each of the two, so that none is taken silently.
    names = {encoder, encoder.removeprefix(POOLED)}
    names |= {re.split(r"[@(]", name)[0] for name in names}
    # and a model of a hub, with or without whose it is (`owner/name`)
    return key.startswith(wanted) or wanted in names | {name.rpartition("/")[2] for name in names}


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

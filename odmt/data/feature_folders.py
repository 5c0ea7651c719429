"""Feature folders of a dataset: what made them, which of them is meant, and how to come by those that are missing.

What they hold is said in `odmt.data.features`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from odmt.data import MODALITIES
from odmt.data.making import ENCODERS, HELP, WRITE, encoding_command
from odmt.data.tokens import FeatureError
from odmt.spec import did_you_mean, nearest

__all__ = [
    "POOLED",
    "SCHEMA",
    "FeaturedDataset",
    "MissingFeaturesError",
    "Wanted",
    "check_present",
    "choose",
    "feature_key",
    "feature_method",
    "is_fitted",
    "made_alike",
    "read_recipe",
]

SCHEMA = 1
KEY = re.compile(r"[0-9a-f]{16}")
KEYLIKE = re.compile(r"[0-9a-f]{4,16}$")
"""The beginning of a key, rather than an encoder's name."""
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


def feature_key(recipe: Mapping[str, Any]) -> str:
    """Hash what decides the values of features: modality, dataset, encoder settings, width; 16 hexadecimal digits."""
    identity = {name: recipe[name] for name in IDENTITY}
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def feature_method(recipe: Mapping[str, Any]) -> str:
    """Hash what decides the values of features beside the content: two catalogues of one method can be compared.

    What was fitted to a catalogue, as tf-idf is, means something else over another, and counts as another method.
    """
    return feature_key(recipe if is_fitted(recipe) else {**recipe, "dataset": "any"})


def is_fitted(recipe: Mapping[str, Any]) -> bool:
    """Say whether the encoder learnt from the catalogue."""
    return bool(recipe.get("fitted", "tfidf" in recipe["encoder"]))  # features of older versions do not say


def made_alike(dataset: FeaturedDataset, modality: str, method: str) -> str | None:
    """Find the key of a dataset's own features of a `feature_method`; None where there are none."""
    for folder, recipe in _read_recipes(_folders(dataset, modality), None).items():
        if recipe["dataset"] == dataset.content_fingerprint(modality) and feature_method(recipe) == method:
            return folder.name
    return None


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


@dataclass(frozen=True)
class Wanted:
    """Say what a stream is to read: features of a modality, and which, by encoder or key, where that is said."""

    name: str
    modality: str
    choice: str | None

    @classmethod
    def of(cls, dataset: FeaturedDataset, name: str, choice: str | None) -> Wanted:
        """Read a choice, which may name another modality than the stream's own; raises FeatureError where none fits."""
        modality, colon, rest = (choice or "").partition(":")
        known = (*MODALITIES, *sorted(path.name for path in (dataset.path / "features").glob("*") if path.is_dir()))
        if modality and colon and modality in known:
            if name in MODALITIES and name != modality:
                raise FeatureError(
                    f"{name}={choice} would show {modality} as {name}; give the stream a name of its own, as in "
                    f"my_{modality}={choice}"
                )
            return cls(name, modality, rest or None)
        if name in known:
            return cls(name, name, choice)
        if modality and colon:
            raise FeatureError(f"data.features: {name}={choice} names {modality!r}; {did_you_mean(modality, known)}")
        meant = f"did you mean {near!r}? A further stream says" if (near := nearest(name, known)) else "say"
        raise FeatureError(
            f"{name!r} is no modality and has no features of its own; {meant} what it reads with --data.features "
            f"{name}=MODALITY:ENCODER, as in {name}=text:tfidf"
        )

    def command(self, dataset: FeaturedDataset) -> str:
        """Give the command that makes what is wanted; "" for a modality without encoders."""
        is_encoder = self.choice and not self.choice.startswith(POOLED) and not KEYLIKE.match(self.choice)
        return encoding_command(dataset.path, self.modality, shlex.quote(str(self.choice)) if is_encoder else "")


class MissingFeaturesError(FeatureError):
    """Name all streams that have no features; `encodable` are those whose content an encoder could read."""

    encodable: tuple[str, ...] = ()


def check_present(dataset: FeaturedDataset, streams: Sequence[Wanted]) -> None:
    """Raise MissingFeaturesError where a modality has no features at all, with the way to all that are missing."""
    missing = [one for one in streams if not _folders(dataset, one.modality)]
    if not missing:
        return
    commands, notes, encodable = [], [], []
    for one in missing:
        if unfinished := sorted(path.name for path in (dataset.path / "features" / one.modality).glob(".*.partial")):
            notes.append(f"{', '.join(unfinished)} is unfinished: the command that began it goes on with it")
        if not _has_content(dataset, one.modality):
            other = "prepare the folder anew with it"
            if one.modality not in ENCODERS:
                other = f"take another name for it, such as my_{one.modality}; {WRITE}"
            notes.append(f"its items have no {one.modality}, so leave that stream out, or {other}")
        elif command := one.command(dataset):
            commands.append(command)
            encodable += [one.name] if one.name == one.modality else []
        else:
            notes.append(f"there are no {one.modality} encoders; {WRITE}")
    absent = " and ".join(dict.fromkeys(f"no {one.modality}" for one in missing))
    made = "".join(f"\n  {command}" for command in dict.fromkeys(commands))
    told = f"{dataset.path} has {absent} features; " + (f"make them with:{made}\n{HELP}; " if made else "")
    error = MissingFeaturesError((told + "; ".join(dict.fromkeys(notes))).removesuffix("; "))
    error.encodable = tuple(encodable)
    raise error


def choose(dataset: FeaturedDataset, wanted: Wanted) -> tuple[Path, Mapping[str, Any]]:
    """Find the folder that is meant, and its recipe; raises FeatureError where it is none, or one of several."""
    modality, choice = wanted.modality, wanted.choice
    root = dataset.path / "features" / modality
    found = _read_recipes(_folders(dataset, modality), choice)
    own = dataset.content_fingerprint(modality)
    fitting = {folder: recipe for folder, recipe in found.items() if recipe["dataset"] == own}
    if not fitting:
        made_for = ", ".join(f"{folder.name} for {str(recipe['dataset'])[:16]}" for folder, recipe in found.items())
        command = wanted.command(dataset)
        raise FeatureError(
            f"{root}: these {modality} features were made for another dataset ({made_for}); this one's {modality} "
            f"content is {own[:16]}. Remove them and {f'run: {command}' if command else f'write others; {WRITE}'}"
        )
    chosen = {f: r for f, r in fitting.items() if choice is None or _is_meant(choice, f.name, str(r["encoder"]))}
    if len(chosen) != 1:
        among = chosen or fitting
        listing = "".join(f"\n  {folder.name}  {recipe['encoder']}" for folder, recipe in among.items())
        problem = "several caches" if choice is None else f"{len(chosen) or 'no'} caches that match {choice!r}"
        example = f"{'' if modality == wanted.name else f'{modality}:'}{next(iter(among)).name}"
        raise FeatureError(
            f"{root} has {problem} of {modality} features; choose with --data.features {wanted.name}={example} "
            f"among:{listing}"
        )
    return next(iter(chosen.items()))


def _folders(dataset: FeaturedDataset, modality: str) -> list[Path]:
    return sorted(path for path in (dataset.path / "features" / modality).glob("*") if KEY.fullmatch(path.name))


def _has_content(dataset: FeaturedDataset, modality: str) -> bool:
    try:
        return bool(dataset.content_fingerprint(modality))
    except ValueError:
        return False


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
    # An encoder is named with or without its revision (`name@revision`) and its arguments, all or some
    # (`tfidf(dim=64)`), and so are the means of its tokens, with or without what says so: `tfidf` is each of the two,
    # so that none is taken silently; and a model of a hub, with or without whose it is (`owner/name`).
    name, given = _parts(wanted)
    whole, arguments = _parts(encoder)
    names = {whole, whole.removeprefix(POOLED)}
    names |= {one.split("@")[0] for one in names}
    return key.startswith(wanted) or (given <= arguments and name in names | {n.rpartition("/")[2] for n in names})


def _parts(encoder: str) -> tuple[str, set[str]]:
    """Split `name(a=1, b='x')` into its name and its arguments, written alike."""
    name, _, arguments = encoder.removesuffix(")").partition("(")
    return name, {re.sub(r"[\s'\"]", "", one) for one in arguments.split(",") if one.strip()}

"""A suite: a YAML file of named variants of one experiment.

title: Distillation
claim: what of the paper it tests
base: no distillation                   # the row against which the others are tested
rows:
  no distillation: [no_distill]         # overlays, as after --ablation
  as configured: []
  temperature 1: [detached, --distill.temperature, 1]   # then flags, as on train.py's command line
against:                                # where rows are tested against others than the base
  temperature 1: as configured
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from odmt.flags import UniqueKeyLoader
from odmt.spec import did_you_mean

__all__ = ["EXPERIMENTS", "Suite", "SuiteError", "Variant", "read_suite"]

EXPERIMENTS = Path(__file__).resolve().parent.parent
FIELDS = {"title": str, "claim": str, "base": str, "rows": Mapping}
MAY_BE = "against"


class SuiteError(ValueError):
    """Say what is wrong with a suite file or with what was asked of it, and what to write instead."""


@dataclass(frozen=True)
class Variant:
    """Hold a row of a suite: overlays laid on the dataset's settings, then flags that win over them."""

    label: str
    overlays: tuple[str, ...]
    flags: tuple[str, ...]

    @property
    def slug(self) -> str:
        """Name the row in file names."""
        return re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")


@dataclass(frozen=True)
class Suite:
    """Hold a suite: `claim` is what of the paper it tests, `base` the label of the row that the others are tested
    against where nothing else is said, and `bases` against what each row is tested that is."""

    name: str
    title: str
    claim: str
    base: str
    rows: tuple[Variant, ...]
    bases: Mapping[str, str]

    @property
    def one_base(self) -> bool:
        """Say whether all rows are tested against the same."""
        return len(set(self.bases.values())) < 2


def read_suite(name_or_path: str) -> Suite:
    """Read a suite by its name in experiments/suites, or by its path; raises SuiteError naming what is wrong."""
    folder = EXPERIMENTS / "suites"
    is_path = name_or_path.endswith((".yaml", ".yml"))
    path = Path(name_or_path) if is_path else folder / f"{name_or_path}.yaml"
    if not path.is_file():
        known = sorted(found.stem for found in folder.glob("*.yaml"))
        hint = "a path ends in .yaml" if is_path else did_you_mean(name_or_path, known)
        raise SuiteError(f"--suite {name_or_path}: there is no {path}; {hint}")
    try:
        tree = UniqueKeyLoader(path.read_text(encoding="utf-8")).get_single_data()
    except yaml.YAMLError as error:
        raise SuiteError(f"{path} cannot be read as YAML: {error}") from error
    return _suite(path, tree)


def _suite(path: Path, tree: Any) -> Suite:
    found: Mapping[str, Any] = tree if isinstance(tree, Mapping) else {}
    for name in found.keys() - {*FIELDS, MAY_BE}:
        raise SuiteError(f"{path}: unknown field {name!r}; {did_you_mean(str(name), (*FIELDS, MAY_BE))}")
    for name, kind in FIELDS.items():
        if not isinstance(found.get(name), kind) or not found[name]:
            what = "text" if kind is str else "a mapping of labels to overlays"
            raise SuiteError(f"{path}: {name!r} is {found.get(name)!r}; it should be {what}")
    rows = tuple(_variant(path, str(label), words) for label, words in found["rows"].items())
    if found["base"] not in (labels := [row.label for row in rows]):
        raise SuiteError(f"{path}: base {found['base']!r} is no row; {did_you_mean(found['base'], labels)}")
    by_slug: dict[str, str] = {}
    for row in rows:
        if not row.slug or row.slug in by_slug:
            with_what = f"and {by_slug[row.slug]!r} share" if row.slug else "has no letters for"
            raise SuiteError(f"{path}: row {row.label!r} {with_what} the folder name {row.slug!r}; rename it")
        by_slug[row.slug] = row.label
    bases = {label: found["base"] for label in labels if label != found["base"]}
    bases |= _against(path, found.get(MAY_BE, {}), labels)
    return Suite(path.stem, found["title"], " ".join(found["claim"].split()), found["base"], rows, bases)


def _against(path: Path, written: Any, labels: Collection[str]) -> dict[str, str]:
    """Read which rows have bases of their own: {row: base}."""
    if not isinstance(written, Mapping):
        what = "a mapping of rows to the rows they are tested against"
        raise SuiteError(f"{path}: {MAY_BE!r} is {written!r}; it should be {what}")
    found = {str(row): str(base) for row, base in written.items()}
    for row, base in found.items():
        for label in (row, base):
            if label not in labels:
                raise SuiteError(f"{path}: {MAY_BE!r} names {label!r}, which is no row; {did_you_mean(label, labels)}")
        if row == base:
            raise SuiteError(f"{path}: {MAY_BE!r} tests {row!r} against itself; name another row, or leave it out")
    return found


def _variant(path: Path, label: str, words: Any) -> Variant:
    if not isinstance(words, list) or not all(isinstance(word, str | int | float) for word in words):
        raise SuiteError(
            f"{path}: row {label!r} is {words!r}; it should be a list of overlays and then flags, like "
            "[no_distill, --train.lr, 1e-3]"
        )
    words = [str(word) for word in words]
    first_flag = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    return Variant(label, tuple(words[:first_flag]), tuple(words[first_flag:]))

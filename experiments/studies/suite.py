"""A suite: a YAML file of named variants of one experiment, and the runs that it takes.

title: Distillation
claim: what of the paper it tests
base: no distillation                   # the row against which the others are tested
rows:
  no distillation: [no_distill]         # overlays, as after --ablation
  as configured: []
  temperature 1: [detached, --distill.temperature, 1]   # then flags, as on train.py's command line
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml

from odmt.config import ConfigError, Experiment, parse
from odmt.data.format import Dataset
from odmt.flags import UniqueKeyLoader
from odmt.inputs import stored_features
from odmt.run_folder import RunFolder
from odmt.spec import did_you_mean

__all__ = ["PlannedRun", "Suite", "SuiteError", "Variant", "plan", "read_suite"]

EXPERIMENTS = Path(__file__).resolve().parent.parent
FIELDS = {"title": str, "claim": str, "base": str, "rows": Mapping}


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
    against."""

    name: str
    title: str
    claim: str
    base: str
    rows: tuple[Variant, ...]


@dataclass(frozen=True)
class PlannedRun:
    """Hold one training of a suite: its words for train.py, and the settings that they come to; `attempt` is the place
    among those of `--tune` of what is tried."""

    row: str
    seed: int
    attempt: int
    argv: tuple[str, ...]
    experiment: Experiment

    @property
    def folder(self) -> Path:
        """Give the run's folder, which train.py makes."""
        return self.experiment.folder

    @property
    def log(self) -> Path:
        """Give the file that holds what the run printed; beside the folder, which is train.py's own."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def state(self) -> Literal["finished", "begun", "new"]:
        """Say how far the run came, from what lies on the disk."""
        files = RunFolder(self.folder)
        return "finished" if files.result.is_file() else "begun" if files.experiment.is_file() else "new"

    def disagreement(self, dataset: Dataset) -> str | None:
        """Say in what the run on the disk differs from what would be trained now, None where it does not or is new."""
        return self.difference(RunFolder(self.folder), dataset)

    def difference(self, files: RunFolder, dataset: Dataset, *, name: str | None = None) -> str | None:
        """Say in what a run differs from this one, which may be called `name` there."""
        if not files.experiment.is_file():
            return None
        try:
            keys = stored_features(self.experiment, dataset).keys
            experiment = self.experiment if name is None else replace(self.experiment, name=name)
            files.check_same(experiment, {"dataset": dataset.fingerprint, "features": json.dumps(keys)})
        except ValueError as error:
            return str(error)
        return None


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
    for name in found.keys() - FIELDS.keys():
        raise SuiteError(f"{path}: unknown field {name!r}; {did_you_mean(str(name), FIELDS)}")
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
    return Suite(path.stem, found["title"], " ".join(found["claim"].split()), found["base"], rows)


def _variant(path: Path, label: str, words: Any) -> Variant:
    if not isinstance(words, list) or not all(isinstance(word, str | int | float) for word in words):
        raise SuiteError(
            f"{path}: row {label!r} is {words!r}; it should be a list of overlays and then flags, like "
            "[no_distill, --train.lr, 1e-3]"
        )
    words = [str(word) for word in words]
    first_flag = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    return Variant(label, tuple(words[:first_flag]), tuple(words[first_flag:]))


def plan(
    suite: Suite,
    *,
    dataset: str,
    seeds: Sequence[int],
    overlays: Sequence[str],
    flags: Sequence[str],
    output: Path,
    attempts: Sequence[Sequence[str]] = (),
) -> list[PlannedRun]:
    """List the runs, all rows of the first seed before the second, so that an early stop leaves whole comparisons.

    `overlays` lie under every row's own, `flags` go to every run. Each of `attempts` makes a run of its own of every
    row and seed, its flags after all others. Raises SuiteError naming the row whose settings are wrong, before anything
    is trained.
    """
    runs: list[PlannedRun] = []
    notes = io.StringIO()
    known: dict[tuple[str, int], Experiment] = {}
    for seed, row, (number, tried) in product(seeds, suite.rows, enumerate(attempts or [()])):
        name = f"{row.slug}-{_slug(tried)}-s{seed}" if attempts else f"{row.slug}-s{seed}"
        laid = (*overlays, *row.overlays)
        ablation = ("--ablation", *laid) if laid else ()
        own = ("--seed", str(seed), "--name", name, "--output", str(output))
        argv = ("--dataset", dataset, *ablation, *row.flags, *flags, *tried, *own)
        if (row.label, number) not in known:
            try:
                with contextlib.redirect_stderr(notes):
                    known[row.label, number] = parse(list(argv), configs=EXPERIMENTS / "configs")
            except ConfigError as error:
                what = f" with --tune {' '.join(tried)}" if tried else ""
                raise SuiteError(f"row {row.label!r}{what}: {error}") from error
        runs.append(PlannedRun(row.label, seed, number, argv, replace(known[row.label, number], seed=seed, name=name)))
    if attempts:
        _check_attempts(known, [" ".join(tried) for tried in attempts])
    for line in dict.fromkeys(notes.getvalue().splitlines()):
        print(line, file=sys.stderr)
    return runs


def _slug(words: Sequence[str]) -> str:
    """Name what is tried in folder names: by its settings, so that more can be tried beside it later."""
    return re.sub(r"[^a-z0-9.]+", "-", " ".join(words).lower()).strip("-.") or "as-configured"


def _check_attempts(experiments: Mapping[tuple[str, int], Experiment], attempts: Sequence[str]) -> None:
    """Refuse attempts that share a folder, that make rows alike, and that ask other questions than the first."""
    alike: dict[tuple[int, Experiment], str] = {}
    by_slug: dict[str, str] = {}
    for words in attempts:
        slug = _slug(words.split())
        if slug in by_slug:
            raise SuiteError(f"--tune {words} and --tune {by_slug[slug]} share the folder name {slug!r}; leave one")
        by_slug[slug] = words
    for (row, number), experiment in experiments.items():
        settings = replace(experiment, name=None)
        other = alike.setdefault((number, settings), row)
        if other != row:
            raise SuiteError(
                f"--tune {attempts[number]} makes the rows {other!r} and {row!r} the same; tune what they share"
            )
        if _questions(settings) != _questions(experiments[row, 0]):
            raise SuiteError(
                f"--tune {attempts[number]}: validation would ask other questions than with --tune {attempts[0]}, so "
                "that the scores say nothing of each other; keep features, data.length and evaluation out of tuning"
            )


def _questions(experiment: Experiment) -> tuple[object, ...]:
    """Give the settings that decide what validation asks."""
    data, train = experiment.data, experiment.train
    return data.features, data.length, train.eval_users, train.mask_history, train.repeats

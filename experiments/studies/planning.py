"""The runs that a suite takes: every row with every seed, under each set of settings that is tried.

A row's own flags win over the same settings in what is tried and after --: they are what the row is about. So an
attempt may come to the same for a row as an earlier one, which is then both.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from odmt.components import ENSEMBLES
from odmt.config import SETTINGS, ConfigError, Experiment, overlay_folders, parse
from odmt.data.format import Dataset
from odmt.flags import check_names, find_overlay
from odmt.inputs import stored_features
from odmt.run_folder import RunFolder
from odmt.spec import did_you_mean, parse_call

from .suite import EXPERIMENTS, Suite, SuiteError, Variant

__all__ = ["PlannedRun", "plan"]

CONFIGS = EXPERIMENTS / "configs"


@dataclass(frozen=True)
class PlannedRun:
    """Hold one training of a suite: its words for train.py, and the settings that they come to; `attempt` is the place
    among those of `--tune` of what is tried, `tried` the words of it that the row does not set itself."""

    row: str
    seed: int
    attempt: int
    tried: str
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


def plan(
    suite: Suite,
    *,
    dataset: str,
    seeds: Sequence[int],
    overlays: Sequence[str],
    flags: Sequence[str],
    output: Path,
    attempts: Sequence[Sequence[str]] = (),
    only: Collection[str] = (),
) -> list[PlannedRun]:
    """List the runs, all rows of the first seed before the second, so that an early stop leaves whole comparisons.

    `overlays` lie under every row's own, `flags` go to every run. Each of `attempts` makes a run of its own of every
    row and seed. Raises SuiteError naming the row whose settings are wrong, before anything is trained; of rows that
    are not among `only`, where it names any, those are left out, and told.
    """
    for label in only:
        if label not in (labels := [row.label for row in suite.rows]):
            raise SuiteError(f"--only {label!r}: no such row in {suite.name}; {did_you_mean(label, labels)}")
    for name in overlays:
        try:
            find_overlay(name, overlay_folders(CONFIGS), flag="--with")
        except ConfigError as error:
            raise SuiteError(str(error)) from error
    given = _Given(dataset, tuple(overlays), tuple(flags), output, [tuple(words) for words in attempts])
    trials: dict[str, list[_Trial]] = {}
    notes = io.StringIO()
    with contextlib.redirect_stderr(notes):
        for row in suite.rows:
            try:
                trials[row.label] = given.trials(row, seed=seeds[0])
            except SuiteError as error:
                if not only or row.label in only:
                    raise
                print(f"left out: {error}", file=sys.stderr)
        given.check_alike([found for label, found in trials.items() if not only or label in only])
    for line in dict.fromkeys(notes.getvalue().splitlines()):
        print(line, file=sys.stderr)
    return [
        given.run(trial, found.index(trial), seed)
        for seed in seeds
        for found in trials.values()
        for trial in dict.fromkeys(found)
    ]


@dataclass(frozen=True)
class _Trial:
    """Hold a row, the flags after -- and the words tried that it does not set itself, and what all come to."""

    row: Variant
    flags: tuple[str, ...]
    tried: tuple[str, ...]
    experiment: Experiment

    @property
    def settings(self) -> Experiment:
        return replace(self.experiment, name=None)


@dataclass(frozen=True)
class _Given:
    """Hold what all rows are given: arguments as of `plan`."""

    dataset: str
    overlays: tuple[str, ...]
    flags: tuple[str, ...]
    output: Path
    attempts: Sequence[tuple[str, ...]]

    def argv(self, row: Variant, flags: Sequence[str], tried: Sequence[str], *, seed: int) -> tuple[str, ...]:
        """Write the words for train.py."""
        laid = (*self.overlays, *row.overlays)
        ablation = ("--ablation", *laid) if laid else ()
        name = f"{row.slug}-{_slug(tried)}-s{seed}" if self.attempts else f"{row.slug}-s{seed}"
        own = ("--seed", str(seed), "--name", name, "--output", str(self.output))
        return ("--dataset", self.dataset, *ablation, *row.flags, *flags, *tried, *own)

    def run(self, trial: _Trial, attempt: int, seed: int) -> PlannedRun:
        argv = self.argv(trial.row, trial.flags, trial.tried, seed=seed)
        experiment = replace(trial.experiment, seed=seed, name=argv[argv.index("--name") + 1])
        return PlannedRun(trial.row.label, seed, attempt, " ".join(trial.tried), argv, experiment)

    def trials(self, row: Variant, *, seed: int) -> list[_Trial]:
        """Give the row under every attempt; those that come to the same for it are one."""
        found: list[_Trial] = []
        for words in self.attempts or [()]:
            try:
                own = check_names(row.flags, SETTINGS, "command line")
                flags, tried = _without(self.flags, own), _without(words, own)
                experiment = _parse(self.argv(row, flags, tried, seed=seed))
            except ConfigError as error:
                what = f" with --tune {' '.join(words)}" if words else ""
                raise SuiteError(f"row {row.label!r}{what}: {error}") from error
            if kept := own.intersection(_names((*self.flags, *words))):
                print(f"row {row.label!r} keeps its own {', '.join(sorted(kept))}", file=sys.stderr)
            trial = _Trial(row, flags, tried, experiment)
            found.append(next((other for other in found if other.tried == tried), trial))
        _check_attempts(found, [" ".join(words) for words in self.attempts])
        return found

    def check_alike(self, rows: Sequence[Sequence[_Trial]]) -> None:
        """Refuse rows that become the same by what they are given, where they are not the same by themselves."""
        for number, words in enumerate(self.attempts or [()]):
            known: dict[Experiment, _Trial] = {}
            for trial in (found[number] for found in rows):
                other = known.setdefault(trial.settings, trial)
                if other is not trial and (culprit := self._culprit(trial, other, words)):
                    raise SuiteError(
                        f"{culprit} makes the rows {other.row.label!r} and {trial.row.label!r} the same; choose "
                        "other settings, or name the rows to train with --only"
                    )

    def _culprit(self, one: _Trial, other: _Trial, words: Sequence[str]) -> str | None:
        """Name what makes two rows the same: what is tried, or else what stands after --."""

        def apart(*, flags: bool) -> bool:
            try:
                ours, theirs = (
                    _parse(self.argv(trial.row, trial.flags if flags else (), (), seed=one.experiment.seed))
                    for trial in (one, other)
                )
            except ConfigError:  # then it takes what is given to mean anything
                return True
            return replace(ours, name=None) != replace(theirs, name=None)

        if words and apart(flags=True):
            return f"--tune {' '.join(words)}"
        return f"-- {' '.join(self.flags)}" if self.flags and apart(flags=False) else None


def _parse(argv: Sequence[str]) -> Experiment:
    return parse(argv, configs=CONFIGS)


def _names(words: Sequence[str]) -> set[str]:
    """Name the settings of flags, of which some may be given twice."""
    return {name for word in words if word.startswith("--") for name in check_names([word], SETTINGS, "command line")}


def _without(words: Sequence[str], names: Collection[str]) -> tuple[str, ...]:
    """Leave out the flags of the settings `names`, and their values."""
    left: list[str] = []
    wanted = True
    for word in words:
        wanted = _names([word]).isdisjoint(names) if word.startswith("--") else wanted
        left += [word] if wanted else []
    return tuple(left)


def _slug(words: Sequence[str]) -> str:
    """Name what is tried in folder names: by its settings, so that more can be tried beside it later."""
    return re.sub(r"[^a-z0-9.]+", "-", " ".join(words).lower()).strip("-.") or "as-configured"


def _check_attempts(trials: Sequence[_Trial], attempts: Sequence[str]) -> None:
    """Refuse attempts of a row that share a folder, and those whose scores say nothing of each other."""
    by_slug: dict[str, tuple[_Trial, str]] = {}
    first = trials[0].experiment
    for trial, words in zip(trials, attempts, strict=False):  # without attempts there is one trial
        slug, experiment = _slug(trial.tried), trial.experiment
        known, as_written = by_slug.setdefault(slug, (trial, words))
        if known is not trial:
            raise SuiteError(f"--tune {words} and --tune {as_written} share the folder name {slug!r}; leave one")
        if _questions(experiment) != _questions(first):
            raise SuiteError(
                f"--tune {words}: validation would ask other questions than with --tune {attempts[0]}, so "
                "that the scores say nothing of each other; keep features, data.length and evaluation out of tuning"
            )
        ours, theirs = experiment.model.ensemble, first.model.ensemble
        if _fitted(ours) != _fitted(theirs):
            fitted, other = (ours, theirs) if _fitted(ours) else (theirs, ours)
            raise SuiteError(
                f"--tune {words}: the weights of model.ensemble={fitted} are fitted to the very targets of validation "
                f"by which attempts are chosen, those of {other} are not, so that the scores say nothing of each "
                "other; make them two rows of the suite"
            )


def _questions(experiment: Experiment) -> tuple[object, ...]:
    """Give the settings that decide what validation asks."""
    data, train = experiment.data, experiment.train
    return data.features, data.length, train.eval_users, train.mask_history, train.repeats


def _fitted(ensemble: str) -> bool:
    """Say whether an ensemble is fitted to validation's targets (see odmt/ensembles.py)."""
    return hasattr(parse_call(ensemble, known=ENSEMBLES, kind="ensemble").constructor(), "fit")

"""Train a suite of variants with several seeds and report them, each tested against its base:

    python experiments/ablate.py --suite distillation --dataset microlens --with microlens-cpu --seeds 1 2 3
    python experiments/ablate.py --suite my_suite.yaml --dataset microlens --seeds 1 2 -- --train.epochs 20
    python experiments/ablate.py --suite imt --dataset microlens --launch "accelerate launch --num_processes 2"
    python experiments/ablate.py --suite fusion-stages --dataset microlens --seeds 1 2 3 \\
        --tune model.dropout=0.1 --tune model.dropout=0.3 train.lr=5e-4

A suite is a file of experiments/suites, or your own. Runs lie in OUTPUT/ablations/DATASET/SUITE/ROW-sSEED, what they
printed beside them, and the report in OUTPUT/ablations/DATASET/SUITE/report.md, .html, .svg and .json. The same command
again skips what is finished and goes on with what was interrupted; a run that was made with other settings, data or
features is refused. Flags after -- go to every train.py. With --tune, given once for each set of settings to try (none
for those that are configured), every row is trained with the first seed under each; the set with the best validation
score is kept for the row and its other seeds. An attempt that fails is out; the same command makes it again.

Flags that a row has in the suite are what it is about, so they win over the same settings after -- and in --tune: a row
"dropout 0.1: [--model.dropout, 0.1]" keeps it, whatever is tried. An attempt that thereby comes to the same for a row
as an earlier one is not made again for it. What makes two rows the same is refused, and so is what makes no sense for a
row; with --only, rows that it does not name are no reason to.

With --keep, what reports need of finished runs goes to a folder that is small enough to be committed, and the same
command elsewhere goes on from there. With --reuse, rows that another suite has trained under the same settings, data
and features are taken from its folders, runs or kept ones.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from odmt.data.format import Dataset, find_dataset, open_dataset

from .finished import ReportError
from .keeping import keep, restore, reuse
from .planning import PlannedRun, plan
from .running import find_launcher, interrupted_by_sigterm, train, train_command
from .suite import SuiteError, read_suite
from .suite_report import SuiteReport
from .tuning import Tuning

__all__ = ["main", "parser"]

INSTEAD = {"--ablation": "--with", "--seed": "--seeds"}
"""Flags of train.py that have other names here."""
OURS = {**INSTEAD, "--dataset": "--dataset", "--output": "--output", "--name": "--name", "--overwrite": "--overwrite"}
"""Flags that every train.py gets from here, and what sets them."""


def main(argv: Sequence[str]) -> int:
    """Train what is missing, write the report, and return 1 where a run failed."""
    here = argv.index("--") if "--" in argv else len(argv)
    arguments, unknown = parser().parse_known_args(argv[:here])
    if unknown:
        parser().error(f"unrecognized arguments: {shlex.join(unknown)}{_place_of(unknown)}")
    flags = argv[here + 1 :]
    try:
        attempts = list(dict.fromkeys(tuple(map(_flag, words)) for words in arguments.tune))
        _check_not_ours(flags, "after --")
        _check_not_ours([word for words in attempts for word in words], "in --tune")
        suite = read_suite(arguments.suite)
        folder = Path(arguments.output) / "ablations" / _name(arguments.dataset) / (arguments.name or suite.name)
        runs = plan(
            suite,
            dataset=arguments.dataset,
            seeds=list(dict.fromkeys(arguments.seeds)),
            overlays=arguments.overlays,
            flags=flags,
            output=folder,
            attempts=attempts,
            only=arguments.only,
        )
        dataset = open_dataset(find_dataset(arguments.dataset, runs[0].experiment.data.root))
        if arguments.keep and not arguments.dry_run:
            restore(runs, arguments.keep)
        if arguments.reuse and not arguments.dry_run:
            for ours, theirs in reuse(runs, arguments.reuse, dataset).items():
                print(f"{ours.name}: the same as {theirs}", file=sys.stderr)
        planned = runs
        stage = partial(_stage, dataset=dataset, arguments=arguments)
        failed = stage([run for run in runs if not attempts or run.seed == runs[0].seed])
        tuning = None
        if attempts:
            given_up = [run for run in runs if run.state != "finished"] if arguments.report_only else failed
            tuning = Tuning.of(runs, [" ".join(words) for words in attempts], given_up=given_up)
            rest = [run for run in tuning.kept(runs) if run.seed != tuning.seed]
            failed += stage(rest)
            if arguments.dry_run:
                further = len({(run.row, run.seed) for run in runs if run.seed != tuning.seed}) - len(rest)
                if further:
                    print(f"# and {further} runs more, of the best of each row, which is not known yet")
            runs = tuning.kept(runs)
    except ValueError as error:  # of the suite, the settings, the dataset or its features
        sys.exit(f"error: {error}")
    if arguments.dry_run:
        return 0
    try:
        if arguments.keep:
            keep(planned, arguments.keep)
        report = SuiteReport.of(
            suite,
            runs,
            dataset,
            command=_command(arguments, flags),
            fewer_than=arguments.cold_below,
            tuning=tuning,
        )
    except ReportError as error:
        sys.exit(f"error: {error}")
    for path in report.write(arguments.report or folder / "report"):
        print(f"wrote {path}")
    for line in report.missing:
        print(f"missing: {line}", file=sys.stderr)
    return 1 if failed else 0


def _stage(runs: Sequence[PlannedRun], *, dataset: Dataset, arguments: Namespace) -> list[PlannedRun]:
    """Train those of `runs` that are wanted and not finished, or print how; list those that failed."""
    wanted = _wanted(runs, arguments)
    replaced = _replaced(runs, wanted, dataset, overwrite=arguments.overwrite)
    launcher = find_launcher(arguments.launch)
    commands = [train_command(run, launcher, overwrite=run in replaced) for run in wanted]
    if arguments.dry_run:
        for run, command in zip(wanted, commands, strict=True):
            print(f"{shlex.join(command)}  # {'to be replaced' if run in replaced else run.state}")
        return []
    return _train_all(wanted, commands, replaced)


def _train_all(
    runs: Sequence[PlannedRun], commands: Sequence[Sequence[str]], replaced: Sequence[PlannedRun]
) -> list[PlannedRun]:
    """Train one run after the other and list those that failed; Ctrl-C ends the one that is running, and us."""
    failed: list[PlannedRun] = []
    bar = tqdm(list(zip(runs, commands, strict=True)), unit="run", disable=not runs)
    with interrupted_by_sigterm():
        try:
            for run, command in bar:
                if run.state == "finished" and run not in replaced:
                    continue
                bar.set_description(run.folder.name)
                if run in replaced:  # or the old result would be reported should the new run fail
                    (run.folder / "result.json").unlink(missing_ok=True)
                problem = train(run, command)
                failed += [run] if problem is not None else []
                tqdm.write(f"{run.row}, seed {run.seed}: {problem or f'finished, {run.folder}'}", file=sys.stderr)
        except KeyboardInterrupt:
            sys.exit("interrupted; the same command goes on from the last checkpoint")
    return failed


def _wanted(runs: Sequence[PlannedRun], arguments: Namespace) -> list[PlannedRun]:
    if arguments.report_only:
        return []
    return [run for run in runs if not arguments.only or run.row in arguments.only]


def _replaced(
    runs: Sequence[PlannedRun], wanted: Sequence[PlannedRun], dataset: Dataset, *, overwrite: bool
) -> list[PlannedRun]:
    """List the runs to be trained anew; raises SuiteError for those that disagree with what is asked and are kept."""
    disagreeing = {run: found for run in runs if (found := run.disagreement(dataset))}
    replaced = [run for run in wanted if overwrite and run in disagreeing]
    refused = [run for run in runs if run in disagreeing and run not in replaced]
    if refused:
        lines = "\n".join(f"  {run.row}, seed {run.seed}: {disagreeing[run]}" for run in refused)
        raise SuiteError(
            f"runs there were made with something else than is asked now:\n{lines}\nask for the same, train them anew "
            "with --overwrite (which leaves the others), or choose another folder with --name"
        )
    return replaced


def _check_not_ours(flags: Sequence[str], place: str) -> None:
    for flag in (word.partition("=")[0] for word in flags):
        if flag == "--resume":
            raise SuiteError(f"{flag} {place}: leave it out; runs that were begun are gone on with anyway")
        if flag in OURS:
            own = f"this command's own {OURS[flag]}, which stands before --"
            raise SuiteError(f"{flag} {place}: every run gets it from {own}; write that instead")


def _place_of(words: Sequence[str]) -> str:
    """Say where words belong that are none of our flags."""
    flag = next((word.partition("=")[0] for word in words if word.startswith("--")), "")
    if flag in INSTEAD:
        return f"; here that is {INSTEAD[flag]}"
    is_setting = "." in flag or flag.removeprefix("--") in ("config", "trackers")
    return f"; flags of train.py stand after --, as in: -- {shlex.join(words)}" if is_setting else ""


def _flag(word: str) -> str:
    """Write NAME=VALUE as the flag that it is; further values of a list stay as they are."""
    return f"--{word}" if re.match(r"\w[\w.-]*=", word) else word


def _command(arguments: Namespace, flags: Sequence[str]) -> str:
    """Write the command that makes the report, without where things lie on this machine."""
    words = ["--suite", arguments.suite, "--dataset", _name(arguments.dataset)]
    words += ["--with", *arguments.overlays] if arguments.overlays else []
    words += ["--seeds", *(str(seed) for seed in arguments.seeds)]
    words += [word for attempt in arguments.tune for word in ("--tune", *attempt)]
    words += ["--launch", arguments.launch] if arguments.launch else []
    words += ["--", *flags] if flags else []
    return shlex.join(["python", "experiments/ablate.py", *words])


def _name(dataset: str) -> str:
    return Path(dataset).absolute().name


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no seed; write a whole number from 0 on")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """Read the command line, without the flags after --."""
    style = argparse.RawDescriptionHelpFormatter
    found = argparse.ArgumentParser(description=__doc__, formatter_class=style, allow_abbrev=False)
    add = found.add_argument
    add("--suite", required=True, help="a name in experiments/suites, or a path that ends in .yaml")
    add("--dataset", required=True, help="as for train.py")
    add("--seeds", nargs="+", type=_seed, default=[1], metavar="N", help="default: 1")
    add("--with", nargs="+", default=[], dest="overlays", metavar="A", help="overlays to lay under those of every row")
    tune = "settings to try for every row; give it once for each set"
    add("--tune", nargs="*", action="append", default=[], metavar="NAME=VALUE", help=tune)
    add("--only", nargs="+", default=[], metavar="ROW", help="train these rows alone; the report shows what there is")
    add("--launch", default="", metavar="WORDS", help="how to start train.py (default: this Python)")
    add("--output", default="runs", help="default: runs")
    add("--name", help="name of the folder in OUTPUT/ablations/DATASET (default: the suite's)")
    add("--report", type=Path, metavar="PREFIX", help="write the report to PREFIX.md and so on instead")
    kept = "keep settings, result and ranks to 20 of finished runs in DIR, and take those there for finished"
    add("--keep", type=Path, metavar="DIR", help=kept)
    add(
        "--reuse", nargs="+", type=Path, default=[], metavar="DIR", help="take runs of equal settings from other suites"
    )
    add("--cold-below", type=int, default=5, metavar="N", help="training events that make a target warm (default 5)")
    add("--overwrite", action="store_true", help="train runs anew that were made with other settings, data or features")
    add("--report-only", action="store_true", help="train nothing")
    add("--dry-run", action="store_true", help="print the commands and how far their runs are, and do nothing")
    return found

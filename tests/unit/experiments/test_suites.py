"""Suites and what they take: rows with bases of their own, whose flags win, and that ours ask what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from experiments.studies.planning import PlannedRun, plan
from experiments.studies.suite import EXPERIMENTS, SuiteError, read_suite
from tests.tiny import tiny_dataset
from tests.unit.experiments.test_ablate import ablate

SUITE = """
title: Bases
claim: Some rows are tested against others than the base.
base: ids
rows:
  ids: [id_only]
  titles: [text_only]
  titles, wide: [text_only, --model.dim, 16]
  ids, wide: [id_only, --model.dim, 16]
"""
AGAINST = "against: {'titles, wide': titles}\n"
OVERLAYS = sorted((EXPERIMENTS / "ablations").glob("*.yaml"))


def written(folder: Path, text: str) -> str:
    (folder / "mine.yaml").write_text(text)
    return str(folder / "mine.yaml")


def planned(folder: Path, text: str, *flags: str, only: tuple[str, ...] = ()) -> list[PlannedRun]:
    suite = read_suite(written(folder, text))
    return plan(suite, dataset="sample", seeds=[1], overlays=[], flags=flags, output=folder, only=only)


def test_rows_are_tested_against_the_base_where_nothing_else_is_said(tmp_path: Path) -> None:
    suite = read_suite(written(tmp_path, SUITE))
    assert suite.one_base
    assert suite.bases == {"titles": "ids", "titles, wide": "ids", "ids, wide": "ids"}
    suite = read_suite(written(tmp_path, SUITE + AGAINST))
    assert not suite.one_base
    assert suite.bases == {"titles": "ids", "titles, wide": "titles", "ids, wide": "ids"}


@pytest.mark.parametrize(
    ("against", "message"),
    [
        ("against: ids", "'against' is 'ids'; it should be a mapping of rows to the rows they are tested against"),
        ("against: {title: ids}", "'against' names 'title', which is no row; did you mean 'titles'?"),
        ("against: {titles: idz}", "'against' names 'idz', which is no row; did you mean 'ids'?"),
        ("against: {titles: titles}", "'against' tests 'titles' against itself; name another row, or leave it out"),
        ("against_row: {titles: ids}", "unknown field 'against_row'; did you mean 'against'?"),
    ],
)
def test_bases_that_are_no_rows_are_answered(against: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SuiteError) as error:
        read_suite(written(tmp_path, SUITE + against))
    assert str(error.value).endswith(message)


def test_the_report_says_of_each_row_what_it_is_tested_against(tmp_path: Path) -> None:
    tiny_dataset(tmp_path / "tiny")
    written(tmp_path, SUITE.replace("  ids, wide: [id_only, --model.dim, 16]\n", "") + AGAINST)
    small = ("--model.backbone", "sasrec(layers=1)", "--train.epochs", "1", "--train.batch-size", "16")
    done = ablate(tmp_path, suite="mine.yaml", flags=small)
    assert done.status == 0, done.err
    report = tmp_path / "runs/ablations/tiny/mine/report"
    text = report.with_suffix(".md").read_text()
    accuracy, tested = text.split("## Against each row's own base")
    for label in ("ids (base)", "titles (base)", "titles, wide"):
        assert re.search(rf"^\| {re.escape(label)} +\|", accuracy, flags=re.MULTILINE)
    lines = [[cell.strip() for cell in line.split("|")[1:4]] for line in tested.splitlines() if line.startswith("| ")]
    assert lines[0] == ["row", "base", "seeds in both"]
    assert lines[2:4] == [["titles", "ids", "1"], ["titles, wide", "titles", "1"]]
    assert "Right: the difference to each row's own base;" in accuracy
    assert "corrected for the 2 rows tested" in tested

    tree = json.loads(report.with_suffix(".json").read_text())
    assert [row.get("base") for row in tree["rows"]] == [None, "ids", "titles"]
    means = [row["metrics"]["HR@10"]["mean"] for row in tree["rows"]]
    apart = tree["rows"][2]["against"]["HR@10"]["mean"]
    assert apart == pytest.approx(means[2] - means[1])
    for file in (report.with_suffix(".svg"), report.with_suffix(".html")):
        drawn = "".join(ElementTree.fromstring(file.read_text().replace("<!DOCTYPE html>", "")).itertext())
        for words in ("ids (base)", "titles (against “ids”)", "titles, wide (against “titles”)", "each row's base"):
            assert words in drawn


def test_flags_that_go_to_every_run_leave_a_row_what_it_is_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = planned(tmp_path, SUITE, "--model.dim=32", "--model.further-heads", "--train.epochs", "3")
    assert [run.experiment.model.dim for run in runs] == [32, 32, 16, 16]
    assert {run.experiment.train.epochs for run in runs} == {3}
    assert runs[2].argv[4:10] == ("--model.dim", "16", "--model.further-heads", "--train.epochs", "3", "--seed")
    told = capsys.readouterr().err.splitlines()
    assert told == [f"row {row!r} keeps its own model.dim" for row in ("titles, wide", "ids, wide")]


def test_a_row_keeps_what_it_switches_off(tmp_path: Path) -> None:
    text = SUITE + "  both: [no_distill, --model.no-own-items]\n"
    runs = planned(tmp_path, text, "--model.own-items", only=("both",))
    assert [run.experiment.model.own_items for run in runs if run.row == "both"] == [False]


def test_flags_that_make_rows_the_same_are_refused(tmp_path: Path) -> None:
    message = r"-- --model.dim 16 makes the rows 'titles' and 'titles, wide' the same; choose other settings, or name"
    with pytest.raises(SuiteError, match=message):
        planned(tmp_path, SUITE, "--model.dim", "16")
    apart = ("titles", "ids, wide")
    assert len(planned(tmp_path, SUITE, "--model.dim", "16", only=apart)) == 4
    alike = SUITE + "  ids again: [id_only]\n"
    assert len(planned(tmp_path, alike, "--train.epochs", "3")) == 5, "they are the same whatever the flags"


def test_backbones_are_tested_against_themselves_on_ids_only() -> None:
    suite = read_suite("backbones")
    runs = {run.row: run.experiment for run in planned_of("backbones")}
    backbones = {experiment.model.backbone.partition("(")[0] for experiment in runs.values()}
    assert backbones == {"sasrec", "gru4rec", "nextitnet", "bert4rec", "hstu", "lrurec"}
    several = [row for row, experiment in runs.items() if len(experiment.model.streams) > 1]
    assert len(several) == len(backbones)
    for row in several:
        base = runs[suite.bases[row]]
        assert base.model.streams == ("id",)
        assert base.model.backbone == runs[row].model.backbone
        assert runs[row].distill.graph == (), "the suite is about backbones"


def planned_of(suite: str) -> list[PlannedRun]:
    output = Path("nowhere")
    return plan(read_suite(suite), dataset="sample", seeds=[1], overlays=[], flags=[], output=output)


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_every_overlay_says_what_of_a_paper_it_answers(path: Path) -> None:
    heading = [line for line in path.read_text().splitlines() if line.startswith("# ")]
    if path.stem != "odmt":  # our own
        assert re.search(r"\(arXiv (2308\.04067|2309\.15379)\)", heading[0])

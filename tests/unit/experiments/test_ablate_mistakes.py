"""Mistakes in suites and in the runner's command line, and how each is answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.studies.ablation import main
from experiments.studies.planning import plan
from experiments.studies.suite import SuiteError, read_suite
from tests.unit.experiments.test_ablate import SUITE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SUITE.replace("title", "titel"), r"unknown field 'titel'; did you mean 'title'\?"),
        (SUITE.replace("base: ids", "base: idz"), r"base 'idz' is no row; did you mean 'ids'\?"),
        (SUITE.replace("title: Tiny", "title: ''"), r"'title' is ''; it should be text"),
        (SUITE.replace("[id_only]", "id_only"), r"row 'ids' is 'id_only'; it should be a list of overlays and then"),
        (SUITE + "  Ids: []\n", r"row 'Ids' and 'ids' share the folder name 'ids'"),
        (SUITE + "  ids: []\n", r"'ids' is given twice"),
        ("- a", r"'title' is None; it should be text"),
    ],
)
def test_a_wrong_suite_is_answered(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SuiteError, match=message):
        read_suite(str(tmp_path / "mine.yaml"))


def test_an_unknown_suite_and_wrong_settings_name_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"did you mean 'distillation'\?"):
        read_suite("distilation")
    suite = read_suite("distillation")
    where = {"dataset": "sample", "seeds": [1], "output": tmp_path}
    with pytest.raises(SuiteError, match=r"row 'no distillation': .*'train.epoch'; did you mean 'train.epochs'\?"):
        plan(suite, overlays=[], flags=["--train.epoch", "3"], **where)
    with pytest.raises(SuiteError, match=r"^--with id_onli: there is no id_onli.yaml .*did you mean 'id_only'\?"):
        plan(suite, overlays=["id_onli"], flags=[], **where)
    with pytest.raises(SuiteError, match=r"no such row in distillation; there is 'no distillation', 'teachers detach"):
        plan(suite, overlays=[], flags=[], only=["nope"], **where)


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        (["--train.epochs", "5"], "; flags of train.py stand after --, as in: -- --train.epochs 5"),
        (["--model.streams=id"], "; flags of train.py stand after --, as in: -- --model.streams=id"),
        (["--ablation", "odmt"], "; here that is --with"),
        (["--sede", "1"], "unrecognized arguments: --sede 1"),
    ],
)
def test_flags_that_are_not_ours_are_answered_with_their_place(
    flags: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--suite", "distillation", "--dataset", "sample", *flags])
    assert capsys.readouterr().err.endswith(f"{answer}\n")


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        (["--", "--seed", "3"], "--seed after --: every run gets it from this command's own --seeds, which"),
        (["--", "--seed=3"], "--seed after --: every run gets it from this command's own --seeds, which"),
        (["--", "--ablation", "odmt"], "--ablation after --: every run gets it from this command's own --with, which"),
        (["--", "--dataset", "x"], "--dataset after --: every run gets it from this command's own --dataset, which"),
        (["--tune", "seed=3"], "--seed in --tune: every run gets it from this command's own --seeds, which"),
        (["--", "--resume"], "--resume after --: leave it out; runs that were begun are gone on with anyway"),
    ],
)
def test_what_this_command_sets_itself_is_not_set_for_train(flags: list[str], answer: str) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--suite", "distillation", "--dataset", "sample", *flags])
    assert str(error.value).startswith(f"error: {answer}")

"""The ablation runner on a dataset of a second: what it trains, skips, refuses, goes on with, and reports when."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from experiments.studies.ablation import main, parser
from experiments.studies.planning import plan
from experiments.studies.suite import EXPERIMENTS, read_suite
from odmt.config import to_yaml
from tests.documents import COMMANDS
from tests.tiny import NUM_USERS, tiny_dataset

SUITE = """
title: Tiny
claim: Two kinds of model & one that cannot be trained.
base: ids
rows:
  ids: [id_only]
  logit | fusion: [logit_fusion, --train.lr, 0.01]
"""
BROKEN = SUITE.replace("rows:", "rows:\n  broken: [text_only, --data.features, text=nobody]")
SMALL = ("--model.dim", "8", "--train.epochs", "2", "--model.backbone", "sasrec(layers=1)", "--train.batch-size", "16")
SUITES = sorted(path.stem for path in (EXPERIMENTS / "suites").glob("*.yaml"))


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


def words(*more: str, suite: str = "tiny.yaml", flags: Sequence[str] = SMALL) -> list[str]:
    return ["--suite", suite, "--dataset", "./tiny", *more, "--", *flags]


def ablate(place: Path, *more: str, suite: str = "tiny.yaml", flags: Sequence[str] = SMALL) -> Done:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("ODMT_CHECK_SHAPES", "0")  # checked where the model is tested
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main(words(*more, suite=suite, flags=flags))
            except SystemExit as ended:
                print(ended.code, file=err)
                status = 1
    return Done(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a dataset, the suites, and the runs of two rows with one seed; nobody writes there after."""
    place = tmp_path_factory.mktemp("ablate")
    tiny_dataset(place / "tiny")
    (place / "tiny.yaml").write_text(SUITE)
    (place / "broken.yaml").write_text(BROKEN)
    done = ablate(place)
    assert done.status == 0, done.err
    return place


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "place")


def finished_at(place: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in (place / "runs").rglob("result.json")}


def test_the_report_holds_what_it_promises(place: Path) -> None:
    folder = place / "runs/ablations/tiny/tiny"
    assert {path.name for path in folder.iterdir()} == {
        "ids-s1", "ids-s1.log", "logit-fusion-s1", "logit-fusion-s1.log",
        "report.md", "report.html", "report.svg", "report.json",
    }  # fmt: skip
    tree = json.loads((folder / "report.json").read_text())
    rows = {row["label"]: row for row in tree["rows"]}
    assert list(rows) == ["ids", "logit | fusion"]
    for label, name in (("ids", "ids-s1"), ("logit | fusion", "logit-fusion-s1")):
        result = json.loads((folder / name / "result.json").read_text())
        assert rows[label]["runs"]["1"]["result"] == result
        for metric, spread in rows[label]["metrics"].items():
            assert spread["mean"] == pytest.approx(result["test"]["ensemble"][metric])
            assert spread["deviation"] is None
    assert rows["ids"]["against"] == {}
    assert rows["logit | fusion"]["against"]["NDCG@10"]["seeds"] == [1]
    assert set(rows["logit | fusion"]["streams NDCG@10"]) == {"id", "text"}
    assert tree["dataset"]["users"] == NUM_USERS
    assert tree["missing"] == []

    written = (folder / "report.md").read_text()
    assert "pytest" not in written, "where things lie on this machine is nobody's business"
    for phrase in (
        "python experiments/ablate.py --suite tiny.yaml --dataset tiny --seeds 1 -- --model.dim 8",
        "python experiments/train.py --dataset tiny --ablation logit_fusion --train.lr 0.01 --model.dim 8",
        f"fingerprint `{tree['dataset']['fingerprint']}`",
        "CPU cores",
        "logit \\| fusion",
        "over the 60 test users",
        "It does not cover the choice of seeds",
    ):
        assert phrase in written
    cells = {line.count(" | ") for line in written.splitlines() if line.startswith("| ids (base)")}
    assert cells == {7}, "a label with a bar does not break the table"

    page = ElementTree.fromstring((folder / "report.html").read_text().partition("\n")[2])
    assert len(page.findall(".//table")) == 4
    assert page.find(".//{http://www.w3.org/2000/svg}svg") is not None
    assert "http" not in (folder / "report.html").read_text().replace("http://www.w3.org/2000/svg", ""), "loads nothing"
    assert "Two kinds of model & one" in "".join(page.itertext())
    ElementTree.fromstring((folder / "report.svg").read_text())


def test_what_is_finished_is_skipped_and_a_new_seed_is_added(place: Path) -> None:
    before = finished_at(place)
    again = ablate(place)
    assert again.status == 0, again.err
    assert finished_at(place) == before
    told = ablate(place, "--seeds", "2", "1", "--dry-run").out.splitlines()
    assert [line.rpartition("# ")[2] for line in told] == ["new", "new", "finished", "finished"]
    assert all("--resume" in line for line in told)

    more = ablate(place, "--seeds", "1", "2", "--only", "ids")
    assert more.status == 0, more.err
    after = finished_at(place)
    assert after.keys() - before.keys() == {"ids-s2"}
    assert {name: after[name] for name in before} == before
    assert "missing: logit | fusion, seed 2: not begun" in more.err
    written = (place / "runs/ablations/tiny/tiny/report.md").read_text()
    assert "**Incomplete.** Missing: logit | fusion, seed 2: not begun." in written
    page = (place / "runs/ablations/tiny/tiny/report.html").read_text()
    assert "<strong>Incomplete.</strong>" in page
    tree = json.loads((place / "runs/ablations/tiny/tiny/report.json").read_text())
    assert tree["rows"][0]["metrics"]["HR@10"]["deviation"] >= 0
    assert tree["rows"][1]["against"]["HR@10"]["seeds"] == [1]


def test_other_settings_are_refused_and_replaced_where_asked(place: Path) -> None:
    before = finished_at(place)
    other = (*SMALL[:2], "--train.epochs", "1", *SMALL[4:])
    refused = ablate(place, flags=other)
    assert refused.status == 1
    assert "ids, seed 1" in refused.err
    assert "the run to resume has train.epochs=2, the command says 1" in refused.err
    assert "--overwrite" in refused.err
    assert ablate(place, "--report-only", flags=other).status == 1, "nor is a report made of them"
    assert finished_at(place) == before

    folder = place / "runs/ablations/tiny"
    shutil.copytree(folder / "tiny/ids-s1", folder / "short/ids-s1")
    replaced = ablate(place, "--name", "short", "--only", "ids", "--overwrite", flags=other)
    assert replaced.status == 0, replaced.err
    assert json.loads((folder / "short/ids-s1/result.json").read_text())["epochs"] == 1
    assert finished_at(place)["logit-fusion-s1"] == before["logit-fusion-s1"]
    at = finished_at(place)
    assert ablate(place, "--name", "short", "--only", "ids", "--overwrite", flags=other).status == 0
    assert finished_at(place) == at, "--overwrite leaves what agrees"


def test_a_run_that_fails_is_told_and_the_others_go_on(place: Path) -> None:
    done = ablate(place, "--name", "tiny", "--seeds", "2", "--only", "broken", "ids", suite="broken.yaml")
    assert done.status == 1
    assert "broken, seed 2: ended with status 1; the end of" in done.err
    assert "nobody" in done.err, "the end of its log is shown"
    assert "missing: broken, seed 2: not begun" in done.err
    assert "ids-s2" in finished_at(place)
    tree = json.loads((place / "runs/ablations/tiny/tiny/report.json").read_text())
    assert [row["label"] for row in tree["rows"]] == ["ids"]
    assert tree["missing"] == ["broken, seed 2: not begun", "logit | fusion, seed 2: not begun"]


@pytest.mark.timeout(900)
def test_an_interrupted_run_is_gone_on_with(place: Path) -> None:
    flags = (*SMALL[:2], "--train.epochs", "30", "--train.patience", "0", *SMALL[4:])
    more = ("--name", "stopped", "--only", "ids")
    command = [sys.executable, str(EXPERIMENTS / "ablate.py"), *words(*more, flags=flags)]
    child = subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True)
    folder = place / "runs/ablations/tiny/stopped"
    run = folder / "ids-s1"
    deadline = time.monotonic() + 400
    while not list(run.glob("checkpoints/step-*")):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.terminate()  # as Ctrl-C, which tests started with & would ignore
    _, err = child.communicate()
    assert child.returncode == 1
    assert "the same command goes on from the last checkpoint" in err
    assert not (run / "result.json").exists()
    assert not (folder / "report.md").exists()

    done = ablate(place, *more, flags=flags)
    assert done.status == 0, done.err
    log = (folder / "ids-s1.log").read_text()
    assert log.startswith("$ ")
    assert "resumed after step" in log
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in epochs if "valid" in line] == list(range(1, 31))


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_we_ship_can_be_planned(name: str, tmp_path: Path) -> None:
    suite = read_suite(name)
    # they ask how far training reaches into what that names
    overlays = ["sample-live"] if name in ("encoders", "all-streams") else []
    runs = plan(suite, dataset="sample", seeds=[1, 2], overlays=overlays, flags=[], output=tmp_path)
    assert len({run.folder for run in runs}) == 2 * len(suite.rows)
    assert [run.seed for run in runs] == [1] * len(suite.rows) + [2] * len(suite.rows)
    assert re.search(r"arXiv (2308\.04067|2309\.15379)", suite.claim), "a suite names what of the papers it tests"
    first = [to_yaml(run.experiment).partition("\n")[2] for run in runs[: len(suite.rows)]]
    told = {re.sub(r"name: .*", "", text) for text in first}
    assert len(told) == len(suite.rows), "no two rows are the same"
    assert all(run.experiment.folder == run.folder for run in runs)


def test_seeds_and_launchers_that_make_no_sense_are_refused(place: Path) -> None:
    assert "'-1' is no seed" in ablate(place, "--seeds", "-1").err
    assert "there is no program 'launchpad'" in ablate(place, "--launch", "launchpad --now").err
    assert "did you mean 'ids'?" in ablate(place, "--only", "idz").err


def test_a_launcher_is_put_in_front(place: Path) -> None:
    told = ablate(place, "--launch", "accelerate launch --num_processes 2", "--dry-run").out.splitlines()
    assert len(told) == 2
    assert all("accelerate launch --num_processes 2 " in line and "train.py" in line for line in told)


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("python experiments/ablate.py ")])
def test_the_readmes_commands_can_be_planned(line: str, tmp_path: Path) -> None:
    given, _, flags = line.partition(" -- ")
    asked = parser().parse_args(shlex.split(given)[2:])
    suite = read_suite(asked.suite)
    more = {"overlays": asked.overlays, "flags": shlex.split(flags), "output": tmp_path}
    runs = plan(suite, dataset=asked.dataset, seeds=asked.seeds, **more)
    assert len(runs) == len(asked.seeds) * len(suite.rows)


def test_a_result_that_should_be_replaced_is_not_reported_when_that_fails(place: Path) -> None:
    broken = (*SMALL[:2], "--train.epochs", "1", *SMALL[4:], "--data.features", "text=nobody")
    done = ablate(place, "--overwrite", "--only", "logit | fusion", flags=broken)
    assert done.status == 1
    assert "ids, seed 1" in done.err, "what is not to be replaced is refused still"
    assert "logit-fusion-s1" in finished_at(place)
    done = ablate(place, "--overwrite", flags=broken)
    assert done.status == 1
    assert "logit | fusion, seed 1: ended with status 1" in done.err
    assert set(finished_at(place)) == {"ids-s1"}
    tree = json.loads((place / "runs/ablations/tiny/tiny/report.json").read_text())
    assert tree["missing"] == ["logit | fusion, seed 1: begun, not finished"]

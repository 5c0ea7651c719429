"""The ablation runner where settings are tried out for every row first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.tiny import tiny_dataset
from tests.unit.experiments.test_ablate import SMALL, SUITE, Done, ablate

ROWS = """
  ids: [id_only]
  titles: [text_only]
"""
TUNED = ("--tune", "train.lr=1e-6", "--tune", "train.lr=0.05", "model.backbone=sasrec(layers=1, heads=1)")
SLUGS = ("train.lr-1e-6", "train.lr-0.05-model.backbone-sasrec-layers-1-heads-1")
FLAGS = ("--model.dim", "8", "--train.epochs", "2", "--train.batch-size", "16")


def tuned(place: Path, *more: str, attempts: tuple[str, ...] = TUNED, flags: tuple[str, ...] = FLAGS) -> Done:
    return ablate(place, *attempts, "--seeds", "3", "1", *more, flags=flags)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder where one row of two is tuned and trained; nobody writes there after."""
    place = tmp_path_factory.mktemp("tuning")
    tiny_dataset(place / "tiny")
    (place / "tiny.yaml").write_text(SUITE.partition("rows:")[0] + "rows:" + ROWS)
    planned = tuned(place, "--dry-run").out.splitlines()
    assert len(planned) == 5
    assert planned[4] == "# and 2 runs more, of the best of each row, which is not known yet"
    assert all("'--model.backbone=sasrec(layers=1, heads=1)'" in line for line in planned[1:4:2])
    done = tuned(place, "--only", "ids")
    assert done.status == 0, done.err
    assert done.err.count("missing: titles, seed 3: not begun") == 1
    return place


@pytest.fixture
def place(half: Path, tmp_path: Path) -> Path:
    return shutil.copytree(half, tmp_path / "place")


def report(place: Path) -> dict[str, object]:
    return json.loads((place / "runs/ablations/tiny/tiny/report.json").read_text())


def validation(run: Path) -> float:
    return json.loads((run / "result.json").read_text())["valid"]["ensemble"]["NDCG@10"]


def test_each_row_keeps_what_validates_best(place: Path) -> None:
    done = tuned(place)
    assert done.status == 0, done.err
    folder, tree = place / "runs/ablations/tiny/tiny", report(place)
    assert tree["missing"] == []
    for row in ("ids", "titles"):
        scores = [validation(folder / f"{row}-{slug}-s3") for slug in SLUGS]
        best = scores.index(max(scores))
        assert (tree["tuning"]["scores"][row], tree["tuning"]["chosen"][row]) == (scores, best)
        made = {path.name for path in folder.glob(f"{row}-*") if path.is_dir()}
        assert made == {f"{row}-{SLUGS[0]}-s3", f"{row}-{SLUGS[1]}-s3", f"{row}-{SLUGS[best]}-s1"}
        (found,) = (each for each in tree["rows"] if each["label"] == row)
        assert set(found["runs"]) == {"1", "3"}
        assert found["validation NDCG@10"]["by_seed"]["3"] == scores[best]
        assert ("--train.lr=0.05" in found["command"]) == (best == 1)
        written = (folder / "report.md").read_text()
        (line,) = (line for line in written.split("## Tuning")[1].splitlines() if line.startswith(f"| {row}"))
        cells = [cell.strip() for cell in line.split("|")[2:4]]
        assert cells == [f"**{score:.4f}**" if place == best else f"{score:.4f}" for place, score in enumerate(scores)]
    words = "--tune train.lr=1e-6 --tune train.lr=0.05 'model.backbone=sasrec(layers=1, heads=1)' --"
    assert words in written
    assert "Epochs and settings were chosen" in written


def test_an_attempt_that_fails_is_out_and_more_can_be_made(place: Path) -> None:
    """What is tried has a folder named after it, so that attempts may come, go, and change places."""
    before = {path: path.stat().st_mtime_ns for path in (place / "runs").rglob("result.json")}
    failing = ("--tune", "train.lr=1e30", *TUNED[2:], *TUNED[:2])
    done = tuned(place, "--only", "ids", attempts=failing)
    assert done.status == 1
    assert "the ranking loss is" in done.err
    scores, chosen = report(place)["tuning"]["scores"]["ids"], report(place)["tuning"]["chosen"]
    assert scores[0] is None
    assert chosen["ids"] == (1 if scores[1] >= scores[2] else 2)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert tuned(place, "--report-only", attempts=failing).status == 0
    assert report(place)["tuning"]["chosen"] == chosen


def test_what_was_tuned_with_other_settings_is_made_anew_where_asked(place: Path) -> None:
    longer = tuple("3" if word == "2" else word for word in FLAGS)
    assert "were made with something else" in tuned(place, "--only", "ids", flags=longer).err
    assert tuned(place, "--only", "ids", "--overwrite", flags=longer).status == 0
    again = tuned(place, "--only", "ids", flags=longer)
    assert again.status == 0, again.err
    assert "finished, " not in again.err


@pytest.mark.parametrize(
    ("attempts", "message"),
    [
        (["--tune", "train.lrr=1"], "row 'ids' with --tune --train.lrr=1: command line: unknown setting 'train.lrr'"),
        (["--tune", "train.epochs=3"], "row 'ids' with --tune --train.epochs=3: command line: 'train.epochs' is given"),
        (["--tune", "model.streams=text"], "--tune --model.streams=text makes the rows 'ids' and 'titles' the same"),
        (["--tune", "--tune", "data.length=5"], "--data.length=5: validation would ask other questions than with"),
        (["--tune", "train.lr=1e-3", "--tune", "train.lr=1e+3"], "share the folder name 'train.lr-1e-3'; leave one"),
        (["--tune", "--tune", "model.ensemble=fitted"], "ensemble=fitted are fitted to the very targets of validation"),
        (["--tune", "model.ensemble=fitted()", "--tune"], "by which attempts are chosen, those of mean are not"),
    ],
)
def test_attempts_that_say_nothing_are_refused(half: Path, attempts: list[str], message: str) -> None:
    flags = ("--train.epochs", "2")
    assert message in tuned(half, "--dry-run", attempts=tuple(attempts), flags=flags).err


def test_rows_that_are_not_asked_for_are_no_reason_to_refuse(place: Path) -> None:
    alike = ("--tune", "--tune", "model.streams=text")
    assert "the same" in tuned(place, "--dry-run", attempts=alike).err
    done = tuned(place, "--dry-run", "--only", "titles", attempts=alike)
    assert (done.status, len(done.out.splitlines())) == (0, 3), done.err

    (place / "tiny.yaml").write_text(SUITE)
    joined = ("--tune", "--tune", "model.join=sum(at='item')")
    why = "row 'ids' with --tune --model.join=sum(at='item'): model.join=sum(at='item') needs two streams"
    assert f"error: {why}" in tuned(place, "--dry-run", attempts=joined).err
    done = tuned(place, "--dry-run", "--only", "logit | fusion", attempts=joined)
    assert done.status == 0, done.err
    assert f"left out: {why}" in done.err
    assert [line.partition(" --name ")[2].partition(" ")[0] for line in done.out.splitlines()[:2]] == [
        "logit-fusion-as-configured-s3", "logit-fusion-model.join-sum-at-item-s3",
    ]  # fmt: skip
    assert done.out.splitlines()[2].startswith("# and 1 runs more")


def test_what_a_row_sets_itself_stays_whatever_is_tried(place: Path) -> None:
    rows = "\n  ids: [id_only]\n  sure: [id_only, --model.dropout, 0.0]\n"
    (place / "tiny.yaml").write_text(SUITE.partition("rows:")[0] + "rows:" + rows)
    asked = {"flags": SMALL, "suite": "tiny.yaml"}
    done = ablate(place, "--name", "own", "--tune", "--tune", "model.dropout=0.5", **asked)
    assert done.status == 0, done.err
    assert "row 'sure' keeps its own model.dropout" in done.err
    folder = place / "runs/ablations/tiny/own"
    made = {path.name for path in folder.glob("*-s1")}
    assert made == {"ids-as-configured-s1", "ids-model.dropout-0.5-s1", "sure-as-configured-s1"}
    found = json.loads((folder / "report.json").read_text())["tuning"]
    score = validation(folder / "sure-as-configured-s1")
    assert (found["scores"]["sure"], found["chosen"]["sure"]) == ([score, None], 0)
    assert found["instead"] == {"sure": {"1": None}}
    assert told_of_tuning(folder, "sure") == [f"**{score:.4f}**", "="]
    assert "in brackets is what was tried for it instead" in (folder / "report.md").read_text()

    ablate(place, "--name", "own", "--tune", "model.dropout=0.5", "--report-only", **asked)
    assert told_of_tuning(folder, "sure") == [f"**{score:.4f}** (as configured)"]
    assert "`id_only --model.dropout 0.0`, as configured" in (folder / "report.md").read_text()


def told_of_tuning(folder: Path, row: str) -> list[str]:
    written = (folder / "report.md").read_text().split("## Tuning")[1]
    (line,) = (line for line in written.splitlines() if line.startswith(f"| {row} "))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_without_tuning_the_report_says_nothing_of_it(place: Path) -> None:
    assert ablate(place, "--name", "plain", "--only", "ids", flags=SMALL).status == 0
    folder = place / "runs/ablations/tiny/plain"
    assert json.loads((folder / "report.json").read_text())["tuning"] is None
    assert "## Tuning" not in (folder / "report.md").read_text()

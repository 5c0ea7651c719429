"""Finished runs kept in short: what they are made of, and that a suite goes on from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from experiments.studies.comparison import compare
from experiments.studies.finished import ReportError, load
from tests.tiny import tiny_dataset
from tests.unit.experiments.test_ablate import SMALL, SUITE, ablate


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Make a folder with a dataset, a suite, and the runs of its two rows with one seed."""
    tiny_dataset(tmp_path / "tiny")
    (tmp_path / "tiny.yaml").write_text(SUITE)
    done = ablate(tmp_path)
    assert done.status == 0, done.err
    return tmp_path


def test_runs_that_were_kept_in_short_are_gone_on_with_elsewhere(place: Path) -> None:
    folder = place / "runs/ablations/tiny/tiny"
    assert ablate(place, "--keep", "kept").status == 0
    assert {path.name for path in (place / "kept/ids-s1").iterdir()} == {
        "experiment.yaml", "result.json", "ranks_to_20.npz",
    }  # fmt: skip
    before = json.loads((folder / "report.json").read_text())
    shutil.rmtree(place / "runs")

    refused = ablate(place, "--keep", "kept", flags=(*SMALL[:2], "--train.epochs", "1", *SMALL[4:]))
    assert "the run to resume has train.epochs=2, the command says 1" in refused.err
    again = ablate(place, "--keep", "kept", "--seeds", "1", "2", "--only", "ids")
    assert again.status == 0, again.err
    assert [line for line in again.err.splitlines() if "finished" in line] == [
        f"ids, seed 2: finished, {folder.relative_to(place)}/ids-s2"
    ]
    assert {path.name for path in (place / "kept").iterdir()} == {"ids-s1", "ids-s2", "logit-fusion-s1"}
    assert ablate(place, "--keep", "kept").status == 0
    assert json.loads((folder / "report.json").read_text()) == before

    with pytest.raises(ReportError, match="ids-s1 was kept in short"):
        compare([load(folder / name, label=name) for name in ("ids-s1", "ids-s2")])
    shutil.copyfile(place / "kept/ids-s2/ranks_to_20.npz", folder / "ids-s1/ranks_to_20.npz")
    assert "in ranks_to_20.npz; the files are of different runs" in ablate(place).err


def test_rows_that_another_suite_has_trained_alike_are_taken_from_there(place: Path) -> None:
    runs = place / "runs/ablations/tiny"
    report = json.loads((runs / "tiny/report.json").read_text())
    before = {row["label"]: row["metrics"] for row in report["rows"]}
    assert ablate(place, "--keep", "kept").status == 0
    for theirs in ("runs/ablations/tiny/tiny", "kept"):
        name = Path(theirs).name
        again = ablate(place, "--name", f"of-{name}", "--reuse", theirs, "--seeds", "1", "2", "--report-only")
        assert f"ids-s1: the same as {theirs}/ids-s1" in again.err, again.err
        assert "missing: ids, seed 2: not begun" in again.err
        report = json.loads((runs / f"of-{name}/report.json").read_text())
        assert {row["label"]: row["metrics"] for row in report["rows"]} == before
        assert "trained as" not in (runs / f"of-{name}/ids-s1/experiment.yaml").read_text()
        # and goes on as if it had been trained here
        assert ablate(place, "--name", f"of-{name}").status == 0
    other = (*SMALL[:2], "--train.epochs", "1", *SMALL[4:])
    found = ablate(place, "--name", "other", "--reuse", "kept", "--report-only", flags=other)
    assert "the same as" not in found.err
    assert "no run of tiny is finished yet" in found.err
    assert "--reuse nowhere: no finished runs there" in ablate(place, "--reuse", "nowhere").err
    shutil.rmtree(place / "kept/ids-s1")
    (place / "tiny.yaml").write_text(SUITE.replace("ids:", "ids again:").replace("base: ids", "base: ids again"))
    renamed = ablate(place, "--name", "renamed", "--reuse", "kept", "runs/ablations/tiny/tiny", "--report-only")
    assert "ids-again-s1: the same as runs/ablations/tiny/tiny/ids-s1" in renamed.err
    assert "name: ids-again-s1  # trained as ids-s1" in (runs / "renamed/ids-again-s1/experiment.yaml").read_text()
    (place / "tiny.yaml").write_text(SUITE.replace("ids:", "anew:").replace("base: ids", "base: anew"))
    ablate(place, "--name", "anew", "--reuse", "runs/ablations/tiny/renamed", "--report-only")
    assert "name: anew-s1  # trained as ids-s1\n" in (runs / "anew/anew-s1/experiment.yaml").read_text()

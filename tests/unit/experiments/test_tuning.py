"""The ablation runner where settings are tried out for every row first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny import tiny_dataset
from tests.unit.experiments.test_ablate import SMALL, SUITE, ablate

TRIED = ("--tune", "train.lr=1e-6", "train.lr=0.05 model.dropout=0.0")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tuning")
    tiny_dataset(place / "tiny")
    (place / "tiny.yaml").write_text(
        SUITE.replace("logit | fusion: [logit_fusion, --train.lr, 0.01]", "titles: [text_only]")
    )
    return place


def test_each_row_keeps_what_validates_best(place: Path) -> None:
    folder = place / "runs/ablations/tiny/tiny"
    planned = ablate(place, *TRIED, "--seeds", "3", "1", "--dry-run").out.splitlines()
    assert len(planned) == 4, "what comes after tuning is not known before it"
    assert all("--model.dropout=0.0" in line for line in planned[1::2])

    half = ablate(place, *TRIED, "--seeds", "3", "1", "--only", "ids")
    assert half.status == 0, half.err
    assert half.err.count("missing: titles, seed 3: not begun") == 1

    done = ablate(place, *TRIED, "--seeds", "3", "1")
    assert done.status == 0, done.err
    tree = json.loads((folder / "report.json").read_text())
    assert tree["tuning"]["seed"] == 3
    assert tree["missing"] == []
    for row, slug in (("ids", "ids"), ("titles", "titles")):
        scores = [
            json.loads((folder / f"{slug}-t{number}-s3/result.json").read_text())["valid"]["ensemble"]["NDCG@10"]
            for number in (1, 2)
        ]
        assert tree["tuning"]["scores"][row] == scores
        best = 1 + scores.index(max(scores))
        made = {path.name for path in folder.glob(f"{slug}-*") if path.is_dir()}
        assert made == {f"{slug}-t1-s3", f"{slug}-t2-s3", f"{slug}-t{best}-s1"}
        (found,) = (each for each in tree["rows"] if each["label"] == row)
        assert found["runs"]["3"]["result"] == json.loads((folder / f"{slug}-t{best}-s3/result.json").read_text())
        assert set(found["runs"]) == {"1", "3"}
        assert ("--model.dropout=0.0" in found["command"]) == (best == 2)
    written = (folder / "report.md").read_text()
    assert "## Tuning" in written
    assert "--tune train.lr=1e-6 'train.lr=0.05 model.dropout=0.0' --" in written
    assert written.count("**") >= 4


def test_without_tuning_the_report_says_nothing_of_it(place: Path) -> None:
    assert ablate(place, "--name", "plain", "--only", "ids", flags=SMALL).status == 0
    folder = place / "runs/ablations/tiny/plain"
    assert json.loads((folder / "report.json").read_text())["tuning"] is None
    assert "## Tuning" not in (folder / "report.md").read_text()

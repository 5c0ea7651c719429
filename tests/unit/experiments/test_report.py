"""The report: what it computes, checked by hand, and which runs it refuses to compare."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from experiments.studies import comparison
from experiments.studies.comparison import Row, compare, to_markdown
from experiments.studies.finished import Estimate, ReportError, Run, load, per_user
from odmt.evaluate import CUTOFFS, metrics

POPULAR = [300.0, 40.0, 10.0, 77.5]


def write_run(
    path: Path,
    ranks: Mapping[str, list[float]],
    *,
    users: list[int] | None = None,
    dataset: str = "sample",
    fingerprint: str = "f00d",
    mask_history: bool = True,
) -> Path:
    """Write a run folder as training leaves it."""
    path.mkdir(parents=True)
    arrays = {head: np.asarray(values, dtype=np.float32) for head, values in ranks.items()}
    popular = np.asarray((POPULAR * len(arrays["ensemble"]))[: len(arrays["ensemble"])], dtype=np.float32)
    users = list(range(len(popular))) if users is None else users
    result = {
        "dataset": dataset,
        "seed": 1,
        "best_epoch": 3,
        "epochs": 5,
        "valid": {},
        "test": {head: metrics(values) for head, values in arrays.items()},
        "most_popular": metrics(popular),
        "parameters": 7,
        "seconds": 90.0,
    }
    (path / "result.json").write_text(json.dumps(result))
    (path / "experiment.yaml").write_text(
        f"# commit: abc\n# dataset: {fingerprint}\n# from defaults\ndataset: {dataset}\n"
        f"train:\n  mask_history: {str(mask_history).lower()}\n  repeats: rank\n"
    )
    np.savez(path / "test_ranks.npz", users=np.asarray(users), **arrays, **{"most-popular": popular})
    return path


TWO_STREAMS = {"id": [1, 30, 2, 50], "text": [9, 9, 99, 99], "ensemble": [1, 3, 2, 50]}
ID_ONLY = {"id": [1, 30, 12, 50], "ensemble": [1, 30, 12, 50]}


def test_metrics_equal_those_of_evaluation() -> None:
    ranks = np.random.default_rng(0).integers(2, 80, 500).astype(np.float32) / 2
    names = ["MRR", *(f"{name}@{cutoff}" for name in ("HR", "NDCG") for cutoff in CUTOFFS)]
    assert {name: per_user(name, ranks).mean() for name in names} == pytest.approx(metrics(ranks))


def test_standard_errors_are_those_computed_by_hand(tmp_path: Path) -> None:
    other = write_run(tmp_path / "id_only", ID_ONLY)
    best = write_run(tmp_path / "odmt", TWO_STREAMS)
    rows = {(row.run, row.head): row for row in compare([load(other, label="a"), load(best, label="b")])}
    assert list(rows) == [("", "most-popular"), ("a", "id"), ("b", "id"), ("b", "text"), ("b", "ensemble")]

    # hits of the ensemble: 1 1 1 0, so the mean is 3/4, the sample variance (3/16 + 9/16) / 3 = 1/4, the error 0.5 / 2
    assert rows["b", "ensemble"].metrics["HR@10"] == Estimate(0.75, 0.25)
    # hits of id only: 1 0 0 0. Differences 0 1 1 0: mean 1/2, variance 1/3, error sqrt(1/3) / 2
    ahead = rows["a", "id"].ahead["HR@10"]
    assert (ahead.mean, ahead.error) == pytest.approx((0.5, math.sqrt(1 / 3) / 2))
    # NDCG@10 differs by 0, 1/log2(4) = 1/2, 1/log2(3), 0
    gains = [0.0, 0.5, 1 / math.log2(3), 0.0]
    mean = sum(gains) / 4
    error = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / 3 / 4)
    ahead = rows["a", "id"].ahead["NDCG@10"]
    assert (ahead.mean, ahead.error) == pytest.approx((mean, error))
    assert rows["b", "ensemble"].ahead == {}


def test_a_lone_stream_is_its_own_ensemble_and_is_shown_once(tmp_path: Path) -> None:
    run = load(write_run(tmp_path / "id_only", ID_ONLY), label="id_only")
    rows = compare([run])
    assert [row.head for row in rows] == ["most-popular", "id"]
    assert rows[-1].ahead == {}, "it is also what the others are compared with"


def test_a_run_equal_to_the_reference_is_level_with_it(tmp_path: Path) -> None:
    runs = [load(write_run(tmp_path / name, TWO_STREAMS), label=name) for name in "ab"]
    ensembles = [row for row in compare(runs) if row.head == "ensemble"]
    assert ensembles[0].ahead == {"HR@10": Estimate(0, 0), "NDCG@10": Estimate(0, 0)}


def test_users_are_matched_by_id_whatever_their_order(tmp_path: Path) -> None:
    turned = {head: values[::-1] for head, values in TWO_STREAMS.items()}
    write_run(tmp_path / "turned", turned, users=[3, 2, 1, 0])
    runs = [load(tmp_path / "turned", label="a"), load(write_run(tmp_path / "b", TWO_STREAMS), label="b")]
    assert next(row for row in compare(runs) if row.head == "ensemble").ahead["HR@10"] == Estimate(0, 0)


def test_the_table() -> None:
    metrics = {name: Estimate(0.0687, 0.00114) for name in ("HR@10", "NDCG@10", "HR@20", "MRR")}
    ahead = {name: Estimate(0.01, 0.0009) for name in ("HR@10", "NDCG@10")}
    result = {"epochs": 12, "best_epoch": 7, "seconds": 642}
    table = to_markdown([Row("", "most-popular", metrics, ahead, {}), Row("x-s1", "ensemble", metrics, {}, result)])
    lines = [" ".join(line.split()) for line in table.splitlines()]
    four = " | ".join(["0.0687 ± 0.0011"] * 4)
    lead = "x-s1 ensemble ahead in HR@10 | x-s1 ensemble ahead in NDCG@10"
    assert lines[0] == f"| run | head | HR@10 | NDCG@10 | HR@20 | MRR | {lead} | epochs (best) | minutes |"
    assert lines[2] == f"| | most-popular | {four} | +0.0100 ± 0.0009 | +0.0100 ± 0.0009 | | |"
    assert lines[3] == f"| x-s1 | ensemble | {four} | | | 12 (7) | 10.7 |"
    assert len({len(line) for line in table.splitlines()}) == 1, "columns line up"


@pytest.mark.parametrize(
    ("different", "message"),
    [
        ({"dataset": "beauty"}, "a and b were tested on different datasets, 'beauty' and 'sample'"),
        ({"fingerprint": "beef"}, "a and b differ in the data's fingerprint, beef and f00d"),
        ({"mask_history": False}, "a and b differ in train.mask_history, false and true"),
        ({"users": [0, 1, 5, 7]}, "a and b were tested on different users (the first that differ are 5 and 2)"),
    ],
)
def test_runs_that_were_asked_different_questions_are_not_compared(
    different: dict, message: str, tmp_path: Path
) -> None:
    runs = [load(write_run(tmp_path / "a", ID_ONLY, **different), label="a")]
    runs.append(load(write_run(tmp_path / "b", TWO_STREAMS), label="b"))
    with pytest.raises(ReportError) as error:
        compare(runs)
    assert str(error.value) == f"{message}; report them separately"


def test_another_number_of_users_is_not_compared(tmp_path: Path) -> None:
    fewer = {head: values[:3] for head, values in ID_ONLY.items()}
    runs: list[Run] = [load(write_run(tmp_path / "a", fewer), label="a")]
    runs.append(load(write_run(tmp_path / "b", TWO_STREAMS), label="b"))
    with pytest.raises(ReportError, match="a and b were tested on 3 and 4 users; report them separately"):
        compare(runs)


def test_a_missing_run_is_answered_with_those_there_are(tmp_path: Path) -> None:
    write_run(tmp_path / "odmt-s1", TWO_STREAMS)
    with pytest.raises(ReportError) as error:
        load(tmp_path / "odmt-s2", label="x")
    assert str(error.value) == f"{tmp_path}/odmt-s2 does not exist; finished runs there: {tmp_path}/odmt-s1"


@pytest.mark.parametrize("name", ["result.json", "test_ranks.npz", "experiment.yaml"])
def test_an_unfinished_run_is_refused(name: str, tmp_path: Path) -> None:
    path = write_run(tmp_path / "odmt-s1", TWO_STREAMS)
    (path / name).unlink()
    with pytest.raises(ReportError, match=f"has no {name}"):
        load(path, label="x")


def test_files_of_different_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", TWO_STREAMS)
    other = write_run(tmp_path / "b", TWO_STREAMS | {"text": [1, 1, 1, 1]})
    (other / "test_ranks.npz").replace(path / "test_ranks.npz")
    with pytest.raises(ReportError, match=r"text HR@10 is 0.500000 in result.json and 1.000000 in test_ranks.npz"):
        load(path, label="x")


def test_the_command_prints_the_table_and_writes_json(tmp_path: Path, repository: Path) -> None:
    write_run(tmp_path / "one" / "odmt", ID_ONLY)
    write_run(tmp_path / "two" / "odmt", TWO_STREAMS)
    command = [sys.executable, str(repository / "experiments/report.py"), "one/odmt", "two/odmt", "--json", "r.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "two/odmt ensemble ahead in HR@10" in done.stdout, "two runs of one name are told apart by their paths"
    tree = json.loads((tmp_path / "r.json").read_text())
    assert (tree["dataset"], tree["users"], tree["reference"]) == ("sample", 4, {"run": "two/odmt", "head": "ensemble"})
    assert tree["rows"][1]["ahead"]["HR@10"]["mean"] == 0.5
    assert tree["rows"][1]["epochs"] == 5

    done = subprocess.run([*command[:2], "one/nothing"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: one/nothing does not exist; finished runs there: one/odmt\n")


def report(monkeypatch: pytest.MonkeyPatch, place: Path, *words: str) -> str:
    """Run the command in `place`; give what it says of a mistake, "" where there is none."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["report.py", *words])
    try:
        comparison.main()
    except SystemExit as error:
        return str(error.code)
    return ""


@pytest.mark.parametrize("again", ["odmt", "./odmt", "other/../odmt", "link"])
def test_a_run_that_is_named_twice_is_refused(again: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "odmt", TWO_STREAMS)
    write_run(tmp_path / "other", ID_ONLY)
    (tmp_path / "link").symlink_to("odmt")
    told = report(monkeypatch, tmp_path, "odmt", "other", again)
    also = "" if again in ("odmt", "./odmt") else f", as {again} the second time"
    assert told == f"error: odmt is named twice{also}; name each run once"


def test_the_json_file_may_lie_in_a_new_folder_and_must_be_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "odmt", TWO_STREAMS)
    assert report(monkeypatch, tmp_path, "odmt", "--json", "new/folder/r.json") == ""
    assert json.loads((tmp_path / "new/folder/r.json").read_text())["users"] == 4
    for wrong in (".", "new", "odmt/result.json/r.json"):
        told = report(monkeypatch, tmp_path, "odmt", "--json", wrong)
        assert re.match(rf"error: --json {re.escape(wrong)} .*; name a file", told), told
    assert not list(tmp_path.glob("**/.*.partial"))


def test_the_example_of_several_runs_works_beside_folders_of_suites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("microlens-s1", "microlens-id_only-s1", "ablations/microlens/imt/ids-s1"):
        write_run(tmp_path / "runs" / name, TWO_STREAMS)
    (example,) = re.findall(r"report\.py (.*\*.*)", comparison.__doc__ or "")
    words = [sorted(map(str, tmp_path.glob(word))) if "*" in word else [word] for word in shlex.split(example)]
    assert report(monkeypatch, tmp_path, *(word for some in words for word in some)) == ""

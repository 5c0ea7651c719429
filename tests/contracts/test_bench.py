"""Every suite of experiments/bench.py runs, at a size where its figures mean nothing, and writes what it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.benchmarks.floor import compared
from experiments.benchmarks.loader import asked_bytes
from experiments.benchmarks.peers import with_targets
from experiments.benchmarks.step import compare, compare_precisely
from experiments.benchmarks.tables import peer_table
from experiments.benchmarks.workload import Shape, Workload, make_workload
from odmt.types import Tokens

SUITES = {
    "step": "--dims 16 --batches 4 --tokens 10 50 --items 2000 --repeats 1",
    "eval": "--dims 16 --encode 20 --users 6 --catalogues 50 --full 30 50 --grow 50 --repeats 1",
    "loader": "--widths 384 --batches 4 --items 60 --repeats 2",
    "growth": "--dim 16 --sweeps tokens --most 8 --repeats 1 --plot {folder}/curves.svg",
    "catalogue": "--items 200 --dim 8 --batch 8 --users 6 --repeats 1",
    "live": "--encoder test_efficientnet_ln(frames=2,size=32,pretrained=False) --batches 2 --ways blocks --repeats 1",
    "start": "--repeats 1",
    "prepare": "--interactions 20000 --folder {folder}",
}
KEYS = {
    "step": "data dim batch equal equal_in ours_s reference_s ratio floor_s floor_ratio users_per_s ours_peak_bytes",
    "eval": "what",
    "loader": "width batch file_bytes loader_s step_s wait_share cold_s cold_disk_bytes cold_asked_bytes",
    "growth": "sweep value step_s formula_s peak_bytes formula_bytes",
    "catalogue": "kind items dim seconds peak_bytes formula_bytes",
    "live": "way batch items step_s peak_bytes frames_per_s peak_share wait_share",
    "start": "what seconds",
    "prepare": "layout seconds per_second peak_bytes",
}


def run_bench(repository: Path, suite: str, options: str, target: Path) -> list[dict[str, Any]]:
    environment = {**os.environ, "ODMT_CHECK_SHAPES": "0"}
    command = [sys.executable, "experiments/bench.py", "--suite", suite, "--json", str(target), *options.split()]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    tree = json.loads(target.read_text())
    assert tree["about"]
    assert tree["command"].startswith(f"--suite {suite}")
    return tree[suite]


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_runs_and_says_what_it_found(suite: str, repository: Path, tmp_path: Path) -> None:
    results = run_bench(repository, suite, SUITES[suite].format(folder=tmp_path), tmp_path / "found.json")
    assert results
    for entry in results:
        assert set(KEYS[suite].split()) <= set(entry)
        times = {name: value for name, value in entry.items() if name.endswith("_s") or name == "seconds"}
        assert all(value > 0 for value in times.values()), times
    if suite == "step":
        assert results[0]["equal"] is True
        assert results[0]["loss_difference"] <= 2e-6
        assert results[0]["float64_gradient_difference"] <= 1e-9
        assert results[0]["float64_users"] == 64
        assert min(results[0]["float64_user_parts"], results[0]["float64_item_parts"]) >= 2
    if suite == "eval":
        assert {entry["what"] for entry in results} == {"encoding", "ranking", "top", "full", "memory"}
        assert all(entry["equal"] for entry in results if "reference_s" in entry)
        assert all(0 < entry["rate_min"] <= entry["rate_max"] for entry in results if "floor_s" in entry)
    if suite in ("step", "eval"):
        command = [sys.executable, "experiments/bench.py", "--table", str(tmp_path / "found.json")]
        told = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
        assert told.count("\n| ") == len(results) + 1  # the head comes first, its rule and the rows after line breaks
    if suite == "growth":
        drawn = (tmp_path / "curves.svg").read_text()
        assert drawn.startswith("<svg")
        assert drawn.count("<circle") == 2 * len(results)


def test_help_lists_the_suites_and_a_suites_options(repository: Path) -> None:
    for options, words in (("--help", "catalogue, streams and history"), ("--suite step --help", "--no-memory")):
        command = [sys.executable, "experiments/bench.py", *options.split()]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert words in done.stdout


def test_a_reference_in_pieces_steps_like_one_at_once() -> None:
    shape = Shape(dim=16, batch=4, num_items=60, tokens=(("text", 3), ("image", 5)))
    found = compare(make_workload(shape), torch.device("cpu"), pieces=3)
    assert found["equal"]
    assert found["loss_difference"] <= 2e-6


class OtherTokens(Workload):
    """Give the reference tokens that differ a little from ours."""

    def padded(self, modality: str, items: np.ndarray) -> Tokens:
        tokens = super().padded(modality, items)
        return Tokens(tokens.values * 1.01, tokens.mask)


def test_sides_that_differ_are_told_as_such() -> None:
    made = make_workload(Shape(dim=16, batch=4, num_items=60, tokens=(("text", 3), ("image", 5))))
    workload = OtherTokens(made.name, made.shape, made.features, made.split, made.item_counts)
    assert not compare(workload, torch.device("cpu"))["equal"]
    assert not compare_precisely(workload, torch.device("cpu"))["equal"]


def test_ratios_are_medians_of_turns_and_the_floor_takes_the_best_rate() -> None:
    found = compared([[1.0, 2.0, 4.0], [3.0, 2.0, 8.0]], [10.0, 10.0, 10.0], [5.0, 20.0])
    assert found["ratio"] == 2.0
    assert found["floor_s"] == 0.5
    assert found["floor_ratio"] == 4.0
    assert (found["rate_min"], found["rate_max"]) == (5.0, 20.0)


def test_padding_is_not_asked_of_the_disk() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert asked_bytes({"text": Tokens(torch.zeros(2, 3, 5, dtype=torch.float16), mask)}) == 3 * 5 * 2


def test_who_never_reached_the_peers_score_is_told_so() -> None:
    about = {"dataset": "d", "repeat": 0, "over_budget": False, "version": "1", "loss": "l", "batch": "b"}
    about |= {"hyper_parameters": {"feed_forward": 4}, "evaluation_s": 1.0, "training_bytes": 1e9, "budget_s": 5.0}
    ours = {**about, "name": "odmt", "epoch_s": [2.0, 3.0], "ndcg10": [0.1, 0.3], "training_s": 5.0, "evaluations": 2}
    slow = {**about, "name": "slow", "epoch_s": [6.0], "ndcg10": [0.1], "training_s": 6.0, "evaluations": 1}
    good = {**about, "name": "good", "epoch_s": [6.0], "ndcg10": [0.2], "training_s": 6.0, "evaluations": 1}
    found = with_targets([ours, slow, good])
    assert [run["target_s"] for run in found] == [5.0, None, 6.0]
    assert [run["target_evaluations"] for run in found] == [2, None, 1]
    rows = peer_table(found)
    assert "0.2000: 5 s, 2 epochs" in rows[2]
    assert "0.2000: never in 6 s (budget 5 s)" in rows[3]

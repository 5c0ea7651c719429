"""Every suite of experiments/bench.py runs, at a size where its figures mean nothing, and writes what it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SUITES = {
    "step": "--dims 16 --batches 4 --tokens 3 5 --items 60 --repeats 1",
    "eval": "--dims 16 --encode 20 --users 6 --catalogues 50 --full 30 50 --tiles 4 --repeats 1",
    "loader": "--widths 384 --batches 4 --items 60 --repeats 2",
    "growth": "--dim 16 --sweeps tokens --most 8 --repeats 1 --plot {folder}/curves.svg",
    "start": "--repeats 1",
    "prepare": "--interactions 20000 --folder {folder}",
}
KEYS = {
    "step": "data dim batch equal ours_s reference_s ratio floor_s floor_ratio users_per_s ours_peak_bytes",
    "eval": "what",
    "loader": "width batch file_bytes loader_s step_s wait_share cold_s cold_disk_bytes cold_asked_bytes",
    "growth": "sweep value step_s formula_s peak_bytes formula_bytes",
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
    if suite == "eval":
        assert {entry["what"] for entry in results} == {"encoding", "ranking", "full", "memory"}
        assert all(entry["equal"] for entry in results if "reference_s" in entry)
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


def test_a_reference_in_pieces_steps_like_one_at_once(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "experiments"))
    import torch
    from benchmarks.step import assert_equal
    from benchmarks.workload import Shape, make_workload

    shape = Shape(dim=16, batch=4, num_items=60, tokens=(("text", 3), ("image", 5)))
    differences = assert_equal(make_workload(shape), torch.device("cpu"), pieces=3)
    assert differences["loss_difference"] <= 2e-6

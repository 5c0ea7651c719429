"""Checkpoints: which are kept, and what becomes of a run whose newest is damaged."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from odmt.training import run
from tests.unit.training.tiny_runs import experiment, fresh_accelerator, lines


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "model": ("model.safetensors", flip_a_byte, "model.safetensors is not what was written: its hash differs"),
    "optimizer": ("optimizer.bin", cut, "optimizer.bin has .* bytes, and had"),
    "random": ("random-0.json", Path.unlink, "random-0.json is missing"),
    "manifest": ("checkpoint.json", flip_a_byte, "checkpoint.json cannot be read as it was written"),
    "best": ("../best-00003.safetensors", flip_a_byte, "best-00003.safetensors is not what was written"),
}

BEST_LAST = "--seed=4"
"""A seed with which the best of the three epochs is the last."""


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    fresh_accelerator()
    return run(experiment(dataset, tmp_path_factory.mktemp("runs"), BEST_LAST))


def copied(whole: Path, output: Path) -> list[Path]:
    """Copy a run that lost its result, and list its checkpoints, the newest last."""
    folder = output / whole.name
    shutil.copytree(whole, folder)
    (folder / "result.json").unlink()
    return sorted((folder / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_aloud(
    dataset: Path, tmp_path: Path, whole: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before, newest = copied(whole, tmp_path)
    assert json.loads((newest / "checkpoint.json").read_text())["told"]["progress"]["best_epoch"] == 3
    name, damage, told = DAMAGES[what]
    damage(newest / name)
    folder = run(replace(experiment(dataset, tmp_path, BEST_LAST), resume=True))
    out = capsys.readouterr().out
    assert f"{newest} is damaged (" in out
    assert f"); going on from {before}\n" in out
    assert re.search(told, out)
    assert lines(folder) == lines(whole)
    weights = [(run_folder / "model" / "model.safetensors").read_bytes() for run_folder in (folder, whole)]
    assert weights[0] == weights[1]


def test_where_all_are_damaged_nothing_is_begun_anew_in_silence(dataset: Path, tmp_path: Path, whole: Path) -> None:
    for checkpoint in copied(whole, tmp_path):
        (checkpoint / "optimizer.bin").unlink()
    with pytest.raises(ValueError, match=r"step-0000000012 is damaged .*step-0000000008.*begin anew with --overwrite"):
        run(replace(experiment(dataset, tmp_path, BEST_LAST), resume=True))
    fresh_accelerator()
    assert (run(replace(experiment(dataset, tmp_path, BEST_LAST), overwrite=True)) / "result.json").exists()


@pytest.mark.parametrize(("keep", "left"), [(1, ["step-0000000012"]), (2, ["step-0000000008", "step-0000000012"])])
def test_the_newest_are_kept_with_the_weights_they_ask_for(
    dataset: Path, tmp_path: Path, keep: int, left: list[str]
) -> None:
    folder = run(experiment(dataset, tmp_path, BEST_LAST, f"--train.keep-checkpoints={keep}"))
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert [name for name in names if name.startswith("step-")] == left
    # after two epochs the first was the best, after three the last
    best = ["best-00003.safetensors"] if keep == 1 else ["best-00001.safetensors", "best-00003.safetensors"]
    assert [name for name in names if name.startswith("best-")] == best


def test_a_checkpoint_holds_nothing_that_runs_code(whole: Path) -> None:
    newest = sorted((whole / "checkpoints").glob("step-*"))[-1]
    assert {path.suffix for path in newest.iterdir()} == {".safetensors", ".bin", ".pt", ".json"}
    load_file(newest / "model.safetensors")
    for path in (*newest.glob("*.bin"), *newest.glob("*.pt")):
        torch.load(path, weights_only=True)


def test_within_an_epoch_a_checkpoint_is_due_by_the_clock(dataset: Path, tmp_path: Path) -> None:
    written = []
    for minutes in ("0", "1e-9"):
        fresh_accelerator()
        name = f"--name=every-{minutes}"
        folder = run(
            experiment(dataset, tmp_path, name, f"--train.checkpoint-minutes={minutes}", "--train.keep-checkpoints=99")
        )
        written.append([int(path.name[5:]) for path in sorted((folder / "checkpoints").glob("step-*"))])
    assert written == [[4, 8, 12], list(range(1, 13))]

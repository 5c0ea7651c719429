"""The loop on a dataset of a second: it learns, selects on validation, and says what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from odmt.data.format import open_dataset
from odmt.data.loading import UserBatches
from odmt.data.splits import LeaveTwoOut
from odmt.schedules import learning_rate
from odmt.training import run
from tests.tiny import NUM_USERS
from tests.unit.training.tiny_runs import experiment, fresh_accelerator, lines


def test_a_run_leaves_everything_it_promises(dataset: Path, tmp_path: Path) -> None:
    folder = run(experiment(dataset, tmp_path, "--train.epochs=6", "--train.patience=2"))
    result = json.loads((folder / "result.json").read_text())
    assert set(result) == {
        "dataset", "seed", "best_epoch", "epochs", "valid", "test", "most_popular", "parameters", "seconds"
    }  # fmt: skip
    assert set(result["test"]) == set(result["valid"]) == {"id", "text", "ensemble"}
    assert set(result["test"]["id"]) == {"HR@5", "HR@10", "HR@20", "NDCG@5", "NDCG@10", "NDCG@20", "MRR"}
    with np.load(folder / "test_ranks.npz") as ranks:
        assert len(ranks["ensemble"]) == len(ranks["most-popular"]) == len(ranks["users"]) == NUM_USERS
        assert result["test"]["ensemble"]["HR@10"] == pytest.approx((ranks["ensemble"] <= 10).mean())
    epochs = [line for line in lines(folder) if "valid" in line]
    assert [line["epoch"] for line in epochs] == list(range(1, result["epochs"] + 1))
    scores = [line["valid"]["ensemble"]["NDCG@10"] for line in epochs]
    assert result["best_epoch"] == 1 + int(np.argmax(scores))  # chosen on validation, the last epoch among the choices
    assert result["valid"] == epochs[result["best_epoch"] - 1]["valid"]
    assert result["test"]["ensemble"]["HR@10"] > result["most_popular"]["HR@10"] + 0.2  # the planted kinds are found
    text = (folder / "experiment.yaml").read_text()
    assert all(word in text for word in ("# commit: ", "torch 2.", "# dataset: "))


def test_a_seed_fixes_everything(dataset: Path, tmp_path: Path) -> None:
    results = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fresh_accelerator()
        folder = run(experiment(dataset, tmp_path, f"--name={name}", f"--seed={seed}", "--train.epochs=1"))
        results.append((lines(folder), (folder / "model" / "model.safetensors").read_bytes()))
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_a_precision_set_in_two_places_is_refused(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match=r"launched with --mixed_precision bf16, and --train.bf16 is off"):
        run(experiment(dataset, tmp_path))


def test_processes_that_do_not_know_of_each_other_are_refused(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    with pytest.raises(ValueError, match=r"2 processes were launched, but .* ACCELERATE_USE_CPU=true"):
        run(experiment(dataset, tmp_path))


def test_a_tracker_that_is_not_there_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tracker 'tensorbored' is not installed; there is tensorboard"):
        run(experiment(dataset, tmp_path, "--trackers=tensorbored"))


@pytest.mark.parametrize("minutes", ["0", "1e-9"])
def test_a_loss_that_breaks_stops_the_run(dataset: Path, tmp_path: Path, minutes: str) -> None:
    """It breaks at the second step, is looked at after the fourth or before it is saved, and told with its batch."""
    settings = experiment(
        dataset,
        tmp_path,
        "--train.lr=1e30",
        "--train.clip=0",
        "--train.log-every=50",
        f"--train.checkpoint-minutes={minutes}",
    )
    with pytest.raises(FloatingPointError, match=r"loss is (nan|inf) at step 2 \(epoch 1\).*lower --train.lr"):
        run(settings)
    told = json.loads((settings.folder / "broken_batch.json").read_text())
    users = UserBatches(NUM_USERS, settings.train.batch_size, seed=settings.seed).whole()[1]
    assert told["users"] == users.tolist()
    data = open_dataset(dataset)
    split = LeaveTwoOut(data.offsets, data.items, num_items=data.num_items, length=settings.data.length)
    assert told["items"] == sorted({*split.training(users).ravel().tolist()} - {0})
    assert len(list(settings.folder.glob("checkpoints/step-*"))) == (minutes != "0")  # of the first step alone


def test_bf16_trains(dataset: Path, tmp_path: Path) -> None:
    folder = run(experiment(dataset, tmp_path, "--train.bf16", "--train.epochs=4"))
    assert json.loads((folder / "result.json").read_text())["test"]["ensemble"]["HR@10"] > 0.5


def test_a_subset_validates_and_everybody_is_tested(dataset: Path, tmp_path: Path) -> None:
    folder = run(experiment(dataset, tmp_path, "--train.eval-users=10", "--train.epochs=1"))
    result = json.loads((folder / "result.json").read_text())
    assert (result["valid"]["ensemble"]["HR@10"] * 10) % 1 == pytest.approx(0)
    with np.load(folder / "test_ranks.npz") as ranks:
        assert len(ranks["ensemble"]) == NUM_USERS


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 1, 0.8536, 0.5, 0.1464]),
    ],
)
def test_learning_rate(schedule: str, expected: list[float], dataset: Path, tmp_path: Path) -> None:
    settings = replace(experiment(dataset, tmp_path).train, schedule=schedule, warmup_steps=2)
    assert [learning_rate(step, settings, steps=6) for step in range(6)] == pytest.approx(expected, abs=1e-4)

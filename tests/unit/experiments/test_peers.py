"""The comparison with other libraries: that all get the same task, that what is timed is what is meant, and the words.

RecBole and RecTools themselves run where `make peers` has built their environments, and are skipped elsewhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.benchmarks import peers
from experiments.benchmarks.peer_diary import table_for_our_ids, with_one
from experiments.benchmarks.peer_recbole import configuration, write_atomic
from experiments.benchmarks.peer_task import (
    DisagreementError,
    Settings,
    Task,
    check_questions,
    check_training,
    examples,
    lookup_of,
)
from odmt.data.splits import LeaveTwoOut
from odmt.evaluate import mask_seen, rank_targets
from tests.tiny import NUM_ITEMS, tiny_dataset

HISTORIES = [[5, 3, 4, 1, 2], [9, 8, 7, 6, 5, 4, 3, 2, 1], [1, 2, 3, 4]]


@pytest.fixture
def task() -> Task:
    return task_of(HISTORIES, length=4)


def task_of(histories: list[list[int]], *, length: int) -> Task:
    offsets = np.cumsum([0, *map(len, histories)])
    items = np.array([item for history in histories for item in history])
    return Task(offsets, items, num_items=9, settings=Settings(length=length, dim=8, layers=1, threads=1))


def test_a_task_is_the_newest_events_and_splits_as_the_whole_histories(task: Task, tmp_path: Path) -> None:
    assert task.items.tolist() == [5, 3, 4, 1, 2, 7, 6, 5, 4, 3, 2, 1, 1, 2, 3, 4]  # length 4: the newest 7 events
    offsets = np.cumsum([0, *map(len, HISTORIES)])
    whole = LeaveTwoOut(offsets, np.concatenate(HISTORIES), num_items=9, length=4)
    task.save(tmp_path)
    again = Task.read(tmp_path)
    assert again.settings == task.settings
    for part in ("valid", "test"):
        for name in ("users", "histories", "targets"):
            np.testing.assert_array_equal(
                getattr(again.split.questions(part), name), getattr(whole.questions(part), name)
            )
    np.testing.assert_array_equal(again.split.training(np.arange(3)), whole.training(np.arange(3)))


def test_events_are_numbered_within_users_and_leave_out_the_newest(task: Task) -> None:
    events = task.events(leave_out=2)
    assert events.users.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 2, 2]
    assert events.items.tolist() == [5, 3, 4, 7, 6, 5, 4, 3, 1, 2]
    assert events.times.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1]


def test_examples_unfold_every_prefix(task: Task) -> None:
    rows = examples(task.split.training(np.arange(3)))
    assert sorted(rows.tolist()) == sorted(
        [
            [0, 0, 0, 5, 3],
            [0, 0, 5, 3, 4],
            [0, 0, 0, 7, 6],
            [0, 0, 7, 6, 5],
            [0, 7, 6, 5, 4],
            [7, 6, 5, 4, 3],
            [0, 0, 0, 1, 2],
        ]
    )


def test_a_library_that_holds_something_else_is_refused(task: Task) -> None:
    rows = examples(task.split.training(np.arange(3)))
    check_training(task, rows[::-1])
    with pytest.raises(DisagreementError, match=r"training examples .* \(7, 5\) were given, .* \(6, 5\)"):
        check_training(task, rows[1:])
    wrong = rows.copy()
    wrong[wrong[:, -1] == 3, -1] = 9
    with pytest.raises(DisagreementError, match=r"was given, and the library holds"):
        check_training(task, wrong)
    asked = task.split.questions("valid")
    check_questions(task, asked.users[::-1], asked.histories[::-1], asked.targets[::-1])
    with pytest.raises(DisagreementError, match="user, history, target"):
        check_questions(task, asked.users, asked.histories, asked.targets[::-1])


def test_recbole_gets_events_in_order_and_the_whole_catalogue(task: Task, tmp_path: Path) -> None:
    write_atomic(task, tmp_path)
    events = (tmp_path / "task/task.inter").read_text().splitlines()
    assert events[0] == "user_id:token\titem_id:token\ttimestamp:float"
    assert events[1:4] == ["0\t5\t0", "0\t3\t1", "0\t4\t2"]
    assert len(events) == 1 + len(task.items)
    assert (tmp_path / "task/task.item").read_text().split() == ["item_id:token", *map(str, range(1, 10))]
    settings = configuration(task, tmp_path)
    assert settings["MAX_ITEM_LIST_LENGTH"] == 4
    assert settings["loss_type"] == "CE"
    assert settings["train_neg_sample_args"] is None
    assert "train_batch_size" not in settings


def test_items_that_a_library_does_not_know_rank_below_those_it_does() -> None:
    lookup = torch.from_numpy(lookup_of(["[PAD]", "3", "1"], 4))
    assert lookup.tolist() == [-1, 2, -1, 1, -1]
    vectors = torch.tensor([[9.0, 9.0], [-5.0, 0.0], [-7.0, 0.0]])
    scores = with_one(torch.tensor([[1.0, 0.0]])) @ table_for_our_ids(vectors, lookup).T
    assert scores[0, [1, 3]].tolist() == [-7.0, -5.0]
    seen = torch.zeros(1, 1, dtype=torch.long)
    places = [rank_targets(mask_seen(scores, seen, torch.tensor([i])), torch.tensor([i])).item() for i in (1, 2, 3, 4)]
    assert places == [2.0, 3.5, 1.0, 3.5]


def arguments(dataset: Path, *libraries: str, environments: Path = Path(".peers")) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    peers.add_arguments(parser)
    given = ["--datasets", str(dataset), "--environments", str(environments), "--threads", "1", "--dim", "8"]
    return parser.parse_args([*given, "--libraries", *libraries])


def test_our_own_side_runs_in_turn_and_is_described(tmp_path: Path) -> None:
    dataset = tiny_dataset(tmp_path / "tiny")
    asked = arguments(dataset.path, "odmt", "odmt-catalogue")
    asked.epochs, asked.users = 2, 40
    results = peers.measure(asked)
    assert [result["name"] for result in results] == ["odmt", "odmt-catalogue"]
    for result in results:
        assert result["users"] == 40
        assert result["catalogue"] == NUM_ITEMS
        assert len(result["epoch_s"]) == len(result["ndcg10"]) == 2
        assert all(seconds > 0 for seconds in result["epoch_s"])
        assert result["evaluation_reports"]["NDCG@10"] == pytest.approx(result["ndcg10"][-1])
        assert 0 < result["before_training_bytes"] <= result["training_bytes"] <= result["peak_bytes"]
    told = peers.describe(results)
    assert "40 users, 1 threads" in told
    assert "in-batch, 256 users" in told


def test_a_missing_environment_says_how_to_build_it(tmp_path: Path) -> None:
    dataset = tiny_dataset(tmp_path / "tiny")
    with pytest.raises(peers.PeerError, match=r"recbole/bin/python is not there: .* `make peers PEERS="):
        peers.measure(arguments(dataset.path, "recbole", environments=tmp_path / "none"))


def test_a_run_that_fails_shows_its_last_lines(tmp_path: Path, task: Task) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no such thing\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(peers.PeerError, match=r"ended with status 3; its last lines:\nno such thing"):
        peers.run("recbole", python, task)


def test_a_run_over_its_budget_is_ended_and_told(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nsleep 60\n")
    python.chmod(0o755)
    offsets = np.array([0, 5])
    short = Task(offsets, np.arange(1, 6), num_items=9, settings=Settings(budget_s=0.2))
    found = peers.run("rectools", python, short)
    assert found["over_budget"]
    about = {"dataset": "d", "name": "rectools", "users": 1, "threads": 2}
    assert "no epoch within the budget" in peers.describe([{**about, **found}])


def test_time_to_a_score_counts_whole_epochs() -> None:
    run = {"epoch_s": [2.0, 3.0, 4.0], "ndcg10": [0.1, 0.3, 0.2]}
    assert peers.time_to(run, 0.1) == 2.0
    assert peers.time_to(run, 0.2) == 5.0
    assert peers.time_to(run, 0.31) is None


@pytest.mark.parametrize("name", ["recbole", "rectools"])
def test_the_peers_train_and_answer_on_the_same_events(name: str, repository: Path) -> None:
    environments = repository / ".peers"
    if not (environments / name / "installed").exists():
        pytest.skip(f"{name}'s environment is not built: make peers")
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 12, size=200)
    items = np.concatenate([rng.permutation(np.arange(1, 31))[:length] for length in lengths])  # nobody repeats an item
    settings = Settings(dim=8, threads=1, epochs=2, length=6)
    task = Task(np.cumsum([0, *lengths]), items, num_items=31, settings=settings)  # nobody ever meets item 31
    result = peers.run(name, environments / name / "bin/python", task)  # which checks what the library holds
    assert len(result["epoch_s"]) == 2
    assert result["catalogue"] == {"recbole": 31, "rectools": 30}[name]
    # the library's own metric against ours: right only if states, item vectors and ids were handed over right
    ours = {"recbole": result.get("ndcg10_unmasked"), "rectools": result["ndcg10"][-1]}[name]
    assert result["evaluation_reports"]["NDCG@10"] == pytest.approx(ours, abs=1e-6)

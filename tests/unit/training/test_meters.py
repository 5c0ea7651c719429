"""What is counted of an epoch, and how its time is shared out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from odmt import ItemFeatures, make_batch
from odmt.config import parse
from odmt.data.features import open_features
from odmt.data.format import open_dataset
from odmt.data.loading import UserBatches
from odmt.data.splits import LeaveTwoOut
from odmt.meters import Meter, counted, peak_bytes, shares
from odmt.training import run
from odmt.types import Batch, Part
from tests.processes import launch
from tests.unit.training.tiny_runs import arguments, experiment, lines

HISTORIES = np.array([[0, 0, 0, 1, 2], [0, 1, 2, 1, 3], [0, 0, 0, 0, 5]])
DRAWN = np.array([4, 4, 5])
CPU = torch.device("cpu")


def features() -> ItemFeatures:
    """Give items of one to five tokens."""
    return ItemFeatures.from_arrays(5, text=[np.ones((item, 2), "float32") for item in range(1, 6)])


def batch() -> Batch:
    return make_batch(HISTORIES, features(), drawn=DRAWN)


def test_what_a_batch_consists_of() -> None:
    """The leading column that nobody fills is no slot, and an item that was drawn alone is encoded, and no event's."""
    seen = counted(batch())
    assert seen == {
        "users": 3, "slots": 12, "events": 7, "items": 5, "distinct": 4, "places/text": 25, "tokens/text": 15,
    }  # fmt: skip
    expected = {
        "padding": pytest.approx(5 / 12),
        "distinct_items": 4 / 7,
        "token_padding": {"text": pytest.approx(0.4)},
    }
    assert shares(seen) == expected
    assert shares({}) == {"padding": 0, "distinct_items": 0, "token_padding": {}}


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_parts_add_up_to_the_batch(world: int) -> None:
    """More processes than users or items, too, some of which are idle. How far tokens are padded is each one's own."""
    together: Counter[str] = Counter()
    for rank in range(world):
        together.update(counted(make_batch(HISTORIES, features(), drawn=DRAWN, part=Part(rank, world, len(HISTORIES)))))
    whole = counted(batch())
    del together["places/text"], whole["places/text"]
    assert together == whole


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def loader(self, batches: int, seconds: float) -> Iterator[Batch]:
        for _ in range(batches):
            self.now += seconds
            yield batch()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("odmt.meters.time.perf_counter", clock)
    return clock


def test_time_is_that_of_steps_and_of_waiting_for_batches(clock: Clock) -> None:
    meter, seen = Meter(CPU, list), {"users": 10, "slots": 40, "events": 30, "items": 9, "distinct": 9}
    for number, _ in enumerate(meter.watch(clock.loader(4, 0.5))):
        clock.now += 1.5
        if number == 1:
            with meter.aside(seen):
                assert (seen["users"], seen["events"]) == (16, 44)  # a checkpoint of now knows of both batches
                clock.now += 1000
    clock.now += 1000  # validation
    figures = meter.end(seen)
    speed = figures["speed"]
    assert speed.pop("peak_gb") == pytest.approx(peak_bytes(CPU) / 1e9, rel=0.1)
    assert speed == {"users_per_s": 12 / 8, "items_per_s": 20 / 8, "loader_wait": 0.25}
    assert figures["batches"]["padding"] == pytest.approx(1 - (30 + 4 * 7) / (40 + 4 * 12))
    assert seen == {}  # what follows is of the next epoch
    for _ in meter.watch(clock.loader(1, 1)):
        clock.now += 2
    assert meter.end(seen)["speed"]["users_per_s"] == 1


def test_users_are_those_of_all_and_the_wait_that_of_who_waits_most(clock: Clock) -> None:
    others = ({"users": 9, "items": 5}, (16.0, 0.5, 10**15))
    meter = Meter(CPU, lambda own: [*own, others])
    for _ in meter.watch(clock.loader(1, 2)):
        clock.now += 6
    assert meter.end({})["speed"] == {
        "users_per_s": 0.8, "items_per_s": 0.6, "loader_wait": 0.5, "peak_gb": 10**6
    }  # fmt: skip


def test_an_epoch_of_which_no_step_was_left_has_no_speed() -> None:
    seen = counted(batch())
    meter = Meter(CPU, list)
    assert list(meter.watch([])) == []
    figures = meter.end(seen)
    assert set(figures["speed"]) == {"peak_gb"}
    assert figures["batches"] == shares(counted(batch()))


def test_memory_is_that_of_the_process_and_not_of_who_started_it() -> None:
    program = """
import torch
from odmt.meters import peak_bytes
before = peak_bytes(torch.device("cpu"))
held = bytearray(300_000_000)
print(before, peak_bytes(torch.device("cpu")))
"""
    held = bytearray(1_000_000_000)
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    before, after = map(int, told.split())
    assert 200_000_000 < after - before < 330_000_000  # less where the system took pages back meanwhile
    assert 50_000_000 < before < len(held)


def expected_shares(dataset: Path, batch_size: int, *, seed: int, epoch: int) -> dict[str, Any]:
    """Say it from the data, user by user."""
    data = open_dataset(dataset)
    split = LeaveTwoOut(data.offsets, data.items, num_items=data.num_items, length=13)
    batches = UserBatches(split.num_users, batch_size, seed=seed)
    batches.epoch = epoch
    events = slots = distinct = tokens = places = 0
    features = open_features(data, ["text"])
    for users in batches.whole():
        histories = [[int(item) for item in split.training(np.array([user]))[0] if item] for user in users]
        items = sorted({item for history in histories for item in history})
        events += sum(map(len, histories))
        slots += len(histories) * max(map(len, histories))
        distinct += len(items)
        lengths = features.count_tokens("text", items)
        tokens += int(lengths.sum())
        places += len(items) * max(1, int(lengths.max()))
    return {
        "padding": pytest.approx(1 - events / slots),
        "distinct_items": pytest.approx(distinct / events),
        "token_padding": {"text": pytest.approx(1 - tokens / places)},
    }


def train(rank: int, argv: list[str]) -> None:
    run(parse(argv, configs=Path(argv[0])))


def test_every_epoch_is_logged_with_its_figures(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = experiment(dataset, tmp_path, "--data.length=10")
    folder = run(settings)
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in logged if "valid" in line]
    assert len(epochs) == 3
    for number, line in enumerate(epochs):
        assert list(line) == ["step", "epoch", "seconds", "batches", "speed", "valid"]
        assert list(line["speed"]) == ["users_per_s", "items_per_s", "loader_wait", "peak_gb"]
        assert all(value > 0 for value in line["speed"].values())
        assert line["speed"]["loader_wait"] < 1
        assert line["batches"] == expected_shares(dataset, 16, seed=settings.seed, epoch=number)
    assert f"  {epochs[-1]['speed']['users_per_s']:,.0f} users/s" in capsys.readouterr().out


def test_figures_of_the_data_are_the_same_for_any_number_of_processes(dataset: Path, tmp_path: Path) -> None:
    found = []
    for world in (1, 2):
        argv = arguments(dataset, tmp_path, f"--name={world}", "--train.epochs=1", "--train.batch-size=7")
        assert launch(train, world, argv) == [0] * world
        (epoch,) = [line["batches"] for line in lines(tmp_path / str(world)) if "valid" in line]
        assert isinstance(epoch, dict)
        del epoch["token_padding"]
        found.append(epoch)
    assert found[0] == found[1]
    assert set(found[0]) == {"padding", "distinct_items"}

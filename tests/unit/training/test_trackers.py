"""Every tracker holds what metrics.jsonl holds, however the run ended and however often it was resumed.

wandb and mlflow are tested where they are installed; `test_other_trackers.py` makes an environment that has them.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from odmt.checkpoints import Checkpoints
from odmt.loop import _Loop
from odmt.stopping import Stopped
from odmt.trackers import numbers
from odmt.training import run
from tests.unit.training.tiny_runs import experiment, fresh_accelerator

Points = dict[str, dict[int, float]]


@dataclass
class Told:
    """What a tracker holds of a run: the last value of every number at every step, settings, and how it ended."""

    points: Points
    settings: Mapping[str, str]
    ends: list[str]


def of_tensorboard(folder: Path) -> Told:
    read = EventAccumulator(str(folder / "odmt"))
    read.Reload()
    names = read.Tags()["scalars"]
    points = {name: {event.step: event.value for event in read.Scalars(name)} for name in names}
    for name in names:  # purged, not merely followed by another
        assert len(points[name]) == len(read.Scalars(name)) or name == "epoch"
    (settings,) = folder.glob("odmt/*/hparams.yml")
    return Told(points, {name: str(value) for name, value in yaml.safe_load(settings.read_text()).items()}, [])


def of_mlflow(folder: Path) -> Told:
    import mlflow

    client = mlflow.MlflowClient()
    (found,) = mlflow.search_runs(experiment_names=["odmt"], output_format="list")
    assert found.info.run_name == folder.name
    points = {}
    for name in found.data.metrics:
        history = sorted(client.get_metric_history(found.info.run_id, name), key=lambda one: one.timestamp)
        points[name] = {one.step: one.value for one in history}
    return Told(points, found.data.params, [found.info.status])


def of_wandb(folder: Path) -> Told:
    points: Points = {}
    settings: dict[str, str] = {}
    ends, runs = [], set()
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        until = time.monotonic() + 120
        while not any(record.HasField("exit") for record in records(path.read_bytes())):
            assert time.monotonic() < until, f"{path} has no end"  # wandb writes from a process of its own
            time.sleep(0.1)
        for record in records(path.read_bytes()):
            if record.HasField("run"):
                runs.add((record.run.project, record.run.display_name, record.run.run_id))
            if record.HasField("config"):
                assert not settings, "told twice"
                settings = {one.key: str(json.loads(one.value_json)) for one in record.config.update}
            if record.HasField("exit"):
                ends.append(str(record.exit.exit_code))
            if record.HasField("history"):
                values = {"/".join(one.nested_key) or one.key: one.value_json for one in record.history.item}
                for name, value in values.items():
                    if not name.startswith("_"):
                        points.setdefault(name, {})[int(values["_step"])] = json.loads(value)
    ((project, name, _),) = runs
    assert (project, name) == ("odmt", folder.name)
    return Told(points, settings, ends)


def records(data: bytes) -> Iterator[Any]:
    """Read wandb's file: after 7 bytes, blocks of 32 KiB of pieces with their checksum, length and kind in front."""
    from wandb.proto.wandb_internal_pb2 import Record

    place, pieces = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        place += 7 + length
        pieces += data[place - length : place]
        if kind in (1, 4):  # whole, or the last piece
            yield Record.FromString(pieces)
            pieces = b""


READERS: dict[str, Callable[[Path], Told]] = {"tensorboard": of_tensorboard, "wandb": of_wandb, "mlflow": of_mlflow}
ENDS = {
    "stopped": {"tensorboard": [], "wandb": ["0"], "mlflow": ["KILLED"]},
    "failed": {"tensorboard": [], "wandb": ["1"], "mlflow": ["FAILED"]},
}
each_tracker = pytest.mark.parametrize(
    "tracker",
    [
        pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed"))
        for name in READERS
    ],
)


@pytest.fixture(autouse=True)
def nothing_leaves_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)


def logged(folder: Path) -> Points:
    found: Points = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        read = json.loads(line)
        for name, value in numbers(read).items():
            found.setdefault(name, {})[read["step"]] = pytest.approx(value)  # tensorboard keeps float32
    return found


@each_tracker
def test_it_holds_what_was_logged(tracker: str, dataset: Path, tmp_path: Path) -> None:
    folder = run(experiment(dataset, tmp_path, f"--trackers={tracker}"))
    told = READERS[tracker](folder)
    assert told.points == logged(folder)
    for name in ("loss/ranking", "valid/ensemble/NDCG_at_10", "speed/users_per_s", "batches/token_padding/text"):
        assert name in told.points
    assert told.settings["train/lr"] == "0.01"
    assert told.settings["model/backbone"] == "sasrec(layers=1,heads=1)"
    assert {"resume", "overwrite"}.isdisjoint(told.settings)
    assert told.ends == {"tensorboard": [], "wandb": ["0"], "mlflow": ["FINISHED"]}[tracker]


@pytest.mark.parametrize("how", ENDS)
@each_tracker
def test_a_run_taken_up_again_is_one_run(
    tracker: str, how: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop it, which saves before the next step, or let it fail with an epoch logged that was not saved."""
    settings = experiment(dataset, tmp_path, f"--trackers={tracker}", "--train.log-every=1")
    step, save = _Loop._step, Checkpoints.save

    def stopping(loop: _Loop, *given: Any) -> Any:
        if loop.progress.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(loop, *given)

    def failing(checkpoints: Checkpoints, accelerator: Any, progress: Any) -> None:
        if progress.epoch == 2:
            raise OSError("the disk is full")
        save(checkpoints, accelerator, progress)

    with monkeypatch.context() as patched:
        if how == "stopped":
            patched.setattr(_Loop, "_step", stopping)
        else:
            patched.setattr(Checkpoints, "save", failing)
        with pytest.raises(Stopped if how == "stopped" else OSError):
            run(settings)
    before = READERS[tracker](settings.folder)
    assert before.points == logged(settings.folder)
    assert max(before.points["loss/ranking"]) == (6 if how == "stopped" else 8)
    assert before.ends == ENDS[how][tracker]
    fresh_accelerator()
    run(replace(settings, resume=True))
    after = READERS[tracker](settings.folder)
    assert after.points == logged(settings.folder)
    assert max(after.points["loss/ranking"]) == 12
    assert after.settings == before.settings
    assert after.ends == {"tensorboard": [], "wandb": [*before.ends, "0"], "mlflow": ["FINISHED"]}[tracker]


def test_names_are_such_as_all_trackers_take() -> None:
    line = {"step": 7, "valid": {"id + text (late)": {"HR@10": 0.5}}}
    assert numbers(line) == {"valid/id _ text _late_/HR_at_10": 0.5}

"""The loop on a dataset of a second: it learns, selects on validation, resumes exactly, and says what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from odmt import ItemFeatures
from odmt.config import Experiment, parse
from odmt.data.features import open_features
from odmt.data.format import open_dataset
from odmt.encoders.caching import encode_modality
from odmt.encoders.text import Tfidf
from odmt.pretrained import build_model, from_pretrained, load_weights, save_pretrained
from odmt.run_folder import RunFolder
from odmt.training import learning_rate, run
from tests.tiny import NUM_USERS, tiny_dataset

SMALL = [
    "--model.dim=16",
    "--model.fusion=imt(layers=1,heads=1)",
    "--model.backbone=sasrec(layers=1,heads=1)",
    "--distill.ramp-epochs=2",
    "--train.epochs=3",
    "--train.batch-size=16",
    "--train.lr=0.01",
    "--train.log-every=2",
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    tiny_dataset(folder)
    return folder


@pytest.fixture(autouse=True)
def fresh_accelerator_for_each_test() -> None:
    fresh_accelerator()


def fresh_accelerator() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


DIE = """
import os, signal, sys
from pathlib import Path
import odmt.training as training
from odmt.config import parse

append = training.RunFolder.append_metrics

def append_and_die(self, line):
    append(self, line)
    if line["epoch"] == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

training.RunFolder.append_metrics = append_and_die
training.run(parse(sys.argv[3:], configs=Path(sys.argv[1])))
"""


def arguments(dataset: Path, output: Path, *more: str) -> list[str]:
    argv = [*SMALL, f"--dataset={dataset}", f"--output={output}", *more]
    return list({flag.partition("=")[0]: flag for flag in argv}.values())  # a later flag replaces an earlier one


def experiment(dataset: Path, output: Path, *more: str) -> Experiment:
    return parse(arguments(dataset, output, *more), configs=output)


def lines(folder: Path) -> list[dict[str, object]]:
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in read]


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


def test_the_saved_model_scores_as_the_trained_one(dataset: Path, tmp_path: Path) -> None:
    folder = run(experiment(dataset, tmp_path))
    features = open_features(open_dataset(dataset), ["text"])
    model = from_pretrained(folder / "model", features)
    tables = model.encode_catalogue()
    again = from_pretrained(folder / "model", features)
    scores = model.score(torch.tensor([[0, 1, 3]]), tables)
    for name, expected in again.score(torch.tensor([[0, 1, 3]]), again.encode_catalogue()).items():
        assert torch.equal(scores[name], expected)
    with np.load(folder / "test_ranks.npz") as saved:
        from odmt import LeaveTwoOut, ranks

        data = open_dataset(dataset)
        split = LeaveTwoOut(data.offsets, data.items, num_items=data.num_items, length=10)
        found = ranks(partial(model.states, tables=tables), tables, split.questions("test"), combine=model.ensemble)
        np.testing.assert_array_equal(found["ensemble"], saved["ensemble"])


def test_a_seed_fixes_everything(dataset: Path, tmp_path: Path) -> None:
    results = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fresh_accelerator()
        folder = run(experiment(dataset, tmp_path, f"--name={name}", f"--seed={seed}", "--train.epochs=1"))
        results.append((lines(folder), (folder / "model" / "model.safetensors").read_bytes()))
    assert results[0] == results[1]
    assert results[0] != results[2]


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_killed_run_resumes_to_the_same_end(dataset: Path, tmp_path: Path, epoch: int) -> None:
    """Kill the process without warning, before or after its first checkpoint; resumed, it ends as if nothing was."""
    whole = run(experiment(dataset, tmp_path, "--name=whole", "--train.epochs=4"))
    argv = arguments(dataset, tmp_path, "--name=killed", "--train.epochs=4")
    command = [sys.executable, "-c", DIE, str(tmp_path), str(epoch), *argv]
    died = subprocess.run(command, env={**os.environ, "ODMT_CHECK_SHAPES": "0"}, check=False)
    settings = parse(argv, configs=tmp_path)
    assert died.returncode == -signal.SIGKILL
    killed = settings.folder
    assert not (killed / "result.json").exists()
    assert any(line["epoch"] == epoch for line in lines(killed))  # logged after the newest checkpoint, to be redone
    fresh_accelerator()
    run(replace(settings, resume=True))
    assert lines(killed) == lines(whole)
    assert (killed / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()
    fresh_accelerator()
    before = (killed / "result.json").stat().st_mtime_ns
    run(replace(settings, resume=True))  # finished: a no-op
    assert (killed / "result.json").stat().st_mtime_ns == before


def test_a_run_that_had_stopped_early_does_not_go_on(dataset: Path, tmp_path: Path) -> None:
    """Lose the result after patience ran out: resumed, the run tests its best epoch and trains no further."""
    settings = experiment(dataset, tmp_path, "--train.epochs=30", "--train.patience=1")
    folder = run(settings)
    ended = json.loads((folder / "result.json").read_text())
    assert ended["epochs"] < 30
    before = lines(folder)
    (folder / "result.json").unlink()
    fresh_accelerator()
    run(replace(settings, resume=True))
    again = json.loads((folder / "result.json").read_text())
    assert lines(folder) == before
    assert {**again, "seconds": 0} == {**ended, "seconds": 0}


def test_a_full_disk_costs_the_checkpoint_and_nothing_else(dataset: Path, tmp_path: Path, repository: Path) -> None:
    whole = run(experiment(dataset, tmp_path, "--name=whole", "--train.epochs=2"))
    argv = arguments(dataset, tmp_path, "--name=full", "--train.epochs=2")
    largest = max(path.stat().st_size for path in (whole / "checkpoints" / "epoch-00002").iterdir())
    script = (
        "import resource, runpy, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest - 1}, {largest - 1}))\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')"
    )
    program = "import sys; del sys.argv[0]\n" + script.replace("sys.argv[1]", "sys.argv[0]")
    command = [sys.executable, "-c", program, str(repository / "experiments" / "train.py"), *argv]
    environment = {**os.environ, "ODMT_CHECK_SHAPES": "0", "PYTHONPATH": str(repository)}
    died = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert died.returncode == 1
    assert "Traceback" not in died.stderr
    assert "the same command with --resume goes on" in died.stderr
    full = tmp_path / "full"
    assert not list((full / "checkpoints").glob("epoch-*"))
    fresh_accelerator()
    run(replace(parse(argv, configs=tmp_path), resume=True))
    assert lines(full) == lines(whole)
    assert (full / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()


def test_a_start_that_failed_does_not_lock_its_user_out(dataset: Path, tmp_path: Path) -> None:
    settings = experiment(dataset, tmp_path, "--train.epochs=1")
    (settings.folder / "checkpoints").mkdir(parents=True)
    (settings.folder / ".lock").touch()
    assert (run(settings) / "result.json").exists()


def test_two_starts_into_one_folder_are_told_apart(dataset: Path, tmp_path: Path) -> None:
    settings = experiment(dataset, tmp_path, "--train.epochs=1")
    first, second = RunFolder(settings.folder), RunFolder(settings.folder)
    first.claim(settings, {})
    with pytest.raises(ValueError, match="is being written by another process"):
        second.claim(replace(settings, resume=True), {})


def test_a_run_is_resumed_by_as_many_processes_as_began_it(dataset: Path, tmp_path: Path) -> None:
    settings = experiment(dataset, tmp_path, "--train.epochs=1")
    folder = RunFolder(settings.folder)
    folder.claim(settings, {"processes": "2"})
    del folder
    with pytest.raises(ValueError, match=r"started with another processes than .* gives now \(1\)"):
        RunFolder(settings.folder).claim(replace(settings, resume=True), {"processes": "1"})
    moved = replace(settings, resume=True, data=replace(settings.data, workers=3), trackers=("tensorboard",))
    RunFolder(settings.folder).claim(moved, {"processes": "2"})  # these may differ


def test_a_precision_set_in_two_places_is_refused(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match=r"launched with --mixed_precision bf16, but --train.bf16 is off"):
        run(experiment(dataset, tmp_path))


def test_processes_that_do_not_know_of_each_other_are_refused(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    with pytest.raises(ValueError, match=r"2 processes were launched, but .* ACCELERATE_USE_CPU=true"):
        run(experiment(dataset, tmp_path))


def test_a_checkpoint_half_written_is_never_read(dataset: Path, tmp_path: Path) -> None:
    settings = experiment(dataset, tmp_path, "--train.epochs=1")
    folder = run(settings)
    (folder / "result.json").unlink()
    half = folder / "checkpoints" / ".partial"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half of it")
    fresh_accelerator()
    assert (run(replace(settings, resume=True)) / "result.json").exists()


def test_an_existing_run_is_neither_mixed_nor_lost(dataset: Path, tmp_path: Path) -> None:
    settings = experiment(dataset, tmp_path, "--train.epochs=1", "--name=taken")
    run(settings)
    fresh_accelerator()
    with pytest.raises(ValueError, match="holds a run already; add --resume"):
        run(settings)
    other = experiment(dataset, tmp_path, "--train.epochs=1", "--name=taken", "--model.dim=8", "--resume")
    with pytest.raises(ValueError, match=r"has model.dim=16, the command says 8"):
        run(other)
    elsewhere = tmp_path / "data" / "tiny"
    tiny_dataset(elsewhere, seed=9)
    with pytest.raises(ValueError, match="started with another dataset"):
        run(replace(settings, dataset=str(elsewhere), resume=True))
    assert (run(replace(settings, overwrite=True)) / "result.json").exists()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work")
    fresh_accelerator()
    with pytest.raises(ValueError, match="is no run of ours"):
        run(replace(settings, name="precious", overwrite=True))
    assert (precious / "thesis.tex").exists()
    with pytest.raises(ValueError, match="no name of a folder"):
        experiment(dataset, tmp_path, "--name=..", "--overwrite")


def test_features_of_another_encoder_do_not_slip_into_a_run(dataset: Path, tmp_path: Path) -> None:
    own = tmp_path / "data" / "tiny"
    tiny_dataset(own)
    settings = experiment(own, tmp_path, "--train.epochs=1")
    folder = run(settings)
    (folder / "result.json").unlink()
    shutil.rmtree(own / "features")
    encode_modality(open_dataset(own), "text", Tfidf(dim=7), batch_size=64, progress=False)
    fresh_accelerator()
    with pytest.raises(ValueError, match="started with another features"):
        run(replace(settings, resume=True))
    with pytest.raises(ValueError, match=r"was trained on text features \w+, and these are"):
        from_pretrained(folder / "model", open_features(open_dataset(own), ["text"]))


def test_a_saved_model_reads_as_many_tokens_as_in_training(dataset: Path, tmp_path: Path) -> None:
    features = ItemFeatures.from_arrays(24, text=np.random.default_rng(0).normal(size=(24, 5, 6)).astype("float32"))
    settings = experiment(dataset, tmp_path, "--data.max-tokens=text=2", "--model.streams=text", "--distill.graph")
    model = build_model(settings, features.limited({"text": 2})).eval()
    save_pretrained(model, settings, tmp_path / "model")
    again = from_pretrained(tmp_path / "model", features)
    assert torch.equal(again.encode_catalogue()["text"], model.encode_catalogue()["text"])
    assert not torch.equal(build_model(settings, features).encode_catalogue()["text"], model.encode_catalogue()["text"])


def test_a_tracker_that_is_not_there_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tracker 'tensorbored' is not installed; there is tensorboard"):
        run(experiment(dataset, tmp_path, "--trackers=tensorbored"))


def test_weights_of_another_model_are_refused_by_name(dataset: Path, tmp_path: Path) -> None:
    folder = run(experiment(dataset, tmp_path, "--train.epochs=1"))
    features = open_features(open_dataset(dataset), ["text"])
    from odmt import ODMT

    with pytest.raises(ValueError, match=r"parameter \S+ is \[.*in the file and \[.*in the model"):
        load_weights(ODMT(features, dim=8, fusion="imt(layers=1, heads=1)"), folder / "model" / "model.safetensors")
    with pytest.raises(ValueError, match="does not exist"):
        from_pretrained(tmp_path / "nowhere", features)
    broken = folder / "model" / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged"):
        from_pretrained(folder / "model", features)


def test_a_loss_that_breaks_stops_the_run(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"loss is (nan|inf) at step \d+.*lower --train.lr"):
        run(experiment(dataset, tmp_path, "--train.lr=1e30", "--train.clip=0", "--train.log-every=1"))


def test_bf16_trains(dataset: Path, tmp_path: Path) -> None:
    folder = run(experiment(dataset, tmp_path, "--train.bf16", "--train.epochs=4"))
    assert json.loads((folder / "result.json").read_text())["test"]["ensemble"]["HR@10"] > 0.5


def test_trackers_are_accelerates_own(dataset: Path, tmp_path: Path) -> None:
    folder = run(experiment(dataset, tmp_path, "--trackers=tensorboard", "--train.epochs=1"))
    assert list(folder.parent.rglob("events.out.tfevents.*"))


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

"""A run stopped by whatever it may be resumes to the same end, and its folder is neither mixed nor lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from odmt.config import parse
from odmt.data.features import open_features
from odmt.data.format import open_dataset
from odmt.encoders.caching import encode_modality
from odmt.encoders.text import Tfidf
from odmt.pretrained import from_pretrained
from odmt.run_folder import RunFolder
from odmt.training import run
from tests.tiny import tiny_dataset
from tests.unit.training.tiny_runs import arguments, experiment, fresh_accelerator, lines

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


@pytest.mark.parametrize(("epoch", "ensemble"), [(1, "mean"), (3, "fitted")])
def test_a_killed_run_resumes_to_the_same_end(dataset: Path, tmp_path: Path, epoch: int, ensemble: str) -> None:
    """Kill the process without warning, before or after its first checkpoint; resumed, it ends as if nothing was."""
    settings = ["--train.epochs=4", f"--model.ensemble={ensemble}"]
    whole = run(experiment(dataset, tmp_path, "--name=whole", *settings))
    argv = arguments(dataset, tmp_path, "--name=killed", *settings)
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
    largest = max(path.stat().st_size for path in (whole / "checkpoints" / "step-0000000008").iterdir())
    script = (
        "import resource, runpy, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest - 1}, {largest - 1}))\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')"
    )
    program = "import sys; del sys.argv[0]\n" + script.replace("sys.argv[1]", "sys.argv[0]")
    command = [sys.executable, "-c", program, str(repository / "experiments" / "train.py"), *argv]
    environment = {
        **os.environ,
        "ODMT_CHECK_SHAPES": "0",
        "PYTHONPATH": str(repository),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    died = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert died.returncode == 1
    assert "Traceback" not in died.stderr
    assert "the same command with --resume goes on" in died.stderr
    full = tmp_path / "full"
    assert not list((full / "checkpoints").glob("step-*"))
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
    with pytest.raises(ValueError, match=r"started with processes=2, and now there is processes=1; launch it as then"):
        RunFolder(settings.folder).claim(replace(settings, resume=True), {"processes": "1"})
    moved = replace(settings, resume=True, data=replace(settings.data, workers=3), trackers=("tensorboard",))
    RunFolder(settings.folder).claim(moved, {"processes": "2"})  # these may differ


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
    with pytest.raises(
        ValueError, match=r"started on other data than .* holds now \(fingerprints \w{16} then, \w{16} now\)"
    ):
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


def test_a_setting_that_came_after_the_run_began_had_its_default_then(dataset: Path, tmp_path: Path) -> None:
    folder = run(experiment(dataset, tmp_path, "--train.epochs=1"))
    settings = (folder / "experiment.yaml").read_text().splitlines(keepends=True)
    older = [line for line in settings if "mask_history" not in line]
    assert len(older) == len(settings) - 1
    (folder / "experiment.yaml").write_text("".join(older))
    run(experiment(dataset, tmp_path, "--train.epochs=1", "--resume"))
    with pytest.raises(ValueError, match=r"the run to resume has train\.mask_history=True, the command says False"):
        run(experiment(dataset, tmp_path, "--train.epochs=1", "--train.no-mask-history", "--resume"))


def test_features_of_another_encoder_do_not_slip_into_a_run(dataset: Path, tmp_path: Path) -> None:
    own = tmp_path / "data" / "tiny"
    tiny_dataset(own)
    settings = experiment(own, tmp_path, "--train.epochs=1")
    folder = run(settings)
    (folder / "result.json").unlink()
    features = own / "features" / "text"
    (before,) = features.iterdir()
    before.rename(tmp_path / before.name)
    encode_modality(open_dataset(own), "text", Tfidf(dim=7), batch_size=64, progress=False)
    (other,) = features.iterdir()
    fresh_accelerator()
    told = (
        rf"other features of text \({before.name}\) than are read now \({other.name}\); .*features text={before.name};"
    )
    with pytest.raises(ValueError, match=told):
        run(replace(settings, resume=True))
    with pytest.raises(ValueError, match=r"was trained on text features \w+, and these are"):
        from_pretrained(folder / "model", open_features(open_dataset(own), ["text"]))
    with pytest.raises(ValueError, match=r"has train\.epochs=1, the command says 2"):
        run(
            experiment(own, tmp_path, "--train.epochs=2", "--resume")
        )  # that is what was typed, so that it is told first
    (tmp_path / before.name).rename(before)
    fresh_accelerator()
    chosen = replace(settings.data, features=(f"text={before.name}",))
    assert (run(replace(settings, data=chosen, resume=True)) / "result.json").exists(), "the way out leads out"


def test_other_streams_are_told_as_they_are_typed(dataset: Path, tmp_path: Path) -> None:
    files = RunFolder(experiment(dataset, tmp_path).folder)
    files.claim(experiment(dataset, tmp_path, "--model.streams=id"), {"features": "{}"})
    with pytest.raises(ValueError, match=r"has model\.streams=id, the command says id text; make them equal or choose"):
        files.check_same(experiment(dataset, tmp_path, "--resume"), {"features": '{"text": "1f"}'})


def test_a_run_that_is_not_there_is_begun_and_a_line_says_so(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = experiment(dataset, tmp_path, "--train.epochs=1", "--resume")
    folder = run(settings)
    assert f"{folder}: nothing to resume, beginning anew\n" in capsys.readouterr().out
    fresh_accelerator()
    run(settings)
    assert "nothing to resume" not in capsys.readouterr().out


def test_how_streams_would_teach_is_of_no_matter_where_none_does(dataset: Path, tmp_path: Path) -> None:
    silent = ("--train.epochs=1", "--distill.graph", "--distill.loss")
    files = RunFolder(experiment(dataset, tmp_path, *silent, "ce").folder)
    files.claim(experiment(dataset, tmp_path, *silent, "ce"), {})
    files.check_same(experiment(dataset, tmp_path, *silent, "kl", "--distill.detach", "--resume"), {})
    taught = experiment(dataset, tmp_path, *silent, "ce", "--distill.graph=id -> *", "--resume")
    with pytest.raises(ValueError, match=r"has distill\.graph=\(nothing\), the command says 'id -> text'; make"):
        files.check_same(taught, {})
    files = RunFolder(tmp_path / "taught")
    files.claim(taught, {})
    files.check_same(experiment(dataset, tmp_path, *silent, "ce", "--distill.graph=id -> text", "--resume"), {})

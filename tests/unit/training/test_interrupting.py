"""How training ends when somebody interrupts it: with a line that says how to go on, and no traceback."""

from __future__ import annotations

import contextlib
import gc
import itertools
import signal
import sys
from pathlib import Path

import pytest
from accelerate import Accelerator

from experiments import train
from odmt.stopping import Requests
from tests.unit.training.tiny_runs import arguments

GO_ON = "interrupted; the same command with --resume goes on from the last checkpoint, or begins where there is none"


@pytest.mark.parametrize(("step", "how"), [(1, "nothing to resume, beginning anew"), (9, "resumed after step")])
def test_an_interrupted_run_says_how_to_go_on_and_goes_on(
    step: int,
    how: str,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Interrupt it before its first checkpoint and after."""
    argv = arguments(dataset, tmp_path, "--name=run", "--data.workers=0", "--train.epochs=3", "--train.patience=0")
    steps, agree = itertools.count(1), Requests.agree

    def interrupted(requests: Requests) -> tuple[bool, bool]:
        if next(steps) == step:
            signal.raise_signal(signal.SIGINT)
        return agree(requests)

    with monkeypatch.context() as patch:
        patch.setattr(Requests, "agree", interrupted)
        patch.setattr(sys, "argv", ["train.py", *argv])
        with pytest.raises(SystemExit) as ended:
            train.main()
    assert ended.value.code == 130
    del ended  # its frames hold the folder's lock
    gc.collect()
    assert capsys.readouterr().err.endswith(f"{GO_ON}\n")
    monkeypatch.setattr(sys, "argv", ["train.py", *argv, "--resume"])
    train.main()
    assert how in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "rank", "told"),
    [
        ([], "0", f"{GO_ON}\n"),
        ([], "1", ""),  # of several processes the first says it
        (
            ["--overwrite"],
            "0",
            "interrupted; with --resume in place of --overwrite the same command goes on with what the folder holds\n",
        ),
    ],
)
def test_what_an_interrupted_process_says(
    argv: list[str], rank: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "parse", interrupt)
    monkeypatch.setattr(sys, "argv", ["train.py", *argv])
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == told


def test_an_interruption_that_python_drops_ends_the_step() -> None:
    """As while a worker is forked: what is raised there is printed, and the program goes on."""
    before = signal.getsignal(signal.SIGINT)
    with Requests(Accelerator(), minutes=0.0) as requests:
        assert requests.agree() == (False, False)
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            requests.agree()
    assert signal.getsignal(signal.SIGINT) is before

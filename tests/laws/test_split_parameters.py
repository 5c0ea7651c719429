"""What each process holds a share of trains, is validated, saved and put together as what is whole."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

import odmt.loop
import odmt.parts
from odmt.config import parse
from odmt.consolidate import consolidate, main
from odmt.data.format import open_dataset
from odmt.data.splits import LeaveTwoOut
from odmt.evaluate import ranks
from odmt.pretrained import from_pretrained
from odmt.run_folder import flat
from odmt.training import run
from tests.processes import launch
from tests.tiny import tiny_dataset
from tests.unit.training.tiny_runs import arguments, lines

SETTINGS = (
    "--train.epochs=2",
    "--train.batch-size=15",
    "--train.clip=0.5",
    "--train.schedule=cosine",
    "--train.warmup-steps=2",
    "--train.log-every=1",
    "--train.keep-checkpoints=99",
    "--model.dropout=0",
    "--model.ensemble=weighted",
    "--model.id-min-count=10",  # what stands in is a parameter of the model's own, and no submodule's
)
FEW = ("--train.clip=0", "--train.batch-size=3", "--train.epochs=1")
"""Users of a batch, who leave rows of the id table unread."""
ENGINES: dict[str, dict[str, Any]] = {"ZeRO-3": {"zero": 3}, "FSDP2": {"fsdp": True}}
IN_MEMORY = {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
OFFLOADED = {
    "zero": 3,
    "deepspeed": {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0, **IN_MEMORY}},
}
LAST = 8
"""Steps that such a run takes."""
WITHIN = 3
"""The step after which it saves within an epoch."""


def train(rank: int, argv: list[str], told: Path) -> None:
    """Train where items and users would be read in parts, other ones on each process, and save after a step."""
    odmt.parts.PART_ROWS, odmt.parts.USER_PART = 16, 4
    step = odmt.loop._Loop._step

    def counted(loop: Any, batch: Any) -> Any:
        losses = step(loop, batch)
        parameters = [*loop.wrapped.parameters()]
        held = sum(share.numel() for share in odmt.loop.shares(loop.wrapped))
        counts = {"held": held, "whole": sum(parameter.numel() for parameter in parameters)}
        (told / f"counts-{rank}.json").write_text(json.dumps(counts))
        if loop.progress.step == WITHIN:
            loop._save()
        return losses

    odmt.loop._Loop._step = counted
    try:
        run(parse(argv, configs=Path(argv[0])))
    except (ArithmeticError, ValueError) as error:
        (told / f"{rank}.txt").write_text(str(error))
        raise SystemExit(1) from error


def breaks_in_saving(rank: int, argv: list[str], told: Path) -> None:
    """Let the second process alone lose its numbers."""
    keep = odmt.loop._Loop._keep_time

    def broken(loop: Any) -> None:
        keep(loop)
        if rank == 1:
            first = next(loop.wrapped.parameters())
            with torch.no_grad():
                (first.to_local() if isinstance(first, DTensor) else first.ds_tensor).fill_(torch.nan)

    odmt.loop._Loop._keep_time = broken
    train(rank, argv, told)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    tiny_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def runs(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train alone, and split in two."""
    folder = tmp_path_factory.mktemp("runs")
    for name, engine in ({"alone": {}} | ENGINES | {"offloaded": OFFLOADED}).items():
        world = 2 if engine else 1
        (folder / f"told-{name}").mkdir()
        argv = arguments(dataset, folder, *SETTINGS, f"--name={name}")
        assert launch(train, world, argv, folder / f"told-{name}", **engine) == [0] * world
    return folder


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], **tolerances: float) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, **tolerances, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("engine", [*ENGINES, "offloaded"])
def test_split_or_whole_a_run_is_the_same(runs: Path, engine: str) -> None:
    alone, split = (lines(runs / name) for name in ("alone", engine))
    assert len(alone) == LAST + 2
    for one, other in zip(alone, split, strict=True):
        assert flat(other) == pytest.approx(flat(one), rel=1e-4)
    same(*(load_file(runs / name / "model" / "model.safetensors") for name in ("alone", engine)), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_each_process_holds_its_share_between_steps(runs: Path, engine: str) -> None:
    counts = [json.loads((runs / f"told-{engine}" / f"counts-{rank}.json").read_text()) for rank in (0, 1)]
    total = json.loads((runs / engine / "result.json").read_text())["parameters"]
    told_whole = 0 if engine == "ZeRO-3" else total  # torch's shares tell the size of what they are of
    assert [one["whole"] for one in counts] == [told_whole, told_whole]
    assert counts[0]["held"] + counts[1]["held"] == total
    assert abs(counts[0]["held"] - counts[1]["held"]) < 0.02 * total
    assert json.loads((runs / "told-alone" / "counts-0.json").read_text()) == {"held": total, "whole": total}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_trained_split_ranks_alike_in_one_process(dataset: Path, runs: Path, engine: str) -> None:
    opened = open_dataset(dataset)
    model = from_pretrained(runs / engine / "model", opened)
    tables = model.encode_catalogue()
    questions = LeaveTwoOut(opened.offsets, opened.items, num_items=opened.num_items, length=10).questions("test")
    found = ranks(partial(model.states, tables=tables), tables, questions, combine=model.ensemble)
    kept = np.load(runs / engine / "test_ranks.npz")
    for head, expected in found.items():
        assert np.mean(kept[head] != expected) < 0.02, head


@pytest.mark.parametrize("name", ["alone", *ENGINES, "offloaded"])
def test_a_checkpoint_becomes_the_model_it_was(
    dataset: Path, runs: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    best = json.loads((runs / name / "result.json").read_text())["best_epoch"]
    checkpoints = runs / name / "checkpoints"
    assert main([str(checkpoints / f"step-{best * LAST // 2:010d}"), str(tmp_path / "out")]) == 0
    assert f"wrote {tmp_path / 'out'}" in capsys.readouterr().out
    live = load_file(checkpoints / f"best-{best:05d}.safetensors")
    same(load_file(tmp_path / "out" / "model.safetensors"), live, atol=0, rtol=0)
    assert from_pretrained(tmp_path / "out", open_dataset(dataset)).num_items == 24
    consolidate(checkpoints / f"best-{best:05d}.safetensors", tmp_path / "of best")
    same(load_file(tmp_path / "of best" / "model.safetensors"), live, atol=0, rtol=0)
    # within an epoch, too
    consolidate(checkpoints / f"step-{WITHIN:010d}", tmp_path / "third")
    consolidate(runs / "alone" / "checkpoints" / f"step-{WITHIN:010d}", tmp_path / "expected")
    parts = [load_file(tmp_path / part / "model.safetensors") for part in ("third", "expected")]
    same(*parts, atol=1e-4, rtol=1e-3)
    assert not torch.equal(parts[0]["id_table.weight"], live["id_table.weight"])


def test_rows_that_wait_for_their_steps_have_taken_them(dataset: Path, tmp_path: Path) -> None:
    """A checkpoint within an epoch has not, and what is made of it has: as where each step moves all rows."""
    for name, more in (("lazy", ["--train.id-updates=lazy"]), ("dense", [])):
        argv = arguments(dataset, tmp_path, *SETTINGS, *FEW, f"--name={name}", *more)
        assert launch(train, 1, argv, tmp_path) == [0]
        consolidate(tmp_path / name / "checkpoints" / f"step-{WITHIN:010d}", tmp_path / f"{name} whole")
    tables = [load_file(tmp_path / f"{name} whole" / "model.safetensors") for name in ("lazy", "dense")]
    same(*tables, atol=1e-5, rtol=1e-3)
    waiting = load_file(tmp_path / "lazy" / "checkpoints" / f"step-{WITHIN:010d}" / "model.safetensors")
    assert not torch.equal(waiting["id_table.weight"], tables[0]["id_table.weight"])


def test_what_is_no_checkpoint_is_not_read(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = runs / "ZeRO-3" / "checkpoints" / f"step-{LAST:010d}"
    assert main([str(runs / "ZeRO-3" / "model"), str(tmp_path / "out")]) == 1
    assert "is no checkpoint of a run: it must exist, and experiment.yaml two folders above" in capsys.readouterr().err
    best = next((runs / "alone" / "checkpoints").glob("best-*"))
    kept = best.read_bytes()
    best.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"is damaged \(best-.* is not what was written: its hash differs\)"):
        consolidate(best, tmp_path / "out")
    best.write_bytes(kept)
    with pytest.raises(ValueError, match="is not empty; name a folder that is"):
        consolidate(checkpoint, runs / "ZeRO-3")
    run_copied = tmp_path / "copied"
    (run_copied / "checkpoints").mkdir(parents=True)
    (run_copied / "experiment.yaml").write_text((runs / "ZeRO-3" / "experiment.yaml").read_text())
    damaged = run_copied / "checkpoints" / checkpoint.name
    damaged.mkdir()
    (damaged / "checkpoint.json").write_text((checkpoint / "checkpoint.json").read_text())
    with pytest.raises(ValueError, match=r"is damaged \(.* is missing\); take another checkpoint of "):
        consolidate(damaged, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_where_one_share_is_no_number_nothing_is_saved(dataset: Path, tmp_path: Path, engine: str) -> None:
    argv = arguments(dataset, tmp_path, *SETTINGS, "--name=broken")
    assert launch(breaks_in_saving, 2, argv, tmp_path, **ENGINES[engine]) == [1, 1]
    for rank in (0, 1):
        assert (tmp_path / f"{rank}.txt").read_text().startswith("parameters are no numbers after step 3; lower")
    assert not list((tmp_path / "broken" / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("engine", ENGINES)
def test_half_precision_keeps_parameters_in_float32(dataset: Path, runs: Path, tmp_path: Path, engine: str) -> None:
    argv = arguments(dataset, tmp_path, *SETTINGS, "--name=half", "--train.epochs=1", "--train.bf16")
    assert launch(train, 2, argv, tmp_path, **ENGINES[engine]) == [0, 0]
    first, plain = (flat(lines(folder)[0])["loss/ranking"] for folder in (tmp_path / "half", runs / engine))
    assert first != pytest.approx(plain, rel=1e-5)
    assert first == pytest.approx(plain, rel=0.02)
    saved = load_file(tmp_path / "half" / "model" / "model.safetensors")
    weights = saved["backbones.id.blocks.0.feed_forward.0.weight"]
    assert weights.dtype == torch.float32
    assert (weights != weights.bfloat16()).float().mean() > 0.9


def test_an_optimizer_of_deepspeeds_own_follows_our_schedule(dataset: Path, runs: Path, tmp_path: Path) -> None:
    own = {"optimizer": {"type": "AdamW", "params": {"torch_adam": True}}}  # its other is compiled, for minutes
    argv = arguments(dataset, tmp_path, *SETTINGS, "--name=own")
    assert launch(train, 2, argv, tmp_path, zero=1, deepspeed=own) == [0, 0]
    for one, other in zip(lines(runs / "alone"), lines(tmp_path / "own"), strict=True):
        assert flat(other) == pytest.approx(flat(one), rel=1e-4)

"""Id tables whose rows make up for missed steps when they are read end where AdamW would have them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from odmt.config import ConfigError, parse
from odmt.lazy_ids import LazyTables
from odmt.run_folder import flat
from odmt.training import run
from tests.processes import launch
from tests.tiny import tiny_dataset
from tests.unit.training.tiny_runs import arguments, experiment, lines

ITEMS, WIDTH, STEPS = 40, 3, 60
DECAY = 0.5
SIZE = 1.0


def batches(steps: int) -> list[Tensor]:
    """Draw rows for each step; some are never read, some once, long before the end."""
    generator = torch.Generator().manual_seed(1)
    drawn = [1 + torch.randint(20, (4,), generator=generator).unique() for _ in range(steps)]
    return [torch.cat([rows, torch.tensor([30])]) if step == 1 else rows for step, rows in enumerate(drawn)]


def rate(step: int) -> float:
    return 0.02 * (1 + math.cos(step / 9))


def loss_of(vectors: Tensor, step: int) -> Tensor:
    factors = torch.linspace(-1, 1 + step % 3, vectors.numel(), dtype=vectors.dtype)
    return SIZE * (vectors * factors.view_as(vectors)).sin().sum()


def table(dtype: torch.dtype = torch.float64) -> nn.Embedding:
    torch.manual_seed(0)
    made = nn.Embedding(ITEMS + 1, WIDTH, padding_idx=0, dtype=dtype)
    return made.train()


def train_densely(eps: float, betas: tuple[float, float], clip: float = 0.0) -> tuple[list[Tensor], Tensor]:
    ids = table()
    optimizer = torch.optim.AdamW(ids.parameters(), lr=1.0, betas=betas, eps=eps, weight_decay=DECAY)
    read = []
    for step, rows in enumerate(batches(STEPS)):
        vectors = ids(rows)
        read.append(vectors.detach())
        loss_of(vectors, step).backward()
        if clip:
            nn.utils.clip_grad_norm_(ids.parameters(), clip)
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.step()
        optimizer.zero_grad()
    return read, ids.weight.detach()


def train_lazily(eps: float, betas: tuple[float, float], clip: float = 0.0) -> tuple[list[Tensor], Tensor]:
    ids = table()
    lazy = LazyTables({"ids": ids}, lr=0.04, weight_decay=DECAY, steps=STEPS, betas=betas, eps=eps)
    accelerator, read = Accelerator(cpu=True), []
    for step, rows in enumerate(batches(STEPS)):
        vectors = ids(rows)
        read.append(vectors.detach())
        loss_of(vectors, step).backward()
        found = lazy.collect(accelerator, rows)
        if clip:
            nn.utils.clip_grad_norm_(found, clip)
        lazy.step(rate(step))
    lazy.settle()
    return read, ids.weight.detach()


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.1, 0.9)], ids=["gaps within its memory", "gaps beyond it"])
@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_rows_are_read_and_end_as_adamw_has_them(betas: tuple[float, float], clip: float) -> None:
    read, end = train_lazily(1e-30, betas, clip)
    expected_read, expected_end = train_densely(1e-30, betas, clip)
    for found, expected in zip(read, expected_read, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(end, expected_end, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("size", "within"), [(1.0, 1e-6), (1e-4, 1e-3), (1e-6, 0.04)])
def test_at_the_usual_eps_they_differ_by_little(size: float, within: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside gradients of 1e-6, AdamW's eps of 1e-8 takes a hundredth of its steps, and more as roots shrink."""
    monkeypatch.setattr(f"{__name__}.SIZE", size)
    dense, lazy = (train(1e-8, (0.9, 0.999))[1] - table().weight.detach() for train in (train_densely, train_lazily))
    assert (lazy - dense).abs().max() < within * dense.abs().max()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny_dataset(tmp_path / "tiny").path


BOTH = ("--model.join=sum(at='item')", "--model.further-heads=item=gru4rec", "--model.own-items", "--train.clip=0.5")


@pytest.mark.parametrize("settings", [(), BOTH], ids=["as published", "two tables"])
def test_a_run_with_lazy_ids_is_one_with_dense_ids(dataset: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    told, weights = [], []
    for name in ("dense", "lazy"):
        folder = run(experiment(dataset, tmp_path, *settings, f"--train.id-updates={name}", f"--name={name}"))
        told.append([flat(line) for line in lines(folder)])
        weights.append(load_file(folder / "model" / "model.safetensors"))
    for dense, lazy in zip(*told, strict=True):
        assert lazy == pytest.approx(dense, rel=1e-3, abs=1e-4)
    tables = [name for name in weights[0] if name.endswith("id_table.weight")]
    assert len(tables) == (2 if settings else 1)
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], rtol=1e-2, atol=1e-3)


def test_processes_move_rows_alike_whoever_read_them(dataset: Path, tmp_path: Path) -> None:
    lazy = ("--train.id-updates=lazy", "--model.dropout=0")
    for candidates in ("global", "process"):
        argv = arguments(dataset, tmp_path, *lazy, f"--name={candidates}", f"--train.candidates={candidates}")
        assert launch(trained_by_two, 2, argv, tmp_path) == [0, 0]
        first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
        assert torch.equal(first, second)
    folder = run(experiment(dataset, tmp_path, *lazy, "--name=alone"))
    assert [flat(line) for line in lines(tmp_path / "global")] == [
        pytest.approx(flat(line), rel=1e-3, abs=1e-4) for line in lines(folder)
    ]


def trained_by_two(rank: int, argv: list[str], folder: Path) -> None:
    """Train without dropout, of which each process has its own, and keep the ids that this process ends with."""
    kept = []
    settle = LazyTables.settle

    def settled(self: LazyTables) -> None:
        settle(self)
        kept.append(next(iter(self.tables.values())).weight.detach().clone())

    LazyTables.settle = settled
    run(parse(argv, configs=folder))
    torch.save(kept[-1], folder / f"{rank}.pt")


def test_what_reads_every_id_at_every_step_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reads every id at every step"):
        experiment(dataset, tmp_path, "--train.id-updates=lazy", "--model.loss=full", "--model.streams=id")
    with pytest.raises(ConfigError, match="'id' is not among"):
        experiment(dataset, tmp_path, "--train.id-updates=lazy", "--model.streams=text")
    with pytest.raises(ConfigError, match="would change their sign at every step"):
        experiment(dataset, tmp_path, "--train.id-updates=lazy", "--train.lr=10")
    with pytest.raises(ValueError, match="must be below 1"):
        LazyTables({"ids": table()}, lr=2.0, weight_decay=0.5, steps=1)

"""Split by torch as a whole, a model may be trained in every way in which it may be trained whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.tensor import DTensor

from odmt.config import parse
from odmt.consolidate import consolidate
from odmt.data.features import ItemFeatures
from odmt.fsdp import FullyShards
from odmt.model import ODMT
from odmt.run_folder import flat
from odmt.shards import own_share, whole
from odmt.training import run
from tests.networks import TINY, picture_dataset
from tests.processes import launch
from tests.unit.training.tiny_runs import arguments, lines

LIVE = (
    "--model.streams",
    "id",
    "image",
    f"--model.encoders=image={TINY}(dropout=0.0)",
    "--model.dropout=0",
    "--train.encoder-lr=0.01",
    "--train.encode-chunk=3",
    "--train.clip=0.5",
    "--train.epochs=2",
    "--train.batch-size=5",
    "--train.log-every=1",
)
"""Users are few, so that rows of the id table wait for their steps; a process may be left without items."""


def train(rank: int, argv: list[str]) -> None:
    del rank
    run(parse(argv, configs=Path.cwd()))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pictures"
    return picture_dataset(folder, also={9: "empty.png", 10: "gone.png"}).path


@pytest.mark.parametrize("ids", ["dense", "lazy"])
def test_encoders_in_chunks_and_ids_that_wait(pictures: Path, tmp_path: Path, ids: str) -> None:
    for name, world in (("alone", 1), ("split", 2)):
        argv = arguments(pictures, tmp_path, *LIVE, f"--name={name}", f"--train.id-updates={ids}")
        assert launch(train, world, argv, fsdp=world > 1) == [0] * world
    alone, split = (lines(tmp_path / name) for name in ("alone", "split"))
    assert len(alone) > 6
    for one, other in zip(alone, split, strict=True):
        assert flat(other) == pytest.approx(flat(one), rel=1e-3, abs=1e-4)
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("alone", "split")]
    assert any(name.startswith("encoders.image.") for name in weights[0])
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-3, rtol=1e-2)
    (last,) = sorted((tmp_path / "split" / "checkpoints").glob("step-*"))[-1:]
    consolidate(last, tmp_path / "out")
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        assert tensor.shape == weights[0][name].shape, name


class Scaled(nn.Module):
    """Have a parameter that cannot be split, one of fewer rows than processes, and one that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.row = nn.Parameter(torch.arange(3.0, dtype=torch.float64)[None])
        self.kept = nn.Parameter(torch.ones(4, 3, dtype=torch.float64), requires_grad=False)
        self.again = nn.Linear(3, 1, bias=False, dtype=torch.float64)
        self.again.weight = self.row  # tied
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.scale * x * self.row * self.kept[0]).square().sum()


INPUTS = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, -1.0], [0.5, 0.0, 2.0]], dtype=torch.float64)


def two_steps(rank: int, folder: Path) -> None:
    told: list[dict[str, Any]] = []
    for resumed in (False, True):
        accelerator = FullyShards()
        start = Scaled()
        if rank:
            start.scale.data.fill_(7.0)  # the first process says what models start from
        model, optimizer = accelerator.prepare(start, torch.optim.AdamW(start.parameters(), lr=0.1, fused=True))
        if resumed:
            accelerator.load_state(str(folder))
        for step in range(int(resumed), 2):
            accelerator.backward(model(INPUTS[rank] + step))
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if not step:
                model.seen += 1
                accelerator.save_state(str(folder))
        told.append({n: p.full_tensor() if hasattr(p, "full_tensor") else p for n, p in model.state_dict().items()})
    torch.save(told, folder / f"{rank}.pt")


def test_parameters_that_cannot_be_split_and_those_of_few_rows(tmp_path: Path) -> None:
    assert launch(two_steps, 3, tmp_path) == [0, 0, 0]
    expected = Scaled()
    optimizer = torch.optim.AdamW(expected.parameters(), lr=0.1)
    for step in range(2):
        (torch.stack([expected(x + step) for x in INPUTS]).mean()).backward()
        nn.utils.clip_grad_norm_(expected.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    expected.seen += 1
    for rank in range(3):
        for found in torch.load(tmp_path / f"{rank}.pt"):
            for name, tensor in expected.state_dict().items():
                torch.testing.assert_close(found[name], tensor, msg=lambda m, name=name: f"{name}: {m}")


ASKED = [[1, 5, 6], [3], []]
"""Of a table of seven rows, three of which the first process has, three the second and one the third."""


def look_up(rank: int, folder: Path) -> None:
    accelerator = FullyShards()
    model = make_model()
    weight = model.id_table.weight.detach().clone()
    accelerator.split_tables(model)
    model.to(accelerator.device)
    accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    items = torch.tensor(ASKED[rank], dtype=torch.long)
    rows = model.id_table(items)
    held = own_share(model.id_table.weight).shape
    accelerator.backward((rows * (1.0 + items[:, None])).sum())
    gradient = model.id_table.weight.grad
    assert isinstance(gradient, DTensor)
    told = {"rows": rows.detach(), "held": held, "gradient": gradient.full_tensor(), "weight": weight}
    gathered, gather = [], DTensor.full_tensor
    DTensor.full_tensor = lambda tensor: gathered.append(tensor.shape) or gather(tensor)  # pyright: ignore[reportAttributeAccessIssue]
    with whole(model):
        assert gathered
        assert weight.shape not in gathered, "it would be whole on the device"
        assert not isinstance(model.id_table.weight, DTensor)
        told["evaluated"] = model.id_table(items).detach()
    assert isinstance(model.id_table.weight, DTensor)
    torch.save(told, folder / f"{rank}.pt")


def make_model() -> ODMT:
    torch.manual_seed(0)
    return ODMT(ItemFeatures({}, num_items=6), dim=4, length=4).double()


def test_rows_are_looked_up_where_they_lie(tmp_path: Path) -> None:
    assert launch(look_up, 3, tmp_path) == [0, 0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(3)]
    assert [one["held"] for one in found] == [(3, 4), (3, 4), (1, 4)]
    expected = torch.zeros(7, 4, dtype=torch.float64)
    for one, asked in zip(found, ASKED, strict=True):
        assert torch.equal(one["rows"], one["weight"][asked])
        assert torch.equal(one["evaluated"], one["weight"][asked])
        expected[asked] += (1.0 + torch.tensor(asked, dtype=torch.float64))[:, None] / 3  # averaged over processes
    for one in found:
        torch.testing.assert_close(one["gradient"], expected)

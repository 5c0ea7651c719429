"""The same batch gives the same losses and gradients, however many processes share it, and no item is encoded twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from odmt import ODMT, DistillationGraph, ItemFeatures, make_batch
from odmt.data.format import Dataset, open_dataset
from odmt.data.loading import UserBatches
from odmt.types import Part
from tests.laws.test_live_laws import make_live
from tests.networks import picture_dataset
from tests.processes import together

NUM_ITEMS = 20
HISTORIES = np.array([[0, 0, 1, 2, 3], [4, 5, 2, 6, 7], [0, 8, 9, 10, 1], [0, 0, 0, 3, 3], [11, 12, 5, 1, 20]])
DRAWN = np.array([1, 1, 2, 5, 13, 14, 15, 19])
GRAPH = DistillationGraph("id -> *", "ensemble -> id: kl(detach=False)")
HEADS = {"content": "recency"}
MODELS: dict[str, dict[str, Any]] = {
    "as published": {"distill": GRAPH},
    "joined at the user": {"join": "sum(at='user', keep=True)", "backbone": "gru4rec"},
    "items of its own": {
        "fusion": "joint",
        "join": "sum(at='item', keep='content')",
        "further_heads": {"twin": ("item", "gru4rec")},
        "own_items": True,
        "stream_backbones": HEADS,
    },
    "both ways": {"backbone": "bert4rec(layers=1)"},
    "weighted": {"ensemble": "weighted"},
    "sampled": {"loss": "sampled(draws=8)"},
    "gbce": {"loss": "gbce(draws=8)", "distill": GRAPH},
    "full": {"loss": "full"},
    "end to end": {},
}
WORLDS = {2: len(HISTORIES), 4: 3}
"""Users of the batch that so many processes share: parts of unlike sizes, and one process without any."""


def features() -> ItemFeatures:
    rng = np.random.default_rng(0)
    text = [rng.normal(size=(1 + i % 4, 6)).astype("float32") if i % 5 else None for i in range(NUM_ITEMS)]
    image = [rng.normal(size=(3, 5)).astype("float32") if i % 3 else None for i in range(NUM_ITEMS)]
    return ItemFeatures.from_arrays(NUM_ITEMS, text=text, image=image)


def build(name: str, pictures: Dataset) -> ODMT:
    if name == "end to end":
        return make_live(pictures, streams=("id", "image"), chunk=3)
    torch.manual_seed(3)
    counts = np.arange(NUM_ITEMS + 1)
    return ODMT(features(), dim=8, length=6, dropout=0.0, item_counts=counts, **MODELS[name]).double()


def losses_and_gradients(model: ODMT, users: int, part: Part | None = None) -> tuple[dict[str, Tensor], Tensor]:
    """Give losses, gradients, and how many items this process encoded."""
    encoded = 0
    encode = model._encoded

    def count(items: Tensor, content: Any) -> Any:
        nonlocal encoded
        encoded += len(items)
        return encode(items, content)

    model._encoded = count
    batch = make_batch(HISTORIES[:users], model.features, drawn=DRAWN, part=part, seed=7)
    wrapped = model.train() if part is None else DistributedDataParallel(model.train())
    losses = wrapped(batch)
    torch.stack(list(losses.values())).sum().backward()
    found = {name: loss.detach() for name, loss in losses.items()}
    found |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found, torch.tensor(encoded)


def one_of_several(rank: int, world: int, pictures: Path, folder: Path) -> None:
    dataset, part = open_dataset(pictures), Part(rank, world, WORLDS[world])
    found = {name: losses_and_gradients(build(name, dataset), WORLDS[world], part) for name in MODELS}
    torch.save(found, folder / f"{rank}-of-{world}.pt")


@pytest.fixture(scope="module", params=list(WORLDS))
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Dataset, list[Any]]:
    world = request.param
    folder = tmp_path_factory.mktemp("shared")
    pictures = picture_dataset(folder / "pictures", also={9: "empty.png", 10: "gone.png"})
    together(one_of_several, world, world, pictures.path, folder)
    return world, pictures, [torch.load(folder / f"{rank}-of-{world}.pt") for rank in range(world)]


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_do_not_depend_on_how_many_share_a_batch(
    shared: tuple[int, Dataset, list[Any]], name: str
) -> None:
    world, pictures, processes = shared
    alone, encoded = losses_and_gradients(build(name, pictures), WORLDS[world])
    found = [one[name][0] for one in processes]
    for key, expected in alone.items():
        for one in found:
            assert key in ("ranking", "distill", "ensemble") or torch.equal(one[key], found[0][key])
        mean = torch.stack([one[key] for one in found]).mean(0)
        torch.testing.assert_close(mean, expected, rtol=1e-12, atol=1e-10, msg=lambda m, key=key: f"{key}: {m}")
    assert found[0].keys() == alone.keys()
    shares = [int(one[name][1]) for one in processes]
    if name != "end to end":  # whose chunks are encoded once more in the backward pass
        assert sum(shares) == encoded
    assert max(shares) - min(shares) <= (2 if name == "end to end" else 1)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "end to end"])
def test_every_parameter_has_a_dimension(name: str) -> None:
    """DeepSpeed sends parameters as bytes, which it cannot where there is none."""
    torch.manual_seed(0)
    model = ODMT(features(), dim=8, length=6, item_counts=np.arange(NUM_ITEMS + 1), **MODELS[name])
    assert not [name for name, parameter in model.named_parameters() if parameter.dim() == 0]


def test_every_process_is_given_whole_batches_and_its_part_of_them() -> None:
    alone = list(UserBatches(23, 11, seed=5))
    assert [len(batch) for batch in alone] == [11, 11, 1]
    for world in (2, 4):
        for rank in range(world):
            batches = UserBatches(23, 11, seed=5, rank=rank, world=world, shared=True)
            assert list(batches) == alone
            assert [batches.part(len(users)) for users in alone] == [Part(rank, world, n) for n in (11, 11, 1)]
    assert UserBatches(23, 2, seed=5, rank=3, world=4, shared=True).part(2) == Part(3, 4, 2)  # more than users

"""The softmax over the whole catalogue, group by group, against torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from odmt import ODMT, DistillationGraph, ItemFeatures, make_batch
from odmt.ranking import full_softmax_loss


@pytest.mark.parametrize("rows", [1, 32, 33, 100])  # groups are of 32 rows here
def test_full_softmax_is_cross_entropy(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("odmt.ranking._LOGITS", {"cpu": 1, "cuda": 1})
    torch.manual_seed(0)
    states = (3 * torch.randn(rows, 5, dtype=torch.float64)).requires_grad_()
    items = torch.randn(40, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 40, (rows,))
    found = []
    for loss in (full_softmax_loss(states, items, targets), F.cross_entropy(states @ items.T, targets)):
        states.grad = items.grad = None
        (2.5 * loss).backward()
        found.append((loss.detach(), states.grad, items.grad))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


def test_full_softmax_bears_large_logits_and_no_gradient() -> None:
    states, items = torch.full((3, 2), 100.0), torch.tensor([[100.0, 0.0], [0.0, 0.0]])
    assert full_softmax_loss(states, items, torch.tensor([0, 0, 0])).item() == 0.0
    assert full_softmax_loss(states, items, torch.tensor([1, 1, 1])).item() == 10_000.0


def test_over_the_catalogue_every_item_is_a_candidate() -> None:
    rng = np.random.default_rng(0)
    features = ItemFeatures.from_arrays(12, text=rng.normal(size=(12, 3, 4)).astype("float32"))
    model = ODMT(features, dim=8, length=5, dropout=0.0, candidates="catalogue").double()
    histories = np.stack([rng.permutation(np.arange(1, 13))[:5] for _ in range(4)])
    expected = 0.0
    for name, table in model.encode(torch.arange(1, 13)).items():
        states = model.backbones[name](table[histories[:, :-1] - 1], torch.ones(4, 4, dtype=torch.bool))
        expected += F.cross_entropy((states @ table.T).flatten(0, 1), torch.from_numpy(histories[:, 1:].flatten() - 1))
    torch.testing.assert_close(model(make_batch(histories, features))["ranking"], expected)


def test_over_the_catalogue_trains_and_refuses_to_distil() -> None:
    rng = np.random.default_rng(0)
    features = ItemFeatures.from_arrays(9, text=rng.normal(size=(9, 2, 4)).astype("float32"))
    model = ODMT(features, dim=8, length=4, dropout=0.0, candidates="catalogue")
    batch = make_batch(rng.integers(1, 10, size=(5, 4)), features)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    first = model(batch)
    for _ in range(100):
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()
    assert model(batch)["ranking"] < 0.5 * first["ranking"]
    assert first["distill"] == 0
    with pytest.raises(ValueError, match="leaves no logits to distil"):
        ODMT(features, dim=8, candidates="catalogue", distill=DistillationGraph("id -> text"))
    with pytest.raises((ValueError, TypeError), match="candidates"):
        ODMT(features, dim=8, candidates="all")  # pyright: ignore[reportArgumentType]

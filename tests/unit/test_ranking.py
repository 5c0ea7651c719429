"""Ranking losses against torch's own over the whole catalogue, and the drawing of candidates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from odmt import ODMT, DistillationGraph, ItemFeatures, LeaveTwoOut, make_batch
from odmt.data.loading import UserBatches, training_loader
from odmt.ranking import GBCE, InBatch, Rows, SampledSoftmax, candidate_logits, draw_shares
from odmt.softmax import softmax_loss


@pytest.mark.parametrize("rows", [1, 32, 33, 100])
def test_full_softmax_is_cross_entropy(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("odmt.softmax._LOGITS", {"cpu": 1, "cuda": 1})
    monkeypatch.setattr("odmt.softmax._ROWS", 32)
    torch.manual_seed(0)
    states = (3 * torch.randn(rows, 5, dtype=torch.float64)).requires_grad_()
    items = torch.randn(40, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 40, (rows,))
    found = []
    for loss in (softmax_loss(states, items, targets), F.cross_entropy(states @ items.T, targets)):
        states.grad = items.grad = None
        (2.5 * loss).backward()
        found.append((loss.detach(), states.grad, items.grad))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


def test_in_groups_or_at_once_losses_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anything to distil, logits are made group by group; the graph's loss weighs nothing here."""
    monkeypatch.setattr("odmt.softmax._LOGITS", {"cpu": 1, "cuda": 1})
    monkeypatch.setattr("odmt.softmax._ROWS", 32)
    rng = np.random.default_rng(0)
    features = ItemFeatures.from_arrays(40, text=rng.normal(size=(40, 2, 4)).astype("float32"))
    batch = make_batch(rng.integers(1, 41, size=(9, 10)), features)
    found = []
    for graph in (DistillationGraph(), DistillationGraph("id -> text")):
        torch.manual_seed(0)
        model = ODMT(features, dim=8, dropout=0.0, distill=graph, item_counts=np.arange(41)).double()
        losses = model(batch, distill_weight=0.0)
        sum(losses.values()).backward()
        found.append((losses["ranking"].detach(), {name: p.grad for name, p in model.named_parameters()}))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_full_softmax_bears_large_logits_and_no_gradient() -> None:
    states, items = torch.full((3, 2), 100.0), torch.tensor([[100.0, 0.0], [0.0, 0.0]])
    assert softmax_loss(states, items, torch.tensor([0, 0, 0])).item() == 0.0
    assert softmax_loss(states, items, torch.tensor([1, 1, 1])).item() == 10_000.0


def test_over_the_catalogue_every_item_is_a_candidate() -> None:
    rng = np.random.default_rng(0)
    features = ItemFeatures.from_arrays(12, text=rng.normal(size=(12, 3, 4)).astype("float32"))
    model = ODMT(features, dim=8, length=5, dropout=0.0, loss="full").double()
    histories = np.stack([rng.permutation(np.arange(1, 13))[:5] for _ in range(4)])
    expected = 0.0
    for name, table in model.encode(torch.arange(1, 13)).items():
        states = model.backbones[name](table[histories[:, :-1] - 1], torch.ones(4, 4, dtype=torch.bool))
        expected += F.cross_entropy((states @ table.T).flatten(0, 1), torch.from_numpy(histories[:, 1:].flatten() - 1))
    torch.testing.assert_close(model(make_batch(histories, features))["ranking"], expected)


def test_over_the_catalogue_trains_and_refuses_to_distil() -> None:
    rng = np.random.default_rng(0)
    features = ItemFeatures.from_arrays(9, text=rng.normal(size=(9, 2, 4)).astype("float32"))
    model = ODMT(features, dim=8, length=4, dropout=0.0, loss="full")
    batch = make_batch(rng.integers(1, 10, size=(5, 4)), features)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    first = model(batch)
    for _ in range(200):
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()
    assert model(batch)["ranking"] < 0.8 * first["ranking"]
    assert first["distill"] == 0
    with pytest.raises(ValueError, match="leaves no logits to distil"):
        ODMT(features, dim=8, loss="full", distill=DistillationGraph("id -> text"))
    with pytest.raises(ValueError, match="unknown loss 'all'"):
        ODMT(features, dim=8, loss="all")


def one_batch(num_items: int, drawn: np.ndarray | None = None) -> tuple:
    """Give states, vectors and the batch of four users who between them have seen every item once."""
    torch.manual_seed(0)
    histories = np.arange(1, num_items + 1).reshape(4, -1)
    batch = make_batch(histories, ItemFeatures({}, num_items=num_items), drawn=drawn)
    predicted = torch.zeros_like(batch.mask)
    predicted[:, 1:] = True
    rows = Rows.of(batch.histories, batch.mask, predicted, len(batch.items))
    states = torch.randn(len(rows.targets), 6, dtype=torch.float64)
    vectors = torch.randn(num_items + 1, 6, dtype=torch.float64)
    return batch, rows, states, vectors[batch.items], vectors


def test_in_batch_is_the_full_softmax_where_the_batch_holds_all_items() -> None:
    """All but a user's other events, which in-batch candidates leave out."""
    batch, rows, states, items, vectors = one_batch(12)
    loss = InBatch(popularity=0.0)
    m = loss.log_weights(batch, rows, torch.zeros(12), dtype=torch.float64)(slice(None))
    found = loss(candidate_logits(states, items), rows.targets, m)
    z = states @ vectors[1:].T
    targets = batch.items[rows.targets] - 1
    own = torch.zeros(4, 12, dtype=torch.bool).scatter(1, batch.items[batch.histories] - 1, True)[rows.users]
    z = z.masked_fill(own & ~F.one_hot(targets, 12).bool(), -torch.inf)
    torch.testing.assert_close(found, F.cross_entropy(z, targets))
    alone = rows.own.zero_()  # with nothing left out, nothing is missing
    assert not alone.any()
    m = loss.log_weights(batch, rows, torch.zeros(12), dtype=torch.float64)(slice(None))
    full = softmax_loss(states, vectors[1:], targets)
    torch.testing.assert_close(loss(candidate_logits(states, items), rows.targets, m), full)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_sampled_softmax_is_the_full_one_where_items_are_drawn_as_often_as_expected(power: float) -> None:
    counts = np.array([0, 1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6])
    drawn = np.repeat(np.arange(1, 13), counts[1:] if power else 3)
    batch, rows, states, items, vectors = one_batch(12, drawn)
    loss = SampledSoftmax(draws=len(drawn), draw_popularity=power)
    share = torch.from_numpy(draw_shares(counts, power)).log()[batch.items]
    m = loss.log_weights(batch, rows, share, dtype=torch.float64)(slice(None))
    found = loss(candidate_logits(states, items), rows.targets, m)
    torch.testing.assert_close(found, softmax_loss(states, vectors[1:], batch.items[rows.targets] - 1))


def test_sampled_softmax_comes_near_the_full_one_with_many_draws() -> None:
    shares = draw_shares(np.arange(13), 0.5)
    drawn = np.random.default_rng(0).choice(13, size=200_000, p=shares)
    batch, rows, states, items, vectors = one_batch(12, drawn)
    share = torch.from_numpy(shares).log()[batch.items]
    loss = SampledSoftmax(draws=len(drawn), draw_popularity=0.5)
    m = loss.log_weights(batch, rows, share, dtype=torch.float64)(slice(None))
    found = loss(candidate_logits(states, items), rows.targets, m)
    full = softmax_loss(states, vectors[1:], batch.items[rows.targets] - 1)
    assert found.item() == pytest.approx(full.item(), rel=0.02)


def test_gbce_by_hand_and_beta_between_its_ends() -> None:
    drawn = np.array([2, 2, 5, 9])
    batch, rows, states, items, vectors = one_batch(12, drawn)
    loss = GBCE(12, draws=4, t=0.5)
    share = 4 / 11
    assert loss.beta == pytest.approx(share * (0.5 * (1 - 1 / share) + 1 / share))
    assert (GBCE(12, draws=4, t=0.0).beta, GBCE(12, draws=4, t=1.0).beta) == pytest.approx((1.0, share))
    expected = []
    for row, target in enumerate(batch.items[rows.targets].tolist()):
        others = [item for item in drawn if item != target]
        terms = [-loss.beta * torch.sigmoid(vectors[target] @ states[row]).log()]
        terms += [-torch.sigmoid(-vectors[item] @ states[row]).log() for item in others]
        expected.append(sum(terms) / len(terms))
    m = loss.log_weights(batch, rows, torch.zeros(len(items)), dtype=torch.float64)(slice(None))
    torch.testing.assert_close(loss(candidate_logits(states, items), rows.targets, m), sum(expected) / len(expected))


def test_drawn_items_are_candidates_once_and_belong_to_no_history() -> None:
    features = ItemFeatures.from_arrays(9, text=np.ones((9, 1, 2), dtype="float32"))
    batch = make_batch(np.array([[0, 3, 4], [4, 5, 4]]), features, drawn=np.array([4, 8, 8, 1]))
    columns = (batch.items.tolist(), batch.counts.tolist(), batch.draws.tolist())
    found = {item: (n, k) for item, n, k in zip(*columns, strict=True)}
    assert found == {1: (0, 1), 3: (1, 0), 4: (3, 1), 5: (1, 0), 8: (0, 2)}
    assert batch.items[batch.histories][batch.mask].tolist() == [3, 4, 4, 5, 4]


def loaded(draws: int, power: float, *, seed: int = 0, epoch: int = 0, workers: int = 0) -> list:
    rng = np.random.default_rng(0)
    items = rng.integers(1, 10, size=8 * 6).astype(np.int32)
    split = LeaveTwoOut(np.arange(0, 49, 6), items, num_items=12, length=4)
    batches = UserBatches(8, 4, seed=seed)
    batches.epoch = epoch
    shares = draw_shares(split.item_counts(), power)
    features = ItemFeatures({}, num_items=12)
    return list(training_loader(split, features, (), batches, draws=draws, shares=shares, workers=workers))


def test_draws_depend_on_seed_epoch_and_users_alone() -> None:
    first = loaded(50, 0.0)
    assert all(batch.draws.sum() == 50 for batch in first)
    assert not torch.equal(first[0].draws, first[1].draws)
    for same in (loaded(50, 0.0), loaded(50, 0.0, workers=1)):
        assert all(torch.equal(a.draws, b.draws) for a, b in zip(first, same, strict=True))
    for other in (loaded(50, 0.0, seed=1), loaded(50, 0.0, epoch=1)):
        assert [b.items.tolist() for b in other] != [b.items.tolist() for b in first] or any(
            not torch.equal(a.draws, b.draws) for a, b in zip(first, other, strict=True)
        )


def test_items_without_events_are_drawn_uniformly_or_never() -> None:
    even = torch.cat([batch.items[batch.draws > 0] for batch in loaded(400, 0.0)])
    assert set(even.tolist()) == set(range(1, 13))  # 10, 11 and 12 occur in no history
    by_events = torch.cat([batch.items[batch.draws > 0] for batch in loaded(400, 1.0)])
    assert by_events.max() <= 9


@pytest.mark.parametrize("loss", ["in_batch(popularity=0.5)", "sampled(draws=20)", "gbce(draws=20, t=0.9)"])
def test_every_loss_trains_and_distils(loss: str) -> None:
    rng = np.random.default_rng(0)
    features = ItemFeatures.from_arrays(9, text=rng.normal(size=(9, 2, 4)).astype("float32"))
    graph = DistillationGraph("id -> text", "ensemble -> id: dkd(detach=True)")
    model = ODMT(features, dim=8, length=4, dropout=0.0, loss=loss, distill=graph, item_counts=np.arange(10))
    drawn = rng.choice(10, size=20, p=model.draw_shares) if model.loss.draws else None
    batch = make_batch(rng.integers(1, 10, size=(5, 4)), features, drawn=drawn)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    first = model(batch)
    assert first["distill"] > 0
    for _ in range(80):
        optimizer.zero_grad()
        sum(model(batch, distill_weight=0.1).values()).backward()
        optimizer.step()
    assert model(batch)["ranking"] < 0.8 * first["ranking"]


def test_a_loss_that_needs_draws_asks_for_them() -> None:
    features = ItemFeatures.from_arrays(9, text=np.ones((9, 1, 2), dtype="float32"))
    model = ODMT(features, dim=8, length=4, loss="sampled(draws=5)")
    with pytest.raises(ValueError, match="needs items drawn for the batch"):
        model(make_batch(np.array([[1, 2, 3]]), features))
    with pytest.raises(ValueError, match="draws=0 is out of range"):
        ODMT(features, dim=8, loss="sampled(draws=0)")
    with pytest.raises(ValueError, match=r"popularity=-1\.0 is out of range"):
        ODMT(features, dim=8, loss="in_batch(popularity=-1.0)")
    with pytest.raises(ValueError, match=r"t=2\.0 is out of range"):
        ODMT(features, dim=8, loss="gbce(t=2.0)")


def test_one_item_alone_has_no_others_to_be_told_from() -> None:
    features = ItemFeatures.from_arrays(1, text=np.ones((1, 1, 2), dtype="float32"))
    with pytest.raises(ValueError, match="gbce tells an item from others, and num_items=1; take the loss 'full'"):
        ODMT(features, dim=8, loss="gbce")
    assert ODMT(features, dim=8, loss="full")(make_batch(np.array([[1, 1]]), features))["ranking"].isfinite()


@pytest.mark.parametrize("loss", ["in_batch", "full"])
def test_a_batch_in_which_nothing_can_be_predicted_is_refused(loss: str) -> None:
    features = ItemFeatures.from_arrays(6)
    model = ODMT(features, dim=8, loss=loss)
    for histories in ([[6], [5]], [[0, 4], [0, 3]]):
        with pytest.raises(ValueError, match="nothing can be predicted of these 2 histories"):
            model(make_batch(np.array(histories), features))
    alone = ODMT(features, dim=8, backbone="bert4rec(layers=1)")(make_batch(np.array([[6], [5]]), features))
    assert alone["ranking"].isfinite()  # that one predicts what it hides

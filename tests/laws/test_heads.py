"""Heads: which backbone reads which stream, streams that are read once more, and how heads are weighed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from odmt import ODMT, BERT4Rec, DistillationGraph, GRU4Rec, ItemFeatures, SASRec, make_batch
from odmt.ensembles import Weighted
from odmt.heads import read_again
from odmt.types import Streams
from tests.laws.test_model_laws import HISTORIES, NUM_ITEMS, make_model


def test_a_stream_may_have_another_backbone(features: ItemFeatures) -> None:
    backbones = {"text": "recency", "image": lambda: GRU4Rec(8)}
    model = make_model(features, fusion="independent", backbone="sasrec(layers=1)", stream_backbones=backbones)
    kinds = {name: type(made).__name__ for name, made in model.backbones.items()}
    assert kinds == {"id": "SASRec", "text": "Recency", "image": "GRU4Rec"}
    content = make_model(features, fusion="independent", stream_backbones={"content": "recency", "image": "gru4rec"})
    assert {name: type(made).__name__ for name, made in content.backbones.items()} == kinds
    with pytest.raises(ValueError, match="stream_backbones names 'text', but the streams that are read are: item"):
        make_model(features, fusion="independent", join="sum(at='item')", stream_backbones={"text": "recency"})


@pytest.mark.parametrize("join", ["none", "sum(at='item', keep=['text'])", "sum(at='user')"])
def test_a_stream_may_be_read_twice(features: ItemFeatures, join: str) -> None:
    again = {"text_gru": ("text", "gru4rec"), "text_recency": ("text", "recency")}
    teach = DistillationGraph("text_gru <-> text_recency")
    model = make_model(features, fusion="independent", join=join, further_heads=again, distill=teach)
    assert model.streams[-2:] == ("text_gru", "text_recency")
    torch.stack(list(model(make_batch(HISTORIES, features)).values())).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    tables = model.encode_catalogue()
    assert tables["text_gru"] is tables["text"]  # not held twice
    scores = model.score(torch.from_numpy(HISTORIES), tables)
    assert tuple(scores) == model.streams
    assert not torch.allclose(scores["text_gru"], scores["text_recency"])


@pytest.mark.parametrize("fusion", ["joint", "independent", "imt(layers=1)"])
def test_a_further_head_may_have_items_of_its_own(features: ItemFeatures, fusion: str) -> None:
    again = {"twin": ("item", "sasrec(layers=1)")}
    stream, settings = "item", {"fusion": fusion, "join": "sum(at='item', keep='content')", "further_heads": again}
    model = make_model(features, own_items=True, **settings)
    assert model.streams[-1] == "twin"
    torch.stack(list(model(make_batch(HISTORIES, features)).values())).sum().backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not unused, "several processes would wait for their gradients"
    vectors, tables = model.eval().encode(torch.arange(1, NUM_ITEMS + 1)), model.encode_catalogue()
    for name in model.streams:
        torch.testing.assert_close(tables[name][1:], vectors[name])
    assert not torch.allclose(tables["twin"], tables[stream])
    shared = make_model(features, **settings)
    assert sum(x.numel() for x in model.parameters()) > sum(x.numel() for x in shared.parameters())
    with pytest.raises(ValueError, match="own_items: every head makes its fusion once more; name it as"):
        make_model(features, own_items=True, further_heads={"twin": ("id", "gru4rec")}, fusion=model.fusion)
    for join, read in (("none", "id"), ("sum(at='item', keep=True)", "text"), ("sum(at='user')", "id")):
        with pytest.raises(
            ValueError, match=f"own_items: 'twin' reads '{read}', and would leave what it makes of other"
        ):
            make_model(features, own_items=True, join=join, further_heads={"twin": (read, "gru4rec")})


@pytest.mark.parametrize("head", ["text", "user", "ensemble"])
def test_a_further_head_needs_a_name_of_its_own(features: ItemFeatures, head: str) -> None:
    with pytest.raises(ValueError, match=f"further_heads: there is a stream '{head}' already"):
        make_model(features, join="sum(at='user')", further_heads={head: ("id", "gru4rec")})


@pytest.mark.parametrize(
    ("heads", "told"),
    [
        (["id"], r"further_heads is \['id'\]; name each with what it reads, as further_heads={'id_gru': \('id', 'gru4"),
        ({"twin": "id"}, "further_heads: 'twin' is 'id'; write further_heads={'id_gru': "),
    ],
)
def test_further_heads_are_named_with_what_they_read(heads: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_again(heads)


def test_a_further_head_reads_a_stream_that_is_there(features: ItemFeatures) -> None:
    with pytest.raises(ValueError, match="'more' reads 'audio', but the streams are: id, text, image"):
        make_model(features, further_heads={"more": ("audio", "gru4rec")})


@pytest.mark.parametrize("joint", [False, True])
def test_trained_weights_start_at_the_mean_and_learn(features: ItemFeatures, joint: bool) -> None:
    torch.manual_seed(1)
    model: ODMT = make_model(features, ensemble=f"weighted(joint={joint})", distill=DistillationGraph("ensemble -> id"))
    scores = {name: torch.randn(3, 5) for name in model.streams}
    torch.testing.assert_close(model.ensemble(scores), torch.stack(list(scores.values())).mean(0))
    losses = model(make_batch(HISTORIES, features))
    losses["ensemble"].backward(retain_graph=True)
    assert all((weight.grad != 0).all() for weight in model.ensemble.log_weights.values())
    assert (model.id_table.weight.grad is not None) is joint


def test_a_trained_ensemble_weighs_scores_which_are_corrected_for_popularity_once(features: ItemFeatures) -> None:
    batch, seen = make_batch(HISTORIES, features), []

    class Recording(Weighted):
        def forward(self, scores: Streams) -> torch.Tensor:
            seen.append(torch.stack([z.detach() for z in scores.values()]))
            return super().forward(scores)

    for popularity in (0.0, 1.0):
        torch.manual_seed(1)
        loss = f"in_batch(popularity={popularity})"
        teach = DistillationGraph("ensemble -> id")
        model = make_model(features, loss=loss, distill=teach, item_counts=np.arange(NUM_ITEMS + 1), dropout=0.0)
        model.ensemble = Recording(model.streams)
        model(batch)
    torch.testing.assert_close(torch.stack(seen[:2]), torch.stack(seen[2:]))
    alone = make_model(features, streams=("id",), ensemble="weighted", item_counts=np.arange(NUM_ITEMS + 1))
    losses = alone.eval()(batch)
    torch.testing.assert_close(losses["ensemble"], losses["ranking"])


@pytest.mark.parametrize("join", ["none", "sum(at='user')"])
def test_a_backbone_that_looks_both_ways_learns_from_hidden_events(features: ItemFeatures, join: str) -> None:
    """Users prefer one of two kinds of items; after a few steps, their next item's kind ranks first."""
    kinds = np.array([[2, 4, 6, 8, 10], [1, 3, 5, 7, 9], [12, 14, 16, 18, 4], [11, 13, 15, 17, 3]])
    model = make_model(features, fusion="independent", join=join, backbone="bert4rec(layers=1)", dropout=0.0)
    batch = make_batch(np.concatenate([np.zeros_like(kinds[:, :1]), kinds], axis=1), features)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(model(batch)["ranking"])
        losses[-1].backward()
        optimizer.step()
    assert torch.stack(losses[-10:]).mean() < 0.75 * torch.stack(losses[:10]).mean()
    scores = model.ensemble(model.score(torch.from_numpy(kinds[:, :4]), model.encode_catalogue()))
    assert (scores.gather(1, torch.from_numpy(kinds[:, 4:])).squeeze(1) > scores.median(1).values).all()


def test_backbones_that_hide_different_shares_are_refused(features: ItemFeatures) -> None:
    made = iter([SASRec(8, length=6), BERT4Rec(8, length=6), SASRec(8, length=6)])
    with pytest.raises(ValueError, match="backbones hide different shares of events"):
        make_model(features, backbone=lambda: next(made))

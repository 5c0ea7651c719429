"""Fusion stages, masks of the item transformer, and items that lack a stream."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest
import torch

from odmt import ODMT, DistillationGraph, ItemFeatures, make_batch
from tests.laws.test_model_laws import HISTORIES, NUM_ITEMS, make_model

JOINS = ["sum", "concat", "gated", "attention"]


@pytest.mark.parametrize(("join", "at", "keep"), list(product(JOINS, ["item", "user"], [False, True])))
@pytest.mark.parametrize("fusion", ["independent", "independent(content='pca')", "imt(layers=1)"])
def test_every_stage_trains_and_scores(features: ItemFeatures, fusion: str, join: str, at: str, keep: bool) -> None:
    heads = ("id", "text", "image", at) if keep else (at,)
    graph = DistillationGraph(f"{at} -> id", "ensemble -> text") if keep else DistillationGraph()
    model = make_model(features, fusion=fusion, join=f"{join}(at='{at}', keep={keep})", distill=graph)
    assert model.streams == heads
    batch = make_batch(HISTORIES, features, model.modalities)
    losses = model(batch)
    torch.stack(list(losses.values())).sum().backward()
    untouched = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not untouched, f"no gradient reaches {untouched}"
    tables = model.encode_catalogue()
    scores = model.score(torch.from_numpy(HISTORIES), tables)
    assert tuple(scores) == heads
    assert model.ensemble(scores).shape == (len(HISTORIES), NUM_ITEMS + 1)
    assert set(model.backbones) == ({"id", "text", "image"} if at == "user" else set()) | (
        {"id", "text", "image", "item"} if at == "item" and keep else {"item"} if at == "item" else set()
    )


@pytest.mark.parametrize("at", ["item", "user"])
@pytest.mark.parametrize(("keep", "kept"), [("['text']", ("text",)), ("'content'", ("text", "image"))])
def test_some_streams_stay_heads(features: ItemFeatures, at: str, keep: str, kept: tuple[str, ...]) -> None:
    model = make_model(features, fusion="independent", join=f"sum(at='{at}', keep={keep})")
    assert model.streams == (*kept, at)
    assert set(model.backbones) == ({*kept, "item"} if at == "item" else {"id", "text", "image"})
    assert tuple(model.score(torch.from_numpy(HISTORIES), model.encode_catalogue())) == (*kept, at)


def test_only_joined_streams_can_stay(features: ItemFeatures) -> None:
    with pytest.raises(ValueError, match="keep names audio, but the streams that are joined are id, text, image"):
        make_model(features, fusion="independent", join="sum(keep=['text', 'audio'])")
    with pytest.raises(ValueError, match="keep='text' is True, False, 'content' or a list of streams, as keep="):
        make_model(features, fusion="independent", join="sum(keep='text')")
    assert make_model(features, join="sum(keep=['text', 'text'])").streams == ("text", "item")


def test_names_that_are_taken_are_refused() -> None:
    for name in ("content", "ensemble", "items", "users", "text.tfidf"):
        features = ItemFeatures.from_arrays(NUM_ITEMS, **{name: np.ones((NUM_ITEMS, 3), dtype=np.float32)})
        with pytest.raises(ValueError, match=f"features are called '{re.escape(name)}', which is taken or is no name"):
            make_model(features)


def test_content_starts_as_near_as_its_encoder_says(features: ItemFeatures) -> None:
    """Against principal directions by a singular value decomposition, half whitened; items that lack it start at 0."""
    model = make_model(features, fusion="independent(content='pca')").eval()
    vectors = model.encode(torch.arange(1, NUM_ITEMS + 1))["image"]
    tokens = features.gather("image", np.arange(1, NUM_ITEMS + 1))
    there = tokens.mask.any(1)
    x = tokens.values[there].double().mean(1)
    u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    started = torch.nn.functional.normalize(u * s.sqrt(), dim=1)
    torch.testing.assert_close(vectors[there] @ vectors[there].T, (started @ started.T).float())
    assert (vectors[~there] == 0).all()


def test_joint_content_starts_at_the_principal_directions_of_all_modalities_together(features: ItemFeatures) -> None:
    """Against a singular value decomposition of modalities side by side, each of variance 1, 0 where one lacks."""
    model = make_model(features, fusion="joint").eval()
    assert model.streams == ("id", "content")
    columns = []
    for name in ("text", "image"):
        tokens = features.gather(name, np.arange(1, NUM_ITEMS + 1))
        there = tokens.mask.any(1)
        x = (tokens.values.double() * tokens.mask[..., None]).sum(1) / tokens.mask.sum(1, keepdim=True).clamp(min=1)
        centred = torch.where(there[:, None], x - x[there].mean(0), 0.0)
        columns.append(centred / centred[there].square().sum(1).mean().sqrt())
    u, s, _ = torch.linalg.svd(torch.cat(columns, 1), full_matrices=False)
    u, s = u[:, :8], s[:8]
    anything = torch.cat(columns, 1).any(1)
    started = torch.nn.functional.normalize(u * s.sqrt(), dim=1)[anything]
    vectors = model.encode(torch.arange(1, NUM_ITEMS + 1))["content"]
    torch.testing.assert_close(vectors[anything] @ vectors[anything].T, (started @ started.T).float())
    assert (vectors[~anything] == 0).all()
    with pytest.raises(ValueError, match="fusion 'joint' joins content, and there is none among the streams"):
        make_model(features, streams=("id",), fusion="joint")


def test_sum_at_the_items_adds_vectors_and_at_the_users_adds_scores(features: ItemFeatures) -> None:
    """The score of summed states is (sum u)(sum v): that of the streams, and of every stream with every other."""
    items = torch.arange(1, NUM_ITEMS + 1)
    early = make_model(features, fusion="independent", join="sum(at='item', keep=True)").eval()
    vectors = early.encode(items)
    torch.testing.assert_close(vectors["item"], vectors["id"] + vectors["text"] + vectors["image"])
    middle = make_model(features, fusion="independent", join="sum(at='user', keep=True)")
    tables = middle.encode_catalogue()
    states = middle.states(torch.from_numpy(HISTORIES), tables)
    torch.testing.assert_close(states["user"], states["id"] + states["text"] + states["image"])
    joined = middle.score(torch.from_numpy(HISTORIES), tables)["user"]
    parts = [states[a] @ tables[b].T for a in ("id", "text", "image") for b in ("id", "text", "image")]
    torch.testing.assert_close(joined, torch.stack(parts).sum(0))


def test_a_gate_is_half_open_at_zero_and_attention_is_an_average(features: ItemFeatures) -> None:
    gated, attentive = (make_model(features, join=f"{name}(keep=True)").eval() for name in ("gated", "attention"))
    with torch.no_grad():
        gated.join.gates.weight.zero_()
        gated.join.gates.bias.zero_()
        attentive.join.query.weight.zero_()
    items = torch.arange(1, 8)
    for model, share in ((gated, 0.5), (attentive, 1 / 3)):
        vectors = model.encode(items)
        together = share * (vectors["id"] + vectors["text"] + vectors["image"])
        torch.testing.assert_close(vectors["item"], together)


def test_a_join_of_one_stream_or_of_one_named_alike_is_refused(features: ItemFeatures) -> None:
    with pytest.raises(ValueError, match="a join needs two streams, and there is id"):
        make_model(features, streams=("id",), join="sum")
    with pytest.raises((ValueError, TypeError), match="items"):  # beartype is first where shapes are checked
        make_model(features, join="sum(at='items')")
    alike = ItemFeatures.from_arrays(3, item=np.ones((3, 1, 2), dtype="float32"))
    with pytest.raises(ValueError, match="features are called 'item', which is taken"):
        make_model(alike, join="sum(at='item')")


@pytest.mark.parametrize(("sees", "isolated"), list(product([False, True], [False, True])))
def test_who_sees_whom_inside_an_item(features: ItemFeatures, sees: bool, isolated: bool) -> None:
    model = make_model(features, fusion=f"imt(text_sees_id={sees}, isolated={isolated})").eval()
    items = torch.tensor([2, 3, 5])  # they have everything
    content = {name: features.gather(name, items.numpy()) for name in features.widths}
    before = model.encode(items, content)
    found = {}
    for name, given in content.items():
        given.values.add_(1.0)
        after = model.encode(items, content)
        given.values.sub_(1.0)
        found[name] = {stream for stream in after if not torch.allclose(before[stream], after[stream], atol=1e-4)}
    with torch.no_grad():
        model.id_table.weight.add_(torch.randn_like(model.id_table.weight))
    after = model.encode(items, content)
    found["id"] = {stream for stream in after if not torch.allclose(before[stream], after[stream], atol=1e-4)}
    everyone = {"id", "text", "image"}
    assert found["id"] == (everyone if sees else {"id"})
    # through the id, content sees other content in the second layer, even where modalities are apart
    through_id = everyone if sees or not isolated else None
    assert found["text"] == (through_id or {"text", "id"})
    assert found["image"] == (through_id or {"image", "id"})


def test_the_mean_of_tokens_leaves_instead_of_the_first(features: ItemFeatures) -> None:
    """With one token per item both are the same row, but for the token itself, which others and it still see."""
    model = make_model(features, fusion="imt(layers=1, summary='mean')", streams=("text",)).eval()
    items = torch.tensor([3, 4])  # of several text tokens
    content = {"text": features.gather("text", items.numpy())}
    before = model.encode(items, content)["text"]
    order = torch.arange(content["text"].values.shape[1])
    order[:2] = torch.tensor([1, 0])  # no position, no first: the order of real tokens tells nothing
    swapped = type(content["text"])(content["text"].values[:, order], content["text"].mask)
    torch.testing.assert_close(model.encode(items, {"text": swapped})["text"], before)
    first = make_model(features, fusion="imt(layers=1)", streams=("text",)).eval()
    assert not torch.allclose(first.encode(items, {"text": swapped})["text"], first.encode(items, content)["text"])


@pytest.mark.parametrize("fusion", ["imt(layers=1)", "independent"])
@pytest.mark.parametrize("join", ["none", "sum(at='item', keep=True)"])
def test_hidden_streams_train_what_stands_in(features: ItemFeatures, fusion: str, join: str) -> None:
    model = make_model(features, fusion=fusion, join=join, hide={"id": 0.6, "text": 0.4, "image": 0.4}).train()
    for _ in range(8):  # what is hidden is drawn anew
        torch.stack(list(model(make_batch(HISTORIES, features)).values())).sum().backward()
    assert (model.id_unknown.grad != 0).any()
    for name in ("text", "image"):
        assert (model.id_of_content[name].weight.grad != 0).any()
        assert (model.fusion.missing[name].grad != 0).any()


def test_hiding_never_hides_all_and_only_in_training(features: ItemFeatures) -> None:
    model = make_model(features, fusion="independent", hide={"id": 0.9, "text": 0.9, "image": 0.9})
    seen = []

    def listen(module: torch.nn.Module, inputs: tuple) -> None:
        seen.append({name: mask.any(1) for name, mask in inputs[1].items() if name != "id"})

    model.fusion.register_forward_pre_hook(listen)
    items = torch.arange(1, NUM_ITEMS + 1)
    own = {name: features.gather(name, items.numpy()).mask.any(1) for name in features.widths}
    model.train()
    for _ in range(20):
        ids = model._hidden({"id": model._ids(items), **{n: features.gather(n, items.numpy()) for n in own}})
        assert torch.stack([given.mask.any(1) for given in ids.values()]).any(0).all()
    model.eval().encode(items)
    assert all(torch.equal(seen[-1][name], own[name]) for name in own)


@pytest.mark.parametrize("fusion", ["imt(layers=1)", "independent"])
def test_an_unseen_items_id_stream_is_made_of_its_content(features: ItemFeatures, fusion: str) -> None:
    counts = np.ones(NUM_ITEMS + 1, dtype=np.int64)
    counts[[2, 3]] = 0
    model = make_model(features, fusion=fusion, item_counts=counts, hide={"id": 0.5}).eval()
    items = torch.tensor([2, 3, 4, 5])
    content = {name: features.gather(name, items.numpy()) for name in features.widths}
    before = model.encode(items, content)["id"]
    with torch.no_grad():
        model.id_table.weight.normal_()
    after = model.encode(items, content)["id"]
    torch.testing.assert_close(after[:2], before[:2])  # their own numbers are never read
    assert not torch.isclose(after[2:], before[2:]).all(1).any()
    content["text"].values.add_(1.0)
    changed = model.encode(items, content)["id"]
    assert not torch.isclose(changed[:2], after[:2]).all(1).any()


@pytest.mark.parametrize(("hide", "told"), [({}, False), ({"id": 0.2}, True)])
def test_what_stands_in_for_ids_learns_to_tell_unseen_items(hide: dict[str, float], told: bool) -> None:
    """Users stay with one of two kinds of items, which content tells; a third of the items occurs in no history."""
    rng = np.random.default_rng(0)
    kinds = np.arange(60) % 2
    content = (np.eye(2)[kinds] + 0.2 * rng.normal(size=(60, 2))).astype("float32")
    features = ItemFeatures.from_arrays(60, text=content)
    seen = [np.flatnonzero(kinds[:40] == kind) + 1 for kind in range(2)]
    histories = np.array([rng.choice(seen[user % 2], 5, replace=False) for user in range(80)])
    counts = np.bincount(histories.ravel(), minlength=61)
    torch.manual_seed(0)
    settings = {"dim": 16, "length": 5, "backbone": "sasrec(layers=1)", "dropout": 0.0, "item_counts": counts}
    model = ODMT(features, fusion="independent", hide=hide, **settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        model(make_batch(histories, features))["ranking"].backward()
        optimizer.step()
    scores = model.eval().score(torch.from_numpy(histories[:2]), model.encode_catalogue())["id"][:, 41:]
    alike = torch.from_numpy(kinds[40:] == np.arange(2)[:, None])
    right = (scores[alike].reshape(2, 10, 1) > scores[~alike].reshape(2, 1, 10)).float().mean()
    assert (right > 0.9).item() is told


@pytest.mark.parametrize("fusion", ["imt(layers=1)", "independent"])
def test_items_score_with_any_subset_of_streams(features: ItemFeatures, fusion: str) -> None:
    counts = np.ones(NUM_ITEMS + 1, dtype=np.int64)
    counts[1] = 0  # no event, no text, no image: nothing at all
    model = make_model(features, fusion=fusion, item_counts=counts, id_min_count=1, hide={"id": 0.5})
    scores = model.ensemble(model.score(torch.from_numpy(HISTORIES), model.encode_catalogue()))
    assert scores[:, 1:].isfinite().all()


def test_what_hiding_needs_is_asked_for(features: ItemFeatures) -> None:
    with pytest.raises(ValueError, match="hide names the stream 'audio', but the streams are: id, text, image"):
        make_model(features, hide={"audio": 0.1})
    with pytest.raises(ValueError, match=r"id=1\.0 is out of range"):
        make_model(features, hide={"id": 1.0})
    with pytest.raises(ValueError, match="id_min_count=3 needs item_counts"):
        make_model(features, id_min_count=3)
    with pytest.raises(ValueError, match="'id' and a modality are needed"):
        make_model(features, streams=("id",), hide={"id": 0.1})
    with pytest.raises(ValueError, match=r"nothing would train what stands in .* as hide=\{'id': 0\.1\}"):
        make_model(features, id_min_count=1, item_counts=np.ones(NUM_ITEMS + 1))

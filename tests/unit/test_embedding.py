"""Our item vectors in place of a foreign `nn.Embedding`."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from odmt import ItemEmbedding, ItemFeatures, TiedHead, rows_of
from odmt.items import ItemEncoder
from odmt.types import Streams

NUM_ITEMS = 9


@pytest.fixture
def features() -> ItemFeatures:
    rng = np.random.default_rng(0)
    return ItemFeatures.from_arrays(NUM_ITEMS, text=rng.normal(size=(NUM_ITEMS, 3, 6)).astype("float32"))


@pytest.fixture
def embedding(features: ItemFeatures) -> ItemEmbedding:
    torch.manual_seed(0)
    return ItemEmbedding(features, dim=8)


def test_it_answers_like_an_embedding(embedding: ItemEmbedding) -> None:
    ids = torch.tensor([[0, 3, 3], [9, 1, 0]])
    vectors = embedding(ids)
    assert vectors.shape == (2, 3, 8)
    torch.testing.assert_close(vectors, F.embedding(ids, embedding.weight))
    assert not vectors[ids == 0].any()
    assert (embedding.num_embeddings, embedding.embedding_dim, embedding.padding_idx) == (10, 8, 0)
    assert embedding(torch.tensor(4)).shape == (8,)
    assert embedding(torch.zeros(2, 2, dtype=torch.long)).shape == (2, 2, 8)


@pytest.mark.parametrize("ids", [[[-1]], [[10]]])
def test_a_number_beyond_its_rows_is_refused(embedding: ItemEmbedding, ids: list[list[int]]) -> None:
    for answering in (embedding, nn.Embedding(10, 8)):
        with pytest.raises(IndexError, match="index out of range in self"):
            answering(torch.tensor(ids))


def test_rows_lead_from_their_numbers_to_ours(features: ItemFeatures) -> None:
    torch.manual_seed(0)
    theirs = ItemEmbedding(features, dim=8, rows=np.array([0, 7, 2, 0]))  # two items, and a mask token
    torch.manual_seed(0)
    ours = ItemEmbedding(features, dim=8)
    torch.testing.assert_close(theirs.weight, ours.weight[torch.tensor([0, 7, 2, 0])])
    torch.testing.assert_close(theirs(torch.tensor([2, 1, 3])), ours(torch.tensor([2, 7, 0])))


def test_names_lead_to_rows() -> None:
    theirs, ours = ["[PAD]", 30, "MASK", "10"], ["10", "20", "30"]
    np.testing.assert_array_equal(rows_of(theirs, ours, special=["MASK"]), [0, 3, 0, 1])
    with pytest.raises(
        ValueError, match=r"1 of their 3 items are none of our 3, such as 'MASK' where ours are like '10'"
    ):
        rows_of(theirs, ours)


def optimizer_step(embedding: ItemEmbedding) -> None:
    optimizer = torch.optim.SGD(embedding.parameters(), lr=1.0)
    embedding(torch.tensor([1, 2])).square().sum().backward()
    optimizer.step()


def in_place(embedding: ItemEmbedding) -> None:
    embedding.items.id_table.weight.add_(1.0)


def moving_average(embedding: ItemEmbedding) -> None:
    for parameter in embedding.parameters():
        parameter.data.mul_(0.5).add_(0.5)


def other_weights(embedding: ItemEmbedding) -> None:
    embedding.load_state_dict({name: x if name == "rows" else x + 1 for name, x in embedding.state_dict().items()})


def other_tensors(embedding: ItemEmbedding) -> None:
    embedding.double()
    embedding.items.id_table.weight.data = embedding.items.id_table.weight.data + 1.0
    embedding.float()


@pytest.mark.parametrize("change", [optimizer_step, in_place, moving_average, other_weights, other_tensors])
def test_the_table_is_never_out_of_date(embedding: ItemEmbedding, change: Callable[[ItemEmbedding], None]) -> None:
    embedding.eval()
    with torch.no_grad():
        before = embedding.weight
    with torch.set_grad_enabled(change is optimizer_step):
        change(embedding)
    with torch.no_grad():
        after, looked_up = embedding.weight, embedding(torch.tensor([1, 2]))
    assert not torch.isclose(after[1:3], before[1:3]).all(1).any()
    torch.testing.assert_close(after, embedding.weight.detach())
    torch.testing.assert_close(after[1:3], looked_up)


def test_without_gradients_a_large_table_is_made_in_chunks(
    embedding: ItemEmbedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    embedding.items.fusion.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0]["text"])))
    whole = embedding.weight
    monkeypatch.setattr("odmt.embedding.CHUNK", 4)
    with torch.no_grad():
        torch.testing.assert_close(embedding.weight, whole.detach())
    assert sizes == [9, 4, 4, 1]


def test_only_items_of_their_table_are_encoded(features: ItemFeatures) -> None:
    theirs = ItemEmbedding(features, dim=8, rows=np.array([0, 7, 2]))
    theirs.weight.sum().backward()
    assert theirs.items.id_table.weight.grad.any(1).nonzero().flatten().tolist() == [2, 7]


def test_a_tied_head_scores_every_row_and_shares_the_weights(embedding: ItemEmbedding) -> None:
    model = nn.ModuleDict({"embedding": embedding, "head": TiedHead(embedding)})
    states = torch.randn(2, 3, 8)
    torch.testing.assert_close(model["head"](states), states @ embedding.weight.T)
    assert not list(model["head"].parameters())
    copied = copy.deepcopy(model)
    in_place_of = copied["embedding"].items.id_table.weight
    before = copied["head"](states)
    in_place_of.data.add_(1.0)
    assert not torch.allclose(copied["head"](states), before)
    torch.testing.assert_close(model["head"](states), before)


def test_it_learns_through_look_up_and_table(features: ItemFeatures) -> None:
    """A foreign model that scores by its embedding's weight, with a task that only the text can answer for item 9."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"embedding": ItemEmbedding(features, dim=8), "state": nn.GRU(8, 8, batch_first=True)})
    histories, targets = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 1]]), torch.tensor([3, 6, 9])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        state = model["state"](model["embedding"](histories))[0][:, -1]
        loss = F.cross_entropy(state @ model["embedding"].weight.T, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    untouched = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not untouched


def test_saved_and_loaded_it_is_the_same(embedding: ItemEmbedding, features: ItemFeatures) -> None:
    other = ItemEmbedding(features, dim=8)
    other.load_state_dict(embedding.state_dict())
    torch.testing.assert_close(other.weight, embedding.weight)


def test_what_is_no_single_vector_is_refused(features: ItemFeatures) -> None:
    with pytest.raises(ValueError, match="leaves the streams id, text; an embedding has one vector"):
        ItemEmbedding(features, dim=8, join="none")
    with pytest.raises(ValueError, match="must begin with 0"):
        ItemEmbedding(features, dim=8, rows=np.array([1, 2]))
    with pytest.raises(ValueError, match="hold items 0 to 9, not 0 to 10"):
        ItemEmbedding(features, dim=8, rows=np.array([0, 10]))
    with pytest.raises(ValueError, match="leaves the streams id, text, item; an embedding has one vector"):
        ItemEmbedding(features, dim=8, join="sum(at='item', keep=True)")
    with pytest.raises(ValueError, match="leaves the streams id, text, user; an embedding has one vector"):
        ItemEmbedding(features, dim=8, join="sum(at='user')")
    assert ItemEmbedding(features, dim=8, streams=("text",)).weight.shape == (10, 8)


class Mixed(nn.Module):
    """Make one stream of all."""

    streams = ("mixed",)

    def __init__(self) -> None:
        super().__init__()
        self.content = nn.Linear(6, 8)

    def forward(self, tokens: Streams, masks: Streams) -> Streams:
        del masks
        return {"mixed": tokens["id"][:, 0] + self.content(tokens["text"].mean(1))}


@pytest.mark.parametrize("join", ["sum(at='item')", "none", "concat(at='item')"])
def test_what_the_fusion_makes_one_needs_no_join(features: ItemFeatures, join: str) -> None:
    mixed = ItemEmbedding(features, dim=8, fusion=Mixed(), join=join)
    assert mixed.items.vectors == ("mixed",)
    assert mixed.weight.shape == (10, 8)
    text = np.ones((NUM_ITEMS, 6), dtype="float32")
    both = ItemFeatures.from_arrays(NUM_ITEMS, text=text, image=text)
    joint = ItemEmbedding(both, dim=8, fusion="joint", streams=("text", "image"), join=join)
    assert joint.items.vectors == ("content",)
    assert joint.weight.shape == (10, 8)


def test_a_join_has_its_weights_among_those_of_the_items(features: ItemFeatures) -> None:
    torch.manual_seed(0)
    ours = ItemEmbedding(features, dim=8, join="concat(at='item')")
    torch.manual_seed(0)
    encoder = ItemEncoder(features, dim=8, fusion="independent", join="concat(at='item')")
    assert [name for name in ours.state_dict() if name != "rows"] == [f"items.{name}" for name in encoder.state_dict()]
    torch.testing.assert_close(ours.weight[1:], encoder.encode(torch.arange(1, 10))["item"], rtol=0, atol=0)


def test_counts_of_another_number_of_items_are_refused(features: ItemFeatures) -> None:
    with pytest.raises(ValueError, match="item_counts has 9 entries, but 9 items need 10"):
        ItemEmbedding(features, dim=8, id_min_count=2, item_counts=np.zeros(9))
    assert ItemEmbedding(features, dim=8, id_min_count=2, item_counts=np.zeros(10)).weight.shape == (10, 8)

"""Our item vectors in place of a foreign `nn.Embedding`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from odmt import ItemEmbedding, ItemFeatures

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


def test_rows_lead_from_their_numbers_to_ours(features: ItemFeatures) -> None:
    torch.manual_seed(0)
    theirs = ItemEmbedding(features, dim=8, rows=np.array([0, 7, 2, 0]))  # two items, and a mask token
    torch.manual_seed(0)
    ours = ItemEmbedding(features, dim=8)
    torch.testing.assert_close(theirs.weight, ours.weight[torch.tensor([0, 7, 2, 0])])
    torch.testing.assert_close(theirs(torch.tensor([2, 1, 3])), ours(torch.tensor([2, 7, 0])))


def test_without_gradients_the_table_is_made_once_per_change(embedding: ItemEmbedding) -> None:
    calls = []
    embedding.items.fusion.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        first = embedding(torch.tensor([1, 2]))
        made = len(calls)
        torch.testing.assert_close(embedding.weight[[1, 2]], first)
        assert len(calls) == made
        embedding.items.id_table.weight.add_(1.0)
        assert not torch.allclose(embedding(torch.tensor([1, 2])), first)
    torch.testing.assert_close(embedding(torch.tensor([1, 2])), embedding.weight[[1, 2]])


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
    assert ItemEmbedding(features, dim=8, streams=("text",)).weight.shape == (10, 8)

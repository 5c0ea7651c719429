"""Components of the caller's own that do not do what is asked of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from odmt import ODMT, ItemEmbedding, ItemFeatures, make_batch
from odmt.own import checked_fusion, checked_histories
from odmt.types import Streams, Tensor

HISTORIES = np.array([[0, 0, 7, 8, 9], [3, 1, 4, 1, 5]])


@pytest.fixture
def features() -> ItemFeatures:
    return ItemFeatures.from_arrays(9, text=np.ones((9, 6), dtype="float32"))


class Named(nn.Module):
    """Give the id as it is, under whatever names."""

    def __init__(self, **names: object) -> None:
        super().__init__()
        for name, value in names.items():
            setattr(self, name, value)

    def forward(self, tokens: Streams, masks: Streams) -> Streams:
        del masks
        return {"mixed": tokens["id"][:, 0]}


@pytest.mark.parametrize(
    ("names", "told"),
    [({}, "None"), ({"streams": "mixed"}, "'mixed'"), ({"streams": ()}, r"\(\)"), ({"streams": 1}, "1")],
)
def test_a_fusion_names_its_streams(names: dict[str, object], told: str, features: ItemFeatures) -> None:
    words = rf"fusion Named has streams={told}; it must name the vectors that it gives, as streams = \('id', 'text'\)"
    with pytest.raises(ValueError, match=words):
        checked_fusion(Named(**names))
    with pytest.raises(ValueError, match=r"fusion Named has streams=None"):
        ODMT(features, dim=8, fusion="tests.unit.test_own:Named")
    with pytest.raises(ValueError, match=r"fusion Named has streams=None"):
        ItemEmbedding(features, dim=8, fusion="tests.unit.test_own:Named")
    assert ODMT(features, dim=8, fusion=Named(streams=["mixed"])).streams == ("mixed",)


@pytest.mark.parametrize(
    ("streams", "dim", "told"),
    [
        (["item"], 8, "fusion Named returns mixed; its streams are item"),
        (["mixed", "id"], 8, "fusion Named returns mixed; its streams are mixed, id"),
        (["mixed"], 6, r"fusion Named returns \[9, 8\] for 'mixed', of 9 items; it must return .* \[9, 6\]"),
    ],
)
def test_a_fusion_gives_what_it_names(streams: list[str], dim: int, told: str, features: ItemFeatures) -> None:
    model = ODMT(features, dim=dim, fusion=Named(streams=streams))
    model.id_table = nn.Embedding(10, 8)  # as wide as what a fusion makes of it may be
    with pytest.raises(ValueError, match=told):
        model.encode_catalogue()


class Recurrent(nn.Module):
    """Return a GRU's states of some width, and what else it returns unless `alone`."""

    def __init__(self, width: int, *, alone: bool) -> None:
        super().__init__()
        self.gru, self.alone = nn.GRU(8, width, batch_first=True), alone

    def forward(self, x: Tensor, mask: Tensor) -> object:
        del mask
        return self.gru(x)[0] if self.alone else self.gru(x)


@pytest.mark.parametrize(("width", "alone", "given"), [(8, False, "a tuple"), (6, True, r"shape \[{rows}, 6\]")])
def test_a_backbone_returns_one_state_for_each_vector(
    width: int, alone: bool, given: str, features: ItemFeatures
) -> None:
    words = rf"the backbone of 'id' returns {given} for vectors of shape \[{{rows}}, 8\]; .* the first of what torch"
    with pytest.raises(ValueError, match=words.format(rows="3, 4")):
        ODMT(features, dim=8, length=5, backbone=lambda: Recurrent(width, alone=alone))  # pyright: ignore[reportArgumentType]
    model = ODMT(features, dim=8, length=5)
    model.backbones["id"] = Recurrent(width, alone=alone)
    with pytest.raises(ValueError, match=words.format(rows="2, 4")):
        model(make_batch(HISTORIES, features))
    with pytest.raises(ValueError, match=words.format(rows="2, 5")):
        model.score(torch.from_numpy(HISTORIES), model.encode_catalogue())


class Mixing(nn.Module):
    """Look the wrong way: at later events, or, across `users`, at other rows."""

    def __init__(self, how: str) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.net = nn.GRU(8, 8) if how == "users" else nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.how = how

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.how == "users":
            return self.net(x)[0]
        causal = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self.how == "causal" else None
        return self.net(x, mask=causal, src_key_padding_mask=torch.zeros(mask.shape).masked_fill(~mask, -1e9))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("future", r"backbone of 'id', Mixing, lets states see later events.* Make it causal, .*hide_rate"),
        ("users", r"backbone of 'id', Mixing, gives two users of the same history different states.*batch_first=True"),
    ],
)
def test_a_backbone_sees_neither_later_events_nor_other_users(how: str, told: str, features: ItemFeatures) -> None:
    with pytest.raises(ValueError, match=told):
        ODMT(features, dim=8, backbone=lambda: Mixing(how))
    torch.manual_seed(0)
    model = ODMT(features, dim=8, backbone=lambda: Mixing("causal"))
    after = torch.get_rng_state()
    torch.manual_seed(0)
    without = ODMT(features, dim=8, length=1, backbone=lambda: Mixing("causal"))  # one event: nothing to try
    assert torch.equal(torch.get_rng_state(), after)
    assert model.backbones["id"].training
    for name, weights in without.state_dict().items():
        assert torch.equal(model.state_dict()[name], weights)


def test_recurrent_networks_of_torch_are_to_be_wrapped(features: ItemFeatures) -> None:
    with pytest.raises(ValueError, match=r"torch's GRU itself, which would take the mask for its first state; wrap it"):
        ODMT(features, dim=8, backbone=lambda: nn.GRU(8, 8, batch_first=True))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("histories", "told"),
    [
        (torch.tensor([7, 8, 9]), r"histories are torch.int64 \[3\]; pass numbers of items"),
        (torch.ones(1, 3), r"histories are torch.float32 \[1, 3\]"),
        ([[7, 8, 9]], "histories are list"),
        (torch.tensor([[7, 8, 10]]), r"histories hold item 10; items are 1\.\.9"),
        (torch.tensor([[-1, 8, 9]]), "histories hold item -1"),
        (torch.tensor([[0, 7], [7, 0]]), r"history 1 is \[7, 0\]; pad with 0 on the left"),
    ],
)
def test_histories_are_padded_numbers_of_items(histories: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        checked_histories(histories, 9)


def test_histories_that_nothing_is_wrong_with_pass() -> None:
    for good in (torch.from_numpy(HISTORIES), torch.zeros(2, 0, dtype=torch.long), torch.tensor([[0, 0]])):
        assert checked_histories(good, 9) is good

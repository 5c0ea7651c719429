"""Components of the caller's own that do not do what is asked of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from odmt import ODMT, Independent, ItemEmbedding, ItemFeatures, make_batch
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
        checked_fusion(Named(**names), {"id": 8}, 8, tried=True)
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


class Fusing(nn.Module):
    """Make one vector of the tokens of an item, or of others', too."""

    streams = ("mixed",)
    mixes_items = False

    def __init__(self, widths: Mapping[str, int], dim: int, *, how: str = "apart") -> None:
        super().__init__()
        self.maps = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in widths.items()})
        self.how, self.gate, self.norm = how, nn.Parameter(torch.zeros(dim)), nn.BatchNorm1d(dim)
        self.lock = threading.Lock() if how == "not to be copied" else None

    def forward(self, tokens: Streams, masks: Streams) -> Streams:
        means = {name: (x * masks[name][..., None]).sum(1) for name, x in tokens.items()}
        if self.how == "not here":
            raise RuntimeError("expected tensors on a GPU")
        if self.how == "stands in":
            there = masks["text"].any(1, keepdim=True)
            means["text"] = torch.where(there, means["text"], means["text"][there[:, 0]].mean(0))
        if self.how == "in place":
            tokens["text"].add_(1.0)
        x = torch.stack([self.maps[name](mean) for name, mean in means.items()]).sum(0)
        x = {
            "mean": lambda: x - x.mean(0),
            "gated": lambda: x + self.gate * x.mean(0),
            "size": lambda: x / len(x),
            "rank": lambda: x + x.argsort(0),
            "random": lambda: nn.functional.dropout(x, 0.5),
            "batch norm": lambda: self.norm(x),
            "squeezed": lambda: x.squeeze(),
        }.get(self.how, lambda: x)()
        return {"mixed": x}


@pytest.mark.parametrize("how", ["mean", "gated", "size", "rank", "stands in"])
def test_a_fusion_that_mixes_items_is_refused_unless_it_is_meant(
    how: str, features: ItemFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = partial(Fusing, how=how)
    words = r"fusion Fusing gives an item another vector of 'mixed' beside other items: .*mean\(0\).*mixes_items = True"
    for build in (ODMT, ItemEmbedding):
        with pytest.raises(ValueError, match=words):
            build(features, dim=8, fusion=made)
    with pytest.raises(ValueError, match=words):
        ODMT(features, dim=8, fusion=torch.compile(made({"id": 8, "text": 6}, 8), backend="eager"))
    ODMT(features, dim=8, fusion=made, start=False)  # one that was trained can still be measured
    monkeypatch.setattr(Fusing, "mixes_items", True)
    ODMT(features, dim=8, fusion=made)


@pytest.mark.parametrize(
    "how", ["apart", "random", "batch norm", "in place", "squeezed", "not here", "not to be copied"]
)
def test_to_try_a_fusion_leaves_no_trace(how: str, features: ItemFeatures) -> None:
    models = []
    for start in (True, False):
        torch.manual_seed(0)
        fusion = Fusing({"id": 8, "text": 6}, 8, how=how)
        fusion.maps.eval()
        models.append((ODMT(features, dim=8, fusion=fusion, start=start), torch.get_rng_state()))
        assert [module.training for module in fusion.children()] == [False, True]
    assert torch.equal(models[0][1], models[1][1])
    for (name, weights), other in zip(
        models[0][0].state_dict().items(), models[1][0].state_dict().values(), strict=True
    ):
        assert torch.equal(weights, other), name


def test_our_own_fusions_are_not_tried(features: ItemFeatures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("odmt.own._mixed", None)
    for fusion in ("imt(layers=1)", "independent", Independent({"id": 8, "text": 6}, 8)):
        ODMT(features, dim=8, fusion=fusion)


def test_a_fusion_may_be_its_class(features: ItemFeatures) -> None:
    for maker in (Fusing, lambda widths, dim: Fusing(widths, dim)):
        model = ODMT(features, dim=16, fusion=maker)
        assert model.encode_catalogue()["mixed"].shape == (10, 16)
    words = (
        r"fusion Named is called with \(widths, dim\), .*too many positional arguments\); pass a module, or what can"
    )
    with pytest.raises(ValueError, match=words):
        ODMT(features, dim=8, fusion=Named)  # pyright: ignore[reportArgumentType]


def test_what_a_fusion_raises_is_told_of_its_widths(features: ItemFeatures) -> None:
    model = ODMT(features, dim=8, fusion=Fusing({"id": 8, "text": 8}, 8))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as raised:
        model.encode_catalogue()
    assert raised.value.__notes__ == ["raised by fusion Fusing, of streams with the widths id 8, text 6; dim is 8"]


class Recurrent(nn.Module):
    """Return a GRU's states of some width, and what else it returns unless `alone`."""

    def __init__(self, width: int, *, alone: bool) -> None:
        super().__init__()
        self.gru, self.alone = nn.GRU(8, width, batch_first=True), alone

    def forward(self, x: Tensor, mask: Tensor) -> object:
        del mask
        return self.gru(x)[0] if self.alone else self.gru(x)


@pytest.mark.parametrize(("width", "alone", "given"), [(8, False, "a tuple"), (6, True, r"shape \[2, {rows}, 6\]")])
def test_a_backbone_returns_one_state_for_each_vector(
    width: int, alone: bool, given: str, features: ItemFeatures
) -> None:
    model = ODMT(features, dim=8, length=5, backbone=lambda: Recurrent(width, alone=alone))  # pyright: ignore[reportArgumentType]
    words = rf"the backbone of 'id' returns {given} for vectors of shape \[2, {{rows}}, 8\]; .* the first of what torch"
    with pytest.raises(ValueError, match=words.format(rows=4)):
        model(make_batch(HISTORIES, features))
    with pytest.raises(ValueError, match=words.format(rows=5)):
        model.score(torch.from_numpy(HISTORIES), model.encode_catalogue())


class Looking(nn.Module):
    """Attend from each event to those before it, or otherwise."""

    mixes_users = False

    def __init__(self, how: str) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=not how.startswith("across"))
        self.net = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.how, self.gate = how, nn.Parameter(torch.zeros(8))
        self.lock = threading.Lock() if how == "not to be copied" else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        del mask
        if self.how in ("future", "gated future"):
            return self.net(x) if self.how == "future" else x + self.gate * self.net(x)
        if self.how == "across users":
            return self.net(x)
        if self.how == "not here":
            raise RuntimeError("expected tensors on a GPU")
        if self.how == "random":
            x = nn.functional.dropout(x, 0.5)
        return self.net(x, mask=nn.Transformer.generate_square_subsequent_mask(x.shape[x.ndim - 2]))


class Recursive(nn.Module):
    """Sum up what went before, or, without `batch_first`, what other users did."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.rnn = nn.GRU(8, 8, batch_first=batch_first)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        del mask
        return self.rnn(x)[0]


class Decaying(nn.Module):
    """Weigh earlier events less; the first of the parameters is of another kind than what passes through."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.ones(8, dtype=dtype), requires_grad=False)
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        decay = (-self.rate.real.float() * torch.arange(x.shape[1])[:, None]).exp()
        return self.out(torch.cumsum(x * mask.unsqueeze(-1) / decay, 1) * decay)


@pytest.mark.parametrize("how", ["future", "gated future"])
def test_a_backbone_that_sees_later_events_is_refused(how: str, features: ItemFeatures) -> None:
    with pytest.raises(ValueError, match=r"backbone of 'id', Looking, lets states see later .* causal, .*hide_rate"):
        ODMT(features, dim=8, backbone=lambda: Looking(how))
    ODMT(features, dim=8, backbone=lambda: Looking(how), start=False)  # one that was trained can still be measured


@pytest.mark.parametrize("made", [lambda: Looking("across users"), lambda: Recursive(batch_first=False)])
def test_a_backbone_that_mixes_users_is_refused_unless_it_is_meant(
    made: Callable[[], Any], features: ItemFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"gives a history other states beside other users: .*batch_first=True; if"):
        ODMT(features, dim=8, backbone=made)
    monkeypatch.setattr(type(made()), "mixes_users", True, raising=False)
    ODMT(features, dim=8, backbone=made)


@pytest.mark.parametrize(
    "made",
    [
        *(partial(Looking, how) for how in ("causal", "random", "not here", "not to be copied")),
        partial(Recursive, batch_first=True),
        *(partial(Decaying, dtype) for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.complex64)),
        lambda: torch.compile(Looking("causal"), backend="eager"),
    ],
)
def test_to_try_a_backbone_leaves_no_trace(made: Callable[[], Any], features: ItemFeatures) -> None:
    models = []
    for length in (20, 1):  # of one event, nothing is to be seen
        torch.manual_seed(0)
        models.append((ODMT(features, dim=8, length=length, backbone=made), torch.get_rng_state()))
    assert torch.equal(models[0][1], models[1][1])
    for (name, weights), other in zip(
        models[0][0].state_dict().items(), models[1][0].state_dict().values(), strict=True
    ):
        assert torch.equal(weights, other), name
    assert all(module.training for module in models[0][0].backbones.modules())


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

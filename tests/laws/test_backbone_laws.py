"""What must hold for every backbone, whatever its weights; `odmt.types.Backbone` states it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from odmt.backbones.huggingface import TESTED
from odmt.components import BACKBONES
from odmt.spec import parse_call

DIM, LENGTH = 16, 9
BOTH_WAYS = ("bert", "roberta", "electra", "distilbert", "modernbert", "albert")
CAUSAL = [
    "sasrec",
    "gru4rec",
    "gru4rec(layers=2, width=12)",
    "nextitnet",
    "nextitnet(dilations=[1, 2], kernel=2)",
    "hstu",
    "lrurec",
    "recency",
    "recency(decay=1.0, scale=2.0)",
    *(f"huggingface(model_type={name!r})" for name in TESTED if name not in BOTH_WAYS),
    "huggingface(model_type='bert', is_decoder=True)",
]
HIDE_TRAINED = ["bert4rec", *(f"huggingface(model_type={name!r})" for name in BOTH_WAYS)]
EVERY = [*CAUSAL, *HIDE_TRAINED]


def make(call: str, dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    return parse_call(call, known=BACKBONES, kind="backbone").build(dim=DIM, length=LENGTH, dropout=dropout)


def read(backbone: Any, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Read with every third event hidden, counted from the newest, where the backbone learns from hidden ones."""
    if not hasattr(backbone, "hide_rate"):
        return backbone(x, mask)
    from_newest = torch.arange(x.shape[1]).flip(0)
    return backbone(x, mask, (from_newest % 3 == 1) & mask)


def histories(*lengths: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw left-padded histories; padded rows hold what they must not: anything."""
    torch.manual_seed(1)
    mask = torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]
    return torch.randn(*mask.shape, DIM, dtype=dtype, requires_grad=True), mask


def gradients(backbone: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("call", EVERY)
def test_padding_on_the_left_changes_neither_states_nor_gradients(call: str) -> None:
    backbone = make(call).double()
    x, mask = histories(5, 5, dtype=torch.float64)
    weight = torch.randn(2, 5, DIM, dtype=torch.float64)
    found = []
    for columns in (0, 3):
        backbone.zero_grad()
        padded = torch.cat([torch.randn(2, columns, DIM, dtype=torch.float64), x.detach()], dim=1).requires_grad_()
        padded_mask = torch.cat([torch.zeros(2, columns, dtype=torch.bool), mask], dim=1)
        states = read(backbone, padded, padded_mask)[:, columns:]
        (states * weight).sum().backward()
        assert padded.grad is not None
        assert (padded.grad[:, :columns] == 0).all()
        found.append({"states": states.detach(), "x": padded.grad[:, columns:], **gradients(backbone)})
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("call", EVERY)
def test_a_user_is_read_in_a_batch_as_alone(call: str) -> None:
    backbone, lengths = make(call).eval(), (4, 1, 6, 3)
    x, mask = histories(*lengths)
    together = read(backbone, x, mask)
    for user, length in enumerate(lengths):
        alone = read(backbone, x[user : user + 1, -length:], mask[user : user + 1, -length:])
        torch.testing.assert_close(together[user, -length:], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("call", EVERY)
def test_the_order_of_users_does_not_matter(call: str) -> None:
    backbone, order = make(call).eval(), torch.tensor([2, 0, 3, 1])
    x, mask = histories(4, 0, 6, 3)
    torch.testing.assert_close(
        read(backbone, x, mask)[order], read(backbone, x[order], mask[order]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("call", CAUSAL)
def test_a_causal_state_does_not_see_later_events(call: str) -> None:
    backbone = make(call).eval()
    assert not hasattr(backbone, "hide_rate")
    x, mask = histories(7, 5)
    changed = x.detach().clone()
    changed[:, 4:] = torch.randn(2, 3, DIM)
    states, others = backbone(x, mask), backbone(changed, mask)
    torch.testing.assert_close(states[:, 2:4], others[:, 2:4])
    assert not torch.isclose(states[:, 4:], others[:, 4:]).all(-1).any()
    (states[:, 3] * torch.randn(DIM)).sum().backward()
    assert x.grad is not None
    assert (x.grad[:, 4:] == 0).all()
    assert (x.grad[:, 2:4] != 0).any(-1).all()


@pytest.mark.parametrize("call", HIDE_TRAINED)
def test_what_is_hidden_is_not_seen_and_what_is_not_hidden_is(call: str) -> None:
    backbone = make(call).eval()
    assert 0 < backbone.hide_rate < 1
    x, mask = histories(7, 5)
    hidden = torch.zeros_like(mask)
    hidden[0, 3] = hidden[1, [4, 6]] = True
    (backbone(x, mask, hidden)[hidden] * torch.randn(3, DIM)).sum().backward()
    assert x.grad is not None
    assert (x.grad[hidden] == 0).all()
    assert (x.grad[~mask] == 0).all()
    assert (x.grad[mask & ~hidden] != 0).any(-1).all()  # before and behind what is hidden
    changed = x.detach().clone()
    changed[hidden] = torch.randn(3, DIM)
    torch.testing.assert_close(backbone(changed, mask, hidden), backbone(x, mask, hidden), rtol=0, atol=0)


@pytest.mark.parametrize("call", [call for call in EVERY if hasattr(make(call), "newest")])
def test_the_newest_state_is_the_last_row(call: str) -> None:
    backbone = make(call).eval()
    x, mask = histories(6, 4, 1, 0)
    if not hasattr(backbone, "hide_rate"):
        torch.testing.assert_close(backbone.newest(x, mask), backbone(x, mask)[:, -1])
        return
    last = torch.arange(7) == 6
    behind = torch.cat([x, torch.randn(4, 1, DIM)], dim=1), torch.cat([mask, mask.new_ones(4, 1)], dim=1)
    states = backbone(*behind, last.expand(4, 7))
    torch.testing.assert_close(backbone.newest(x, mask), states[:, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("call", EVERY)
def test_histories_may_be_as_long_as_was_said(call: str) -> None:
    backbone = make(call).eval()
    x, mask = histories(LENGTH, 1)
    assert read(backbone, x, mask).shape == x.shape
    if hasattr(backbone, "hide_rate"):  # in training a history comes with its target
        assert backbone.newest(x, mask).shape == (2, DIM)
        assert read(backbone, *histories(LENGTH + 1, 1)).shape == (2, LENGTH + 1, DIM)


@pytest.mark.parametrize("call", EVERY)
def test_everything_stays_finite_where_a_user_has_no_event(call: str) -> None:
    backbone = make(call)
    x, mask = histories(5, 0)
    states = read(backbone, x, mask)
    (states * torch.randn_like(states)).sum().backward()
    assert x.grad is not None
    for found in (states, x.grad, *gradients(backbone).values()):
        assert found.isfinite().all()


@pytest.mark.parametrize("call", EVERY)
def test_every_parameter_learns(call: str) -> None:
    backbone = make(call)
    x, mask = histories(LENGTH, 3, 2)
    (read(backbone, x, mask)[mask] * torch.randn(int(mask.sum()), DIM)).sum().backward()
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert (parameter.grad != 0).any(), name
    frozen = [p for p in backbone.parameters() if not p.requires_grad]
    assert sum(p.numel() for p in frozen) <= DIM  # a table of tokens cannot be had without a row


@pytest.mark.parametrize("call", EVERY)
def test_dropout_falls_in_training_and_only_there(call: str) -> None:
    x, mask = histories(7, 4)
    backbone = make(call, dropout=0.5)
    assert not torch.allclose(read(backbone, x, mask)[mask], read(backbone, x, mask)[mask], atol=1e-3)
    still = read(backbone.eval(), x, mask)
    torch.testing.assert_close(still, read(backbone, x, mask), rtol=0, atol=0)
    torch.testing.assert_close(still[mask], read(make(call).train(), x, mask)[mask], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("call", EVERY)
def test_precision_is_that_of_the_parameters_or_of_autocast(call: str) -> None:
    backbone = make(call)
    x, mask = histories(7, 4)
    single = read(backbone, x, mask)
    assert single.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = read(backbone, x, mask)
    (half[mask].float() * torch.randn(11, DIM)).sum().backward()
    assert all(gradient.isfinite().all() for gradient in gradients(backbone).values())
    assert (half - single)[mask].norm() < 0.05 * single[mask].norm()
    double = read(backbone.double(), x.double(), mask)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double[mask].float(), single[mask], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("call", [call for call in EVERY if not call.startswith("huggingface")])
def test_parameters_of_half_precision_read_nearly_alike_and_learn(call: str, dtype: torch.dtype) -> None:
    backbone = make(call)
    x, mask = histories(7, 4)
    single = read(backbone, x, mask)
    half = read(backbone.to(dtype), x.to(dtype), mask)
    assert half.dtype == dtype
    assert (half - single)[mask].norm() < 0.05 * single[mask].norm()
    (half[mask].float() * torch.randn(11, DIM)).sum().backward()
    assert all(gradient.isfinite().all() for gradient in gradients(backbone).values())


TOO_LONG = [call for call in EVERY if not call.startswith(("gru4rec", "nextitnet", "lrurec"))]


@pytest.mark.parametrize("call", TOO_LONG)
def test_a_history_too_long_for_its_positions_is_refused(call: str) -> None:
    with pytest.raises(ValueError, match=rf"a history of {LENGTH + 2} events is longer than .*({LENGTH}|{LENGTH + 1})"):
        read(make(call), *histories(LENGTH + 2))
    if call in HIDE_TRAINED:
        with pytest.raises(ValueError, match=rf"a history of {LENGTH + 1} events .* cut it to the newest {LENGTH}"):
            make(call).newest(*histories(LENGTH + 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("sasrec(layers=0)", "layers=0: SASRec needs at least one"),
        ("sasrec(heads=3)", "dim=16 is not divisible by heads=3"),
        ("bert4rec(layers=0)", "layers=0"),
        ("bert4rec(hide_rate=1.0)", r"hide_rate=1\.0 is not between 0 and 1"),
        ("bert4rec(hide_rate=0.0)", r"hide_rate=0\.0 is not between 0 and 1"),
        ("gru4rec(layers=0)", "layers=0, width=16"),
        ("gru4rec(width=0)", "layers=1, width=0"),
        ("nextitnet(dilations=[])", r"dilations=\[\]: NextItNet needs at least one"),
        ("nextitnet(dilations=[2, 0])", r"dilations=\[2, 0\]"),
        ("nextitnet(kernel=1)", "kernel=1 sees no other event"),
        ("hstu(layers=0)", "layers=0: HSTU needs at least one"),
        ("hstu(heads=3)", "dim=16 is not divisible by heads=3"),
        ("hstu(heads=0)", "dim=16 is not divisible by heads=0"),
        ("lrurec(layers=0)", "layers=0: LRURec needs at least one"),
        ("recency(decay=0.0)", r"decay=0\.0, scale=8\.0: a decay is above 0"),
        ("recency(scale=0.0)", r"decay=0\.7, scale=0\.0: a decay is above 0"),
        ("lrurec(head=2)", "lrurec takes no argument 'head'; there is dim, layers, dropout"),
    ],
)
def test_what_cannot_be_is_refused(call: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(call)

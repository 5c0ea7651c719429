"""Attention computed the cheap ways, against softmax(Q K^T / sqrt(d)) V written out; and dropout's odds."""

from __future__ import annotations

import math

import pytest
import torch

from odmt.attention import Attention
from odmt.dropout import Dropout, dropout, keep_mask

ROWS = 9


def written_out(layer: Attention, queries: torch.Tensor, context: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    mixed = []
    for q, k, v in zip(
        *(
            layer_of(x).chunk(layer.heads, dim=2)
            for layer_of, x in ((layer.query, queries), (layer.key, context), (layer.value, context))
        ),
        strict=True,
    ):
        scores = q @ k.mT / math.sqrt(q.shape[2])
        mixed.append(scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ v)
    return layer.output(torch.cat(mixed, dim=2))


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("num_queries", [1, 3, ROWS])  # one and three are folded, all are projected
@pytest.mark.parametrize("one_mask", [True, False])
def test_values_and_gradients_are_those_of_the_formula(heads: int, num_queries: int, one_mask: bool) -> None:
    torch.manual_seed(0)
    layer = Attention(16, heads=heads, dropout=0.0).double()
    context = torch.randn(5, ROWS, 16, dtype=torch.float64, requires_grad=True)
    allowed = torch.rand(1 if one_mask else 5, num_queries, ROWS) > 0.4
    allowed[..., 0] = True
    weight = torch.randn(5, num_queries, 16, dtype=torch.float64)
    found = []
    for attend in (layer, lambda *given: written_out(layer, *given)):
        layer.zero_grad()
        context.grad = None
        value = attend(context[:, :num_queries], context, allowed)
        (value * weight).sum().backward()
        gradients = [context.grad, *(p.grad for p in layer.parameters())]
        found.append([value.detach(), *(g.clone() for g in gradients if g is not None)])
        assert len(found[-1]) == 6
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradient_is_right_where_weights_are_dropped() -> None:
    torch.manual_seed(0)
    layer = Attention(4, heads=2, dropout=0.5).double()
    allowed = torch.ones(1, 4, 4, dtype=torch.bool)

    def attend(context: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)  # the same mask at every call
        return layer(context, context, allowed)

    context = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attend, [context])
    assert not torch.allclose(attend(context), layer.eval()(context, context, allowed))


def test_bf16_stays_near_float32() -> None:
    torch.manual_seed(0)
    layer, x = Attention(32, heads=2, dropout=0.0), torch.randn(6, ROWS, 32)
    allowed = torch.ones(1, ROWS, ROWS, dtype=torch.bool)
    gradients = []
    for enabled in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            value = layer(x, x, allowed)
        assert value.dtype == (torch.bfloat16 if enabled else torch.float32)
        value.float().square().mean().backward()
        gradients.append([p.grad.clone() for p in layer.parameters() if p.grad is not None])
    for exact, rounded in zip(*gradients, strict=True):
        assert (exact - rounded).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_drops_its_share_and_keeps_the_mean(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    kept = keep_mask(torch.empty(333, 1001, dtype=dtype), p).double()
    share = (kept == 0).double().mean().item()
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / kept.numel())
    assert kept.max().item() == pytest.approx(1 / (1 - p), rel=1e-2 if dtype is torch.bfloat16 else 1e-4)
    rows, columns = (kept == 0).double().mean(1), (kept == 0).double().mean(0)  # independent along both axes
    assert abs(rows.var().item() / (p * (1 - p) / 1001) - 1) < 0.5
    assert abs(columns.var().item() / (p * (1 - p) / 333) - 1) < 0.5


def test_dropout_follows_torchs_seed() -> None:
    x = torch.ones(7, 5)
    torch.manual_seed(3)
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    torch.manual_seed(3)
    torch.testing.assert_close(dropout(x, 0.5), first)
    assert not torch.equal(first, second)
    state = torch.get_rng_state()
    third = dropout(x, 0.5)
    torch.set_rng_state(state)
    torch.testing.assert_close(dropout(x, 0.5), third)


def test_dropout_passes_gradient_where_it_keeps() -> None:
    layer, x = Dropout(0.5), torch.randn(4, 3, 5, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(y == 0, 0.0, 2.0))
    assert layer.eval()(x) is x
    assert dropout(x, 0.0) is x
    assert dropout(torch.empty(0, 3), 0.5).shape == (0, 3)


def test_dropout_of_everything_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dropout=1.0 is not in \[0, 1\)"):
        dropout(torch.ones(2), 1.0)

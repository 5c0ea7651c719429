"""Backbones against their formulas written plainly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from odmt.backbones import HSTU, BERT4Rec, GRU4Rec, LRURec, NextItNet, Recency
from odmt.backbones.lrurec import by_doubling, by_row

DIM, LENGTH = 6, 8


def histories(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    mask = torch.arange(LENGTH) >= LENGTH - torch.tensor(lengths)[:, None]
    return torch.randn(len(lengths), LENGTH, DIM, dtype=torch.float64), mask


def test_gru4rec_is_a_gru_over_the_events_and_a_dense_layer() -> None:
    backbone = GRU4Rec(DIM, layers=2, width=5, dropout=0.0).double()
    x, mask = histories(8, 3)
    for states, events, real in zip(backbone(x, mask), x, mask, strict=True):
        theirs, _ = backbone.gru(events[real])
        torch.testing.assert_close(states[real], backbone.dense(theirs))


def test_nextitnet_is_its_formula() -> None:
    backbone = NextItNet(DIM, dilations=[1, 3], kernel=3, dropout=0.0).double()
    x, mask = histories(8, 3)
    for states, events, real in zip(backbone(x, mask), x, mask, strict=True):
        y = events[real]
        for block, dilation in zip(backbone.blocks, (1, 3), strict=True):
            inner = y
            for layer, step in zip(block.layers, (dilation, 2 * dilation), strict=True):
                weighed = layer.weigh.bias.expand(len(y), -1).clone()
                for t in range(len(y)):
                    for tap in range(min(3, 1 + t // step)):
                        weighed[t] += layer.weigh.weight[:, :, 2 - tap] @ inner[t - tap * step]
                inner = layer.norm(weighed).relu()
            y = y + inner
        torch.testing.assert_close(states[real], backbone.output(y))


def test_nextitnet_sees_as_far_as_its_docstring_says() -> None:
    backbone = NextItNet(DIM, dilations=(1, 2), kernel=3, dropout=0.0).double()
    x = torch.randn(1, 25, DIM, dtype=torch.float64, requires_grad=True)
    backbone(x, torch.ones(1, 25, dtype=torch.bool))[:, -1].sum().backward()
    assert x.grad is not None
    seen = (x.grad[0] != 0).any(-1).tolist()
    assert seen == [False] * 6 + [True] * 19  # 1 + 3 (kernel - 1) (1 + 2)


def test_hstu_is_its_formula() -> None:
    torch.manual_seed(0)
    heads, width = 2, DIM // 2
    backbone = HSTU(DIM, length=10, layers=2, heads=heads, dropout=0.0).double()
    x, mask = histories(8, 3)
    for states, events, real in zip(backbone(x, mask), x, mask, strict=True):
        y = events[real]
        for layer in backbone.layers:
            u, v, q, k = F.silu(layer.project(F.layer_norm(y, [DIM], eps=1e-6))).split(DIM, dim=1)
            mixed = torch.zeros_like(y)
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                for t in range(len(y)):
                    for s in range(t + 1):
                        weight = F.silu(q[t, part] @ k[s, part] + layer.distance_bias[t - s]) / 10
                        mixed[t, part] += weight * v[s, part]
            y = y + layer.output(u * F.layer_norm(mixed, [DIM], eps=1e-6))
        torch.testing.assert_close(states[real], backbone.norm(y))


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9])
def test_both_ways_to_a_linear_recurrence_give_its_sum(length: int) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(2, length, 3, dtype=torch.complex128)
    log_factor = torch.complex(-torch.rand(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64))
    states = torch.zeros_like(inputs)
    for t in range(length):
        for s in range(t + 1):
            states[:, t] += log_factor.exp() ** (t - s) * inputs[:, s]
    torch.testing.assert_close(by_row(inputs, log_factor), states)
    torch.testing.assert_close(by_doubling(inputs, log_factor), states)


def test_lrurec_is_a_recurrence_with_complex_numbers() -> None:
    backbone = LRURec(DIM, layers=2, dropout=0.0).double()
    x, mask = histories(8, 3)
    for states, events, real in zip(backbone(x, mask), x, mask, strict=True):
        y = backbone.norm(events[real])
        for block in backbone.blocks:
            unit = block.recurrence
            factor = torch.polar(torch.exp(-unit.nu.exp()), unit.theta.exp())
            into, c = unit.into(y), unit.out.weight
            state, rows = torch.zeros(2 * DIM, dtype=torch.complex128), []
            for row in into:
                state = factor * state + unit.gamma.exp() * torch.complex(row[0::2], row[1::2])
                rows.append((torch.complex(c[:, 0::2], -c[:, 1::2]) @ state).real + unit.out.bias)
            y = block.recurrence_norm(y + torch.stack(rows))
            y = block.feed_forward_norm(y + block.feed_forward(y))
        torch.testing.assert_close(states[real], y)


def test_lrurec_starts_on_its_ring() -> None:
    unit = LRURec(64).blocks[0].recurrence
    radius = torch.exp(-unit.nu.exp())
    assert 0.8 <= radius.min() < 0.85 < 0.97 < radius.max() <= 0.99
    torch.testing.assert_close(unit.gamma.exp(), (1 - radius**2).sqrt())


def test_bert4rec_reads_the_mask_vector_where_an_event_is_hidden() -> None:
    backbone = BERT4Rec(DIM, length=LENGTH, dropout=0.0, hide_rate=0.3).double()
    x, mask = histories(8, 3)
    hidden = torch.zeros_like(mask)
    hidden[0, 2] = hidden[1, 6] = True
    filled = x.clone()
    filled[0, 2] = filled[1, 6] = backbone.mask_vector.detach()
    torch.testing.assert_close(backbone(x, mask, hidden), backbone.reader(filled, mask))
    assert not torch.allclose(backbone(x, mask, hidden), backbone(x, mask, torch.zeros_like(mask)))
    assert backbone.hide_rate == 0.3


def test_recency_is_a_mean_that_forgets() -> None:
    x = torch.eye(4)[None, :3]
    backbone = Recency(4, length=3, decay=0.5, scale=2.0)
    states = backbone(x, torch.ones(1, 3, dtype=torch.bool))[0].detach()
    summed = torch.tensor([[1.0, 0, 0, 0], [0.5, 1, 0, 0], [0.25, 0.5, 1, 0]])
    torch.testing.assert_close(states, 2 * F.normalize(summed), rtol=1e-3, atol=0.0)


def test_recency_learns_gently_from_a_history_of_nothing() -> None:
    x = torch.zeros(1, 3, 4, requires_grad=True)
    Recency(4, length=3)(x, torch.ones(1, 3, dtype=torch.bool)).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() < 3000

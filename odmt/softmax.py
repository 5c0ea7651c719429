"""The softmax loss over many candidates, without ever holding all logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from odmt.types import Float, Int, Tensor

__all__ = ["softmax_loss"]

_LOGITS = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Logits that are held at once: on a CPU what its caches hold, on a GPU what fills it."""
_ROWS = 128
"""Rows whose logits are held at once however many candidates there are: products of fewer are slow."""


def softmax_loss(
    states: Float[Tensor, "rows dim"],
    items: Float[Tensor, "candidates dim"],
    targets: Int[Tensor, " rows"],
    *,
    correction: Float[Tensor, " candidates"] | None = None,
    log_weights: Callable[[slice], Tensor] | None = None,
) -> Float[Tensor, ""]:
    """Average over rows logsumexp_c(z_c + m_c) - z_target, with z = u . v - correction.

    log_weights: gives m of some rows, [rows, candidates]; a target's must be 0. Neither it nor the correction gets a
    gradient. With p the softmax of z + m, the gradient of u is (sum_c p_c v_c - v_target) / rows, and that of v_c the
    sum over rows of (p_c - [c is the target]) u / rows.

    The logits of all rows are never there at once: a few rows' are made, and turned into their share of the gradient
    while the caches hold them. Memory is that of states and items, and time that of three products.
    """
    precise = torch.promote_types(states.dtype, torch.float32)
    correction = None if correction is None else correction.to(precise)
    return _ByGroups.apply(states.to(precise), items.to(precise), targets, correction, log_weights)


class _ByGroups(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        items: Tensor,
        targets: Tensor,
        correction: Tensor | None,
        log_weights: Callable[[slice], Tensor] | None,
    ) -> Tensor:
        rows = max(_ROWS, _LOGITS.get(states.device.type, _LOGITS["cuda"]) // len(items))
        # the gradient of the targets' logits; the rest of it follows group by group
        to_states = -items[targets]
        to_items = torch.zeros_like(items).index_add_(0, targets, states, alpha=-1)
        loss = (states * to_states).sum()
        loss += 0.0 if correction is None else correction[targets].sum()
        held = states.new_empty(min(rows, len(states)), len(items))  # once: to ask the system for it anew takes as long
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(states), rows):
                group = slice(start, start + rows)
                z = torch.mm(states[group], items.T, out=held[: len(states) - start])
                if correction is not None:
                    z -= correction
                if log_weights is not None:
                    z += log_weights(group)
                highest = z.amax(1, keepdim=True)
                odds = z.sub_(highest).exp_()
                total = odds.sum(1, keepdim=True)
                loss += (highest + total.log()).sum()
                if any(ctx.needs_input_grad):  # the softmax is odds / total: dividing rows of length dim is less work
                    to_states[group] += (odds @ items).div_(total)
                    to_items.addmm_(odds.T, states[group] / total)
        ctx.save_for_backward(to_states, to_items)
        ctx.rows = len(states)
        return loss / len(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        to_states, to_items = ctx.saved_tensors
        scale = gradient / ctx.rows
        return to_states * scale, to_items * scale, None, None, None

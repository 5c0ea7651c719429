"""How the streams' scores become one recommendation, and one teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from odmt.distill import ensemble
from odmt.stacking import stacked_weights
from odmt.types import Float, Int, Questions, Streams, Tensor

__all__ = ["Fitted", "Mean", "Weighted"]


class Mean(nn.Module):
    """Average the streams' scores, as released (arXiv 2308.04067)."""

    trained = False

    def forward(self, scores: Mapping[str, Tensor]) -> Tensor:
        return ensemble(scores)


class Weighted(nn.Module):
    """Add the streams' scores, each times a positive weight of its own, which sets how much a stream counts and how
    sharp it is. Weights start at the mean and are trained by the ranking loss of the sum.

    joint: whether that loss trains the streams, too; by default only the weights.
    """

    trained = True

    def __init__(self, streams: Sequence[str], *, joint: bool = False) -> None:
        super().__init__()
        self.joint = joint
        start = torch.full((1,), 1.0 / len(streams)).log()  # of no dimension, DeepSpeed could not send it
        self.log_weights = nn.ParameterDict({name: nn.Parameter(start.clone()) for name in streams})

    def forward(self, scores: Mapping[str, Tensor]) -> Tensor:
        return _sum({name: weight.exp() for name, weight in self.log_weights.items()}, scores)


class Fitted(nn.Module):
    """Add the streams' scores, each times a weight that is fitted to the targets of validation users after every epoch
    (see `odmt.stacking`). Until `fit` is called it is the mean. No weight is trained, and none has to be positive.

    The users are those by whom the epoch is chosen, so what validation says of this ensemble is a little flattered; the
    test is not. What distillation calls the ensemble stays the mean: no validation target reaches a stream.
    """

    trained = False

    def __init__(self, streams: Sequence[str]) -> None:
        super().__init__()
        self.streams = tuple(streams)
        self.weights: Tensor
        self.register_buffer("weights", torch.full((len(streams),), 1.0 / len(streams)))

    def fit(
        self,
        states: Callable[[Int[Tensor, "users length"]], Streams],
        tables: Streams,
        questions: Questions,
        *,
        mask_history: bool = True,
    ) -> Float[Tensor, " streams"]:
        """Set the weights, and return them; arguments as of `odmt.stacking.stacked_weights`."""
        if len(self.streams) > 1:
            heads = {name: tables[name] for name in self.streams}
            self.weights.copy_(stacked_weights(states, heads, questions, mask_history=mask_history))
        return self.weights

    def forward(self, scores: Mapping[str, Tensor]) -> Tensor:
        return _sum(dict(zip(self.streams, self.weights.unbind(), strict=True)), scores)


def _sum(weights: Mapping[str, Tensor], scores: Mapping[str, Tensor]) -> Tensor:
    (first, weight), *others = weights.items()
    total = weight * scores[first]
    for name, weight in others:  # not stacked: a copy of all scores would cost more than their sum
        total = total + weight * scores[name]
    return total

"""What an edge of the distillation graph computes from the logits of teacher and student, over the same candidates.

All share temperature, weight and two ways to hold a teacher back: `detach` keeps the gradient out of it, and `gated`
lets it teach only where it knows better; and `standardize`, by which a student need not become as sure as its teacher.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from odmt.types import Float, Int, Tensor

__all__ = ["KL", "CrossEntropy", "Decoupled", "EdgeLoss", "TopRanking"]


@dataclass(frozen=True)
class EdgeLoss(ABC):
    """Average over rows what a subclass computes for each of them, times weight * temperature^2.

    temperature: divides the logits of both. weight: of this edge. detach: whether gradient stays out of the teacher.
    gated: whether a row counts only where the teacher gives the target a higher probability than the student does.
    standardize: whether each row's logits, of both, are shifted and scaled to mean 0 and deviation 1 over its
        candidates first (arXiv 2403.01731), so that only their relations are taught. How sharp a stream is then stays
        what its own ranking loss makes it, and a mean of streams weighs them as it would without distillation.
    """

    temperature: float = 1.0
    weight: float = 1.0
    detach: bool = False
    gated: bool = False
    standardize: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be positive")
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"weight={self.weight} is out of range; it is finite and at least 0")

    def __call__(
        self,
        teacher: Float[Tensor, "rows candidates"],
        student: Float[Tensor, "rows candidates"],
        log_multiplicity: Float[Tensor, "*rows_and_candidates"],
        targets: Int[Tensor, " rows"] | None = None,
    ) -> Float[Tensor, ""]:
        teacher = teacher.detach() if self.detach else teacher
        m = log_multiplicity.expand_as(student)
        a, b = (_standardized(z, m) if self.standardize else z for z in (teacher, student))
        terms = self.terms(a / self.temperature, b / self.temperature, m, targets)
        if self.gated:
            at = _needed(targets, "gated=True")[:, None]
            terms = terms * (_log_softmax_at(teacher, m, at) > _log_softmax_at(student, m, at)).squeeze(1)
        return self.weight * self.temperature**2 * (terms.mean() if len(terms) else terms.sum())

    @abstractmethod
    def terms(self, teacher: Tensor, student: Tensor, m: Tensor, targets: Tensor | None) -> Float[Tensor, " rows"]:
        """Compare what was divided by the temperature, row by row."""


@dataclass(frozen=True)
class CrossEntropy(EdgeLoss):
    """Compute the cross entropy of the teacher's distribution and the student's, as released (arXiv 2308.04067)."""

    def terms(self, teacher: Tensor, student: Tensor, m: Tensor, targets: Tensor | None) -> Float[Tensor, " rows"]:
        return torch.logsumexp(student + m, -1) - (torch.softmax(teacher + m, -1) * student).sum(-1)


@dataclass(frozen=True)
class KL(EdgeLoss):
    """Compute the KL divergence of the student's distribution from the teacher's (arXiv 1503.02531)."""

    def terms(self, teacher: Tensor, student: Tensor, m: Tensor, targets: Tensor | None) -> Float[Tensor, " rows"]:
        return _divergence(teacher, student, m)


@dataclass(frozen=True)
class Decoupled(EdgeLoss):
    """Teach apart how probable the target is (weight alpha) and how the others compare among themselves (weight beta),
    which the plain divergence scales down where the teacher is sure (DKD, arXiv 2203.08679).
    """

    alpha: float = 1.0
    beta: float = 2.0

    def terms(self, teacher: Tensor, student: Tensor, m: Tensor, targets: Tensor | None) -> Float[Tensor, " rows"]:
        at = _needed(targets, "dkd")[:, None]
        others = m.scatter(1, at, -torch.inf)
        alone = others.isneginf().all(1, keepdim=True)  # no other candidate: nothing to teach
        others = others.masked_fill(alone, 0.0)
        of_target, of_others = [], []
        for z in (teacher, student):
            everything = torch.logsumexp(z + m, -1)
            of_target.append(z.gather(1, at).squeeze(1) - everything)
            of_others.append(torch.logsumexp(z + others, -1) - everything)
        target = of_target[0].exp() * (of_target[0] - of_target[1]) + of_others[0].exp() * (of_others[0] - of_others[1])
        terms = self.alpha * target + self.beta * _divergence(teacher, student, others)
        return terms.masked_fill(alone.squeeze(1), 0.0)


@dataclass(frozen=True)
class TopRanking(EdgeLoss):
    """Teach the order of the teacher's first `top` candidates, and that they stand above all others, whose order is
    left free: the Plackett-Luce likelihood of that order (relaxed ranking distillation of DE-RRD, arXiv 2012.04357),
    averaged over places. No gradient reaches the teacher.
    """

    top: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top < 1:
            raise ValueError(f"top={self.top} is out of range; rank at least one candidate")

    def terms(self, teacher: Tensor, student: Tensor, m: Tensor, targets: Tensor | None) -> Float[Tensor, " rows"]:
        candidates = teacher.detach().masked_fill(m.isneginf(), -torch.inf)
        best, places = candidates.topk(min(self.top, candidates.shape[1]), dim=1)
        real = best.isfinite()
        rest = torch.logsumexp((student + m).scatter(1, places, -torch.inf), dim=1, keepdim=True)
        ranked = student.gather(1, places)
        # what competes for a place: the candidates from there on, and the rest
        behind = torch.cat(
            [ranked.masked_fill(~real, -torch.inf), rest.clamp(min=torch.finfo(rest.dtype).min)], dim=1
        ).flip(1)
        total = behind.logcumsumexp(1).flip(1)[:, :-1]
        return (total - ranked).masked_fill(~real, 0.0).sum(1) / real.sum(1).clamp(min=1)


def _standardized(z: Tensor, m: Tensor) -> Tensor:
    """Shift and scale rows to mean 0 and deviation 1 over the positions that the candidates stand for."""
    share = torch.softmax(m, -1)
    z = z - (share * z).sum(-1, keepdim=True)
    return z / ((share * z.square()).sum(-1, keepdim=True) + 1e-7).sqrt()


def _divergence(teacher: Tensor, student: Tensor, m: Tensor) -> Tensor:
    """Compute sum p (log p - log q); a copy of a candidate repeats its term, so that m cancels in the logarithms."""
    shift = torch.logsumexp(student + m, -1) - torch.logsumexp(teacher + m, -1)
    return shift + (torch.softmax(teacher + m, -1) * (teacher - student)).sum(-1)


def _log_softmax_at(z: Tensor, m: Tensor, at: Tensor) -> Tensor:
    return z.detach().gather(1, at) - torch.logsumexp(z.detach() + m, 1, keepdim=True)


def _needed(targets: Tensor | None, what: str) -> Tensor:
    if targets is None:
        raise ValueError(f"{what} needs the targets; call the graph with targets=")
    return targets

"""Online distillation between streams: a graph of teacher -> student edges over named logits.

It is a plain function of logits and needs nothing else of odmt:

    graph = DistillationGraph("id -> text", "id -> image", "ensemble -> id", temperature=2.0)
    loss = graph({"id": z_id, "text": z_text, "image": z_image})

As released (arXiv 2308.04067): cross entropy CE(softmax(z_teacher / tau), softmax(z_student / tau)) * tau^2, teachers
not detached, "ensemble" the mean of the streams' logits. The paper's figure draws both directions and calls it KL; KL
has the same gradient for the student, but not for a teacher that is not detached.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from odmt.types import Float, Tensor

__all__ = ["DistillationGraph", "Edge", "ensemble", "sigmoid_ramp"]


@dataclass(frozen=True)
class Edge:
    """Name who teaches whom."""

    teacher: str
    student: str

    @classmethod
    def parse(cls, text: str) -> Edge:
        """Read "teacher -> student"."""
        parts = [part.strip() for part in text.split("->")]
        if len(parts) != 2 or not all(part.isidentifier() for part in parts):
            raise ValueError(f"edge {text!r} is not of the form 'teacher -> student', for example 'id -> text'")
        return cls(*parts)

    def __post_init__(self) -> None:
        if self.student == "ensemble":
            raise ValueError(f"edge '{self}': the ensemble combines the streams and cannot be taught; name a stream")
        if self.teacher == self.student:
            raise ValueError(f"edge '{self}' teaches a stream by itself; name two different ones")

    def __str__(self) -> str:
        return f"{self.teacher} -> {self.student}"


def ensemble(logits: Mapping[str, Tensor]) -> Tensor:
    """Average the streams' logits (or scores)."""
    streams = [z for name, z in logits.items() if name != "ensemble"]
    if len(streams) == 1:
        return streams[0]
    total = streams[0] + streams[1]  # not stacked: a copy of all scores would cost more than their sum
    for z in streams[2:]:
        total = total + z
    return total.div_(len(streams))


def sigmoid_ramp(progress: int | float, length: int | float) -> float:
    """Rise from exp(-5) at 0 to 1 at `length`, in epochs or steps alike (arXiv 1610.02242); 1 throughout if `length`
    is 0.
    """
    if length <= 0:
        return 1.0
    return math.exp(-5.0 * (1.0 - min(progress, length) / length) ** 2)


class DistillationGraph:
    """Sum the distillation losses of all edges, each averaged over rows."""

    def __init__(
        self,
        *edges: str | Edge,
        temperature: float = 1.0,
        loss: Literal["ce", "kl"] = "ce",
        detach: bool = False,
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} must be positive")
        if loss not in ("ce", "kl"):
            raise ValueError(f"loss={loss!r} is neither 'ce' nor 'kl'")
        self.edges = tuple(Edge.parse(edge) if isinstance(edge, str) else edge for edge in edges)
        self.temperature = temperature
        self.loss = loss
        self.detach = detach

    def check(self, streams: tuple[str, ...]) -> None:
        """Refuse edges that name a stream which does not exist."""
        for edge in self.edges:
            for name in (edge.teacher, edge.student):
                if name not in (*streams, "ensemble"):
                    known = ", ".join((*streams, "ensemble"))
                    way_out = "name those, or leave the graph empty"
                    raise ValueError(
                        f"edge '{edge}' names the stream {name!r}, but the streams are: {known}; {way_out}"
                    )

    def __call__(
        self,
        logits: Mapping[str, Float[Tensor, "rows candidates"]],
        log_multiplicity: Float[Tensor, "rows candidates"] | None = None,
    ) -> Float[Tensor, ""]:
        """Compute the loss; `log_multiplicity` as in `odmt.ranking` where candidates stand for several positions.

        It is added after the division by the temperature, because a repeated candidate repeats its term in the softmax.
        """
        self.check(tuple(logits))
        total = next(iter(logits.values())).new_zeros(())
        if not self.edges:
            return total
        named = {**logits, "ensemble": ensemble(logits)}
        for edge in self.edges:
            teacher = named[edge.teacher].detach() if self.detach else named[edge.teacher]
            total = total + self._edge(teacher, named[edge.student], log_multiplicity)
        return total

    def _edge(self, teacher: Tensor, student: Tensor, log_multiplicity: Tensor | None) -> Tensor:
        z_teacher, z_student = teacher / self.temperature, student / self.temperature
        m = 0.0 if log_multiplicity is None else log_multiplicity
        probability = torch.softmax(z_teacher + m, dim=-1)
        normaliser = torch.logsumexp(z_student + m, dim=-1)
        if self.loss == "ce":
            terms = normaliser - (probability * z_student).sum(-1)
        else:  # log p - log q per copy of a candidate: m cancels
            terms = (
                normaliser - torch.logsumexp(z_teacher + m, dim=-1) + (probability * (z_teacher - z_student)).sum(-1)
            )
        return terms.mean() * self.temperature**2

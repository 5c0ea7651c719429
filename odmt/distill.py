"""Online distillation between streams: a graph of teacher -> student edges over named logits.

It is a plain function of logits and needs nothing else of odmt:

    graph = DistillationGraph("id -> text", "id <-> image", "ensemble -> id: kl(weight=0.5, detach=True)")
    loss = graph({"id": z_id, "text": z_text, "image": z_image})

As released (arXiv 2308.04067): cross entropy CE(softmax(z_teacher / tau), softmax(z_student / tau)) * tau^2, teachers
not detached, "ensemble" the mean of the streams' logits. The paper's figure draws both directions and calls it KL; KL
has the same gradient for the student, but not for a teacher that is not detached. What an edge computes is a component
of `odmt.distill_losses`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from odmt.components import DISTILL_LOSSES
from odmt.distill_losses import EdgeLoss
from odmt.spec import parse_call
from odmt.types import Float, Int, Tensor

__all__ = ["DistillationGraph", "Edge", "ensemble", "parse_edges", "sigmoid_ramp"]

EACH = "*"


@dataclass(frozen=True)
class Edge:
    """Name who teaches whom, and by what loss; an empty `call` leaves that to the graph. "*" is every other stream."""

    teacher: str
    student: str
    call: str = field(default="")

    def __post_init__(self) -> None:
        if self.student == "ensemble":
            raise ValueError(f"edge '{self}': the ensemble combines the streams and cannot be taught; name a stream")
        if self.teacher == self.student != EACH:
            raise ValueError(f"edge '{self}' teaches a stream by itself; name two different ones")
        if self.call:
            parse_call(self.call, known=DISTILL_LOSSES, kind="distillation loss").check(("temperature", "detach"))

    def __str__(self) -> str:
        return f"{self.teacher} -> {self.student}" + (f": {self.call}" if self.call else "")


def parse_edges(text: str) -> list[Edge]:
    """Read "teacher -> student" or, for both directions, "a <-> b", either with a loss behind it, as in
    "ensemble -> id: kl(temperature=2.0, weight=0.5, detach=True)"; or, for every other stream, "id -> *".
    """
    names, _, call = text.partition(":")
    arrow = "<->" if "<->" in names else "->"
    parts = [part.strip() for part in names.split(arrow)]
    if len(parts) != 2 or not all(part == EACH or part.isidentifier() for part in parts):
        raise ValueError(f"edge {text!r} is not of the form 'teacher -> student', for example 'id -> text'")
    one, other = parts
    there = Edge(one, other, call.strip())
    return [there] if arrow == "->" else [there, Edge(other, one, call.strip())]


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
    """Sum the distillation losses of all edges, each averaged over rows.

    edges: as `parse_edges` reads them. loss, temperature, detach: of all edges that do not set their own; detach=False
    lets gradient into teachers, as released.
    """

    def __init__(self, *edges: str | Edge, temperature: float = 1.0, loss: str = "ce", detach: bool = True) -> None:
        self.edges = tuple(
            edge for given in edges for edge in (parse_edges(given) if isinstance(given, str) else [given])
        )
        self.temperature, self.loss, self.detach = temperature, loss, detach
        self._loss_of(loss)  # refused here if it is wrong, edges or not
        self._losses = [self._loss_of(edge.call or loss) for edge in self.edges]

    def _loss_of(self, call: str) -> EdgeLoss:
        parsed = parse_call(call, known=DISTILL_LOSSES, kind="distillation loss")
        return parsed.build(temperature=self.temperature, detach=self.detach)

    def among(self, streams: Sequence[str]) -> DistillationGraph:
        """Give the same graph with "*" written out; without it, the graph itself.

        streams: which there are; an "ensemble" among them is none. Raises ValueError for edges that name others.
        """
        self.check(streams)
        if not any(EACH in (edge.teacher, edge.student) for edge in self.edges):
            return self
        every = [name for name in streams if name != "ensemble"]
        edges = []
        for edge in self.edges:
            teachers, students = (every if one == EACH else [one] for one in (edge.teacher, edge.student))
            edges += [Edge(one, other, edge.call) for one in teachers for other in students if one != other]
        return DistillationGraph(*edges, temperature=self.temperature, loss=self.loss, detach=self.detach)

    def check(self, streams: Sequence[str]) -> None:
        """Refuse edges that name a stream which does not exist."""
        for edge in self.edges:
            for name in (edge.teacher, edge.student):
                if name not in (*streams, "ensemble", EACH):
                    known = ", ".join((*streams, "ensemble"))
                    way_out = "name those, or leave the graph empty"
                    raise ValueError(
                        f"edge '{edge}' names the stream {name!r}, but the streams are: {known}; {way_out}"
                    )

    def __call__(
        self,
        logits: Mapping[str, Float[Tensor, "*rows candidates"]],
        log_multiplicity: Float[Tensor, "*#rows #candidates"] | None = None,
        targets: Int[Tensor, " *rows"] | None = None,
    ) -> Float[Tensor, ""]:
        """Compute the loss.

        logits: per stream; an entry "ensemble" stands for their mean, where the ensemble is another one. Rows may be
            those of a batch and its positions. A candidate that is -inf for any stream is none for the row.
        log_multiplicity: as in `odmt.ranking`, where candidates stand for several positions. It is added after the
            division by the temperature, because a repeated candidate repeats its term in the softmax.
        targets: which candidate each row should rank first, for losses that ask.

        Raises ValueError where streams have logits of different shapes.
        """
        graph = self.among(tuple(logits))
        first = next(iter(logits.values()))
        total = first.new_zeros(())
        if not graph.edges:
            return total
        if len({z.shape for z in logits.values()}) > 1:
            shapes = ", ".join(f"{name} {list(z.shape)}" for name, z in logits.items())
            raise ValueError(f"streams teach each other over the same rows and candidates, and these differ: {shapes}")
        m = total if log_multiplicity is None else log_multiplicity
        if first.ndim > 2:
            m = m.expand_as(first).flatten(0, -2)
            logits = {name: z.flatten(0, -2) for name, z in logits.items()}
            targets = None if targets is None else targets.flatten()
        logits, m = _without_masked(logits, m)
        named = {"ensemble": ensemble(logits), **logits} if "ensemble" not in logits else logits
        for edge, loss in zip(graph.edges, graph._losses, strict=True):
            total = total + loss(named[edge.teacher], named[edge.student], m, targets)
        return total


def _without_masked(logits: Mapping[str, Tensor], m: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
    """Say by m which candidates are masked by -inf, and make them numbers: no probability times -inf is nan."""
    if not any(bool(z.detach().amin().isneginf()) for z in logits.values() if z.numel()):
        return logits, m
    masked = torch.stack([z.isneginf() for z in logits.values()]).any(0)
    shown = {name: z.masked_fill(masked, 0.0) for name, z in logits.items()}
    return shown, m.expand_as(masked).masked_fill(masked, -torch.inf)

"""Edge losses against formulas written out row by row."""

from __future__ import annotations

import math

import pytest
import torch

from odmt import DistillationGraph
from odmt.distill import parse_edges
from odmt.distill_losses import KL, Decoupled, TopRanking

ROWS, CANDIDATES = 4, 7


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return tuple(2 * torch.randn(2, ROWS, CANDIDATES, dtype=torch.float64))


TARGETS = torch.tensor([0, 3, 3, 6])
NONE = torch.zeros(())


def test_decoupled_splits_the_divergence(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    """KL = divergence of (target, others) + (1 - p_target) * divergence among the others (arXiv 2203.08679, eq. 5)."""
    teacher, student = logits
    for row, target in enumerate(TARGETS.tolist()):
        p, q = (torch.softmax(z[row] / 2, 0) for z in logits)
        others = [i for i in range(CANDIDATES) if i != target]
        binary = p[target] * (p[target] / q[target]).log() + (1 - p[target]) * ((1 - p[target]) / (1 - q[target])).log()
        rest = [(p[i] / (1 - p[target]), q[i] / (1 - q[target])) for i in others]
        among = sum(a * (a / b).log() for a, b in rest)
        one, targets = slice(row, row + 1), TARGETS[row : row + 1]
        found = Decoupled(temperature=2.0, alpha=0.3, beta=5.0)(teacher[one], student[one], NONE, targets)
        assert found.item() == pytest.approx(4 * (0.3 * binary + 5.0 * among).item())
        plain = KL(temperature=2.0)(teacher[one], student[one], NONE, targets)
        assert plain.item() == pytest.approx(4 * (binary + (1 - p[target]) * among).item())


def test_decoupled_bears_rows_without_other_candidates(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    student = logits[1].clone().requires_grad_()
    m = torch.full((ROWS, CANDIDATES), -torch.inf, dtype=torch.float64).scatter(1, TARGETS[:, None], 0.0)
    loss = Decoupled()(logits[0], student, m, TARGETS)
    loss.backward()
    assert loss.item() == 0.0
    assert not student.grad.any()


def test_ranking_is_the_likelihood_of_the_teachers_order(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    teacher, student = logits
    m = torch.zeros(ROWS, CANDIDATES, dtype=torch.float64)
    m[1, 2:] = -torch.inf  # two candidates left for this row
    expected = []
    for row in range(ROWS):
        real = [i for i in range(CANDIDATES) if m[row, i] == 0]
        order = sorted(real, key=lambda i, row=row: -teacher[row, i])
        terms = []
        for place, item in enumerate(order[:3]):
            competing = [math.exp(student[row, i]) for i in order[place:]]
            terms.append(math.log(sum(competing)) - student[row, item].item())
        expected.append(sum(terms) / len(terms))
    found = TopRanking(top=3)(teacher, student, m)
    assert found.item() == pytest.approx(sum(expected) / ROWS)


def test_ranking_teaches_no_teacher_and_bears_a_top_beyond_all(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    teacher, student = (z.clone().requires_grad_() for z in logits)
    TopRanking(top=50)(teacher, student, NONE).backward()
    assert teacher.grad is None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("call", ["ce", "kl", "dkd", "ranking(top=2)"])
def test_a_gate_opens_where_the_teacher_knows_better(call: str, logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    teacher, student = logits
    one = {name: torch.log_softmax(z, 1).gather(1, TARGETS[:, None]) for name, z in zip("ab", logits, strict=True)}
    better = (one["a"] > one["b"]).squeeze(1)
    assert better.any()
    assert not better.all()
    named = {"a": teacher, "b": student.clone().requires_grad_()}
    arguments = call[:-1] + ", " if call.endswith(")") else call + "("
    DistillationGraph(f"a -> b: {arguments}gated=True)")(named, targets=TARGETS).backward()
    assert torch.equal((named["b"].grad != 0).any(1), better)


@pytest.mark.parametrize("call", ["ce", "kl", "dkd", "ranking(top=2)"])
def test_standardized_logits_teach_relations_alone(call: str, logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    teacher, student = logits
    arguments = call[:-1] + ", " if call.endswith(")") else call + "("
    standardized = DistillationGraph(f"a -> b: {arguments}temperature=0.5, standardize=True)")
    by_hand = [(z - z.mean(1, keepdim=True)) / z.std(1, correction=0, keepdim=True) for z in logits]
    plain = DistillationGraph(f"a -> b: {arguments}temperature=0.5)")
    expected = plain(dict(zip("ab", by_hand, strict=True)), targets=TARGETS)
    torch.testing.assert_close(standardized({"a": teacher, "b": student}, targets=TARGETS), expected)
    scales = torch.linspace(0.1, 9.0, ROWS)[:, None].double()
    scaled = {"a": scales * teacher - 3.0, "b": (student / scales + 5.0).requires_grad_()}
    loss = standardized(scaled, targets=TARGETS)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    loss.backward()
    sharper = (scaled["b"].grad * (student - student.mean(1, keepdim=True))).sum(1)
    torch.testing.assert_close(sharper, torch.zeros_like(sharper), rtol=0, atol=1e-5)


def test_rows_of_one_candidate_bear_standardizing() -> None:
    z = {"a": torch.randn(2, 1), "b": torch.randn(2, 1, requires_grad=True)}
    DistillationGraph("a -> b: kl(standardize=True)")(z).backward()
    assert z["b"].grad.isfinite().all()


CALLS = ["ce", "kl", "dkd", "ranking(top=2)", "kl(gated=True)", "ce(standardize=True)"]


@pytest.mark.parametrize("call", CALLS)
def test_candidates_that_are_masked_by_infinity_are_none(call: str, logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    z = {name: one.clone().requires_grad_() for name, one in zip("ab", logits, strict=True)}
    masked = torch.zeros(ROWS, CANDIDATES, dtype=torch.bool)
    masked[:, 5], masked[1, 1] = True, True
    graph = DistillationGraph(f"a -> b: {call}", f"ensemble -> b: {call}")
    found = graph({name: one.masked_fill(masked, -torch.inf) for name, one in z.items()}, targets=TARGETS)
    by_weight = graph(z, torch.zeros(ROWS, CANDIDATES).double().masked_fill(masked, -torch.inf), TARGETS)
    torch.testing.assert_close(found, by_weight)
    found.backward()
    assert all(one.grad is None or one.grad.isfinite().all() for one in z.values())


@pytest.mark.parametrize("call", CALLS)
def test_rows_may_be_batch_and_positions_or_none_and_numbers_of_half_precision(call: str) -> None:
    z = {name: torch.randn(2, 3, 5) for name in "ab"}
    targets = torch.randint(0, 5, (2, 3))
    graph = DistillationGraph(f"a -> b: {call}")
    flat = graph({name: one.flatten(0, 1) for name, one in z.items()}, targets=targets.flatten())
    torch.testing.assert_close(graph(z, targets=targets), flat)
    assert graph({name: one[:0] for name, one in z.items()}, targets=targets[:0]).item() == 0.0
    half = graph({name: one.half() for name, one in z.items()}, targets=targets)
    torch.testing.assert_close(half.float(), flat, rtol=0.02, atol=0.02)
    with pytest.raises(ValueError, match=r"these differ: a \[2, 3, 1\], b \[2, 3, 5\]"):
        graph({"a": z["a"][..., :1], "b": z["b"]}, targets=targets)


def test_edges_have_weights_temperatures_and_directions_of_their_own() -> None:
    z = {name: torch.randn(3, 5, dtype=torch.float64) for name in ("a", "b")}
    both = DistillationGraph("a <-> b: kl(weight=0.5)", temperature=3.0)
    assert [str(edge) for edge in both.edges] == ["a -> b: kl(weight=0.5)", "b -> a: kl(weight=0.5)"]
    apart = [DistillationGraph(edge, temperature=3.0, loss="kl")(z) for edge in ("a -> b", "b -> a")]
    torch.testing.assert_close(both(z), 0.5 * (apart[0] + apart[1]))
    own = DistillationGraph("a -> b: kl(temperature=1.0)", temperature=3.0)
    torch.testing.assert_close(own(z), DistillationGraph("a -> b", temperature=1.0, loss="kl")(z))


def test_detach_is_a_matter_of_the_edge() -> None:
    z = {name: torch.randn(3, 5, requires_grad=True) for name in ("a", "b", "c")}
    DistillationGraph("a -> c: ce(detach=True)", "b -> c", detach=False)(z).backward()
    assert z["a"].grad is None
    assert z["b"].grad is not None
    z["b"].grad = None
    DistillationGraph("b -> c: ce(detach=False)", "a -> c")(z).backward()
    assert z["a"].grad is None
    assert z["b"].grad is not None


def test_a_star_is_every_other_stream() -> None:
    z = {name: torch.randn(3, 5, dtype=torch.float64) for name in ("a", "b", "c")}
    for short, long in {
        ("a -> *",): ("a -> b", "a -> c"),
        ("* -> a: kl(weight=0.5)",): ("b -> a: kl(weight=0.5)", "c -> a: kl(weight=0.5)"),
        ("a <-> *", "ensemble -> c"): ("a -> b", "a -> c", "b -> a", "c -> a", "ensemble -> c"),
        ("* -> *",): ("a <-> b", "a <-> c", "b <-> c"),
        ("ensemble -> *",): ("ensemble -> a", "ensemble -> b", "ensemble -> c"),
    }.items():
        given = {**z, "ensemble": torch.randn(3, 5, dtype=torch.float64)}
        for logits in (z, given):
            torch.testing.assert_close(DistillationGraph(*short)(logits), DistillationGraph(*long)(logits))
    assert DistillationGraph("a -> *")({"a": z["a"]}).item() == 0.0  # nobody else
    assert [str(edge) for edge in DistillationGraph("a -> *: dkd").among(("a", "ensemble", "b")).edges] == [
        "a -> b: dkd"
    ]
    with pytest.raises(ValueError, match="'d', but the streams are: a, b, c"):
        DistillationGraph("d -> *")(z)


def test_an_ensemble_that_is_given_teaches_instead_of_the_mean() -> None:
    z = {name: torch.randn(3, 5) for name in ("a", "b")}
    given = torch.randn(3, 5)
    found = DistillationGraph("ensemble -> a", loss="kl")({**z, "ensemble": given})
    torch.testing.assert_close(found, DistillationGraph("t -> a", loss="kl")({"t": given, "a": z["a"]}))


@pytest.mark.parametrize(
    ("edge", "words"),
    [
        ("a -> b: kll", "unknown distillation loss 'kll'; did you mean 'kl'"),
        ("a -> b: kl(temperatures=2)", "did you mean 'temperature'"),
        ("a -> b: kl(temperature='2')", "temperature is of type float, not str"),
        ("a => b", "not of the form"),
    ],
)
def test_a_wrong_edge_is_refused_when_it_is_read(edge: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_edges(edge)


def test_wrong_numbers_and_missing_targets_are_refused() -> None:
    z = {"a": torch.zeros(1, 2), "b": torch.zeros(1, 2)}
    with pytest.raises(ValueError, match=r"temperature=0\.0 must be positive"):
        DistillationGraph("a -> b", temperature=0.0)
    with pytest.raises(ValueError, match=r"weight=-1\.0 is out of range"):
        DistillationGraph("a -> b: ce(weight=-1.0)")
    with pytest.raises(ValueError, match="top=0 is out of range"):
        DistillationGraph("a -> b: ranking(top=0)")
    for call in ("dkd", "kl(gated=True)"):
        with pytest.raises(ValueError, match="needs the targets"):
            DistillationGraph(f"a -> b: {call}")(z)

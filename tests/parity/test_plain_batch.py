"""The plain batch, against which speed is measured, computes what the method written out per item computes, and what
the library computes: loss, every gradient, item vectors and ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from odmt import ODMT, DistillationGraph, ItemFeatures, make_batch
from odmt.evaluate import ranks
from odmt.types import Questions
from tests.parity import reference
from tests.parity.plain_batch import PlainBatch, argsort_ranks
from tests.parity.test_against_reference import (
    EDGES,
    HEADS,
    LAYERS,
    LENGTH,
    NUM_ITEMS,
    SEQUENCES,
    content_of,
    make_features,
)

COUNTS = np.arange(NUM_ITEMS + 1) + 1
PAIRS = [(edge.split(" -> ")[0], edge.split(" -> ")[1]) for edge in EDGES]


def make_model(features: ItemFeatures, *, text_sees_id: bool = False) -> ODMT:
    torch.manual_seed(1)
    model = ODMT(
        features,
        dim=8,
        length=LENGTH,
        dropout=0.0,
        fusion=f"imt(layers={LAYERS}, heads={HEADS}, text_sees_id={text_sees_id})",
        backbone=f"sasrec(layers={LAYERS}, heads={HEADS})",
        distill=DistillationGraph(*EDGES, temperature=0.5, detach=False),
        item_counts=COUNTS,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def plain_of(model: ODMT, parameters: dict[str, torch.Tensor], *, text_sees_id: bool = False) -> PlainBatch:
    return PlainBatch(
        parameters,
        model.log_popularity,
        model.streams,
        LENGTH,
        heads=HEADS,
        backbone_heads=HEADS,
        text_sees_id=text_sees_id,
        edges=PAIRS,
        temperature=0.5,
    )


def plain_losses(plain: PlainBatch, features: ItemFeatures) -> tuple[torch.Tensor, torch.Tensor]:
    histories = torch.tensor([[0] * (LENGTH + 1 - len(s)) + s for s in SEQUENCES])
    content = {name: features.gather(name, histories.flatten().numpy()) for name in features.widths}
    return plain.losses(histories, plain.encode(histories.flatten(), content))


@pytest.mark.parametrize("text_sees_id", [False, True])
def test_plain_batch_equals_the_method_written_out_per_item(text_sees_id: bool) -> None:
    features = make_features(np.random.default_rng(1))
    model = make_model(features, text_sees_id=text_sees_id).double()
    sides = []
    for compute in ("plain", "reference"):
        parameters = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
        if compute == "plain":
            ranking, distill = plain_losses(plain_of(model, parameters, text_sees_id=text_sees_id), features)
        else:
            ranking, distill = reference.losses(
                parameters,
                SEQUENCES,
                {item: content_of(features, item) for item in range(NUM_ITEMS + 1)},
                model.log_popularity,
                length=LENGTH,
                layers=LAYERS,
                heads=HEADS,
                text_sees_id=text_sees_id,
                edges=PAIRS,
                temperature=0.5,
                loss="ce",
            )
        (ranking + distill).backward()
        sides.append((ranking, distill, {name: p.grad for name, p in parameters.items()}))
    (ranking, distill, gradients), (their_ranking, their_distill, their_gradients) = sides
    torch.testing.assert_close(ranking, their_ranking, rtol=1e-12, atol=0)
    torch.testing.assert_close(distill, their_distill, rtol=1e-12, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, their_gradients[name], rtol=1e-9, atol=1e-12, msg=name)


def test_the_library_equals_the_plain_batch_in_float32() -> None:
    features = make_features(np.random.default_rng(2))
    model = make_model(features)
    longest = max(map(len, SEQUENCES))
    histories = np.array([[0] * (longest - len(s)) + s for s in SEQUENCES])
    losses = model(make_batch(histories, features, model.modalities))
    sum(losses.values(), torch.zeros(())).backward()
    parameters = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    ranking, distill = plain_losses(plain_of(model, parameters), features)
    (ranking + distill).backward()
    torch.testing.assert_close(losses["ranking"], ranking, rtol=2e-6, atol=0)
    torch.testing.assert_close(losses["distill"], distill, rtol=2e-6, atol=0)
    for name, parameter in model.named_parameters():
        gradient = parameters[name].grad
        assert gradient is not None
        assert parameter.grad is not None
        assert (parameter.grad - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name


def test_the_library_ranks_as_sorting_does() -> None:
    features = make_features(np.random.default_rng(3))
    model = make_model(features)
    items = torch.arange(NUM_ITEMS + 1)
    batches = [
        (part, {name: features.gather(name, part.numpy()) for name in features.widths}) for part in items.split(4)
    ]
    tables, plain = model.encode_catalogue(), plain_of(model, dict(model.named_parameters()))
    for name, table in plain.encode_catalogue(batches).items():
        torch.testing.assert_close(table[1:], tables[name][1:])
    histories = np.array([[0] * (LENGTH - len(s[:-1])) + s[:-1] for s in SEQUENCES])
    questions = Questions(np.arange(len(histories)), histories, histories, np.array([s[-1] for s in SEQUENCES]))
    found = ranks(lambda rows: model.states(rows, tables), tables, questions, combine=model.ensemble)
    rows = torch.from_numpy(histories)
    with torch.no_grad():
        states = {name: plain.states(name, tables[name][rows], rows > 0)[:, -1] for name in model.streams}
    for head, expected in argsort_ranks(states, tables, questions).items():
        np.testing.assert_array_equal(found[head], expected)

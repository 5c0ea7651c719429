"""Our loss and every gradient against the plainly written method: distinct items, few queries, folded maps and trimmed
histories must change nothing but time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from odmt import ODMT, DistillationGraph, ItemFeatures, make_batch
from odmt.config import parse
from odmt.pretrained import build_model
from tests.parity import reference

NUM_ITEMS, LENGTH, LAYERS, HEADS = 14, 6, 2, 2
EDGES = ("id -> text", "id -> image", "ensemble -> id", "text -> id")
SEQUENCES = [
    [3, 5, 5, 7],
    [1, 2],
    [9, 3, 10, 11, 12, 13, 14],
    [7, 8, 3, 7, 2],
    [4, 6, 1],
]  # repeats within and across users


def make_features(rng: np.random.Generator) -> ItemFeatures:
    """Give items of 1 to 5 text and 1 to 3 image tokens; items 3, 4 and 5 lack text, image and both."""
    text = [rng.normal(size=(rng.integers(1, 6), 10)).astype("float32") for _ in range(NUM_ITEMS)]
    image = [rng.normal(size=(rng.integers(1, 4), 8)).astype("float32") for _ in range(NUM_ITEMS)]
    return ItemFeatures.from_arrays(
        NUM_ITEMS,
        text=[None if item in (3, 5) else text[item - 1] for item in range(1, NUM_ITEMS + 1)],
        image=[None if item in (4, 5) else image[item - 1] for item in range(1, NUM_ITEMS + 1)],
    )


def content_of(features: ItemFeatures, item: int) -> dict[str, torch.Tensor]:
    if item == 0:  # a padded position: the reference encodes it, and nothing it gives is ever read
        return {name: torch.zeros(1, width, dtype=torch.float64) for name, width in features.widths.items()}
    gathered = {name: features.gather(name, [item]) for name in features.widths}
    return {name: tokens.values[0][tokens.mask[0]].double() for name, tokens in gathered.items()}


def test_the_paper_preset_is_the_release() -> None:
    """What `--ablation paper` builds over the release's three streams, laid on settings that differ in all they can."""
    torch.manual_seed(2)
    features = make_features(np.random.default_rng(2))
    edges = ("id -> text", "id -> image", "ensemble -> id")
    flags = ["--dataset", "x", "--ablation", "odmt", "paper", "--model.streams", "id", "text", "image"]
    flags += ["--model.dim", "8", "--data.length", str(LENGTH)]
    experiment = parse(flags, configs=Path("experiments/configs"))
    assert experiment.model.dropout == 0.1
    experiment = replace(experiment, model=replace(experiment.model, dropout=0.0))
    counts = np.arange(NUM_ITEMS + 1) + 1
    ours = build_model(experiment, features, item_counts=counts).double()
    found = ours(make_batch(np.array([[0] * (7 - len(s)) + s for s in SEQUENCES]), features))
    ranking, distill = reference.losses(
        dict(ours.named_parameters()),
        SEQUENCES,
        {item: content_of(features, item) for item in range(NUM_ITEMS + 1)},
        torch.from_numpy(counts / counts.sum()).log(),
        length=LENGTH,
        layers=2,
        heads=2,
        text_sees_id=False,
        edges=[tuple(edge.split(" -> ")) for edge in edges],
        temperature=0.5,
        loss="ce",
    )
    torch.testing.assert_close(found["ranking"], ranking, rtol=1e-5, atol=0)
    torch.testing.assert_close(found["distill"], distill, rtol=1e-5, atol=0)


@pytest.mark.parametrize("text_sees_id", [False, True])
@pytest.mark.parametrize(("loss", "temperature"), [("ce", 0.5), ("kl", 2.0)])
def test_loss_and_every_gradient_equal_the_reference(loss: str, temperature: float, text_sees_id: bool) -> None:
    torch.manual_seed(1)
    features = make_features(np.random.default_rng(1))
    counts = np.arange(NUM_ITEMS + 1) + 1
    ours = ODMT(
        features,
        dim=8,
        length=LENGTH,
        dropout=0.0,
        fusion=f"imt(layers={LAYERS}, heads={HEADS}, text_sees_id={text_sees_id})",
        backbone=f"sasrec(layers={LAYERS}, heads={HEADS})",
        distill=DistillationGraph(*EDGES, temperature=temperature, loss=loss, detach=False),
        item_counts=counts,
        loss="in_batch(popularity=0.5)",
    ).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # move biases and the vectors of missing content off zero
    longest = max(map(len, SEQUENCES))
    histories = np.array([[0] * (longest - len(s)) + s for s in SEQUENCES])
    found = ours(make_batch(histories, features, ours.modalities), distill_weight=0.7)
    found["ranking"].add(found["distill"]).backward()

    theirs = {name: parameter.detach().clone().requires_grad_() for name, parameter in ours.named_parameters()}
    ranking, distill = reference.losses(
        theirs,
        SEQUENCES,
        {item: content_of(features, item) for item in range(NUM_ITEMS + 1)},
        0.5 * torch.from_numpy(counts / counts.sum()).log(),
        length=LENGTH,
        layers=LAYERS,
        heads=HEADS,
        text_sees_id=text_sees_id,
        edges=[tuple(edge.split(" -> ")) for edge in EDGES],
        temperature=temperature,
        loss=loss,
    )
    (ranking + 0.7 * distill).backward()

    torch.testing.assert_close(found["ranking"], ranking, rtol=1e-7, atol=0)  # log p is kept in float32
    torch.testing.assert_close(found["distill"], 0.7 * distill, rtol=1e-7, atol=0)
    for name, parameter in ours.named_parameters():
        expected = theirs[name].grad
        assert expected is not None, name
        assert parameter.grad is not None, name
        if name == "id_table.weight":
            expected[0] = 0  # the padding row learns nothing in the library
        torch.testing.assert_close(
            parameter.grad, expected, rtol=1e-5, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )

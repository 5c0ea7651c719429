"""A model of transformers, with our item vectors and with our distillation (README, "Drop in")."""

from __future__ import annotations

from pathlib import Path

import torch

from experiments.dropin.transformers_llama import compare, give_content, losses, make_llama
from odmt import DistillationGraph, ItemFeatures


def test_a_llama_learns_more_with_our_vectors_and_more_when_taught(sample: Path) -> None:
    found = compare(sample, seed=1, epochs=5)
    assert found["with"] > found["without"] + 0.01
    assert found["taught"] > found["without"] + 0.01


def test_padding_on_the_left_changes_nothing() -> None:
    torch.manual_seed(0)
    model = give_content(make_llama(9), ItemFeatures.from_arrays(9, text=torch.randn(9, 2, 6).numpy()))
    short, padded = torch.tensor([[4, 5, 6]]), torch.tensor([[0, 0, 4, 5, 6]])
    alone, beside = (model(x, attention_mask=x > 0).logits[:, -3:] for x in (short, padded))
    torch.testing.assert_close(beside, alone)
    both = [losses({"with": model}, DistillationGraph(), x) for x in (short, padded)]
    torch.testing.assert_close(*both)


def test_only_the_one_that_is_taught_learns_from_the_other() -> None:
    features = ItemFeatures.from_arrays(9, text=torch.randn(9, 2, 6).numpy())
    models = {"with": give_content(make_llama(9), features), "taught": make_llama(9)}
    histories = torch.tensor([[0, 1, 2, 3], [6, 5, 4, 3]])
    gradients: dict[str, list[torch.Tensor]] = {name: [] for name in models}
    for edges in ([], ["with -> taught: kl(temperature=2.0, detach=True)"]):
        losses(models, DistillationGraph(*edges), histories).backward()
        for name, model in models.items():
            gradients[name].append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
            model.zero_grad()
    torch.testing.assert_close(*gradients["with"], rtol=0, atol=0)
    assert not torch.allclose(*gradients["taught"])

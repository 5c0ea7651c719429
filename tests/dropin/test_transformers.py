"""A model of transformers, with our item vectors and with our distillation (README, "Drop in")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from experiments.dropin.transformers_llama import compare, give_content, losses, make_llama
from odmt import DistillationGraph, ItemEmbedding, ItemFeatures, TiedHead


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


def with_our_vectors(model_type: str, features: ItemFeatures) -> Any:
    """Make a small model whose configuration ties its embeddings, and put ours in their place."""
    small = {"vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    maker = AutoModelForMaskedLM if "bert" in model_type else AutoModelForCausalLM
    model = maker.from_config(AutoConfig.for_model(model_type, **small, tie_word_embeddings=True))
    embedding = ItemEmbedding(features, dim=16)
    model.set_input_embeddings(embedding)
    model.set_output_embeddings(TiedHead(embedding))
    model.config.tie_word_embeddings = False
    return model.eval()


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "bert", "roberta"])
def test_a_model_that_ties_its_embeddings_trains_ties_and_is_saved_with_ours(model_type: str, tmp_path: Path) -> None:
    features = ItemFeatures.from_arrays(9, text=torch.randn(9, 2, 6).numpy())
    model, items = with_our_vectors(model_type, features), torch.tensor([[4, 5, 6, 3]])
    made = model(items, labels=items)
    made.loss.backward()
    assert model.get_input_embeddings().items.id_table.weight.grad[3:7].any(1).all()
    assert model.get_output_embeddings().bias is None
    model.tie_weights()
    torch.testing.assert_close(model(items).logits, made.logits, rtol=0, atol=0)
    model.save_pretrained(tmp_path)
    other = with_our_vectors(model_type, features)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    torch.testing.assert_close(other(items).logits, made.logits)

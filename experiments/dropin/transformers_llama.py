"""A Llama on ids, taught, and on our item vectors: python experiments/dropin/transformers_llama.py data/sample

The model is transformers', items are its tokens. "without" is the Llama by itself; "taught" the same one beside a
second Llama, whose input and output embeddings are our vectors of id, text and image, with `DistillationGraph` on the
logits of both; "with" is that second one. Settings, epochs and seeds are the same, and NDCG@10 is of the epoch that is
each one's best in validation.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from odmt import DistillationGraph, ItemEmbedding, ItemFeatures, LeaveTwoOut, TiedHead, metrics, ranks
from odmt.data.features import open_features
from odmt.data.format import open_dataset
from odmt.types import Int, Tensor

LENGTH, DIM, BATCH, LR = 10, 64, 32, 1e-3


def make_llama(num_items: int) -> LlamaForCausalLM:
    """Make one whose output layer is its input embedding."""
    config = LlamaConfig(
        vocab_size=num_items + 1,
        pad_token_id=0,
        hidden_size=DIM,
        intermediate_size=4 * DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def give_content(model: LlamaForCausalLM, features: ItemFeatures) -> LlamaForCausalLM:
    """Put our item vectors in place of its embeddings."""
    embedding = ItemEmbedding(features, dim=DIM)
    model.set_input_embeddings(embedding)
    model.set_output_embeddings(TiedHead(embedding))
    model.config.tie_word_embeddings = False  # no weights are left to tie
    return model


def losses(
    models: Mapping[str, LlamaForCausalLM], graph: DistillationGraph, histories: Int[Tensor, "users length"]
) -> Tensor:
    """Add each one's own loss, and what the graph makes of the logits in front of real targets."""
    mask = histories > 0
    asked = mask[:, 1:] & mask[:, :-1]  # nobody can know the first event of a history
    labels = F.pad(histories[:, 1:].masked_fill(~asked, -100), (1, 0), value=-100)
    made = {name: model(histories, attention_mask=mask, labels=labels) for name, model in models.items()}
    logits = {name: given.logits[:, :-1][asked] for name, given in made.items()}
    return sum((given.loss for given in made.values()), start=graph(logits))


@torch.no_grad()
def ndcg10(model: LlamaForCausalLM, split: LeaveTwoOut, part: Literal["valid", "test"]) -> float:
    """Rank each user's target among all items that the user has not had."""

    def states(histories: Int[Tensor, "users length"]) -> dict[str, Tensor]:
        return {"item": model.model(histories, attention_mask=histories > 0).last_hidden_state[:, -1]}

    model.eval()
    table: Any = model.get_input_embeddings().weight
    found = ranks(states, {"item": table}, split.questions(part), combine=lambda scores: scores["item"])
    model.train()
    return metrics(found["item"])["NDCG@10"]


def train(
    models: Mapping[str, LlamaForCausalLM], graph: DistillationGraph, split: LeaveTwoOut, *, seed: int, epochs: int
) -> dict[str, float]:
    """Train them together, and give each one's test NDCG@10 after the epoch that was its best in validation."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW([p for model in models.values() for p in model.parameters()], lr=LR)
    best = dict.fromkeys(models, (-1.0, -1.0))
    for _ in range(epochs):
        for users in np.array_split(rng.permutation(split.num_users), split.num_users // BATCH):
            optimizer.zero_grad()
            losses(models, graph, torch.from_numpy(split.training(users))).backward()
            optimizer.step()
        for name, model in models.items():
            score = ndcg10(model, split, "valid")
            if score > best[name][0]:
                best[name] = score, ndcg10(model, split, "test")
    return {name: test for name, (_, test) in best.items()}


def compare(folder: Path, *, seed: int, epochs: int) -> dict[str, float]:
    """Train without, and with: NDCG@10 of each."""
    dataset = open_dataset(folder)
    split = LeaveTwoOut(dataset.offsets, dataset.items, num_items=dataset.num_items, length=LENGTH)
    features = open_features(dataset, ["text", "image"])
    found = {}
    for names in (["without"], ["taught", "with"]):
        torch.manual_seed(seed)
        models = {name: make_llama(dataset.num_items) for name in names}
        if "with" in models:
            give_content(models["with"], features)
        graph = DistillationGraph(*(["with -> taught: kl(temperature=2.0, detach=True)"] if "taught" in models else []))
        found.update(train(models, graph, split, seed=seed, epochs=epochs))
    return found


def main() -> None:
    """Compare over seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="a dataset folder with text and image features")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=30, help="epochs per run (default 30)")
    given = parser.parse_args()
    for seed in given.seeds:
        found = compare(given.dataset, seed=seed, epochs=given.epochs)
        print(f"seed {seed}: NDCG@10 " + ", ".join(f"{value:.4f} {name}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()

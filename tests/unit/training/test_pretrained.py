"""A saved model: it scores as the trained one, and weights of another are refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from odmt import ItemFeatures
from odmt.data.features import open_features
from odmt.data.format import open_dataset
from odmt.pretrained import build_model, from_pretrained, load_weights, save_pretrained
from odmt.training import run
from tests.unit.training.tiny_runs import experiment


@pytest.mark.parametrize("ensemble", ["mean", "fitted"])
def test_the_saved_model_scores_as_the_trained_one(dataset: Path, tmp_path: Path, ensemble: str) -> None:
    folder = run(experiment(dataset, tmp_path, f"--model.ensemble={ensemble}"))
    features = open_features(open_dataset(dataset), ["text"])
    model = from_pretrained(folder / "model", features)
    tables = model.encode_catalogue()
    again = from_pretrained(folder / "model", features)
    if ensemble == "fitted":
        assert model.ensemble.weights.unique().numel() == 2  # no longer the mean
    scores = model.score(torch.tensor([[0, 1, 3]]), tables)
    for name, expected in again.score(torch.tensor([[0, 1, 3]]), again.encode_catalogue()).items():
        assert torch.equal(scores[name], expected)
    with np.load(folder / "test_ranks.npz") as saved:
        from odmt import LeaveTwoOut, ranks

        data = open_dataset(dataset)
        split = LeaveTwoOut(data.offsets, data.items, num_items=data.num_items, length=10)
        found = ranks(partial(model.states, tables=tables), tables, split.questions("test"), combine=model.ensemble)
        np.testing.assert_array_equal(found["ensemble"], saved["ensemble"])


def test_a_saved_model_reads_as_many_tokens_as_in_training(dataset: Path, tmp_path: Path) -> None:
    features = ItemFeatures.from_arrays(24, text=np.random.default_rng(0).normal(size=(24, 5, 6)).astype("float32"))
    settings = experiment(dataset, tmp_path, "--data.max-tokens=text=2", "--model.streams=text", "--distill.graph")
    model = build_model(settings, features.limited({"text": 2})).eval()
    save_pretrained(model, settings, tmp_path / "model")
    again = from_pretrained(tmp_path / "model", features)
    assert torch.equal(again.encode_catalogue()["text"], model.encode_catalogue()["text"])
    assert not torch.equal(build_model(settings, features).encode_catalogue()["text"], model.encode_catalogue()["text"])


def test_loading_reads_no_content(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = ItemFeatures.from_arrays(24, text=np.random.default_rng(0).normal(size=(24, 6)).astype("float32"))
    starts = ["--model.id-init=text", "--model.fusion=independent(content='pca')"]
    settings = experiment(dataset, tmp_path, *starts, "--distill.graph")
    model = build_model(settings, features).eval()
    save_pretrained(model, settings, tmp_path / "model")
    with monkeypatch.context() as patched:
        patched.setattr(ItemFeatures, "gather", lambda self, modality, items: pytest.fail("content was read"))
        again = from_pretrained(tmp_path / "model", features)
    for name, expected in model.encode_catalogue().items():
        assert torch.equal(again.encode_catalogue()[name], expected)


def test_weights_of_another_model_are_refused_by_name(dataset: Path, tmp_path: Path) -> None:
    folder = run(experiment(dataset, tmp_path, "--train.epochs=1"))
    features = open_features(open_dataset(dataset), ["text"])
    from odmt import ODMT

    with pytest.raises(ValueError, match=r"parameter \S+ is \[.*in the file and \[.*in the model"):
        load_weights(ODMT(features, dim=8, fusion="imt(layers=1, heads=1)"), folder / "model" / "model.safetensors")
    with pytest.raises(ValueError, match="holds no model"):
        from_pretrained(tmp_path / "nowhere", features)
    broken = folder / "model" / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged"):
        from_pretrained(folder / "model", features)

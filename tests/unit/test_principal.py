"""Where maps of content start: what lacks, what is the same everywhere, and catalogues of odd sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from odmt import ItemFeatures
from odmt import principal as principal_module
from odmt.principal import half_whitened
from tests.laws.test_model_laws import make_model


def normal(items: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(items, width)).astype("float32")


def vectors(features: ItemFeatures, **settings: object) -> torch.Tensor:
    model = make_model(features, fusion="joint", **settings).eval()
    return model.encode(torch.arange(1, features.num_items + 1))["content"]


def test_content_that_is_the_same_everywhere_says_nothing() -> None:
    """A placeholder of several tokens, whose mean differs from itself by rounding."""
    text = normal(40, 6)
    placeholder = np.array([[0.1, 0.2], [0.3, 0.7], [0.6, 0.1]], dtype=np.float32)
    image = [placeholder if item % 2 else None for item in range(40)]
    both = ItemFeatures.from_arrays(40, text=text, image=image)
    maps = half_whitened(both, ["text", "image"], 4)
    assert (maps["image"].weight == 0).all()
    assert (maps["image"].bias == 0).all()
    torch.testing.assert_close(vectors(both), vectors(ItemFeatures.from_arrays(40, text=text)))


@pytest.mark.parametrize("fusion", ["joint", "independent(content='pca')"])
def test_where_nothing_differs_maps_stay_as_drawn(fusion: str) -> None:
    features = ItemFeatures.from_arrays(5, text=np.ones((5, 3), dtype="float32"))
    model = make_model(features, fusion=fusion)
    assert model.fusion.maps["text"].weight.all()
    content = next(vectors for name, vectors in model.encode(torch.arange(1, 6)).items() if name != "id")
    content.sum().backward()
    assert model.fusion.maps["text"].weight.grad.isfinite().all()


def test_a_sparse_modality_of_a_large_catalogue_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(principal_module, "ITEMS", 16)
    few = {3, 17, 44, 58}
    image = [normal(1, 5, seed=item) if item in few else None for item in range(70)]
    features = ItemFeatures.from_arrays(70, text=normal(70, 6), image=image)
    assert half_whitened(features, ["image"], 3)["image"].weight.any(1).all()
    assert half_whitened(features, ["text", "image"], 3)["image"].weight.any(1).all()


def test_a_modality_that_no_item_has_and_more_directions_than_there_are() -> None:
    features = ItemFeatures.from_arrays(4, text=normal(4, 3), image=[None, None, None, normal(1, 2)])
    maps = half_whitened(features, ["text", "image"], 8)
    assert maps["text"].weight.shape == (5, 3)
    assert maps["text"].weight.isfinite().all()
    assert (maps["image"].weight == 0).all()  # one item tells no direction
    assert vectors(features).isfinite().all()


def test_scales_of_modalities_do_not_matter() -> None:
    text, image = normal(30, 6), normal(30, 4, seed=1)
    here = vectors(ItemFeatures.from_arrays(30, text=text, image=image))
    there = vectors(ItemFeatures.from_arrays(30, text=text, image=1000 * image + 7))
    torch.testing.assert_close(here @ here.T, there @ there.T, atol=1e-3, rtol=1e-3)

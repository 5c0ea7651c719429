"""Content that training reads differently each time: by which numbers, and that evaluation reads it as it is."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from odmt.data.augmenting import Crop
from odmt.data.format import Dataset
from odmt.encoders.contents import LiveFeatures, contents_of
from odmt.encoders.network import FilePreparation
from odmt.encoders.policies import TrainedEncoder
from odmt.types import Raw
from tests.laws.test_live_laws import live_features
from tests.networks import Small, TinyPatches, picture_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return picture_dataset(tmp_path_factory.mktemp("data") / "pictures")


def test_what_varies_follows_from_seed_epoch_and_item_alone(dataset: Dataset) -> None:
    encoder = TrainedEncoder(TinyPatches(varies=True))
    features = live_features(dataset, encoder)
    items = np.array([4, 1, 6])

    def pixels(given: LiveFeatures, wanted: np.ndarray) -> torch.Tensor:
        raw = given.gather("image", wanted)
        assert isinstance(raw, Raw)
        return raw.inputs["pixels"]

    drawn = partial(pixels, features.in_training(1, 2))
    assert torch.equal(drawn(items)[1:], drawn(items[1:]))
    assert not torch.equal(drawn(items), pixels(features.in_training(1, 3), items))
    assert not torch.equal(drawn(items), pixels(features, items))  # evaluation varies nothing
    assert torch.equal(pixels(features, items), pixels(live_features(dataset, encoder), items))


def test_an_augmentation_changes_what_training_reads_and_nothing_else(dataset: Dataset) -> None:
    plain = live_features(dataset, TrainedEncoder(TinyPatches()))
    encoder = TrainedEncoder(TinyPatches())
    assert isinstance(encoder.network.preparation, FilePreparation)
    encoder.network.preparation = encoder.network.preparation.augmented(Crop(least=0.3))
    features = live_features(dataset, encoder)
    items = np.array([4, 1, 6])
    as_stored, evaluated, trained, again, later = (
        raw.inputs["pixels"]
        for given in (
            plain,
            features,
            features.in_training(1, 2),
            features.in_training(1, 2),
            features.in_training(1, 3),
        )
        if isinstance(raw := given.gather("image", items), Raw)
    )
    assert torch.equal(evaluated, as_stored)
    assert torch.equal(trained, again)
    for one, other in ((trained, as_stored), (later, as_stored), (trained, later)):
        assert not torch.equal(one, other)


def test_an_augmentation_may_write_to_what_it_gets_and_mirror_it(dataset: Dataset) -> None:
    def darkened(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        frames //= 2
        return frames[:, ::-1, ::-1]

    class Checking(Small):
        def fit(self, frames: np.ndarray) -> torch.Tensor:
            assert frames.flags.c_contiguous
            return super().fit(frames)

    path = contents_of(dataset, "image")[0]
    (pixels,) = Checking().augmented(darkened)([path], [np.random.default_rng(0)]).inputs["pixels"]  # pyright: ignore[reportArgumentType]
    (plain,) = Small()([path]).inputs["pixels"]  # pyright: ignore[reportArgumentType]
    assert pixels.float().mean() == pytest.approx(plain.float().mean() / 2, abs=1)

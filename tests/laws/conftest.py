"""A catalogue in which some items lack text, some a picture, and some both."""

from __future__ import annotations

import numpy as np
import pytest

from odmt import ItemFeatures
from tests.laws.test_model_laws import NUM_ITEMS


@pytest.fixture
def features() -> ItemFeatures:
    rng = np.random.default_rng(0)
    text = [rng.normal(size=(1 + i % 4, 6)).astype("float32") if i % 5 else None for i in range(NUM_ITEMS)]
    image = [rng.normal(size=(3, 5)).astype("float32") if i % 3 else None for i in range(NUM_ITEMS)]
    return ItemFeatures.from_arrays(NUM_ITEMS, text=text, image=image)

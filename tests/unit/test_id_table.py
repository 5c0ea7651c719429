"""Where the id table starts from content that some items lack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from odmt import ItemFeatures
from odmt.id_table import start_of_ids

NUM_ITEMS = 12


def normal(width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(NUM_ITEMS, 2, width)).astype("float32")


def without(array: np.ndarray, *items: int) -> list[np.ndarray | None]:
    """Take content away from items, by number from 1."""
    return [None if item in items else one for item, one in enumerate(array, start=1)]


def started(init: str, **arrays: np.ndarray | Sequence[np.ndarray | None]) -> torch.Tensor:
    return start_of_ids(init, ItemFeatures.from_arrays(NUM_ITEMS, **arrays), 4).weight.detach()


def test_an_item_starts_at_the_mean_of_the_modalities_that_it_has() -> None:
    text, image = normal(6, 0), normal(6, 1)
    found = started("mean", text=without(text, 2, 3), image=without(image, 1, 3))
    one, two = torch.from_numpy(text[:, 0]), torch.from_numpy(image[:, 0])
    expected = torch.stack([one[0], two[1], torch.zeros(6), *((one + two) / 2)[3:]])
    torch.testing.assert_close(found[1:], expected)


def test_what_pca_makes_narrower_counts_where_it_is_there() -> None:
    text, image = normal(6, 0), normal(9, 1)
    both = started("mean", text=text, image=without(image, 1, 5))
    image_alone = 2 * both[1:] - torch.from_numpy(text[:, 0])
    there = torch.tensor([item not in (1, 5) for item in range(1, NUM_ITEMS + 1)])
    torch.testing.assert_close(both[[1, 5]], torch.from_numpy(text[[0, 4], 0]))
    torch.testing.assert_close(image_alone[there].mean(0), torch.zeros(6), rtol=0, atol=1e-5)


def test_where_nothing_lacks_it_is_the_plain_mean_bit_by_bit() -> None:
    arrays = {name: normal(6, seed) for seed, name in enumerate(("text", "image", "video"))}
    arrays["image"][4] = 0.0  # content that says nothing is content
    plain = torch.stack([torch.from_numpy(array[:, 0]) for array in arrays.values()]).mean(0)
    torch.testing.assert_close(started("mean", **arrays)[1:], plain, rtol=0, atol=0)


@pytest.mark.parametrize("width", [3, 6, 9])
@pytest.mark.parametrize("init", ["mean", "image"])
def test_a_modality_that_no_item_has_is_refused_by_name(init: str, width: int) -> None:
    nothing = [np.zeros((0, width), dtype="float32")] * NUM_ITEMS
    with pytest.raises(ValueError, match=rf"id_init='{init}': no item shows anything of 'image'; .*'random'"):
        started(init, text=normal(6, 0), image=nothing)

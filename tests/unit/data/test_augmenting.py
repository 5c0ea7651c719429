"""Random parts of pictures and clips: of what size, from where, the same of all frames."""

import numpy as np
import pytest

from odmt.data.augmenting import Crop

# a pixel's bytes say where it is
PLACES = np.stack(np.broadcast_arrays(np.arange(40)[:, None], np.arange(60), 0), axis=2).astype(np.uint8)
CLIP = np.stack([PLACES, PLACES])


def drawn(crop: Crop, number: int = 200) -> list[np.ndarray]:
    return [crop(CLIP, np.random.default_rng(seed)) for seed in range(number)]


def test_a_part_keeps_proportions_and_has_no_less_than_was_asked_for() -> None:
    shares = []
    for part in drawn(Crop(least=0.25)):
        _, height, width, _ = part.shape
        assert abs(height / 40 - width / 60) < 0.025  # up to rounding
        shares.append(height * width / 2400)
    assert 0.24 < min(shares) < 0.3
    assert max(shares) > 0.95
    assert abs(np.mean(shares) - 0.625) < 0.05  # drawn evenly


def test_a_part_is_of_one_place_of_all_frames_and_any_place_comes() -> None:
    corners = set()
    for part in drawn(Crop(least=0.25)):
        assert np.array_equal(part[0], part[1])
        top, left, _ = part[0, 0, 0]
        assert np.array_equal(part[0], PLACES[top : top + part.shape[1], left : left + part.shape[2]])
        corners |= {("top", int(top)), ("left", int(left))}
    assert {("top", 0), ("left", 0), ("top", 15), ("left", 20)} <= corners


def test_every_other_part_is_mirrored_where_that_is_asked_for() -> None:
    whole = drawn(Crop(least=1.0, flip=True))
    mirrored = [part for part in whole if np.array_equal(part, CLIP[:, :, ::-1])]
    assert 70 < len(mirrored) < 130
    assert sum(np.array_equal(part, CLIP) for part in whole) == 200 - len(mirrored)
    assert all(np.array_equal(part, CLIP) for part in drawn(Crop(least=1.0)))


def test_pictures_of_one_pixel_stay() -> None:
    assert Crop(least=0.01)(CLIP[:, :1, :1], np.random.default_rng(0)).shape == (2, 1, 1, 3)


@pytest.mark.parametrize("least", [0.0, -0.5, 1.5])
def test_shares_out_of_range_are_refused(least: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        Crop(least=least)

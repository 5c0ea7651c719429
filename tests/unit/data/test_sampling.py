"""Which frames of a clip are chosen, by each policy, and that they are the frames that are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from odmt.data.clips import read_clip
from odmt.data.sampling import FrameChoice
from tests.clips import number_of, write_clip

SHOWN = list(range(0, 400, 10))  # 40 frames of 10 ticks


@pytest.mark.parametrize(
    ("choice", "places"),
    [
        (FrameChoice(1), [20]),
        (FrameChoice(4), [5, 15, 25, 35]),
        (FrameChoice(1, "middle"), [20]),
        (FrameChoice(4, "middle"), [18, 19, 20, 21]),
        (FrameChoice(3, "middle", stride=10), [10, 20, 30]),
        (FrameChoice(3, "middle", stride=30), [0, 20, 39]),  # the clip is shorter
    ],
)
def test_which_frames_a_policy_chooses(choice: FrameChoice, places: list[int]) -> None:
    assert choice.times(SHOWN, 400) == [10 * place for place in places]


def test_random_takes_one_frame_of_each_part_by_the_numbers_it_is_given() -> None:
    choice = FrameChoice(4, "random")
    drawn = [choice.times(SHOWN, 400, np.random.default_rng(seed)) for seed in range(50)]
    assert drawn[7] == choice.times(SHOWN, 400, np.random.default_rng(7))
    places = np.array(drawn) // 10
    assert (places // 10 == np.arange(4)).all()
    assert all(len(set(column)) > 7 for column in places.T)
    assert choice.times(SHOWN, 400) == FrameChoice(4).times(SHOWN, 400)


@pytest.mark.parametrize("choice", [FrameChoice(5), FrameChoice(5, "middle"), FrameChoice(5, "random")])
def test_fewer_frames_than_asked_for_come_several_times(choice: FrameChoice) -> None:
    for length in (1, 2, 3):
        times = choice.times(SHOWN[:length], 10 * length, np.random.default_rng(0))
        assert len(times) == 5
        assert times == sorted(times)
        assert set(times) <= set(SHOWN[:length])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "frames=0, stride=1: both must be at least 1"),
        ((4, "middle", 0), "stride=0"),
        ((4, "first"), "sampled uniform or middle or random, not 'first'"),
        ((4, "uniform", 2), "stride=2 is of sample='middle'"),
    ],
)
def test_wrong_choices_are_refused(arguments: tuple[int, str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrameChoice(*arguments)


def test_the_chosen_frames_are_read(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4")
    for choice in (FrameChoice(4), FrameChoice(4, "middle", stride=2), FrameChoice(4, "random")):
        clip = read_clip(path, frames=choice, side=64, rng=np.random.default_rng(3))
        wanted = choice.times(range(40), 40, np.random.default_rng(3))
        assert [number_of(frame) for frame in clip.frames] == wanted

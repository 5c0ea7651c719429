"""Clips made here: the right frames, upright, or a reason; whatever the headers say."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from odmt.data import clips
from odmt.data.clips import BrokenClipError, read_clip
from tests.clips import COLOURS, number_of, write_clip


def corners(picture: np.ndarray) -> dict[str, tuple[int, ...]]:
    return {
        "top left": tuple(picture[4, 4]),
        "top right": tuple(picture[4, -5]),
        "bottom left": tuple(picture[-5, 4]),
        "bottom right": tuple(picture[-5, -5]),
    }


OPEN = {"x265-params": "keyint=10:min-keyint=10:open-gop=1:bframes=4:log-level=none"}
ENCODINGS = {
    "H.264": ("a.mp4", "libx264", "yuv420p", {}),
    "H.264 of 10 bit": ("a.mp4", "libx264", "yuv420p10le", {}),
    "H.264 of full colour": ("a.mkv", "libx264", "yuv444p", {}),
    "HEVC, closed": ("a.mp4", "libx265", "yuv420p", {"x265-params": "keyint=10:open-gop=0:log-level=none"}),
    "HEVC, open": ("a.mp4", "libx265", "yuv420p", OPEN),
    "HEVC, open, mkv": ("a.mkv", "libx265", "yuv420p", OPEN),
    "H.264, open": ("a.mp4", "libx264", "yuv420p", {"x264-params": "keyint=10:min-keyint=10:open-gop=1:bframes=4"}),
    "MPEG-4": ("a.avi", "mpeg4", "yuv420p", {"qscale": "1"}),
    "VP8": ("a.webm", "libvpx", "yuv420p", {}),
    "H.264 in a transport stream": ("a.ts", "libx264", "yuv420p", {}),
    "H.264 in flv": ("a.flv", "libx264", "yuv420p", {}),
}


@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("frames", [1, 3, 8])
def test_gives_the_middle_of_equal_parts(kind: str, frames: int, tmp_path: Path) -> None:
    name, codec, pixels, options = ENCODINGS[kind]
    clip = read_clip(write_clip(tmp_path / name, codec=codec, pixels=pixels, options=options), frames=frames, side=64)
    assert clip.frames.shape == (frames, 64, 96, 3)
    assert clip.frames.dtype == np.uint8
    # the middles of 8 parts of 2 seconds, of 20 frames each
    wanted = [int((part + 0.5) / frames * 40) for part in range(frames)]
    coarse = 1 if codec in ("libvpx", "mpeg4") else 0  # in brightness; the times are exact
    assert [number_of(picture) for picture in clip.frames] == pytest.approx(wanted, abs=coarse)
    assert clip.times == pytest.approx([one / 20 for one in wanted], abs=0.002)
    assert (clip.num_frames, clip.rate, clip.duration) == (40, pytest.approx(20, rel=0.01), pytest.approx(2, abs=0.06))
    for place, colour in corners(clip.frames[0]).items():
        np.testing.assert_allclose(colour, COLOURS[place], atol=25)


TURNS = {
    "as it lies": (0, False, False, ("top left", "top right", "bottom left", "bottom right")),
    "a quarter": (90, False, False, ("top right", "bottom right", "top left", "bottom left")),
    "half": (180, False, False, ("bottom right", "bottom left", "top right", "top left")),
    "three quarters": (270, False, False, ("bottom left", "top left", "bottom right", "top right")),
    "mirrored": (0, True, False, ("top right", "top left", "bottom right", "bottom left")),
    "upside down": (0, False, True, ("bottom left", "bottom right", "top left", "top right")),
}


@pytest.mark.parametrize("turn", TURNS)
def test_turns_and_mirrors_as_the_container_says(turn: str, tmp_path: Path) -> None:
    counterclockwise, across, down, places = TURNS[turn]
    path = write_clip(
        tmp_path / "a.mp4", before=lambda s: s.set_display_rotation(counterclockwise, hflip=across, vflip=down)
    )
    clip = read_clip(path, frames=2, side=64)
    assert clip.size == ((64, 96) if counterclockwise in (90, 270) else (96, 64))
    assert clip.frames.shape[1:3] == clip.size[::-1]
    for shown, place in zip(corners(clip.frames[0]).values(), places, strict=True):
        np.testing.assert_allclose(shown, COLOURS[place], atol=25)
    if not down:
        assert clip.rotation == (360 - counterclockwise) % 360


def test_moments_count_where_the_rate_varies(tmp_path: Path) -> None:
    # ten frames in the first second, then one a second
    times = [*range(0, 1000, 100), *range(1000, 10_000, 1000)]
    clip = read_clip(write_clip(tmp_path / "a.mkv", times=times), frames=4, side=64)
    assert clip.times == (1, 3, 5, 7)  # of 9 seconds: the last frame's length is told to be next to nothing
    assert [number_of(picture) for picture in clip.frames] == [10, 12, 14, 16]


def test_shrinks_and_never_enlarges(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    assert read_clip(path, frames=1, side=32).frames.shape == (1, 32, 48, 3)
    assert read_clip(path, frames=1, side=500).frames.shape == (1, 64, 96, 3)
    assert read_clip(path, frames=1, side=32).size == (96, 64)


def test_stored_pixels_that_are_not_square_become_so(tmp_path: Path) -> None:
    def wide(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    clip = read_clip(write_clip(tmp_path / "a.mp4", before=wide), frames=1, side=64)
    assert (clip.size, clip.frames.shape) == ((192, 64), (1, 64, 192, 3))


def test_a_clip_of_one_frame_gives_it_as_often_as_asked(tmp_path: Path) -> None:
    clip = read_clip(write_clip(tmp_path / "a.mp4", frames=1), frames=3, side=64)
    assert [number_of(picture) for picture in clip.frames] == [0, 0, 0]
    assert (clip.num_frames, clip.rate) == (1, 0)


def test_where_a_seek_leads_astray_it_decodes_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mp4")
    expected = read_clip(path, frames=5, side=64)
    monkeypatch.setattr(clips._Listing, "key_before", lambda listing, time: listing.times[-1])
    found = read_clip(path, frames=5, side=64)
    np.testing.assert_array_equal(found.frames, expected.frames)
    assert found.times == expected.times


def silence(path: Path) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=8000, layout="mono")
        for index in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, 1024 * index
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def damaged(path: Path) -> Path:
    """Overwrite the second half's frames, but not where their table says that they are."""
    write_clip(path, container={"movflags": "faststart"}, options={"g": "100"})
    data = bytearray(path.read_bytes())
    data[len(data) * 5 // 10 : -8] = b"\xff" * (len(data) - 8 - len(data) * 5 // 10)
    path.write_bytes(data)
    return path


def hurt_between(path: Path) -> Path:
    """Overwrite part of the tenth of forty frames that lean on each other; the middles of three parts come later."""
    write_clip(path, frames=40, options={"g": "100", "bf": "0"})
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][10]
        place, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[place + size // 2 : place + size // 2 + size // 8] = b"\xff" * (size // 8)
    path.write_bytes(data)
    return path


def playlist(path: Path, text: str) -> Path:
    write_clip(path.with_name("secret.mp4"))
    path.write_text(text)
    return path


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "a.mp4", "the file is missing"),
    "empty": (lambda folder: cut(write_clip(folder / "a.mp4"), 0), "the file is empty"),
    "a page": (lambda folder: playlist(folder / "a.mp4", "<html>404</html>"), "not a video of a known container"),
    "a folder": (lambda folder: folder, "damaged: Is a directory"),
    "sound only": (lambda folder: silence(folder / "a.m4a"), "no video stream: the file holds audio"),
    "cut, index behind": (lambda folder: cut(write_clip(folder / "a.mp4"), 0.6), "header is damaged or cut off"),
    "cut, index before": (
        lambda folder: cut(write_clip(folder / "a.mp4", frames=60, container={"movflags": "faststart"}), 0.5),
        r"cut off: [01]\.\d of 3\.0 s are there \(\d\d frames\)",
    ),
    "cut, mkv": (
        lambda folder: cut(write_clip(folder / "a.mkv", frames=60), 0.5),
        r"cut off: [01]\.\d of 3\.0 s are there \(\d\d frames\)",
    ),
    "damaged between wanted frames": (lambda folder: hurt_between(folder / "a.mp4"), r"damaged: frame \d+ of 40"),
    "damaged": (lambda folder: damaged(folder / "a.mp4"), r"damaged"),
    "a list of other clips": (
        lambda folder: playlist(folder / "a.mp4", "ffconcat version 1.0\nfile secret.mp4\n"),
        "not a video of a known container",
    ),
    "a playlist": (
        lambda folder: playlist(folder / "a.mp4", "#EXTM3U\n#EXTINF:2,\nsecret.mp4\n#EXT-X-ENDLIST\n"),
        "not a video of a known container",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_clips_give_a_reason(case: str, tmp_path: Path) -> None:
    make, reason = BROKEN[case]
    path = make(tmp_path)
    with pytest.raises(BrokenClipError, match=reason):
        read_clip(path, frames=3, side=64)


def test_names_are_no_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "plain.mp4").rename(tmp_path / "concat:plain.mp4")
    assert read_clip(Path("concat:plain.mp4"), frames=1, side=64).num_frames == 40

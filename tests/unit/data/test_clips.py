"""Clips made here, and real ones: the right frames, upright, or a reason; whatever the headers say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from odmt.data import clips
from odmt.data.clips import BrokenClipError, Clip, read_clip

COLOURS = {
    "top left": (220, 40, 40),
    "top right": (40, 200, 40),
    "bottom left": (40, 40, 220),
    "bottom right": (250, 250, 250),
}


def frame_of(index: int, *, size: tuple[int, int] = (96, 64)) -> np.ndarray:
    """Paint four corners in four colours, and the frame's number as the brightness of the middle."""
    width, height = size
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = COLOURS["top left"]
    picture[: height // 2, width // 2 :] = COLOURS["top right"]
    picture[height // 2 :, : width // 2] = COLOURS["bottom left"]
    picture[height // 2 :, width // 2 :] = COLOURS["bottom right"]
    picture[height // 4 : -height // 4, width // 4 : -width // 4] = min(255, 6 * index)
    return picture


def number_of(picture: np.ndarray) -> int:
    height, width = picture.shape[:2]
    return round(float(picture[height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4].mean()) / 6)


def write_clip(
    path: Path,
    *,
    frames: int = 40,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: Sequence[int] = (),
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    before: Callable[[av.VideoStream], None] = lambda stream: None,
) -> Path:
    """Encode numbered frames, at 20 per second or at `times` in milliseconds, with a keyframe at every tenth."""
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=20, options={"g": "10", "crf": "5"} | (options or {}))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixels
        tick = Fraction(1, 1000) if times else Fraction(1, 20)
        stream.codec_context.time_base = tick
        before(stream)
        for index in range(len(times) or frames):
            frame = av.VideoFrame.from_ndarray(frame_of(index), format="rgb24")
            frame.pts, frame.time_base = (times[index] if times else index), tick
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


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


UNKNOWN = "not a video of a known container, or its header is damaged or cut off"

# size as shown, rotation, frames, seconds, frames per second, codec
REAL: dict[str, tuple[tuple[int, int], int, int, float, float, str] | str] = {
    "bt709_full_range.mp4": ((1280, 720), 0, 30, 1.000, 30.0, "h264"),
    "cockatoo.mp4": ((1280, 720), 0, 280, 14.000, 20.0, "h264"),
    "decord_corrupted.mp4": "damaged after 28 of 50 frames: Invalid data found when processing input",
    "decord_video_0.mov": ((568, 320), 0, 3, 0.100, 30.0, "h264"),
    "decord_video_180.mov": ((568, 320), 180, 3, 0.100, 30.0, "h264"),
    "decord_video_270.mov": ((320, 568), 270, 3, 0.100, 30.0, "h264"),
    "decord_video_90.mov": ((320, 568), 90, 3, 0.100, 30.0, "h264"),
    "flipping_a_pancake.mkv": ((426, 240), 0, 310, 10.333, 30.0, "h264"),
    "ft_fixture-corrupt.mkv": UNKNOWN,
    "ft_fixture-imovie.mp4": ((640, 356), 0, 1, 0.067, 0.0, "h264"),
    "ft_fixture-isom.mp4": UNKNOWN,
    "ft_fixture-mjpeg.mov": ((640, 480), 0, 15, 1.500, 10.0, "mjpeg"),
    "ft_fixture-moov.mov": UNKNOWN,
    "ft_fixture-null.webm": ((1920, 1080), 0, 36, 4.244, 8.312, "vp8"),
    "ft_fixture.3gp": ((504, 288), 0, 166, 5.533, 30.0, "h263"),
    "ft_fixture.asf": ((160, 120), 0, 153, 27.207, 5.588, "msmpeg4"),
    "ft_fixture.avi": ((640, 356), 0, 1, 0.042, 0.0, "msmpeg4v2"),
    "ft_fixture.flv": ((268, 156), 0, 25, 0.729, 34.286, "flv"),
    "ft_fixture.m4v": ((640, 356), 0, 1, 0.042, 0.0, "h264"),
    "ft_fixture.mkv": ((640, 356), 0, 1, 0.042, 0.0, "h264"),
    "ft_fixture.mpg": ((160, 120), 0, 19, 1.333, 14.211, "mpeg1video"),
    "ft_fixture.webm": ((640, 356), 0, 1, 0.042, 0.0, "vp8"),
    "ft_fixture.wmv.asf": ((640, 356), 0, 1, 0.001, 0.0, "wmv2"),
    "ft_fixture2.mpg": ((320, 240), 0, 419, 14.014, 29.899, "mpeg1video"),
    "h264_10bits.mp4": ((200, 200), 0, 30, 1.000, 30.0, "h264"),
    "h265_10bits.mp4": ((200, 200), 0, 30, 1.000, 30.0, "hevc"),
    "h265_video.mp4": ((128, 128), 0, 10, 1.000, 10.0, "hevc"),
    "mmcv_test.mp4": ((294, 240), 0, 168, 6.720, 25.000, "h264"),
    "nasa_13013.mp4": ((320, 180), 0, 325, 13.000, 25.000, "h264"),
    "pytorchvideo_archery.mp4": ((320, 240), 0, 300, 10.010, 29.970, "h264"),
    "realshort.mp4": ((320, 240), 0, 36, 1.199, 30.020, "h264"),
    "skv_bikes.mp4": ((640, 272), 0, 250, 10.0, 25.000, "h264"),
    "small_Mpeg4.mp4": "no video stream: the file holds nothing",
    "small_avi.avi": "the video stream holds no frame",
    "small_webm.webm": ((8, 8), 0, 1, 0.001, 0.0, "vp8"),
    "test.webm": ((640, 480), 0, 94, 3.137, 29.961, "h264"),
}


def facts(path: Path, *, frames: int = 3) -> tuple[tuple[int, int], int, int, float, float, str] | str:
    try:
        clip = read_clip(path, frames=frames, side=64)
    except BrokenClipError as error:
        return str(error)
    assert clip.frames.shape[0] == frames
    return clip.size, clip.rotation, clip.num_frames, round(clip.duration, 3), round(clip.rate, 3), clip.codec


def test_every_real_clip_has_its_facts_or_its_reason(real_data: Path) -> None:
    found = {path.name: facts(path) for path in sorted((real_data / "media/video").iterdir())}
    assert found == REAL


def test_frames_after_seeks_are_those_of_decoding_all(real_data: Path) -> None:
    paths = [path for path in sorted((real_data / "media/video").iterdir()) if not isinstance(REAL[path.name], str)]
    for path in paths:
        clip = read_clip(path, frames=5, side=10_000)
        if clip.size[1] < 480:  # decoding all of the others takes long
            for picture, expected in zip(clip.frames, decode_all(path, clip), strict=True):
                np.testing.assert_array_equal(picture, expected, err_msg=path.name)


def decode_all(path: Path, clip: Clip) -> list[np.ndarray]:
    """Decode a clip from its start, and give the frames that are nearest to the times of `clip`."""
    nearest: dict[float, tuple[float, av.VideoFrame]] = {}
    with av.open(str(path)) as container:
        start = None
        container.streams.video[0].codec_context.thread_count = 1
        for frame in container.decode(container.streams.video[0]):
            start = frame.time if start is None else start
            for time in clip.times:
                gap = abs(frame.time - start - time)
                if time not in nearest or gap < nearest[time][0]:
                    nearest[time] = gap, frame
    width, height = clip.size if clip.rotation in (0, 180) else clip.size[::-1]
    stored = (nearest[time][1] for time in clip.times)
    return [
        np.rot90(
            frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA", threads=1),
            frame.rotation // 90,
        )
        for frame in stored
    ]


def test_real_clips_of_microlens_are_read(real_data: Path) -> None:
    found = {path.name: facts(path, frames=1) for path in sorted((real_data / "microlens-50k/videos").iterdir())}
    assert found == {
        "1002.mp4": ((1280, 720), 0, 982, 16.367, 60.0, "hevc"),
        "10034.mp4": ((1280, 720), 0, 227, 7.567, 30.0, "hevc"),
        "10040.mp4": ((1280, 720), 0, 862, 28.733, 30.0, "hevc"),
    }

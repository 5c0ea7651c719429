"""Real clips: each has its facts or its reason, and a seek gives the frames that decoding all does."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from odmt.data.clips import BrokenClipError, Clip, read_clip

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

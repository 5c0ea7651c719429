"""Clips that tests make, of numbered frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

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

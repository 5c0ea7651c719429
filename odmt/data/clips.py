"""Read a few frames of a clip, upright and of the right moments whatever its header claims; say why where impossible.

Headers lie about rates, durations and numbers of frames, so the packets' timestamps are listed first, which decodes
nothing and takes milliseconds. Decoding starts at the keyframe before each wanted moment, and what is decoded is
checked by its timestamp: where a seek led astray, the clip is decoded from its start instead.

One thread decodes, so that many processes can decode side by side; FFmpeg's own threads lock up in forked ones
(https://github.com/PyAV-Org/PyAV/issues/1962). Files that are playlists of other files are refused.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideData, Type
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from odmt.data.pictures import BrokenMediaError
from odmt.data.sampling import FrameChoice

__all__ = ["BrokenClipError", "Clip", "read_clip"]

MOST_PIXELS = 50_000_000
"""Larger frames are refused, as larger pictures are."""
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,asf,mpeg,mpegvideo,mpegts,ogg,gif,mp3"
"""FFmpeg's names of the containers that are opened. Playlists are none of them: they would open other files."""
UNKNOWN = "not a video of a known container, or its header is damaged or cut off"


class BrokenClipError(BrokenMediaError):
    """Say why frames of a clip cannot be read."""


@dataclass(frozen=True, eq=False)
class Clip:
    """Hold frames of a clip, oldest first, and what its packets tell of it."""

    frames: np.ndarray
    """RGB, [frames, height, width, 3] uint8."""
    times: tuple[float, ...]
    """When each frame is shown, in seconds from the first frame of the clip."""
    size: tuple[int, int]
    """Width and height as shown: upright, of square pixels, before shrinking."""
    rotation: int
    """Degrees by which the stored frames were turned clockwise: 0, 90, 180 or 270."""
    duration: float
    """Seconds, from the first frame to the end of the last."""
    num_frames: int
    rate: float
    """Frames per second on average, 0 where there is one frame only."""
    codec: str


@dataclass(frozen=True)
class _Listing:
    """Hold the timestamps of a clip's frames and of those among them where decoding can start, in ticks, ascending."""

    times: Sequence[int]
    keys: Sequence[int]
    end: int
    seconds: Fraction
    """Per tick."""
    square: Fraction
    """Width of a stored pixel in its heights."""
    codec: str

    def key_before(self, time: int) -> int:
        at = bisect_right(self.keys, time) - 1
        return self.keys[at] if at >= 0 else self.times[0]


class _AstrayError(Exception):
    """Say that a seek did not lead where it should."""


def read_clip(path: Path, *, frames: int | FrameChoice, side: int, rng: np.random.Generator | None = None) -> Clip:
    """Decode some frames of a clip: those of a choice, or the middle ones of so many equal parts.

    Frames are turned and mirrored as the container says, of square pixels, and shrunk until the shorter side has at
    most `side` pixels. A clip of fewer frames gives some of them twice.
    Raises `BrokenClipError` for what is missing, damaged at a wanted frame or before it, cut off, or without video.
    """
    try:
        with _open(path) as container:
            listing = _list_packets(container, _video_stream(container))
        choice = FrameChoice(frames) if isinstance(frames, int) else frames
        wanted = choice.times(listing.times, listing.end, rng)
        found = _decode(path, listing, wanted)
        return _clip(found, listing, side=side)
    except FileNotFoundError as error:
        raise BrokenClipError("the file is missing") from error
    except BrokenClipError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise BrokenClipError(f"damaged: {_words(error)}") from error


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _open(path: Path) -> InputContainer:
    if not path.stat().st_size:
        raise BrokenClipError("the file is empty")
    try:
        # the prefix lets no name pass for another protocol's address
        return av.open(f"file:{path}", options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"})
    except (av.error.InvalidDataError, av.error.ArgumentError) as error:
        raise BrokenClipError(UNKNOWN) from error


def _video_stream(container: InputContainer) -> VideoStream:
    for stream in container.streams.video:
        # the cover of a song is a video stream of one picture
        if not stream.disposition & Disposition.attached_pic:
            stream.codec_context.thread_count = 1
            return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise BrokenClipError(f"no video stream: the file holds {kinds}")


def _list_packets(container: InputContainer, stream: VideoStream) -> _Listing:
    times, keys, ends, begins = [], [], [0.0], []
    end = 0
    for packet in container.demux():
        time = packet.dts if packet.pts is None else packet.pts
        if time is None or not packet.size or packet.time_base is None:
            continue
        begins.append(float(time * packet.time_base))
        ends.append(float((time + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index != stream.index:
            continue
        if packet.is_keyframe:
            keys.append(time)
        if not packet.is_discard:
            times.append(time)
            end = max(end, time + (packet.duration or 0))
    if not times:
        raise BrokenClipError("the video stream holds no frame")
    times.sort()
    _check_whole(container, max(ends) - min(begins), times, stream)
    codec = stream.codec_context
    square = stream.sample_aspect_ratio or Fraction(1)
    if end <= times[-1]:
        # nothing tells how long the last frame is shown: as long as the others
        end = times[-1] + max(1, (times[-1] - times[0]) // max(1, len(times) - 1))
    return _Listing(times, sorted(keys), end, stream.time_base or Fraction(1, av.time_base), square, codec.name)


def _check_whole(container: InputContainer, found: float, times: Sequence[int], stream: VideoStream) -> None:
    promised = (container.duration or 0) / av.time_base
    # a header may be a little off, and more so at the end
    if promised - found > max(1.0, 0.1 * promised):
        raise BrokenClipError(f"cut off: {found:.1f} of {promised:.1f} s are there ({len(times)} frames)")


def _decode(path: Path, listing: _Listing, wanted: Sequence[int]) -> list[VideoFrame]:
    with _open(path) as container:
        try:
            return _by_seeking(container, listing, wanted)
        except (_AstrayError, av.error.InvalidDataError):
            pass
    with _open(path) as container:
        return _from_the_start(container, listing, wanted)


def _by_seeking(container: InputContainer, listing: _Listing, wanted: Sequence[int]) -> list[VideoFrame]:
    stream = _video_stream(container)
    decoded, found = container.decode(stream), []
    at = begun = listing.times[0]
    for time in wanted:
        if found and time == at:
            found.append(found[-1])
            continue
        key = listing.key_before(time)
        if key > at:
            container.seek(key, stream=stream)
            decoded = container.decode(stream)
            begun = key
        frame = next((frame for frame in _sound(decoded, begun) if _time(frame) >= time), None)
        if frame is None or _time(frame) != time:
            raise _AstrayError
        found.append(frame)
        at = time
    return found


def _sound(decoded: Iterable[VideoFrame], begun: int) -> Iterator[VideoFrame]:
    """Pass frames on until one is damaged: those behind it lean on it, and are not marked themselves.

    Frames before the keyframe `begun` in time, but after it in the file, lean on what was skipped: they may be damaged.
    """
    for frame in decoded:
        if frame.is_corrupt and _time(frame) >= begun:
            raise _AstrayError
        yield frame


def _from_the_start(container: InputContainer, listing: _Listing, wanted: Sequence[int]) -> list[VideoFrame]:
    found: list[VideoFrame] = []
    count, shown = 0, None
    try:
        for count, frame in enumerate(container.decode(_video_stream(container)), start=1):
            while len(found) < len(wanted) and _time(frame) > wanted[len(found)]:
                found.append(shown or frame)
            if len(found) == len(wanted):
                return found
            if frame.is_corrupt:
                raise BrokenClipError(f"damaged: frame {count} of {len(listing.times)} is incomplete")
            shown = frame
    except av.error.InvalidDataError as error:
        told = f"after {count} of {len(listing.times)} frames"
        raise BrokenClipError(f"damaged {told}: {_words(error)}") from error
    if shown is None:
        raise BrokenClipError("damaged: no frame could be decoded")
    return found + [shown] * (len(wanted) - len(found))


def _time(frame: VideoFrame) -> int:
    time = frame.dts if frame.pts is None else frame.pts
    if time is None:
        raise BrokenClipError("frames have no timestamps")
    return time


def _clip(found: Sequence[VideoFrame], listing: _Listing, *, side: int) -> Clip:
    first = found[0]
    if first.width * first.height > MOST_PIXELS:
        raise BrokenClipError(f"{first.width} x {first.height} pixels, more than the limit of {MOST_PIXELS:,}")
    width, height = max(1, round(first.width * listing.square)), first.height
    shrink = min(1.0, side / min(width, height))
    small = {"width": max(1, round(width * shrink)), "height": max(1, round(height * shrink))}
    scaler = VideoReformatter()
    matrix = _display_matrix(first)
    as_shown = {**small, "format": "rgb24", "interpolation": "AREA", "threads": 1}
    pictures = [scaler.reformat(frame, **as_shown).to_ndarray() for frame in found]
    start, stop = listing.times[0], listing.times[-1]
    span = float((stop - start) * listing.seconds)
    return Clip(
        frames=np.stack([_upright(picture, matrix) for picture in pictures]),
        times=tuple(float((_time(frame) - start) * listing.seconds) for frame in found),
        size=(height, width) if matrix[0] == 0 else (width, height),
        rotation=_clockwise(matrix),
        duration=float((listing.end - start) * listing.seconds),
        num_frames=len(listing.times),
        rate=(len(listing.times) - 1) / span if span else 0.0,
        codec=listing.codec,
    )


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Return (a, b, c, d), each -1, 0 or 1: the pixel at (x, y) is to be shown at (a x + c y, b x + d y)."""
    # a mapping by kind whose iteration gives the values; the stubs of PyAV say that it gives the kinds
    data = [one for one in cast(Iterable[SideData], frame.side_data) if one.type == Type.DISPLAYMATRIX]
    if not data:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(data[0]), np.int32)[:5].tolist()
    # other turns than quarters have no frame to stand upright in, and are read as the nearest
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (-1 if a < 0 else 1), 0, 0, (-1 if d < 0 else 1)
    return 0, (-1 if b < 0 else 1), (-1 if c < 0 else 1), 0


def _upright(picture: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    a, b, c, d = matrix
    if a == 0:
        picture = picture.swapaxes(0, 1)
    return picture[:: -1 if b + d < 0 else 1, :: -1 if a + c < 0 else 1]


def _clockwise(matrix: tuple[int, int, int, int]) -> int:
    a, b, c, d = matrix
    # of a mirrored clip, the turn that is left once it is mirrored left to right
    mirrored = -1 if a * d - b * c < 0 else 1
    return round(math.degrees(math.atan2(b * mirrored, a * mirrored))) % 360

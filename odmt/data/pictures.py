"""Read a picture file as an upright RGB image, of whatever kind it is; say why where that is impossible."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

__all__ = ["BrokenMediaError", "BrokenPictureError", "read_picture"]

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "ICO", "JPEG2000")
"""What is decoded: PIL knows others that run programs (EPS) or that nobody uses for pictures of items."""
MOST_PIXELS = 100_000_000
"""Larger pictures are refused: decoded they would take hundreds of megabytes, and few are honest."""

# What PIL's decoders raise for files that are damaged or of no known kind.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)

MARKS = {b"\x89PNG": "PNG", b"\xff\xd8": "JPEG", b"GIF8": "GIF", b"RIFF": "WebP", b"BM": "BMP"}
HEIC = {b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1"}


class BrokenMediaError(ValueError):
    """Say why a file cannot be read as what it should be."""


class BrokenPictureError(BrokenMediaError):
    """Say why a picture cannot be read."""


def read_picture(path: Path, *, side: int) -> Image.Image:
    """Decode `path` to RGB, upright as its EXIF says, transparent places white, the first frame of an animation.

    A JPEG is decoded at the smallest of its built-in scales whose sides are both at least `side` pixels, which takes a
    fraction of the time. Raises `BrokenPictureError` for what is missing, damaged, truncated, of no known kind or too
    large. What PIL warns of is judged here, so callers ignore its warnings: around their threads, not in them, because
    warning filters are the whole process's.
    """
    Image.init()  # registers the formats; does nothing the second time
    try:
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as picture:
            width, height = picture.size
            if width * height > MOST_PIXELS:
                raise BrokenPictureError(f"{width} x {height} pixels, more than the limit of {MOST_PIXELS:,}")
            picture.draft(None, (side, side))
            picture.load()
            return _as_rgb(_upright(picture))
    except BrokenPictureError:
        raise
    except Image.DecompressionBombError as error:
        raise BrokenPictureError(str(error)) from error
    except FileNotFoundError as error:
        raise BrokenPictureError("the file is missing") from error
    except Image.UnidentifiedImageError as error:
        raise BrokenPictureError(_foreign(path)) from error
    except DAMAGED as error:
        raise BrokenPictureError(f"damaged: {error}") from error


def _foreign(path: Path) -> str:
    """Say what a file is that PIL does not know."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "not a picture: the file is empty"
    if start[4:8] == b"ftyp" and start[8:12] in HEIC:
        return "a HEIC picture, which PIL cannot decode; convert it to JPEG"
    for mark, kind in MARKS.items():
        if start.startswith(mark):
            return f"damaged: it starts as a {kind} picture, but cannot be read as one"
    if start.lstrip().startswith(b"<"):
        return "not a picture but a page of HTML or XML"
    return "not a picture of a kind that PIL knows"


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except DAMAGED:
        # Broken metadata is no broken picture: it stays as it lies.
        return picture


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = Image.fromarray(_eight_bits(np.asarray(picture)))
    if picture.has_transparency_data:
        layered = picture.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    # PIL's own conversion clips at 255, which turns 16-bit pictures white.
    if np.issubdtype(values.dtype, np.integer):
        return np.clip(values.astype(np.int64) >> 8, 0, 255).astype(np.uint8)
    low, high = np.nanmin(values), np.nanmax(values)
    scaled = (values - low) / max(float(high - low), 1e-12) * 255
    return np.nan_to_num(scaled).astype(np.uint8)

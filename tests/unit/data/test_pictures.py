"""Pictures of every kind are read upright and in their colours, or refused with a reason."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odmt.data.pictures import MOST_PIXELS, BrokenPictureError, read_picture
from tests.pictures import cut_short, two_halves


def colour_at(picture: Image.Image, x: float, y: float) -> tuple[int, ...]:
    return tuple(np.asarray(picture)[int(y * picture.height), int(x * picture.width)])


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


SAVED: dict[str, Callable[[Image.Image, Path], None]] = {
    "jpeg": lambda picture, path: picture.save(path, "JPEG", quality=95),
    "png": lambda picture, path: picture.save(path, "PNG"),
    "png named jpg": lambda picture, path: picture.save(path, "PNG"),
    "webp": lambda picture, path: picture.save(path, "WEBP", lossless=True),
    "gif of two frames": lambda picture, path: picture.save(
        path, "GIF", save_all=True, append_images=[Image.new("RGB", picture.size)]
    ),
    "palette": lambda picture, path: picture.convert("P", palette=Image.Palette.ADAPTIVE).save(path, "PNG"),
    "cmyk": lambda picture, path: picture.convert("CMYK").save(path, "JPEG", quality=95),
    "alpha": lambda picture, path: picture.convert("RGBA").save(path, "PNG"),
    "progressive": lambda picture, path: picture.save(path, "JPEG", quality=95, progressive=True),
}


@pytest.mark.parametrize("kind", SAVED)
def test_every_kind_reads_as_the_same_picture(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    SAVED[kind](two_halves(), path)
    read = read_picture(path, side=64)
    assert read.mode == "RGB"
    assert read.size == (96, 64)
    np.testing.assert_allclose(colour_at(read, 0.25, 0.5), (200, 30, 30), atol=25)
    np.testing.assert_allclose(colour_at(read, 0.75, 0.5), (30, 30, 200), atol=25)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation: int, tmp_path: Path) -> None:
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = two_halves() if orientation == 1 else two_halves().transpose(turns[orientation])
    stored.save(tmp_path / "turned.png", exif=exif(orientation))
    np.testing.assert_array_equal(read_picture(tmp_path / "turned.png", side=64), two_halves())


def test_broken_exif_is_no_broken_picture(tmp_path: Path) -> None:
    two_halves().save(tmp_path / "odd.jpg", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\xff\x01\x12\x00\x03")
    assert read_picture(tmp_path / "odd.jpg", side=64).size == (96, 64)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16)[None].repeat(8, axis=0)
    for name in ("ramp.png", "ramp.tif"):
        Image.fromarray(ramp).save(tmp_path / name)
        read = np.asarray(read_picture(tmp_path / name, side=8))
        np.testing.assert_array_equal(read[..., 0], ramp >> 8)


def test_float_pictures_are_stretched(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(-1, 3, 64, dtype=np.float32)[None]).save(tmp_path / "float.tif")
    read = np.asarray(read_picture(tmp_path / "float.tif", side=8))[0, :, 0]
    assert (read[0], read[-1]) == (0, 255)


def test_transparent_places_are_white(tmp_path: Path) -> None:
    hidden = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    hidden.save(tmp_path / "hidden.png")
    assert colour_at(read_picture(tmp_path / "hidden.png", side=8), 0.5, 0.5) == (255, 255, 255)


def test_large_jpegs_are_not_decoded_in_full(tmp_path: Path) -> None:
    two_halves((2000, 1000)).save(tmp_path / "large.jpg")
    read = read_picture(tmp_path / "large.jpg", side=224)
    assert read.size == (500, 250)
    assert read_picture(tmp_path / "large.jpg", side=1000).size == (2000, 1000)


BROKEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated JPEG": ("a.jpeg", cut_short, "truncated"),
    "truncated PNG": ("a.png", cut_short, "truncated|damaged"),
    "truncated WebP": ("a.webp", cut_short, "damaged|not a picture"),
    "empty": ("a.jpg", lambda path: path.touch(), "the file is empty"),
    "a page": ("a.jpg", lambda path: path.write_text("\n<!doctype html>404"), "not a picture but a page"),
    "text": ("a.jpg", lambda path: path.write_text("moved"), "not a picture of a kind"),
    "HEIC": ("a.heic", lambda path: path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), "HEIC .* to JPEG"),
    "garbage behind a signature": (
        "a.png",
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n/\xc5}P"),
        "starts as a PNG",
    ),
    "missing": ("a.jpg", lambda path: None, "the file is missing"),
    "a folder": ("a.jpg", lambda path: path.mkdir(), "damaged: .*directory"),
    "too large": ("a.png", lambda path: Image.new("1", (11000, 10000)).save(path), "11000 x 10000 pixels, more than"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_pictures_give_a_reason(case: str, tmp_path: Path) -> None:
    name, make, reason = BROKEN[case]
    make(tmp_path / name)
    with pytest.raises(BrokenPictureError, match=reason):
        read_picture(tmp_path / name, side=64)
    assert MOST_PIXELS < 11000 * 10000


def adobe_cmyk(path: Path) -> None:
    """Save as Photoshop does: inks inverted, and an Adobe marker that says so by being there."""
    two_halves().convert("CMYK").save(path, "JPEG", quality=95)
    assert b"Adobe" in path.read_bytes()[:64]


def test_inverted_inks_give_the_colours_that_were_meant(tmp_path: Path) -> None:
    adobe_cmyk(tmp_path / "ink.jpg")
    read = read_picture(tmp_path / "ink.jpg", side=64)
    np.testing.assert_allclose(colour_at(read, 0.25, 0.5), (200, 30, 30), atol=25)


REAL: dict[str, tuple[int, int] | str] = {
    "16bit.cropped.tif": (64, 64),
    "broken.png": "damaged: it starts as a PNG picture, but cannot be read as one",
    "exif_gps.jpg": (8, 8),
    "flower.webp": (480, 360),
    "ft_heic.heic": "a HEIC picture, which PIL cannot decode; convert it to JPEG",
    "hopper.avif": (128, 128),
    "hopper.bmp": (128, 128),
    "hopper.gif": (128, 128),
    "hopper.jpg": (128, 128),
    "hopper.png": (128, 128),
    "hopper.webp": (128, 128),
    "hopper_bad_exif.jpg": (500, 500),
    "hopper_orientation_3.jpg": (128, 128),
    "hopper_orientation_6.jpg": (128, 128),
    "hopper_orientation_8.webp": (128, 128),
    "icc_profile.png": (57, 57),
    "orientation_rectangle.jpg": (1, 2),
    "pil_sample_cmyk.jpg": (100, 100),
    "poster_gray_1789.jpg": (182, 268),
    "poster_png_named_3575.jpg": (185, 262),
    "rot1mir0.avif": (640, 427),
    "transparent.webp": (200, 150),
    "truncated_image.png": "damaged: image file is truncated",
    "truncated_jpeg.jpg": "damaged: image file is truncated (8 bytes not processed)",
}


def read_or_reason(path: Path) -> tuple[int, int] | str:
    try:
        return read_picture(path, side=10_000).size
    except BrokenPictureError as error:
        return str(error)


def test_every_real_picture_has_its_size_or_its_reason(real_data: Path) -> None:
    assert {path.name: read_or_reason(path) for path in sorted((real_data / "media/image").iterdir())} == REAL


def distance(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())


def test_real_pictures_of_one_person_look_alike_however_stored_and_turned(real_data: Path) -> None:
    folder = real_data / "media/image"
    upright = read_picture(folder / "hopper.png", side=128)
    for name in ("bmp", "gif", "jpg", "webp", "avif"):
        assert distance(read_picture(folder / f"hopper.{name}", side=128), upright) < 6, name
    for name in ("hopper_orientation_3.jpg", "hopper_orientation_6.jpg", "hopper_orientation_8.webp"):
        assert distance(read_picture(folder / name, side=128), upright) < 12, name
    red = np.asarray(read_picture(folder / "pil_sample_cmyk.jpg", side=100), np.float64)
    assert red[3, 5].tolist() == pytest.approx([254, 14, 23], abs=5)  # a red mark on black, so no inverted inks
    sixteen = np.asarray(Image.open(folder / "16bit.cropped.tif"))
    np.testing.assert_array_equal(
        np.asarray(read_picture(folder / "16bit.cropped.tif", side=64))[..., 0], sixteen.astype(np.int64) >> 8
    )
    clear = read_picture(folder / "transparent.webp", side=150)
    assert colour_at(clear, 0.01, 0.99) == (255, 255, 255)


def test_every_real_cover_and_poster_is_read(real_data: Path) -> None:
    covers = sorted((real_data / "microlens-50k/covers").iterdir())
    posters = sorted((real_data / "ml-100k/posters").iterdir())
    assert (len(covers), len(posters)) == (10, 1617)
    assert {read_or_reason(path) for path in covers} == {(640, 360)}
    assert [path.name for path in posters if isinstance(read_or_reason(path), str)] == []


def test_no_program_is_run_for_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "1.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(BrokenPictureError):
        read_picture(tmp_path / "1.jpg", side=8)
    assert not (tmp_path / "ran").exists()

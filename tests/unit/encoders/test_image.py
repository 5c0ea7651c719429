"""Pictures of every kind are read or refused with a reason; the histogram describes them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odmt.data.features import open_features
from odmt.data.pictures import read_picture
from odmt.encoders import EncoderError, Unreadable, load_encoder
from odmt.encoders.__main__ import main
from odmt.encoders.histogram import Histogram
from tests.pictures import cut_short, two_halves
from tests.unit.encoders.conftest import FolderMaker
from tests.unit.encoders.tokens import arrays


def test_warnings_are_silenced_around_the_threads_not_in_them(tmp_path: Path) -> None:
    # More pixels than PIL likes, fewer than are refused.
    large = tmp_path / "large.png"
    Image.new("1", (9000, 10500)).save(large)
    with pytest.warns(Image.DecompressionBombWarning):  # in a thread, changing the filters would be a race
        read_picture(large, side=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(arrays(Histogram(), [large, large])) == 2


def test_a_truncated_jpeg_is_a_missing_modality(
    make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media = tmp_path / "covers"
    media.mkdir()
    two_halves().save(media / "1.jpeg")
    cut_short(media / "2.jpeg")
    dataset = make_folder(image=["1.jpeg", "2.jpeg", None, "4.jpeg", "1.jpeg"], media_root=media)
    assert main([str(dataset.path), "--modality", "image", "--encoder", "histogram(bins=8)"]) == 0
    out = capsys.readouterr().out
    assert "2 of 5 items have 10 tokens; 1 have no content, 2 could not be read" in out
    assert "item raw-2: damaged: image file is truncated" in out
    assert "item raw-4: the file is missing" in out
    mask = open_features(dataset, ["image"]).gather("image", range(6)).mask
    assert mask.sum(dim=1).tolist() == [0, 5, 0, 0, 0, 5]


def test_present_features_tell_what_could_not_be_read_and_how_to_try_again(
    make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media = tmp_path / "covers"
    media.mkdir()
    two_halves().save(media / "1.jpeg")
    dataset = make_folder(image=["1.jpeg", "2.jpeg"], media_root=media)
    command = [str(dataset.path), "--modality", "image", "--encoder", "histogram(bins=8)"]
    assert main(command) == 0
    folder = next((dataset.path / "features/image").iterdir())
    capsys.readouterr()
    assert main(command) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line == f"{folder}: there already, skipped; 1 items could not be read, delete {folder} to try them again"


def test_replaced_covers_do_not_pass_for_those_that_were_encoded(
    make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media = tmp_path / "covers"
    media.mkdir()
    two_halves().save(media / "1.jpeg")
    dataset = make_folder(image=["1.jpeg"], media_root=media)
    command = [str(dataset.path), "--modality", "image", "--encoder", "histogram(bins=8)"]
    assert main(command) == 0
    two_halves((200, 100)).save(media / "1.jpeg")
    assert main(command) == 2
    assert "image files were replaced, added or removed since" in capsys.readouterr().err


def test_every_real_picture_gives_tokens_or_a_reason(real_data: Path) -> None:
    paths = sorted((real_data / "media" / "image").iterdir())
    encoder = Histogram()
    broken = {}
    for path, one in zip(paths, encoder.encode(paths), strict=True):
        if isinstance(one, Unreadable):
            broken[path.name] = one.reason
        else:
            assert one.shape == (5, 32)
            assert np.isfinite(one).all()
            assert one.any()
    assert all(broken.values())
    # HEIC has no decoder in PIL; the other three are damaged on purpose.
    assert broken.keys() == {"broken.png", "ft_heic.heic", "truncated_image.png", "truncated_jpeg.jpg"}


def test_real_covers_are_read(real_data: Path) -> None:
    covers = sorted((real_data / "microlens-50k").rglob("*covers*/*.jpg"))
    assert len(covers) == 10
    rows = np.stack([one[0] for one in arrays(Histogram(), covers)])
    assert len(np.unique(rows, axis=0)) == 10


def plain(path: Path, colour: tuple[int, int, int]) -> Path:
    Image.new("RGB", (80, 60), colour).save(path)
    return path


def stripes(path: Path, *, upright: bool) -> Path:
    wave = np.uint8(127 + 100 * np.sin(np.arange(64) / 3))
    picture = np.tile(wave, (64, 1)) if upright else np.tile(wave[:, None], (1, 64))
    Image.fromarray(picture).save(path)
    return path


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_histogram_tells_colours_apart(tmp_path: Path) -> None:
    red, dark_red, blue = (
        arrays(Histogram(), [plain(tmp_path / f"{i}.png", colour)])[0][0]
        for i, colour in enumerate([(250, 10, 10), (245, 5, 15), (10, 10, 250)])
    )
    assert similarity(red, dark_red) > 0.99
    assert similarity(red, blue) < 0.5


def test_histogram_tells_directions_apart(tmp_path: Path) -> None:
    encoder = Histogram(bins=8)
    upright, level = (
        arrays(encoder, [stripes(tmp_path / f"{flag}.png", upright=flag)])[0][0] for flag in (True, False)
    )
    np.testing.assert_allclose(upright[:24], level[:24], atol=0.2)
    assert upright[24:].argmax() == 0  # brightness changes along 0 degrees
    assert level[24:].argmax() == 4  # and along 90 degrees
    assert similarity(upright[24:], level[24:]) < 0.1


def test_histogram_knows_where_things_are(tmp_path: Path) -> None:
    two_halves().save(tmp_path / "halves.png")
    tokens = arrays(Histogram(grid=2), [tmp_path / "halves.png"])[0]
    assert tokens.shape == (5, 32)
    whole, upper_left, upper_right, lower_left, lower_right = tokens
    assert similarity(upper_left, lower_left) > 0.99
    assert similarity(upper_left, upper_right) < 0.6
    assert similarity(lower_left, lower_right) < 0.6
    assert similarity(whole, upper_left) < 0.95
    assert len(arrays(Histogram(grid=1), [tmp_path / "halves.png"])[0]) == 1


def test_histogram_of_a_plain_picture_has_no_direction(tmp_path: Path) -> None:
    tokens = arrays(Histogram(), [plain(tmp_path / "grey.png", (90, 90, 90))])[0]
    assert not tokens[:, 24:].any()


@pytest.mark.parametrize("spec", ["histogram(bins=1)", "histogram(grid=0)", "histogram(grid=17)"])
def test_histogram_refuses_what_cannot_be(spec: str) -> None:
    with pytest.raises(EncoderError, match="bins must be at least 2, and grid from 1 to 16"):
        load_encoder("image", spec)

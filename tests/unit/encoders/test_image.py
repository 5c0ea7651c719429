"""Pictures of every kind are read or refused with a reason; timm models and the histogram describe them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from odmt.data.features import open_features
from odmt.data.pictures import read_picture
from odmt.encoders import Encoder, EncoderError, Unreadable, load_encoder
from odmt.encoders.__main__ import main
from odmt.encoders.image import Histogram
from odmt.encoders.torchvision_mend import mend_torchvision
from tests.pictures import cut_short, two_halves
from tests.unit.encoders.conftest import FolderMaker


def tokens_of(encoder: Encoder, *paths: Path) -> list[np.ndarray]:
    encoded = encoder.encode(paths)
    assert not any(isinstance(one, Unreadable) for one in encoded)
    return [one for one in encoded if isinstance(one, np.ndarray)]


def test_warnings_are_silenced_around_the_threads_not_in_them(tmp_path: Path) -> None:
    # More pixels than PIL likes, fewer than are refused.
    large = tmp_path / "large.png"
    Image.new("1", (9000, 10500)).save(large)
    with pytest.warns(Image.DecompressionBombWarning):  # in a thread, changing the filters would be a race
        read_picture(large, side=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(tokens_of(Histogram(), large, large)) == 2


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
    rows = np.stack([one[0] for one in tokens_of(Histogram(), *covers)])
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
        tokens_of(Histogram(), plain(tmp_path / f"{i}.png", colour))[0][0]
        for i, colour in enumerate([(250, 10, 10), (245, 5, 15), (10, 10, 250)])
    )
    assert similarity(red, dark_red) > 0.99
    assert similarity(red, blue) < 0.5


def test_histogram_tells_directions_apart(tmp_path: Path) -> None:
    encoder = Histogram(bins=8)
    upright, level = (
        tokens_of(encoder, stripes(tmp_path / f"{flag}.png", upright=flag))[0][0] for flag in (True, False)
    )
    np.testing.assert_allclose(upright[:24], level[:24], atol=0.2)
    assert upright[24:].argmax() == 0  # brightness changes along 0 degrees
    assert level[24:].argmax() == 4  # and along 90 degrees
    assert similarity(upright[24:], level[24:]) < 0.1


def test_histogram_knows_where_things_are(tmp_path: Path) -> None:
    two_halves().save(tmp_path / "halves.png")
    tokens = tokens_of(Histogram(grid=2), tmp_path / "halves.png")[0]
    assert tokens.shape == (5, 32)
    whole, upper_left, upper_right, lower_left, lower_right = tokens
    assert similarity(upper_left, lower_left) > 0.99
    assert similarity(upper_left, upper_right) < 0.6
    assert similarity(lower_left, lower_right) < 0.6
    assert similarity(whole, upper_left) < 0.95
    assert len(tokens_of(Histogram(grid=1), tmp_path / "halves.png")[0]) == 1


def test_histogram_of_a_plain_picture_has_no_direction(tmp_path: Path) -> None:
    tokens = tokens_of(Histogram(), plain(tmp_path / "grey.png", (90, 90, 90)))[0]
    assert not tokens[:, 24:].any()


@pytest.mark.parametrize("spec", ["histogram(bins=1)", "histogram(grid=0)", "histogram(grid=17)"])
def test_histogram_refuses_what_cannot_be(spec: str) -> None:
    with pytest.raises(EncoderError, match="bins must be at least 2, and grid from 1 to 16"):
        load_encoder("image", spec)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"picture{i}.png" for i in range(3)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(path)
    return paths


def timm_tokens(model: str, pictures: list[Path], *, seed: int = 0) -> torch.Tensor:
    """Run the plain timm model on the plain transform."""
    mend_torchvision()
    import timm
    import timm.data

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(model, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    inputs = torch.stack([transform(Image.open(path).convert("RGB")) for path in pictures])  # pyright: ignore[reportCallIssue, reportArgumentType]
    with torch.no_grad():
        return network.forward_features(inputs)


def test_vit_tokens_are_the_class_token_and_the_patches(pictures: list[Path]) -> None:
    theirs = timm_tokens("test_vit", pictures)
    encoder = load_encoder("image", "test_vit(pretrained=False)")
    ours = np.stack(tokens_of(encoder, *pictures))
    assert ours.shape == (3, 101, encoder.width)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def test_cnn_tokens_are_the_mean_and_the_map(pictures: list[Path]) -> None:
    theirs = timm_tokens("test_resnet", pictures)
    encoder = load_encoder("image", "test_resnet(pretrained=False)")
    ours = np.stack(tokens_of(encoder, *pictures))
    rows, columns = theirs.shape[2:]
    assert ours.shape == (3, 1 + rows * columns, encoder.width)
    np.testing.assert_allclose(ours[:, 0], theirs.mean(dim=(2, 3)).numpy(), atol=1e-5)
    np.testing.assert_allclose(ours[:, 1 + columns + 2], theirs[:, :, 1, 2].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "patches"),
    [
        ("test_convnext", 25),
        ("test_mambaout", 25),  # channels last
        ("test_maxvit", 25),
        ("test_vit_relpos", 100),  # no class token
        ("deit_tiny_distilled_patch16_224", 196),  # a distillation token beside the class token
    ],
)
def test_every_family_gives_a_summary_and_its_patches(model: str, patches: int, pictures: list[Path]) -> None:
    encoder = load_encoder("image", f"{model}(pretrained=False)")
    assert tokens_of(encoder, pictures[0])[0].shape == (1 + patches, encoder.width)


def test_a_broken_picture_does_not_disturb_its_batch(pictures: list[Path]) -> None:
    encoder = load_encoder("image", "test_vit(pretrained=False)")
    whole = tokens_of(encoder, *pictures)
    pictures[1].write_bytes(b"")
    first, second, third = encoder.encode(pictures)
    assert isinstance(second, Unreadable)
    np.testing.assert_allclose(first, whole[0], atol=1e-5)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(third, whole[2], atol=1e-5)  # pyright: ignore[reportArgumentType]
    assert all(isinstance(one, Unreadable) for one in encoder.encode([pictures[1]]))


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_of_a_local_file(suffix: str, pictures: list[Path], tmp_path: Path) -> None:
    mend_torchvision()
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(7)
    state = timm.create_model("test_vit", num_classes=3).state_dict()  # with a head, which is not asked for
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    encoder = load_encoder("image", f"test_vit(checkpoint={str(path)!r})")
    drawn = load_encoder("image", "test_vit(pretrained=False)")
    assert encoder.recipe()["weights"] != drawn.recipe()["weights"]
    assert str(tmp_path) not in f"{encoder.recipe()} {encoder.name}"
    loaded = encoder.model.state_dict()  # pyright: ignore[reportAttributeAccessIssue]
    assert all(torch.equal(loaded[name], state[name]) for name in loaded)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"nothing": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(EncoderError, match=r"of its weights .* and holds 1 others"):
        load_encoder("image", f"test_vit(checkpoint={str(tmp_path / 'other.safetensors')!r})")
    with pytest.raises(EncoderError, match=r"there is no checkpoint nowhere.pth"):
        load_encoder("image", "test_vit(checkpoint='nowhere.pth')")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(EncoderError, match="does not fit"):
        load_encoder("image", f"test_vit(checkpoint={str(tmp_path / 'broken.safetensors')!r})")
    (tmp_path / "broken.pth").write_bytes(b"no tensors")
    with pytest.raises(EncoderError, match="does not fit"):
        load_encoder("image", f"test_vit(checkpoint={str(tmp_path / 'broken.pth')!r})")


def test_drawn_weights_are_the_same_every_time_and_leave_the_callers_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second = (load_encoder("image", "test_vit(pretrained=False)").recipe() for _ in range(2))
    assert first == second
    assert torch.equal(torch.rand(1), expected)


def test_bf16_is_another_recipe_and_close(pictures: list[Path]) -> None:
    full, fast = (load_encoder("image", "test_vit(pretrained=False)", **o) for o in ({}, {"bf16": True}))
    assert full.recipe() != fast.recipe()
    a, b = tokens_of(full, pictures[0])[0], tokens_of(fast, pictures[0])[0]
    assert np.abs(a - b).max() < 0.1 * np.abs(a).max()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "timm has no model 'resnet81'; did you mean 'resnet18'"),
        ("test_vit(pretraind=False)", "takes no argument 'pretraind'; did you mean 'pretrained'"),
        ("test_vit", r"test_vit\(checkpoint=\"path/to/model.safetensors\"\)"),
        ("test_vit.no_such_tag", "no_such_tag"),
    ],
)
def test_wrong_models_are_answered(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_encoder("image", name)

"""timm models: their tokens against the plain model, every family, and weights that fit or do not."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from odmt.encoders import EncoderError, Unreadable, load_encoder
from odmt.encoders.image import TimmImage
from odmt.encoders.network import FilePreparation, FrozenNetwork, Network
from odmt.encoders.timm_models import create_timm
from odmt.encoders.timm_models import timm_tokens as our_tokens
from odmt.encoders.torchvision_mend import mend_torchvision
from odmt.encoders.video import TimmFrames
from odmt.spec import SpecError
from tests.unit.encoders.tokens import arrays


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
    ours = np.stack(arrays(encoder, pictures))
    assert ours.shape == (3, 101, encoder.width)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def test_cnn_tokens_are_the_mean_and_the_map(pictures: list[Path]) -> None:
    theirs = timm_tokens("test_resnet", pictures)
    encoder = load_encoder("image", "test_resnet(pretrained=False)")
    ours = np.stack(arrays(encoder, pictures))
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
    assert arrays(encoder, pictures[:1])[0].shape == (1 + patches, encoder.width)


@pytest.mark.parametrize(
    ("model", "patches", "prefix"),
    [
        ("pit_ti_224", 49, 1),  # forward_features keeps the patches to itself
        ("pit_ti_distilled_224", 49, 2),
        ("coat_lite_tiny", 49, 1),  # class tokens that no num_prefix_tokens counts
        ("volo_d1_224", 196, 1),
    ],
)
def test_class_tokens_that_a_model_does_not_count(model: str, patches: int, prefix: int) -> None:
    encoder = load_encoder("image", f"{model}(pretrained=False)")
    assert isinstance(encoder, FrozenNetwork)
    network = encoder.network
    network.scale = torch.nn.Identity()
    pixels = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        plain = network.model.eval().forward_features(pixels)
        ours = network({"pixels": pixels}).values
    assert ours.shape == (1, 1 + patches, encoder.width)
    torch.testing.assert_close(ours[:, 0], plain[:, 0])
    if plain.shape[1] > prefix:
        torch.testing.assert_close(ours[:, 1:], plain[:, prefix:])
    assert (
        encoder.recipe()["method"] == f"timm {type(network.model).__name__}, class token first, then patches row by row"
    )


def test_registers_are_no_summary(pictures: list[Path]) -> None:
    encoder = load_encoder("image", "test_vit2(pretrained=False)")  # a register, and no class token
    ours = np.stack(arrays(encoder, pictures))
    theirs = timm_tokens("test_vit2", pictures).numpy()
    np.testing.assert_allclose(ours[:, 1:], theirs[:, 1:], atol=1e-5)
    np.testing.assert_allclose(ours[:, 0], theirs[:, 1:].mean(axis=1), atol=1e-5)
    told = "timm VisionTransformer, mean of patches first, then patches row by row"
    assert encoder.recipe()["method"] == told
    told = "timm VisionTransformer, summary token first, then patches row by row"
    assert load_encoder("image", "test_vit(pretrained=False)").recipe()["method"] == told


def test_patches_of_pit_are_in_order() -> None:
    network = create_timm("pit_ti_224", pretrained=False, checkpoint="", size=0, modality="image").eval()
    pixels = torch.rand(1, 3, 224, 224)
    other = pixels.clone()
    other[:, :, :56, -56:] = 0  # the upper right
    with torch.no_grad():
        moved = (our_tokens(network, pixels) - our_tokens(network, other))[0, 1:].norm(dim=-1).view(7, 7)
    assert moved[:2, -2:].min() > moved[-2:, :2].max()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crossvit_tiny_240(", r"CrossVit gives .* 240 x 240 \(it gives 2 sequences .*, such as vit_small_patch16_224"),
        ("coat_tiny(", r"CoaT gives .*\(it gives 3 sequences of tokens, and not one\)"),
        ("efficientvim_m1(", r"EfficientViM gives .*\(it gives 4 sequences of tokens, and not one\)"),
        (
            "test_vit(size=100, ",
            r"'test_vit': VisionTransformer gives no tokens of pictures of 100 x 100 \(.*divisible",
        ),
    ],
)
def test_models_that_give_no_tokens_are_refused(name: str, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        load_encoder("image", f"{name}pretrained=False)")


@pytest.mark.parametrize(("whole", "sees"), [("", False), ("squash", True), ("pad", True)])
@pytest.mark.parametrize("turned", [False, True])
def test_what_stands_at_the_ends_of_a_long_picture(whole: str, sees: bool, turned: bool) -> None:
    grey = np.full((40, 160, 3), 90, dtype=np.uint8)
    marked = grey.copy()
    marked[:, :20], marked[:, -20:] = (255, 0, 0), (0, 0, 255)
    network = TimmImage("test_vit", pretrained=False, whole=whole)
    assert isinstance(network.preparation, FilePreparation)
    shown = [network.preparation.fit((x.swapaxes(0, 1) if turned else x)[None]) for x in (grey, marked)]
    assert shown[0].shape == shown[1].shape == network.example()["pixels"].shape[1:]
    assert (not torch.equal(*shown)) is sees
    assert (shown[0] == 90).all().item() is (whole != "pad")  # whose bars have the colour that networks expect most


def test_frames_may_be_shown_whole_and_no_other_way_is_known() -> None:
    frames = TimmFrames("test_vit", frames=1, pretrained=False, whole="squash")
    assert frames.reading()["preprocessing"]["crop_mode"] == "squash"
    told = 'whole=\'border\' is no way to show all of a picture; write "squash" or "pad"'
    with pytest.raises(EncoderError, match=re.escape(told)):
        TimmImage("test_vit", pretrained=False, whole="border")


def test_a_broken_picture_does_not_disturb_its_batch(pictures: list[Path]) -> None:
    encoder = load_encoder("image", "test_vit(pretrained=False)")
    whole = arrays(encoder, pictures)
    pictures[1].write_bytes(b"")
    first, second, third = encoder.encode(pictures)
    assert isinstance(first, np.ndarray)
    assert isinstance(second, Unreadable)
    assert isinstance(third, np.ndarray)
    np.testing.assert_allclose(first, whole[0], atol=1e-5)
    np.testing.assert_allclose(third, whole[2], atol=1e-5)
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
    assert isinstance(encoder, FrozenNetwork)
    loaded = encoder.network.model.state_dict()
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
    a, b = arrays(full, pictures[:1])[0], arrays(fast, pictures[:1])[0]
    assert np.abs(a - b).max() < 0.1 * np.abs(a).max()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "timm has no model 'resnet81'; did you mean 'resnet18'"),
        ("test_vit(pretraind=False)", "^test_vit takes no argument 'pretraind'; did you mean 'pretrained'"),
        ("test_vit(False)", r"^image encoder 'test_vit\(False\)': arguments go by name; write key=False$"),
        ("test_vit", r"test_vit\(checkpoint=\"path/to/model.safetensors\"\)"),
        ("test_vit.no_such_tag", "no_such_tag"),
    ],
)
def test_wrong_models_are_answered(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_encoder("image", name)


@pytest.mark.parametrize("modality", ["image", "video"])
def test_what_is_advised_without_a_network_can_be_had(modality: str) -> None:
    with pytest.raises(EncoderError, match="Without a network") as caught:
        Network.load(modality, "test_vit")
    told = str(caught.value)
    file = 'test_vit(checkpoint="path/to/model.safetensors")'
    histogram = ["histogram(bins=8)"] if modality == "image" else []
    assert re.findall("--encoder '(.*?)'", told) == [file, *histogram]
    assert re.findall(f"--model.encoders '{modality}=(.*?)'", told) == [file, "test_vit(pretrained=False)"]
    assert Network.load(modality, "test_vit(pretrained=False)").width == 64


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("test_vit(checkpoint=weights/x.safetensors)", 'test_vit(checkpoint="weights/x.safetensors")'),
        ("test_vit(checkpoint=weights/x.pth, bf16=True)", 'test_vit(checkpoint="weights/x.pth", bf16=True)'),
        ("test_vit( bf16 = True, checkpoint = my x.pth )", 'test_vit( bf16 = True, checkpoint = "my x.pth")'),
        (
            "odmt.encoders.image:TimmImage(model=test_vit, pretrained=False)",
            'odmt.encoders.image:TimmImage(model="test_vit", pretrained=False)',
        ),
    ],
)
def test_a_text_without_quotes_is_answered_with_the_right_command(name: str, right: str) -> None:
    with pytest.raises(SpecError, match="text values need quotes: --encoder") as caught:
        load_encoder("image", name)
    message = str(caught.value)
    assert message.startswith(f"image encoder {name!r}")
    assert message.endswith(f"--encoder '{right}'")
    assert "timm(" not in message


@pytest.mark.parametrize(
    "name",
    [
        "test_vit(checkpoint=",
        "test_vit(checkpoint='x)",
        "test_vit(checkpoint='x', checkpoint=y)",
        "histogram(bins=eight)",
        "no.such.package:Encoder(path=weights/x)",
    ],
)
def test_no_command_is_proposed_that_would_be_refused_too(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(name)) as caught:
        load_encoder("image", name)
    assert "need quotes" not in str(caught.value)

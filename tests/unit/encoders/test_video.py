"""Video encoders of all three makers: their tokens against the plain models, and clips that cannot be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch

from odmt.data.clips import read_clip
from odmt.encoders import EncoderError, Unreadable, load_encoder, parse_encoder
from odmt.encoders.torchvision_mend import mend_torchvision
from odmt.spec import SpecError
from tests.unit.encoders.tokens import arrays


def test_frames_of_a_clip_are_encoded_as_pictures_are(clips: list[Path], tmp_path: Path) -> None:
    from PIL import Image

    frames = read_clip(clips[0], frames=4, side=320).frames
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    pictures = [tmp_path / f"{number}.png" for number in range(4)]
    summaries = np.stack(arrays(load_encoder("image", "test_vit(pretrained=False)"), pictures))[:, 0]
    (each,) = arrays(load_encoder("video", "test_vit(frames=4, pool='none', pretrained=False)"), clips[:1])
    np.testing.assert_allclose(each, summaries, atol=1e-5)
    (mean,) = arrays(load_encoder("video", "test_vit(frames=4, pretrained=False)"), clips[:1])
    np.testing.assert_allclose(mean, summaries.mean(0, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("pool", ["attention", "transformer"])
def test_a_pool_that_learns_starts_as_the_mean_and_is_not_stored(pool: str, clips: list[Path]) -> None:
    network = parse_encoder("video", f"test_vit(frames=4, pretrained=False, pool='{pool}')").build()
    mean = parse_encoder("video", "test_vit(frames=4, pretrained=False)").build()
    inputs = network.preparation(clips).inputs
    network.eval()
    ours = network(inputs).values
    np.testing.assert_allclose(ours.detach(), mean.eval()(inputs).values.detach(), atol=1e-5)
    (ours[0] * torch.randn(ours.shape[2])).sum().backward()  # the other clip's frames are all the same
    assert all(p.grad is not None for p in network.pooling.parameters())
    if pool == "attention":
        assert network.pooling.query.grad.abs().max() > 0
    with pytest.raises(EncoderError, match=f"pool='{pool}' is trained with a recommender"):
        load_encoder("video", f"test_vit(frames=4, pretrained=False, pool='{pool}')").recipe()


@pytest.mark.parametrize(("model", "frames", "steps"), [("r3d_18", 8, 1), ("mc3_18", 8, 8), ("r2plus1d_18", 4, 1)])
def test_residual_networks_of_torchvision(model: str, frames: int, steps: int, clips: list[Path]) -> None:
    mend_torchvision()
    from torchvision.models import get_model, get_model_weights
    from torchvision.models.video import R3D_18_Weights

    encoder = load_encoder("video", f"{model}(frames={frames}, pretrained=False)")
    (ours, single) = arrays(encoder, clips)
    assert ours.shape == single.shape == (1 + steps, 512) == (1 + steps, encoder.width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = get_model(model).eval()
    theirs.fc = torch.nn.Identity()
    assert get_model_weights(model).DEFAULT.transforms().mean == R3D_18_Weights.DEFAULT.transforms().mean
    clip = torch.from_numpy(read_clip(clips[0], frames=frames, side=342).frames).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = theirs(R3D_18_Weights.DEFAULT.transforms()(clip)[None])[0]
    np.testing.assert_allclose(ours[0], expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(ours[1:].mean(0), ours[0], atol=1e-5)


@pytest.mark.parametrize(
    ("model", "frames", "width", "steps"), [("mvit_v2_s", 16, 768, 8), ("swin3d_t", 4, 768, 2), ("s3d", 14, 1024, 2)]
)
def test_other_networks_of_torchvision(model: str, frames: int, width: int, steps: int, clips: list[Path]) -> None:
    mend_torchvision()
    from torchvision.models import get_model, get_model_weights

    encoder = load_encoder("video", f"{model}(frames={frames}, pretrained=False)")
    (ours,) = arrays(encoder, clips[:1])
    assert ours.shape == (1 + steps, width) == (1 + steps, encoder.width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs: Any = get_model(model).eval()
    known: Any = get_model_weights(model)
    clip = torch.from_numpy(read_clip(clips[0], frames=frames, side=512).frames).permute(0, 3, 1, 2)
    with torch.no_grad():
        if model == "s3d":
            expected = theirs.avgpool(theirs.features(known.DEFAULT.transforms()(clip)[None])).mean(dim=(2, 3, 4))[0]
        else:
            theirs.head = torch.nn.Identity()
            expected = theirs(known.DEFAULT.transforms()(clip)[None])[0]
    np.testing.assert_allclose(ours[0], expected.numpy(), atol=1e-4)


def test_clips_that_cannot_be_read_do_not_disturb_their_batch(clips: list[Path], tmp_path: Path) -> None:
    encoder = load_encoder("video", "test_vit(frames=2, pretrained=False)")
    whole = arrays(encoder, clips[:1])[0]
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(clips[0].read_bytes()[:3000])
    found = encoder.encode([tmp_path / "empty.mp4", clips[0], tmp_path / "cut.mp4", tmp_path / "gone.mp4"])
    assert [type(one) is Unreadable for one in found] == [True, False, True, True]
    assert isinstance(found[1], np.ndarray)
    np.testing.assert_allclose(found[1], whole, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("r3d_18", "TorchvisionVideo"),
        ("swin3d_b(frames=32)", "TorchvisionVideo"),
        ("MCG-NJU/videomae-base", "TransformersVideo"),
        ("vit_base_patch16_224(frames=4)", "TimmFrames"),
    ],
)
def test_whose_model_a_name_is(name: str, target: str) -> None:
    assert parse_encoder("video", name).target.endswith(f":{target}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("r3d_81", "torchvision has no video model 'r3d_81'; did you mean 'r3d_18'"),
        ("resnet81(frames=2)", "timm has no model 'resnet81'; did you mean 'resnet18'"),
        ("r3d_18(frames=0)", "video encoder 'r3d_18': frames=0, stride=1: both must be at least 1"),
        ("mvit_v2_s(frames=8)", "reads 16 frames, not 8"),
        ("s3d(frames=8)", "needs at least 14 frames, not 8"),
        ("test_vit(pool='max')", "pool='max' is none of none, mean, attention, transformer"),
        ("test_vit(sample='first')", "sampled uniform or middle or random, not 'first'"),
        (
            "r3d_18",
            r"its weights are not to be had .* download https://.* 'r3d_18\(checkpoint=\"path/to/weights.pth\"\)'",
        ),
        ("r3d_18(checkpoint='nowhere.pth')", "there is no checkpoint nowhere.pth"),
        ("configs/videomae/tinyy(weights=False)", "'configs/videomae/tinyy': it is neither a folder here nor"),
        ("./tiny", "video encoder './tiny': it is neither a folder here nor"),
        ("nobody/nothing(weights=False)", "'nobody/nothing': it is neither a folder here nor to be had"),
    ],
)
def test_wrong_models_are_answered(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    with pytest.raises(ValueError, match=message):
        load_encoder("video", name)


def test_what_is_read_is_part_of_the_recipe() -> None:
    names = ("", "frames=2", "frames=2, sample='middle'", "frames=2, sample='middle', stride=2", "pool='none'")
    recipes = [str(load_encoder("video", f"test_vit(pretrained=False, {name})").recipe()) for name in names[1:]]
    assert len({*recipes}) == len(recipes)


def test_unknown_arguments_are_answered() -> None:
    with pytest.raises(SpecError, match=re.escape("r3d_18 takes no argument 'frame'; did you mean 'frames'")):
        load_encoder("video", "r3d_18(frame=8)")


def test_every_real_clip_gives_tokens_or_a_reason(real_data: Path) -> None:
    paths = sorted((real_data / "microlens-50k" / "videos").iterdir())
    paths += sorted(path for path in (real_data / "media" / "video").iterdir())
    encoder = load_encoder("video", "test_vit(frames=3, pretrained=False)")
    found = dict(zip(paths, encoder.encode(paths), strict=True))
    broken = {path.name: one.reason for path, one in found.items() if isinstance(one, Unreadable)}
    assert all(broken.values())
    assert len(broken) < len(found) / 4
    assert all(found[path] is not None for path in paths if path.parent.name == "videos")
    assert not any(path.name in broken for path in paths if path.parent.name == "videos")
    tokens = [one for one in found.values() if isinstance(one, np.ndarray)]
    assert all(one.shape == (1, encoder.width) and np.isfinite(one).all() for one in tokens)

"""Video encoders of all three makers: their tokens against the plain models, and clips that cannot be read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from odmt.data.clips import read_clip
from odmt.encoders import EncoderError, Unreadable, load_encoder, parse_encoder
from odmt.encoders.policies import TrainedEncoder
from odmt.encoders.torchvision_mend import mend_torchvision
from odmt.spec import SpecError
from tests.clips import write_clip
from tests.unit.encoders.tokens import arrays


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [write_clip(folder / "long.mp4"), write_clip(folder / "one.mp4", frames=1)]


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


SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "num_frames": 4,
}


def videomae(folder: Path) -> None:
    from transformers import VideoMAEConfig, VideoMAEModel, VideoMAEVideoProcessor

    VideoMAEModel(VideoMAEConfig(**SMALL, patch_size=8)).save_pretrained(folder)
    VideoMAEVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


def timesformer(folder: Path) -> None:
    from transformers import TimesformerConfig, TimesformerModel, VideoMAEImageProcessor

    TimesformerModel(TimesformerConfig(**SMALL, patch_size=8)).save_pretrained(folder)
    VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


def vivit(folder: Path) -> None:
    from transformers import VivitConfig, VivitImageProcessor, VivitModel

    VivitModel(VivitConfig(**SMALL, tubelet_size=[2, 8, 8])).save_pretrained(folder)
    VivitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


def vjepa2(folder: Path) -> None:
    from transformers import VJEPA2Config, VJEPA2Model, VJEPA2VideoProcessor

    config = VJEPA2Config(
        patch_size=8,
        crop_size=32,
        frames_per_clip=4,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        pred_hidden_size=24,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=3,
    )
    VJEPA2Model(config).save_pretrained(folder)
    VJEPA2VideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


def xclip(folder: Path) -> None:
    from transformers import CLIPImageProcessor, XCLIPConfig, XCLIPModel

    text = {name: value for name, value in SMALL.items() if name.startswith(("hidden", "num_h", "num_a", "inter"))}
    text |= {"vocab_size": 9, "max_position_embeddings": 8, "eos_token_id": 1, "bos_token_id": 1}
    vision = {**SMALL, "patch_size": 8, "mit_hidden_size": 24, "mit_intermediate_size": 32, "mit_num_hidden_layers": 1}
    config = XCLIPConfig(text_config=text, vision_config={**vision, "mit_num_attention_heads": 2}, projection_dim=24)
    XCLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


@pytest.mark.parametrize(
    ("save", "steps", "width"),
    [(videomae, 2, 16), (timesformer, 4, 16), (vivit, 2, 16), (vjepa2, 2, 24), (xclip, 0, 24)],
)
def test_models_of_transformers(
    save: Callable[[Path], None], steps: int, width: int, clips: list[Path], tmp_path: Path
) -> None:
    mend_torchvision()
    torch.manual_seed(0)
    save(tmp_path / "model")
    encoder = load_encoder("video", str(tmp_path / "model"))
    ours, single = arrays(encoder, clips)
    assert ours.shape == single.shape == (1 + steps, width) == (1 + steps, encoder.width)
    assert np.isfinite(ours).all()
    assert np.abs(ours - single).max() > 1e-4
    reverse = arrays(encoder, clips[::-1])[1]
    np.testing.assert_allclose(reverse, ours, atol=1e-5)


@pytest.mark.parametrize("save", [videomae, timesformer, vivit, vjepa2, xclip])
def test_the_last_block_of_models_of_transformers(save: Callable[[Path], None], tmp_path: Path) -> None:
    save(tmp_path / "model")
    encoder = TrainedEncoder(parse_encoder("video", str(tmp_path / "model")).build(), "top(1)").train()
    encoder(encoder.network.example()).values.square().sum().backward()
    moved = {name for name, p in encoder.network.model.named_parameters() if p.grad is not None and p.grad.any()}
    trained = {name for name, p in encoder.network.model.named_parameters() if p.requires_grad}
    assert moved
    layers = {number for name in trained for number in re.findall(r"(?<!mit.encoder.)\blayers?\.(\d+)\.", name)}
    assert layers == {"1"}, "the last of two, and nothing before it"
    assert not any(word in name for name in trained for word in ("predictor", "text_model", "prompts", "pre_layernorm"))


@pytest.mark.parametrize("save", [videomae, timesformer, vivit])
def test_pixels_are_those_of_the_processor_and_steps_are_in_order(
    save: Callable[[Path], None], clips: list[Path], tmp_path: Path
) -> None:
    mend_torchvision()
    from transformers import AutoImageProcessor, AutoModel, AutoVideoProcessor

    torch.manual_seed(0)
    save(tmp_path / "model")
    network = parse_encoder("video", str(tmp_path / "model")).build()
    inputs = network.preparation(clips[:1]).inputs
    frames = [torch.from_numpy(f).permute(2, 0, 1) for f in read_clip(clips[0], frames=4, side=64).frames]
    maker = AutoVideoProcessor if save is videomae else AutoImageProcessor
    (theirs,) = maker.from_pretrained(tmp_path / "model")(frames, return_tensors="pt").values()
    torch.testing.assert_close(network.scale(inputs["pixels"]), theirs, atol=1e-5, rtol=0)
    model: Any = AutoModel.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        found = model(pixel_values=theirs).last_hidden_state[0]
        ours = network.eval()(inputs).values[0]
    if save is videomae:  # 2 steps of 16 places
        torch.testing.assert_close(ours[2], found[16:].mean(0), atol=1e-5, rtol=0)
        torch.testing.assert_close(ours[0], found.mean(0), atol=1e-5, rtol=0)
    elif save is vivit:
        torch.testing.assert_close(ours[2], found[17:].mean(0), atol=1e-5, rtol=0)
        torch.testing.assert_close(ours[0], found[0], atol=1e-5, rtol=0)
    else:  # 16 places of 4 steps
        torch.testing.assert_close(ours[3], found[3::4].mean(0), atol=1e-5, rtol=0)


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
def test_wrong_models_are_answered(name: str, message: str) -> None:
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

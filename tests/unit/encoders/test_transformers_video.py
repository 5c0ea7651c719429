"""Video models of transformers: their tokens against the plain models, and what they cannot read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from odmt.data.clips import read_clip
from odmt.encoders import EncoderError, load_encoder, parse_encoder
from odmt.encoders.policies import TrainedEncoder
from odmt.encoders.torchvision_mend import mend_torchvision
from tests.unit.encoders.test_transformers_image import vit as save_vit
from tests.unit.encoders.tokens import arrays

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


@pytest.mark.parametrize(("save", "kind"), [(videomae, "videomae"), (timesformer, "timesformer"), (vivit, "vivit")])
def test_frames_that_a_model_has_no_positions_for_are_refused(
    save: Callable[[Path], None], kind: str, tmp_path: Path
) -> None:
    save(tmp_path / "model")
    message = rf"model': {kind} has positions for 4 frames, and not for 8; leave frames out, or"
    with pytest.raises(EncoderError, match=message):
        load_encoder("video", f"transformers(model={str(tmp_path / 'model')!r}, frames=8)")
    given = load_encoder("video", f"transformers(model={str(tmp_path / 'model')!r}, frames=4)")
    assert given.recipe() == load_encoder("video", str(tmp_path / "model")).recipe()


def test_other_frames_of_a_model_without_positions(clips: list[Path], tmp_path: Path) -> None:
    vjepa2(tmp_path / "model")
    encoder = load_encoder("video", f"transformers(model={str(tmp_path / 'model')!r}, frames=8)")
    assert arrays(encoder, clips[:1])[0].shape == (1 + 4, encoder.width)
    with pytest.raises(EncoderError, match=r"vjepa2 reads 2 frames at a time, and not 1"):
        load_encoder("video", f"transformers(model={str(tmp_path / 'model')!r}, frames=1)")


def test_a_model_of_pictures_is_refused(tmp_path: Path) -> None:
    save_vit(tmp_path / "model")
    message = r"model': vit is no model of clips.* modality image.* 'vit_base_patch16_224\(frames=8\)'"
    with pytest.raises(EncoderError, match=message):
        load_encoder("video", str(tmp_path / "model"))

"""Families of transformers' image models: one token for all of the picture, then one for each place, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from odmt.encoders import EncoderError, load_encoder, parse_encoder
from odmt.encoders.torchvision_mend import mend_torchvision
from tests.unit.encoders.tokens import arrays

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
ALL = "all tokens of the last layer"
CLASS = "class token, then patches of the last layer"
HEAD = "pooled by its head, then patches of the last layer"
MEAN = "mean of patches, then patches of the last layer"


def saved(folder: Path, kind: str, **options: Any) -> Any:
    """Save a tiny model of a family, its weights far from nothing, beside a processor; return it."""
    mend_torchvision()
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 10)
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def theirs(model: Any, picture: Path) -> Any:
    """Run the plain model on the plain processor's pixels: (x / 255 - 0.5) / 0.5."""
    pixels = torch.from_numpy(np.asarray(Image.open(picture)).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        return model(pixel_values=pixels)


SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
STAGES = {"hidden_sizes": [4, 8, 8, 16], "depths": [1, 1, 1, 1]}
FAMILIES: list[tuple[str, dict[str, Any], str, int]] = [
    ("ViT", SMALL, ALL, 16),
    ("Beit", SMALL, ALL, 16),
    ("Dinov2", SMALL, ALL, 16),
    ("Data2VecVision", SMALL, ALL, 16),
    ("ConvNext", STAGES, ALL, 1),
    ("ResNet", {**STAGES, "embedding_size": 4, "layer_type": "basic"}, ALL, 1),
    ("DeiT", SMALL, CLASS, 16),
    ("Dinov2WithRegisters", {**SMALL, "num_register_tokens": 3}, CLASS, 16),
    ("DINOv3ViT", {**SMALL, "num_register_tokens": 3}, CLASS, 16),
    ("Swin", SWIN, MEAN, 16),
    ("IJepa", SMALL, MEAN, 16),
    ("SiglipVision", SMALL, HEAD, 16),
    ("SiglipVision", {**SMALL, "vision_use_head": False}, MEAN, 16),
    ("DINOv3ConvNext", {**STAGES, "image_size": 32}, ALL, 1),
]


@pytest.mark.parametrize(("kind", "options", "method", "patches"), FAMILIES)
def test_a_summary_and_the_patches(
    kind: str, options: dict[str, Any], method: str, patches: int, picture: Path, tmp_path: Path
) -> None:
    plain = theirs(saved(tmp_path / "model", kind, **options), picture)
    encoder = load_encoder("image", str(tmp_path / "model"))
    (ours,) = arrays(encoder, [picture])
    assert ours.shape == (1 + patches, encoder.width) == (1 + patches, 16)
    assert encoder.recipe()["method"] == f"transformers {kind}Model, {method}"
    found = plain.last_hidden_state[0]
    if found.ndim == 3:  # a map of channels
        found = found.flatten(1).T
    np.testing.assert_allclose(ours[1:], found[-patches:].numpy(), atol=1e-4)
    if method == HEAD:
        expected = plain.pooler_output[0]
    elif method == MEAN or (method == ALL and len(found) == patches):
        expected = found.mean(0)
    else:
        expected = found[0]
    np.testing.assert_allclose(ours[0], expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["DeiT", "Dinov2WithRegisters", "SiglipVision", "Swin", "ViTMAE"])
def test_the_summary_depends_on_every_place(kind: str, tmp_path: Path) -> None:
    saved(tmp_path / "model", kind, **(SWIN if kind == "Swin" else SMALL))
    network = parse_encoder("image", str(tmp_path / "model")).build().eval()
    pixels = torch.rand(1, 3, 32, 32, requires_grad=True)
    network.scale = torch.nn.Identity()
    (network({"pixels": pixels}).values[0, 0] * torch.randn(16)).sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad.unfold(2, 8, 8).unfold(3, 8, 8).abs().amax((0, 1, 4, 5)) > 0).all()


def test_vit_mae_sees_every_patch_in_order(picture: Path, tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "ViTMAE", **SMALL, mask_ratio=0.75)
    model.config.mask_ratio = 0.0
    found = theirs(model, picture)
    expected = found.last_hidden_state[0].clone()
    expected[1:] = expected[1:][found.ids_restore[0]]
    first, again = load_encoder("image", str(tmp_path / "model")), load_encoder("image", str(tmp_path / "model"))
    (ours,) = arrays(first, [picture])
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-5)
    np.testing.assert_array_equal(arrays(again, [picture] * 3)[2], ours)
    assert first.recipe() == again.recipe()
    assert first.recipe()["method"] == "transformers ViTMAEModel, all tokens of the last layer, none masked"


def test_a_model_that_gives_no_tokens_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "model", "ImageGPT", n_embd=16, n_layer=1, n_head=2, n_positions=16, vocab_size=8)
    with pytest.raises(EncoderError, match=r"model': ImageGPTModel gives no tokens of a picture .*choose"):
        load_encoder("image", str(tmp_path / "model"))

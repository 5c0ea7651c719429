"""Image models of transformers: their tokens against the plain model behind the plain processor."""

from __future__ import annotations

from collections.abc import Callable
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


def vit(folder: Path) -> None:
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    ViTModel(ViTConfig(**SMALL)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    text = {name: value for name, value in SMALL.items() if name.startswith(("hidden", "num", "inter"))}
    text |= {"vocab_size": 9, "max_position_embeddings": 8, "eos_token_id": 1, "bos_token_id": 1}
    CLIPModel(CLIPConfig(text_config=text, vision_config=SMALL)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


def siglip(folder: Path) -> None:
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    SiglipVisionModel(SiglipVisionConfig(**SMALL)).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def convnext(folder: Path) -> None:
    from transformers import ConvNextConfig, ConvNextImageProcessor, ConvNextModel

    config = ConvNextConfig(hidden_sizes=[4, 8, 8, 16], depths=[1, 1, 1, 1], image_size=64)
    ConvNextModel(config).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 64}).save_pretrained(folder)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.parametrize(("save", "tokens"), [(vit, 17), (clip, 17), (siglip, 17), (convnext, 5)])
def test_tokens_against_the_plain_model(
    save: Callable[[Path], None], tokens: int, picture: Path, tmp_path: Path
) -> None:
    mend_torchvision()
    from transformers import AutoImageProcessor, AutoModel

    torch.manual_seed(0)
    save(tmp_path / "model")
    encoder = load_encoder("image", str(tmp_path / "model"))
    (ours,) = arrays(encoder, [picture])
    assert ours.shape == (tokens, encoder.width) == (tokens, 16)
    model: Any = AutoModel.from_pretrained(tmp_path / "model").eval()
    model = getattr(model, "vision_model", model)
    inputs = AutoImageProcessor.from_pretrained(tmp_path / "model")(Image.open(picture), return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    theirs = output.last_hidden_state[0]
    if theirs.ndim == 3:
        theirs = theirs.flatten(1).T
        theirs = torch.cat([theirs.mean(0, keepdim=True), theirs])
    if save is siglip:
        theirs = torch.cat([output.pooler_output, theirs])
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def test_settings_of_the_processor_are_part_of_the_recipe(tmp_path: Path) -> None:
    mend_torchvision()
    from transformers import ViTImageProcessor

    vit(tmp_path / "model")
    first = load_encoder("image", str(tmp_path / "model")).recipe()
    assert load_encoder("image", str(tmp_path / "model")).recipe() == first
    assert str(tmp_path) not in str(first)
    ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path / "model")
    assert load_encoder("image", str(tmp_path / "model")).recipe() != first


@pytest.mark.parametrize(
    ("name", "maker"),
    [
        ("google/vit-base-patch16-224", "transformers"),
        ("vit_base_patch16_224", "timm"),
        ("hf-hub:timm/vit_base_patch16_224.augreg_in21k", "timm"),
        ("timm/vit_base_patch16_224.augreg_in21k", "timm"),
        ("transformers(model='local-name')", "transformers"),
        ("histogram(bins=4)", "histogram"),
    ],
)
def test_whose_model_a_name_is(name: str, maker: str) -> None:
    makers = {"transformers": "TransformersImage", "timm": "TimmImage", "histogram": "Histogram"}
    assert parse_encoder("image", name).target.endswith(f":{makers[maker]}")


def test_a_folder_without_a_processor_is_refused(tmp_path: Path) -> None:
    mend_torchvision()
    vit(tmp_path / "model")
    for file in (tmp_path / "model").glob("*processor*"):
        file.unlink()
    with pytest.raises(EncoderError, match=r"it must hold a model and its preprocessor_config\.json"):
        load_encoder("image", str(tmp_path / "model"))

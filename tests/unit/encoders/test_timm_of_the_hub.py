"""timm models by what the hub calls them, and from a folder of the hub's layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from odmt.encoders import EncoderError, load_encoder, parse_encoder
from odmt.encoders.network import Network
from odmt.encoders.torchvision_mend import mend_torchvision


def saved(folder: Path) -> dict[str, torch.Tensor]:
    """Save a small model as the hub has it; return its weights."""
    mend_torchvision()
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(7)
    model = timm.create_model("test_vit", num_classes=3)
    save_for_hf(model, str(folder), safe_serialization=True)
    return model.state_dict()


@pytest.mark.parametrize("modality", ["image", "video"])
def test_a_name_of_the_hub_is_that_of_timm(modality: str) -> None:
    of_hub, of_timm = (load_encoder(modality, f"{name}(pretrained=False)") for name in ("timm/test_vit", "test_vit"))
    assert of_hub.recipe() == of_timm.recipe()
    with pytest.raises(EncoderError, match=r"'timm/vit_of_next_year.x': cannot be loaded"):
        load_encoder(modality, "timm/vit_of_next_year.x")


@pytest.mark.parametrize("modality", ["image", "video"])
def test_a_folder_is_loaded_and_kept(modality: str, tmp_path: Path) -> None:
    weights = saved(tmp_path / "folder")
    name = str(tmp_path / "folder")
    network = parse_encoder(modality, name).build()
    assert all(torch.equal(value, weights[key]) for key, value in network.model.state_dict().items())
    assert str(tmp_path) not in f"{network.recipe()} {network.name}"
    network.save(tmp_path / "kept")
    shutil.rmtree(name)
    again = Network.load(modality, name, saved=tmp_path / "kept")
    assert again.width == network.width
    assert again.recipe()["method"] == network.recipe()["method"]


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "folder")
    (tmp_path / "folder" / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"folder': cannot be loaded \(No suitable checkpoints"):
        load_encoder("image", str(tmp_path / "folder"))


def test_a_folder_that_is_called_like_a_model_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_vit").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_encoder("image", "test_vit(pretrained=False)").name == "test_vit(pretrained=False)"

"""How far training reaches into an encoder, for networks of every family."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from odmt.encoders import EncoderError, parse_encoder
from odmt.encoders.network import Network
from odmt.encoders.policies import TrainedEncoder, blocks_of
from odmt.encoders.torchvision_mend import mend_torchvision
from odmt.spec import SpecError
from tests.unit.encoders.test_text import save_bert, save_other


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mend_torchvision()
    torch.manual_seed(0)
    save_bert(tmp_path_factory.mktemp("models") / "tiny-bert")
    return next(tmp_path_factory.getbasetemp().glob("models*/tiny-bert"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mend_torchvision()
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("decoders") / "gpt2"
    save_other(folder, "gpt2")
    return folder


def vit(**arguments: Any) -> Network:
    del arguments
    return parse_encoder("image", "test_vit(pretrained=False)").build()


def trained(encoder: TrainedEncoder) -> set[str]:
    return {name for name, parameter in encoder.network.model.named_parameters() if parameter.requires_grad}


def changed_by_a_step(encoder: TrainedEncoder) -> set[str]:
    """Take a step by the sum of squares of the tokens, and name the parameters that moved."""
    before = {name: tensor.clone() for name, tensor in encoder.network.model.state_dict().items()}
    encoder.train()
    inputs = encoder.network.example()
    optimizer = torch.optim.AdamW([p for p in encoder.parameters() if p.requires_grad], lr=1e-2)
    (encoder(inputs).values * torch.randn(encoder.width)).square().sum().backward()
    optimizer.step()
    return {name for name, x in encoder.network.model.state_dict().items() if not torch.equal(x, before[name])}


def test_frozen_live_trains_nothing() -> None:
    encoder = TrainedEncoder(vit(), "frozen-live")
    assert not encoder.trained
    assert not trained(encoder)
    assert not encoder.network.model.training


def test_full_trains_all_that_tokens_depend_on(bert: Path) -> None:
    network = parse_encoder("text", str(bert)).build()
    encoder = TrainedEncoder(network, "full")
    left = {name for name, _ in network.model.named_parameters()} - trained(encoder)
    assert left == {"pooler.dense.weight", "pooler.dense.bias"}
    assert changed_by_a_step(encoder) == trained(encoder)


@pytest.mark.parametrize(("policy", "blocks"), [("top(2)", 2), ("top(blocks=1)", 1)])
def test_top_trains_the_last_blocks_by_module(policy: str, blocks: int) -> None:
    encoder = TrainedEncoder(vit(), policy)
    last = {f"blocks.{5 - place}." for place in range(blocks)}
    expected = {
        name
        for name, _ in encoder.network.model.named_parameters()
        if name.startswith((*last, "norm.")) and "head" not in name
    }
    assert trained(encoder) == expected == changed_by_a_step(encoder)
    modes = [block.training for block in encoder.network.model.blocks]
    assert modes == [False] * (6 - blocks) + [True] * blocks
    assert not encoder.eval().network.model.blocks[-1].training


def test_top_of_a_text_model(bert: Path) -> None:
    encoder = TrainedEncoder(parse_encoder("text", str(bert)).build(), "top(1)")
    assert trained(encoder)
    assert all(name.startswith("encoder.layer.1.") for name in trained(encoder))
    assert not encoder.network.model.embeddings.dropout.training
    assert encoder.network.model.encoder.layer[1].output.dropout.training


def test_lora_trains_additions_alone_and_starts_as_the_network_was() -> None:
    plain, inputs = vit().eval(), vit().example()
    before = plain(inputs).values
    encoder = TrainedEncoder(vit(), "lora(r=4)")
    torch.testing.assert_close(encoder(inputs).values, before)
    moved = trained(encoder)
    assert moved
    assert all("lora_" in name for name in moved)
    assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) < sum(p.numel() for p in plain.parameters())
    assert changed_by_a_step(encoder) <= moved  # of the two factors one starts at 0, and the other waits for it
    assert not torch.allclose(encoder(inputs).values, before)


def test_layers_that_keep_statistics_keep_those_they_have() -> None:
    network = parse_encoder("image", "test_resnet(pretrained=False)").build()
    encoder = TrainedEncoder(network, "full").train()
    inputs = {"pixels": torch.randint(0, 255, (3, *network.size), dtype=torch.uint8)}
    together = encoder(inputs).values
    torch.testing.assert_close(encoder({"pixels": inputs["pixels"][1:2]}).values[0], together[1], atol=1e-5, rtol=1e-4)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training or norm.running_mean.abs().max() > 0 for norm in norms)


@pytest.mark.parametrize(
    ("kind", "policy"),
    [*itertools.product(["vit", "bert"], ["full", "top(1)", "lora(r=2)"]), ("gpt2", "full"), ("gpt2", "top(1)")],
)
def test_checkpointing_keeps_less_and_changes_no_gradient(kind: str, policy: str, bert: Path, gpt2: Path) -> None:
    folders = {"bert": bert, "gpt2": gpt2}  # a decoder keeps what it has read, unless it is told not to

    def step(*, checkpointing: bool) -> tuple[int, dict[str, torch.Tensor]]:
        network = vit() if kind == "vit" else parse_encoder("text", str(folders[kind])).build()
        torch.manual_seed(3)  # for what LoRA draws, and for dropout
        encoder = copy.deepcopy(TrainedEncoder(network, policy, checkpointing=checkpointing)).double().train()
        kept = 0

        def note(x: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += x.numel()
            return x

        inputs = {name: x.repeat_interleave(8, 0) for name, x in network.example().items()}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            values = encoder(inputs).values
        values.square().sum().backward()
        found = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
        encoder.eval()
        with torch.no_grad():
            return kept, {**found, "tokens": encoder(inputs).values}

    (kept, found), (less, again) = step(checkpointing=False), step(checkpointing=True)
    assert 0 < less < kept
    assert found.keys() == again.keys()
    assert all(name == "tokens" or gradient.any() or "lora_A" in name for name, gradient in found.items())
    for name, gradient in found.items():
        torch.testing.assert_close(again[name], gradient, rtol=0, atol=1e-9)


def test_a_network_without_blocks_cannot_leave_out_what_is_in_them() -> None:
    network = vit()
    network.model = nn.Sequential(nn.Linear(2, 2))
    network.name = "a layer"
    with pytest.raises(EncoderError, match="a layer has no blocks whose activations could be left out"):
        TrainedEncoder(network, "full", checkpointing=True)


def test_tokens_may_be_limited() -> None:
    encoder = TrainedEncoder(vit(), "full", limit=1)
    tokens = encoder(vit().example())
    assert tokens.values.shape == (1, 1, encoder.width)
    assert tokens.mask.shape == (1, 1)


@pytest.mark.parametrize(
    ("model", "blocks"),
    [
        ("test_vit", 6),
        ("resnet18", 8),
        ("resnet50", 16),
        ("convnext_tiny", 18),
        ("swin_tiny_patch4_window7_224", 12),
        ("regnety_004", 5),  # its stem and stages: what is in them is no list
        ("test_resnet", 4),
    ],
)
def test_blocks_of_timm_models(model: str, blocks: int) -> None:
    mend_torchvision()
    import timm

    with torch.device("meta"):
        parts = blocks_of(timm.create_model(model, num_classes=0))
    assert sum(is_block for _, is_block in parts) == blocks


def test_every_parameter_of_the_parts_is_one_of_the_models_and_in_one_part() -> None:
    network = vit()
    inside = [p for part, _ in blocks_of(network.model) for p in part.parameters()]
    assert len(inside) == len(set(inside))
    names = {name for name, p in network.model.named_parameters() if not any(p is one for one in inside)}
    assert names == {"cls_token", "pos_embed"}


@pytest.mark.parametrize(
    ("policy", "error", "message"),
    [
        ("top(7)", EncoderError, "has 6 blocks; name fewer, or train all of it with full"),
        ("top(0)", EncoderError, "train at least one block"),
        ("top", SpecError, "top needs the argument 'blocks'"),
        ("lora(r=0)", EncoderError, "the rank must be at least 1"),
        ("lora(rank=4)", SpecError, "lora takes no argument 'rank'"),
        ("lorra", SpecError, "unknown policy 'lorra'; did you mean 'lora'"),
    ],
)
def test_wrong_policies_are_answered(policy: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TrainedEncoder(vit(), policy)

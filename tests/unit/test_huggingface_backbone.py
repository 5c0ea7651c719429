"""Transformers of Hugging Face as backbones: built as asked, and refused where they cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2Model

from odmt.backbones.bert4rec import HideTrained
from odmt.backbones.huggingface import HuggingFace, huggingface


def build(model_type: str = "gpt2", dim: int = 16, **settings: Any) -> Any:
    torch.manual_seed(0)
    return huggingface(dim, length=6, model_type=model_type, **settings)


def test_states_are_those_of_the_model_over_the_history_alone() -> None:
    backbone = build(dropout=0.0)
    config = GPT2Config(
        vocab_size=1, n_positions=7, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    theirs = GPT2Model(config)
    theirs.load_state_dict(backbone.model.state_dict())
    x, mask = torch.randn(2, 5, 16), torch.arange(5) >= torch.tensor([[0], [3]])
    states = backbone(x, mask)
    for user, length in enumerate((5, 2)):
        positions = torch.arange(7 - length, 7)[None]  # the last is the newest event's
        alone = theirs(inputs_embeds=x[user : user + 1, -length:], position_ids=positions).last_hidden_state
        torch.testing.assert_close(states[user, -length:], alone[0])


def test_arguments_reach_the_configuration() -> None:
    config = build("llama", layers=3, heads=4, dropout=0.25, intermediate_size=40, num_key_value_heads=2).model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (16, 3, 4)
    assert (config.intermediate_size, config.num_key_value_heads, config.head_dim) == (40, 2, 4)
    assert (config.attention_dropout, config.vocab_size) == (0.25, 1)
    assert build("opt", dropout=0.25).model.config.ffn_dim == 64
    assert build("gptj", rotary_dim=8).model.config.rotary_dim == 8


def test_dropout_falls_once_on_the_way_in() -> None:
    assert build("llama", dropout=0.25).dropout.p == 0.25  # has none on its states
    gpt2 = build("gpt2", dropout=0.25)
    assert (gpt2.dropout.p, gpt2.model.config.embd_pdrop, gpt2.model.config.resid_pdrop) == (0.0, 0.25, 0.25)


def test_whether_a_type_is_causal_is_found_out() -> None:
    assert isinstance(build("gpt2"), HuggingFace)
    assert isinstance(build("bert", is_decoder=True), HuggingFace)
    bert = build("bert", hide_rate=0.4)
    assert isinstance(bert, HideTrained)
    assert (bert.hide_rate, build("bert").hide_rate) == (0.4, 0.2)


def test_trying_a_type_out_draws_no_random_numbers() -> None:
    backbone = build(dropout=0.5)
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    GPT2Model(backbone.model.config)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("model_type", "settings", "message"),
    [
        ("gpt3", {}, "transformers has no model type 'gpt3'; did you mean 'gpt2'"),
        ("zzz", {}, "transformers has no model type 'zzz'; there is gpt2, llama"),
        ("gpt2", {"activation_fn": "relu"}, "of gpt2 has no 'activation_fn'; did you mean 'activation_function'"),
        ("gpt2", {"n_embd": 32}, "n_embd of gpt2 is what dim says; leave it out"),
        ("llama", {"num_hidden_layers": 2}, "num_hidden_layers of llama is what layers says"),
        ("gpt2", {"heads": 3}, "dim=16 is not divisible by heads=3"),
        ("gpt2", {"layers": 0}, "layers=0: at least one is needed"),
        ("gpt2", {"hide_rate": 0.2}, "hide_rate=0.2: gpt2 is causal here"),
        ("bert", {"hide_rate": 1.5}, "hide_rate=1.5 is not between 0 and 1"),
        ("mamba", {"heads": 2}, "heads=2: model type 'mamba' has no attention"),
        ("gpt2", {"n_inner": "wide"}, "transformers cannot build gpt2 with .*n_inner"),
        ("gptj", {}, "'gptj' cannot be fed with vectors of dim=16"),
        ("t5", {}, "'t5' is no single decoder or encoder"),
        ("llava", {}, "'llava' is no single decoder or encoder"),
        ("vit", {}, "'vit' reads no vectors"),
        ("fnet", {}, "'fnet' lets padding change a history's states"),
    ],
)
def test_what_cannot_be_is_refused(model_type: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(model_type, **settings)

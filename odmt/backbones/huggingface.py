"""Any decoder or encoder of Hugging Face's transformers, built from its configuration and fed with item vectors.

Whether a type is causal is not looked up but tried, on a few random rows when it is built: a causal one is trained as
SASRec is, one that looks both ways by hiding events as BERT4Rec is, and one whose states padding changes is refused.
Padding stands on the left in our histories; here it is moved behind them, where no causal type sees it, whatever it
makes of masks (Mamba) or positions (Bloom).
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from odmt.backbones.bert4rec import HideTrained
from odmt.dropout import Dropout
from odmt.spec import did_you_mean
from odmt.types import Bool, Float, Int, Tensor

__all__ = ["HuggingFace", "huggingface"]

TESTED = (
    "gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "gpt_neox", "opt", "bloom", "falcon", "mamba",
    "bert", "roberta", "electra", "distilbert", "modernbert", "albert",
)  # fmt: skip
"""Types that the tests build: causal ones, then those that look both ways. Others are tried as they are named."""

OURS = {
    "hidden_size": "dim",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "max_position_embeddings": "length",
}
"""Settings of a configuration that arguments of ours fill."""

DROPOUT_ON_STATES = (
    "dropout", "hidden_dropout", "hidden_dropout_prob", "resid_pdrop", "embd_pdrop", "mlp_dropout", "embedding_dropout",
)  # fmt: skip
DROPOUT_ON_ATTENTION = ("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop")

FAULTS = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What transformers raises where entries of a configuration do not go together."""


def huggingface(
    dim: int,
    *,
    length: int,
    model_type: str = "gpt2",
    layers: int = 2,
    heads: int | None = None,
    dropout: float = 0.1,
    hide_rate: float | None = None,
    **settings: Any,
) -> HuggingFace | HideTrained:
    """Build a transformer of `model_type` with random weights; `settings` are further entries of its configuration.

    heads: of the attention, 2 unless given; a type without attention takes none.
    dropout: fills every rate that the configuration has for states and attention; a type without one on its states
        (llama, mamba) has it on the item vectors.
    hide_rate: as in BERT4Rec, 0.2 unless given; a causal type takes none.

    The feed-forward is 4 dim wide, unless `settings` say otherwise ("intermediate_size" or what the type calls it).
    On a CPU, gpt2, llama and bert take about 1.5 times SASRec's step; mamba, which goes row by row there, 20 times.
    Raises ValueError for what transformers does not know, cannot build, or cannot feed with vectors.
    """
    reader = HuggingFace(
        dim, length=length + 1, model_type=model_type, layers=layers, heads=heads, dropout=dropout, settings=settings
    )
    if not reader.causal:
        return HideTrained(reader, dim, length=length, hide_rate=0.2 if hide_rate is None else hide_rate)
    if hide_rate is not None:
        raise ValueError(
            f"hide_rate={hide_rate}: {model_type} is causal here and learns from every event; leave it out"
        )
    return reader


class HuggingFace(nn.Module):
    """Read histories of up to `length` events with a model of transformers; `causal` says what was found out."""

    def __init__(
        self,
        dim: int,
        *,
        length: int,
        model_type: str,
        layers: int,
        heads: int | None,
        dropout: float,
        settings: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.length = length
        entries, on_items = _entries(dim, length, model_type, layers, heads, dropout, settings)
        self.dropout = Dropout(on_items)
        self.model: Any = _build(model_type, entries)
        self.takes_positions = "position_ids" in _parameters(self.model.forward)
        self.causal = self._try_out(dim, model_type)

    def forward(
        self, x: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        length = x.shape[1]
        if length > self.length:
            raise ValueError(
                f"a history of {length} events is longer than the {self.length} that this model was built for; "
                f"cut it to the newest {self.length}"
            )
        column, events = torch.arange(length, device=x.device), mask.sum(1, keepdim=True)
        inputs = {"attention_mask": (column < events).long()}
        if self.takes_positions:
            inputs["position_ids"] = (column - events) % self.length  # counted back from the newest event, as in SASRec
        x = _rows(self.dropout(x), (column + length - events) % length)
        states = self.model(inputs_embeds=x, **inputs).last_hidden_state
        return _rows(states, (column + events) % length)

    @torch.enable_grad()
    def _try_out(self, dim: int, model_type: str) -> bool:
        """Say whether the model is causal; refuse it where a state depends on the padding beside it."""
        training = self.training
        self.eval()
        rows = min(self.length, 6)
        x = torch.randn(1, rows, dim, generator=torch.Generator().manual_seed(0)).requires_grad_()
        everything = torch.ones(1, rows, dtype=torch.bool)
        try:
            states = self(x, everything)
            padded = self(x, everything & (torch.arange(rows) > 0))
            alone = self(x[:, 1:], everything[:, 1:])
        except FAULTS as error:
            raise ValueError(
                f"model type {model_type!r} cannot be fed with vectors of dim={dim} ({_reason(error)}); where that is "
                "for an entry of its configuration, set it beside model_type"
            ) from error
        if states.shape != x.shape or not torch.allclose(padded[:, 1:], alone, atol=1e-4):
            raise ValueError(
                f"model type {model_type!r} lets padding change a history's states, which batches of histories of "
                f"several lengths cannot have; {did_you_mean('', TESTED)}"
            )
        self.train(training)
        (gradient,) = torch.autograd.grad((states * x.detach())[:, :-1].sum(), x)
        return not gradient[:, -1].any()


def _rows(
    x: Float[Tensor, "batch length dim"], order: Int[Tensor, "batch length"]
) -> Float[Tensor, "batch length dim"]:
    return x.gather(1, order.unsqueeze(2).expand_as(x))


def _entries(
    dim: int, length: int, model_type: str, layers: int, heads: int | None, dropout: float, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], float]:
    """Give the entries of the configuration, and the rate of dropout that is left for the item vectors."""
    from transformers import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        near = [name for names in (TESTED, CONFIG_MAPPING) for name in difflib.get_close_matches(model_type, names)]
        hint = did_you_mean(model_type, near[:1] or TESTED)
        raise ValueError(f"transformers has no model type {model_type!r}; {hint}")
    plain = CONFIG_MAPPING[model_type]()
    aliases: Mapping[str, str] = plain.attribute_map
    names = {*_parameters(type(plain).__init__), *aliases}
    if plain.is_encoder_decoder or plain.sub_configs or not names.issuperset(("hidden_size", "num_hidden_layers")):
        raise ValueError(
            f"model type {model_type!r} is no single decoder or encoder; {did_you_mean('', TESTED)} (of a model of "
            "several parts, the part for text often has a type of its own, named ..._text)"
        )
    _check_settings(model_type, settings, aliases, {*names, *plain.to_dict()})
    if layers < 1:
        raise ValueError(f"layers={layers}: at least one is needed")
    attends = "num_attention_heads" in names
    if heads is not None and not attends:
        raise ValueError(f"heads={heads}: model type {model_type!r} has no attention; leave heads out")
    if not attends:
        names.discard("head_dim")  # of something else
    heads = 2 if heads is None else heads
    if attends and (heads < 1 or dim % heads):
        raise ValueError(f"dim={dim} is not divisible by heads={heads}; choose heads among the divisors of dim")
    fitted = {
        **dict.fromkeys(("hidden_size", "embedding_size"), dim),
        **dict.fromkeys(("num_attention_heads", "num_key_value_heads"), heads),
        **dict.fromkeys(("intermediate_size", "ffn_dim", "hidden_dim"), 4 * dim),
        **dict.fromkeys(("vocab_size", "type_vocab_size"), 1),
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")),
        "num_hidden_layers": layers,
        "head_dim": dim // heads,
        "max_position_embeddings": length,
        "use_cache": False,
        **dict.fromkeys((*DROPOUT_ON_STATES, *DROPOUT_ON_ATTENTION), dropout),
    }
    entries = {**{name: value for name, value in fitted.items() if name in names}, **settings}
    return entries, 0.0 if names.intersection(DROPOUT_ON_STATES) else dropout


def _check_settings(model_type: str, settings: Mapping[str, Any], aliases: Mapping[str, str], known: set[str]) -> None:
    taken = {**OURS, **{aliases[name]: ours for name, ours in OURS.items() if name in aliases}}
    for name in settings:
        if name in taken:
            raise ValueError(f"{name} of {model_type} is what {taken[name]} says; leave it out")
        if name not in known:
            raise ValueError(f"the configuration of {model_type} has no {name!r}; {did_you_mean(name, sorted(known))}")


def _build(model_type: str, entries: Mapping[str, Any]) -> nn.Module:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModel

    try:
        model = AutoModel.from_config(AutoConfig.for_model(model_type, **entries))
    except (*FAULTS, StrictDataclassError) as error:
        raise ValueError(
            f"transformers cannot build {model_type} with {entries}: {_reason(error)}; set what does not fit"
        ) from error
    if "inputs_embeds" not in _parameters(model.forward):
        raise ValueError(f"model type {model_type!r} reads no vectors; {did_you_mean('', TESTED)}")
    # What item vectors never pass through: the table of tokens, one row here, and the summary of a whole text.
    model.get_input_embeddings().requires_grad_(False)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""Text encoders: any transformer of the model hub or of a folder, and TF-IDF, which needs no weights."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from odmt.encoders import Content, EncoderError, Unreadable
from odmt.encoders.frozen import choose_device, frozen_inference, hash_weights
from odmt.encoders.torchvision_mend import mend_torchvision

__all__ = ["Tfidf", "TransformersText"]


class TransformersText:
    """Read every token of a frozen transformer: `AutoModel` and `AutoTokenizer` of a hub name or of a local folder.

    `layer` -1 is the last layer, as the model returns it, -2 the one before, and so on down to the embeddings. Texts
    are cut to `max_tokens` with the special tokens kept. `bf16` computes matrix products in bfloat16: about twice as
    fast, and equal to about two decimal places. Of a text-image model (CLIP) and of an encoder-decoder (T5) only the
    text encoder is used.
    """

    def __init__(
        self, model: str, *, layer: int = -1, max_tokens: int = 30, bf16: bool = False, device: str = "auto"
    ) -> None:
        mend_torchvision()
        self.device = choose_device(device)
        self.bf16 = bf16
        self.max_tokens = max_tokens
        self.tokenizer, whole, self.name = _load(model)
        # Now, because the tokenizer keeps the padding and cutting of the last call, which would be hashed with it.
        self.tokenizer_hash = _hash_tokenizer(self.tokenizer)
        self.model: Any = _text_part(whole).to(self.device).eval()
        config = self.model.config
        self.width = int(config.hidden_size if hasattr(config, "hidden_size") else config.d_model)
        self.layer = self._checked_layer(layer, int(config.num_hidden_layers))
        special = self.tokenizer.num_special_tokens_to_add()
        if max_tokens <= special:
            raise EncoderError(
                f"max_tokens is {max_tokens}, but {self.name} adds {special} tokens of its own; ask for more than "
                f"{special}"
            )
        longest = min(int(self.tokenizer.model_max_length), int(getattr(config, "max_position_embeddings", max_tokens)))
        if max_tokens > longest:
            raise EncoderError(f"max_tokens is {max_tokens}, but {self.name} reads at most {longest}")

    def recipe(self) -> dict[str, Any]:
        return {
            "method": f"transformers {type(self.model).__name__}, all tokens of one layer, in order",
            "weights": hash_weights(self.model),
            "tokenizer": self.tokenizer_hash,
            "layer": self.layer,
            "max_tokens": self.max_tokens,
            "precision": "bf16" if self.bf16 else "fp32",
        }

    def lengths(self, contents: Sequence[Content]) -> list[int]:
        """Count the tokens of each text."""
        texts = [str(text) for text in contents]
        return [len(ids) for ids in self.tokenizer(texts, truncation=True, max_length=self.max_tokens)["input_ids"]]

    def encode(self, contents: Sequence[Content]) -> list[np.ndarray | Unreadable]:
        """Encode one batch of texts, [tokens, width] fp32 each."""
        batch = self.tokenizer(
            [str(text) for text in contents],
            truncation=True,
            max_length=self.max_tokens,
            padding=True,
            padding_side="right",
            return_tensors="pt",
        ).to(self.device)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
        with frozen_inference(self.device, bf16=self.bf16):
            output = self.model(**inputs, output_hidden_states=self.layer != -1)
            tokens = output.last_hidden_state if self.layer == -1 else output.hidden_states[self.layer]
        stored = tokens.float().cpu().numpy()
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        return [one[:length] for one, length in zip(stored, lengths, strict=True)]

    def _checked_layer(self, layer: int, num_layers: int) -> int:
        # Layer 0 is the embeddings; counted from the end, so that -1 and num_layers are one recipe.
        if not -num_layers - 1 <= layer <= num_layers:
            raise EncoderError(
                f"layer is {layer}, but {self.name} has {num_layers}: -1 is the last, {-num_layers - 1} or 0 the "
                f"embeddings"
            )
        return layer if layer < 0 else layer - num_layers - 1


class Tfidf:
    """Give each text one token of `dim` numbers: TF-IDF of its words, reduced by a truncated SVD of the catalogue.

    Needs no weights and takes seconds. Rows are scaled to a mean square of 1, as layer-normalised encoders give them.
    A text without any word that the catalogue knows has no token.
    """

    def __init__(self, *, dim: int = 64) -> None:
        if dim < 1:
            raise EncoderError(f"tfidf(dim={dim}): dim must be at least 1")
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\w+")  # noqa: S106
        self.svd = TruncatedSVD(dim, random_state=0)
        self.width = dim
        self.name = f"tfidf(dim={dim})"

    def recipe(self) -> dict[str, Any]:
        return {
            "method": "TF-IDF (sublinear), truncated SVD (randomized, seed 0), rows of mean square 1",
            "dim": self.width,
        }

    def fit(self, contents: Sequence[Content]) -> None:
        """Learn the words of the catalogue and their main directions."""
        try:
            counts = self.vectorizer.fit_transform([str(text) for text in contents])
        except ValueError as error:
            raise EncoderError(f"tfidf: no text holds a word ({error}); choose a transformer for such texts") from error
        limit = min(counts.shape)
        if limit < self.width:
            raise EncoderError(
                f"tfidf(dim={self.width}) needs at least as many texts and words, but there are {counts.shape[0]} "
                f"texts with {counts.shape[1]} different words; ask for tfidf(dim={limit}) or fewer"
            )
        self.svd.fit(counts)

    def lengths(self, contents: Sequence[Content]) -> list[int]:
        """Count one token per text."""
        return [1] * len(contents)

    def encode(self, contents: Sequence[Content]) -> list[np.ndarray | Unreadable]:
        """Encode texts with what `fit` learned, [1, dim] or [0, dim] each."""
        rows = self.svd.transform(self.vectorizer.transform([str(text) for text in contents]))
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        known = lengths[:, 0] > 1e-9
        scaled = rows / np.maximum(lengths, 1e-9) * np.sqrt(self.width)
        return [scaled[i : i + 1] if known[i] else scaled[:0] for i in range(len(rows))]


def precision_argument(version: str) -> str:
    """Name the argument that tells that version's `from_pretrained` the precision; from 4.56 on the old name warns."""
    major, minor = map(int, version.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


def _load(model: str) -> tuple[Any, nn.Module, str]:
    import transformers
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        # fp32 whatever the checkpoint holds, so that precision is ours to choose.
        precision = {precision_argument(transformers.__version__): torch.float32}
        network, report = AutoModel.from_pretrained(model, output_loading_info=True, **precision)
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise EncoderError(_not_loaded(model, error)) from error
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name.split("."))
    if missing:
        raise EncoderError(
            f"text encoder {model!r}: the checkpoint lacks {len(missing)} of the weights of {type(network).__name__} "
            f"({', '.join(missing[:3])}, ...), which would stay random; choose a checkpoint of that architecture"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if Path(model).is_dir():
        return tokenizer, network, "/".join(Path(model).resolve().parts[-2:])
    revision = getattr(network.config, "_commit_hash", None)
    return tokenizer, network, f"{model}@{revision[:12]}" if revision else model


def _not_loaded(model: str, error: Exception) -> str:
    path = Path(model)
    reason = str(error).strip().splitlines()[0]
    if path.is_dir():
        return f"text encoder {model!r}: the folder cannot be loaded ({reason}); it must hold a model and its tokenizer"
    siblings = (
        [str(p) for p in path.parent.glob("*") if p.is_dir()] if path.parent.is_dir() and len(path.parts) > 1 else []
    )
    close = difflib.get_close_matches(model, siblings, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"text encoder {model!r}: {hint}it is neither a folder here nor to be had from the model hub ({reason}). "
        "Without a network, download the model elsewhere and pass the folder that holds its config.json: --encoder "
        "path/to/folder; or use --encoder 'tfidf(dim=64)', which needs no weights"
    )


def _text_part(model: nn.Module) -> nn.Module:
    if getattr(model.config, "is_encoder_decoder", False):
        return model.get_encoder()  # pyright: ignore[reportCallIssue]
    part = getattr(model, "text_model", None)
    return part if isinstance(part, nn.Module) else model


def _hash_tokenizer(tokenizer: Any) -> str:
    # A fast tokenizer writes itself out whole; of others the vocabulary has to do.
    whole = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else str(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(f"{type(tokenizer).__name__} {whole}".encode()).hexdigest()

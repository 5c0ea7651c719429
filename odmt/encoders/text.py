"""Text encoders: any transformer of the model hub or of a folder, and TF-IDF, which needs no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from odmt.encoders import Content, EncoderError, Unreadable
from odmt.encoders.frozen import hash_weights
from odmt.encoders.hub import OfTransformers, hash_tokenizer, load_model, load_processor, part_of
from odmt.encoders.network import Network, Preparation, Prepared
from odmt.types import Tensor, Tokens

__all__ = ["Tfidf", "TransformersText"]


class TransformersText(OfTransformers, Network):
    """Read every token of a transformer: `AutoModel` and `AutoTokenizer` of a hub name or of a local folder.

    `layer` -1 is the last layer, as the model returns it, -2 the one before, and so on down to the embeddings. Texts
    are cut to `max_tokens` with the special tokens kept. Of a text-image model (CLIP) and of an encoder-decoder (T5)
    only the text encoder is used. Without `weights` they are drawn, to be loaded with a model that was trained.
    """

    def __init__(self, model: str, *, layer: int = -1, max_tokens: int = 30, weights: bool = True) -> None:
        super().__init__()
        whole, self.name = load_model(model, "text", weights=weights)
        self.config = whole.config
        tokenizer = load_processor(model, "text")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        # Now, because the tokenizer keeps the padding and cutting of the last call, which would be hashed with it.
        self.tokenizer_hash = hash_tokenizer(tokenizer)
        self.model = part_of(whole, "text")
        config = self.model.config
        self.width = int(config.hidden_size if hasattr(config, "hidden_size") else config.d_model)
        self.layer = self._checked_layer(layer, int(config.num_hidden_layers))
        special = tokenizer.num_special_tokens_to_add()
        if max_tokens <= special:
            raise EncoderError(
                f"max_tokens is {max_tokens}, but {self.name} adds {special} tokens of its own; ask for more than "
                f"{special}"
            )
        longest = min(int(tokenizer.model_max_length), int(getattr(config, "max_position_embeddings", max_tokens)))
        if max_tokens > longest:
            raise EncoderError(f"max_tokens is {max_tokens}, but {self.name} reads at most {longest}")
        self.processor, self.max_tokens = tokenizer, max_tokens
        self.preparation = _Tokenizing(tokenizer, max_tokens)

    def recipe(self) -> dict[str, Any]:
        return {
            "method": self.method(),
            "weights": hash_weights(self.model),
            "tokenizer": self.tokenizer_hash,
            "layer": self.layer,
            "max_tokens": self.max_tokens,
        }

    def method(self) -> str:
        return f"transformers {type(self.model).__name__}, all tokens of one layer, in order"

    def example(self) -> dict[str, Tensor]:
        return dict(self.preparation(["a"]).inputs)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode texts, [texts, tokens, width]."""
        # decoders would keep what they have read, and read it again where blocks are computed again
        caching = {"use_cache": False} if getattr(self.model.config, "use_cache", None) else {}
        output = self.model(**inputs, **caching, output_hidden_states=self.layer != -1)
        tokens = output.last_hidden_state if self.layer == -1 else output.hidden_states[self.layer]
        return Tokens(tokens, inputs["attention_mask"].bool())

    def _checked_layer(self, layer: int, num_layers: int) -> int:
        # Layer 0 is the embeddings; counted from the end, so that -1 and num_layers are one recipe.
        if not -num_layers - 1 <= layer <= num_layers:
            raise EncoderError(
                f"layer is {layer}, but {self.name} has {num_layers}: -1 is the last, {-num_layers - 1} or 0 the "
                f"embeddings"
            )
        return layer if layer < 0 else layer - num_layers - 1


class _Tokenizing(Preparation):
    """Cut texts into tokens, padded to the longest of them, [texts, tokens]."""

    NAMES = ("input_ids", "attention_mask", "token_type_ids")

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    def __call__(self, contents: Sequence[Content], rngs: Sequence[np.random.Generator] | None = None) -> Prepared:
        batch = self.tokenizer(
            [str(text) for text in contents],
            truncation=True,
            max_length=self.max_tokens,
            padding=True,
            padding_side="right",
            return_attention_mask=True,  # some tokenizers give it on request alone
            return_tensors="pt",
        )
        return Prepared({name: batch[name] for name in self.NAMES if name in batch})

    def lengths(self, contents: Sequence[Content]) -> list[int]:
        """Count the tokens of each text."""
        texts = [str(text) for text in contents]
        return [len(ids) for ids in self.tokenizer(texts, truncation=True, max_length=self.max_tokens)["input_ids"]]


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

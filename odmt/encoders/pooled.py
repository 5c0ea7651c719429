"""One token per item instead of many, from any encoder: the mean, which sentence encoders are trained for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from odmt.data.feature_folders import POOLED
from odmt.encoders import Content, Encoder, Fitted, Unreadable

__all__ = ["MeanPooled"]


class MeanPooled:
    """Give every content the mean of the tokens that `encoder` gives it, [1, width], or none where there are none."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.name = f"{POOLED}{encoder.name}"
        self.width = encoder.width

    def recipe(self) -> dict[str, Any]:
        return {**self.encoder.recipe(), "pool": "mean"}

    def fit(self, contents: Sequence[Content]) -> None:
        """Fit the encoder, if it is one that learns from the catalogue."""
        if isinstance(self.encoder, Fitted):
            self.encoder.fit(contents)

    def lengths(self, contents: Sequence[Content]) -> Sequence[int]:
        """Give each content's cost, which is that of all its tokens."""
        return self.encoder.lengths(contents)

    def encode(self, contents: Sequence[Content]) -> list[np.ndarray | Unreadable]:
        """Encode contents and average, in float32."""
        return [found if isinstance(found, Unreadable) else _mean(found) for found in self.encoder.encode(contents)]


def _mean(tokens: np.ndarray) -> np.ndarray:
    return tokens.astype(np.float32).mean(axis=0, keepdims=True) if len(tokens) else tokens

"""A real, weight-free text encoder for tests: a token per word, drawn from the word. It can be told to die."""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Sequence

import numpy as np

from odmt.encoders import Content, Unreadable


class Words:
    """Encode each word as numbers drawn from its checksum; at batch `die_at` the process is killed on the spot."""

    name = "words"
    width = 6

    def __init__(self, *, die_at: int = 0, scale: float = 1.0) -> None:
        self.die_at = die_at
        self.scale = scale
        self.batches = 0

    def recipe(self) -> dict[str, object]:
        return {"method": "words", "scale": self.scale}

    def lengths(self, contents: Sequence[Content]) -> list[int]:
        return [len(str(text).split()) for text in contents]

    def encode(self, contents: Sequence[Content]) -> list[np.ndarray | Unreadable]:
        self.batches += 1
        if self.batches == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return [self._one(str(text)) for text in contents]

    def _one(self, text: str) -> np.ndarray | Unreadable:
        if "unreadable" in text:
            return Unreadable(f"the word 'unreadable' occurs in {text!r}")
        rows = [np.random.default_rng(zlib.crc32(word.encode())).standard_normal(self.width) for word in text.split()]
        return np.asarray(rows) * self.scale

"""A dataset folder small enough to train on in a second: items come in two kinds, and users stay with one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from odmt.data.format import Dataset, write_dataset
from odmt.encoders.caching import encode_modality
from odmt.encoders.text import Tfidf

NUM_USERS, NUM_ITEMS = 60, 24
WORDS = ("river boat water fish", "engine wheel road race")


def tiny_dataset(path: Path, *, seed: int = 0) -> Dataset:
    """Write users, items and titles, and encode the titles; the last item has none."""
    rng = np.random.default_rng(seed)
    users = []
    for user in range(NUM_USERS):
        length = int(rng.integers(5, 12))
        items = 1 + 2 * rng.integers(0, NUM_ITEMS // 2, size=length) + user % 2
        users.append((f"u{user}", items.tolist(), (1000 * np.arange(length)).tolist()))
    titles = [f"{WORDS[item % 2]} number {item}" for item in range(NUM_ITEMS - 1)]
    items = {"id": [f"i{item}" for item in range(NUM_ITEMS)], "text": [*titles, None]}
    dataset = write_dataset(path, name=path.name, histories=users, items=items, tie_rule="none", made_by="tests")
    encode_modality(dataset, "text", Tfidf(dim=6), batch_size=64, progress=False)
    return dataset

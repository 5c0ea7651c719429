"""RecTools' SASRec on its own id embedding, and on ours: python experiments/dropin/rectools_sasrec.py data/sample

`ContentNet` is one of its item nets. Everything else is the same in both, and NDCG@10 is RecTools' own, of each user's
last event, after the epochs that were the best in validation. The model knows only items that occur in training. The
environment: experiments/dropin/requirements-rectools.txt.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pytorch_lightning import seed_everything  # pyright: ignore[reportMissingImports]
from rectools.dataset import Dataset  # pyright: ignore[reportMissingImports]
from rectools.metrics import NDCG, calc_metrics  # pyright: ignore[reportMissingImports]
from rectools.models import SASRecModel  # pyright: ignore[reportMissingImports]
from rectools.models.nn.item_net import ItemNetBase  # pyright: ignore[reportMissingImports]

from odmt import ItemEmbedding, rows_of
from odmt.data.features import open_features
from odmt.data.format import open_dataset

EPOCHS = 5
"""Between two looks at validation."""


class ContentNet(ItemEmbedding, ItemNetBase):
    """Give items our vectors of id and content; `item_net_constructor_kwargs` says in which folder that is."""

    @classmethod
    def of(cls, content: str, dim: int, rows: np.ndarray) -> ContentNet:
        return cls(open_features(open_dataset(content), ["text", "image"]), dim, rows=rows)

    @classmethod
    def from_dataset(
        cls, dataset: Dataset, n_factors: int, dropout_rate: float, content: str, **rest: Any
    ) -> ContentNet:
        theirs = dataset.item_id_map.get_external_sorted_by_internal()
        return cls.of(content, n_factors, rows_of(theirs, open_dataset(content).ids()))

    @classmethod
    def from_dataset_schema(
        cls, dataset_schema: Any, n_factors: int, dropout_rate: float, content: str, **rest: Any
    ) -> ContentNet:
        # a saved model comes back by this way; its rows are among its weights
        return cls.of(content, n_factors, np.zeros(dataset_schema.items.n_hot, dtype=np.int64))

    @property
    def out_dim(self) -> int:
        return self.embedding_dim


def events(folder: Path) -> pd.DataFrame:
    """Put the folder's events into RecTools' table, with the vendor's ids and an event a day."""
    ours = open_dataset(folder)
    lengths = np.diff(ours.offsets)
    days = np.arange(len(ours.items)) - np.repeat(ours.offsets[:-1], lengths)
    users, items = np.repeat(np.arange(ours.num_users), lengths), np.array(ours.ids())[ours.items - 1]
    times = np.datetime64("2000-01-01", "ns") + days.astype("timedelta64[D]")
    return pd.DataFrame({"user_id": users, "item_id": items, "weight": 1.0, "datetime": times})


def ndcg10(model: SASRecModel, known: pd.DataFrame, asked: pd.DataFrame) -> float:
    """Recommend ten items to everybody after what is known, and measure them against what is asked."""
    everybody = asked["user_id"].unique()
    found = model.recommend(users=everybody, dataset=Dataset.construct(known), k=10, filter_viewed=True)
    metric = NDCG(k=10, divide_by_achievable=True)
    return float(calc_metrics({"NDCG@10": metric}, found, interactions=asked)["NDCG@10"])


def train(parts: Sequence[pd.DataFrame], seed: int, epochs: int, **item_nets: Any) -> float:
    """Train RecTools' model, and give the test NDCG@10 after those epochs that were the best in validation."""
    training, valid, test = parts
    seed_everything(seed)
    settings = {"n_factors": 64, "n_heads": 2, "session_max_len": 10, "batch_size": 32}
    model = SASRecModel(**settings, recommend_torch_device="cpu", **item_nets)
    best = (-1.0, -1.0)
    for _ in range(epochs // EPOCHS):
        model.fit_partial(Dataset.construct(training), EPOCHS, EPOCHS)
        score = ndcg10(model, training, valid)
        if score > best[0]:
            best = score, ndcg10(model, pd.concat([training, valid]), test)
    return best[1]


def main() -> None:
    """Compare over seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="a dataset folder with text and image features")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=30, help="epochs per run (default 30)")
    given = parser.parse_args()
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning|rectools|pydantic")  # advice, and what pandas removes
    everything = events(given.dataset)
    newest = everything.groupby("user_id").cumcount(ascending=False)
    parts = [everything.loc[newest > 1], everything.loc[newest == 1], everything.loc[newest == 0]]
    ours = {"item_net_block_types": (ContentNet,), "item_net_constructor_kwargs": {"content": str(given.dataset)}}
    for seed in given.seeds:
        without, with_ours = (train(parts, seed, given.epochs, **nets) for nets in ({}, ours))
        print(f"seed {seed}: NDCG@10 {without:.4f} without, {with_ours:.4f} with", flush=True)


if __name__ == "__main__":
    main()

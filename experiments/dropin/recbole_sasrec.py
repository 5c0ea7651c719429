"""RecBole's SASRec with its own item embedding, and with ours: python experiments/dropin/recbole_sasrec.py data/sample

Everything else is the same in both: events, split, settings, seeds, early stopping on validation, and RecBole's own
evaluation of the test set. The environment: experiments/dropin/requirements-recbole.txt.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config  # pyright: ignore[reportMissingImports]
from recbole.data import create_dataset, data_preparation  # pyright: ignore[reportMissingImports]
from recbole.model.sequential_recommender import SASRec  # pyright: ignore[reportMissingImports]
from recbole.trainer import Trainer  # pyright: ignore[reportMissingImports]
from recbole.utils import init_seed  # pyright: ignore[reportMissingImports]

from odmt import ItemEmbedding, rows_of
from odmt.data.features import open_features
from odmt.data.format import Dataset, open_dataset

torch.autograd.set_detect_anomaly(False)  # which importing RecBole's models switches on, and which doubles the time

SETTINGS = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": None, "mode": "full"},
    "MAX_ITEM_LIST_LENGTH": 10,
    "metrics": ["NDCG"],
    "topk": [10],
    "valid_metric": "NDCG@10",
    "loss_type": "CE",
    "train_neg_sample_args": None,
    "train_batch_size": 256,
    "use_gpu": False,
    "state": "WARNING",
}
"""What is not named here is RecBole's default."""


def write_atomic(ours: Dataset, folder: Path) -> None:
    """Write the events as RecBole's atomic file, folder/sample/sample.inter, with the vendor's ids."""
    (folder / "sample").mkdir()
    names = ours.ids()
    with (folder / "sample" / "sample.inter").open("w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user in range(ours.num_users):
            lines = (f"{user}\t{names[item - 1]}\t{time}\n" for time, item in enumerate(ours.history(user).tolist()))
            file.writelines(lines)


def train(config: Any, ours: Dataset | None) -> float:
    """Train RecBole's model, with our item vectors where `ours` is given, and give the test NDCG@10."""
    init_seed(config["seed"], config["reproducibility"])
    training, validation, test = data_preparation(config, create_dataset(config))
    model = SASRec(config, training.dataset)
    if ours is not None:
        features = open_features(ours, ["text", "image"])
        rows = rows_of(training.dataset.field2id_token["item_id"], ours.ids())
        model.item_embedding = ItemEmbedding(features, dim=config["hidden_size"], rows=rows)
    trainer = Trainer(config, model)
    best = {"valid": -1.0, "test": -1.0}

    def keep_best(_epoch: int, valid: float) -> None:  # RecBole 1.2.1 cannot load its own checkpoints with torch >= 2.6
        if valid > best["valid"]:
            best.update(valid=valid, test=float(trainer.evaluate(test, load_best_model=False)["ndcg@10"]))

    trainer.fit(training, validation, verbose=False, saved=False, callback_fn=keep_best)
    return best["test"]


def main() -> None:
    """Compare over seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="a dataset folder with text and image features")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=30, help="most epochs per run (default 30)")
    given = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole's Config reads the command line as well
    warnings.filterwarnings("ignore", module="recbole")  # it uses what pandas and torch are about to remove
    ours = open_dataset(given.dataset.resolve())
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # RecBole writes logs where it runs
        write_atomic(ours, Path(folder))
        for seed in given.seeds:
            here = {**SETTINGS, "data_path": folder, "checkpoint_dir": folder, "seed": seed, "epochs": given.epochs}
            config = Config(model="SASRec", dataset="sample", config_dict=here)
            print(f"seed {seed}: NDCG@10 {train(config, None):.4f} without, {train(config, ours):.4f} with", flush=True)


if __name__ == "__main__":
    main()

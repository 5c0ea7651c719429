"""RecTools' SASRec on the task: python -m benchmarks.peer_rectools FOLDER, in RecTools' environment.

It trains on a user's whole history at once, as odmt does, by PyTorch Lightning on the CPU, with its softmax over the
items that occur in training and its default batch of 128 users. Its feed-forward layers are as wide as its vectors (a
quarter of the others') and that is no setting of its SASRec.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from odmt.types import Tensor

from .peer_diary import Diary, Scorer, table_for_our_ids, with_one
from .peer_task import Events, Task, check_questions, check_training, examples, lookup_of


def main(folder: Path) -> None:
    """Train and evaluate as the folder's task says, and leave the figures there."""
    from pytorch_lightning import Callback, Trainer, seed_everything  # pyright: ignore[reportMissingImports]
    from rectools.dataset import Dataset  # pyright: ignore[reportMissingImports]
    from rectools.models import SASRecModel  # pyright: ignore[reportMissingImports]

    class Watch(Callback):
        """Bracket every epoch, and end training when no other fits."""

        def __init__(self, diary: Diary) -> None:
            self.diary = diary

        def __deepcopy__(self, memory: dict[int, Any]) -> Watch:
            return self  # RecTools trains with a deep copy of the trainer, and we want the figures

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            first = pl_module.torch_model.transformer_layers.transformer_blocks[0].feed_forward
            self.diary.prepared(
                trainer.optimizers[0],
                batch=f"{model.batch_size} users",
                clip=trainer.gradient_clip_val,
                feed_forward=first.ff_linear_1.out_features,
                activation=type(first.ff_activation).__name__,
                norms="before",
            )
            self.diary.figures["catalogue"] = len(pl_module.data_preparator.get_known_item_ids())
            _check_training(self.diary.task, pl_module.data_preparator)

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            self.diary.epoch_begins()

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.should_stop = not self.diary.epoch_ends(lambda: _scorer(self.diary.task, pl_module))
            pl_module.train()

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")  # advice on workers and loggers
    task = Task.read(folder)
    settings = task.settings
    diary = Diary(task, version=version("rectools"), loss="full softmax", batch="128 users")
    seed_everything(settings.seed)
    most = -1 if settings.epochs is None else settings.epochs  # Lightning's word for no end
    trainer = {"max_epochs": most, "accelerator": "cpu", "devices": 1, "callbacks": [Watch(diary)]}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    model = SASRecModel(
        n_blocks=settings.layers,
        n_heads=settings.heads,
        n_factors=settings.dim,
        dropout_rate=settings.dropout,
        session_max_len=settings.length,
        loss="softmax",
        lr=settings.lr,
        recommend_torch_device="cpu",
        get_trainer_func=lambda: Trainer(**trainer, **quiet, enable_model_summary=False),
    )
    dataset = Dataset.construct(frame(task.events(leave_out=2)))
    model.fit(dataset)
    _check_questions(task, model, dataset)
    diary.evaluation(lambda: _evaluate(task, model, dataset))
    diary.write(folder)


def frame(events: Events) -> Any:
    """Put events into the table that RecTools reads: an event a day, so that its order is the history's."""
    import pandas as pd

    start = np.datetime64("2000-01-01", "ns")
    times = start + events.times.astype("timedelta64[D]")
    columns = {"user_id": events.users, "item_id": events.items, "weight": 1.0, "datetime": times}
    return pd.DataFrame(columns)


def _scorer(task: Task, module: Any) -> Scorer:
    network, names = module.torch_model, module.data_preparator.item_id_map.get_external_sorted_by_internal()
    lookup = torch.from_numpy(lookup_of(list(names), task.num_items))
    network.eval()
    vectors = network.item_model.get_all_embeddings()
    return lambda histories: _states(network, histories, vectors, lookup), table_for_our_ids(vectors, lookup)


def _states(network: Any, histories: Tensor, vectors: Tensor, lookup: Tensor) -> Tensor:
    batch = {"x": lookup[histories].clamp(min=0)}  # in validation, histories are training events: all are known
    return with_one(network.encode_sessions(batch, vectors)[:, -1])


def _check_training(task: Task, preparator: Any) -> None:
    names = preparator.item_id_map.get_external_sorted_by_internal()
    ours = np.array([int(name) if str(name).isdecimal() else 0 for name in names])
    sessions = preparator.get_dataloader_train().dataset.sessions
    rows = np.zeros((len(sessions), task.settings.length + 1), dtype=np.int64)
    for row, session in zip(rows, sessions, strict=True):
        row[-len(session) :] = ours[session]
    check_training(task, examples(rows))


def _check_questions(task: Task, model: Any, dataset: Any) -> None:
    preparator = model.data_preparator
    names = preparator.item_id_map.get_external_sorted_by_internal()
    ours = np.array([int(name) if str(name).isdecimal() else 0 for name in names])
    asked = preparator.transform_dataset_u2i(dataset, np.arange(task.split.num_users))
    batches = preparator.get_dataloader_recommend(asked, model.recommend_batch_size)
    histories = np.concatenate([batch["x"].numpy() for batch in batches])
    check_questions(task, asked.user_id_map.get_external_sorted_by_internal().astype(np.int64), ours[histories])


def _evaluate(task: Task, model: Any, dataset: Any) -> Mapping[str, float]:
    """Recommend ten items to everybody and measure them, by RecTools' own means."""
    from rectools.metrics import NDCG, calc_metrics  # pyright: ignore[reportMissingImports]

    everybody = np.arange(task.split.num_users)
    found = model.recommend(users=everybody, dataset=dataset, k=10, filter_viewed=True)
    asked = task.split.questions("valid")
    targets = frame(Events(asked.users, asked.targets, np.zeros_like(asked.users)))
    measured = calc_metrics({"NDCG@10": NDCG(k=10, divide_by_achievable=True)}, found, interactions=targets)
    return {name: float(value) for name, value in measured.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))

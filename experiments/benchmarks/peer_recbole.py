"""RecBole's SASRec on the task: python -m benchmarks.peer_recbole FOLDER, in RecBole's environment.

RecBole cuts every history into one example per event and its batches count examples, so that an epoch encodes each
prefix of a history anew. The loss is its cross entropy over the catalogue, the batch its default of 2048 examples.
Its split is its own leave-one-out by time, over atomic files of the task's events.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from odmt.types import Tensor

from .peer_diary import Diary, Scorer, table_for_our_ids, with_one
from .peer_task import Task, check_questions, check_training, lookup_of

NAME = "task"


def write_atomic(task: Task, folder: Path) -> None:
    """Write events and catalogue as RecBole's atomic files, folder/task/task.inter and .item."""
    (folder / NAME).mkdir()
    events = task.events()
    with (folder / NAME / f"{NAME}.inter").open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        rows = zip(events.users.tolist(), events.items.tolist(), events.times.tolist(), strict=True)
        file.writelines(f"{user}\t{item}\t{time}\n" for user, item, time in rows)
    with (folder / NAME / f"{NAME}.item").open("w") as file:
        file.write("item_id:token\n")
        file.writelines(f"{item}\n" for item in range(1, task.num_items + 1))


def configuration(task: Task, folder: Path) -> dict[str, Any]:
    """Say in RecBole's words what the task's settings say; what is not named here is RecBole's default."""
    settings = task.settings
    return {
        "data_path": str(folder),
        "checkpoint_dir": str(folder / "saved"),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]},
        "MAX_ITEM_LIST_LENGTH": settings.length,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": None, "mode": "full"},
        "metrics": ["NDCG", "Hit"],
        "topk": [10],
        "metric_decimal_place": 9,
        "valid_metric": "NDCG@10",
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "n_layers": settings.layers,
        "n_heads": settings.heads,
        "hidden_size": settings.dim,
        "inner_size": 4 * settings.dim,
        "hidden_dropout_prob": settings.dropout,
        "attn_dropout_prob": settings.dropout,
        "learning_rate": settings.lr,
        "seed": settings.seed,
        "use_gpu": False,
        "show_progress": False,
    }


def main(folder: Path) -> None:
    """Train and evaluate as the folder's task says, and leave the figures there."""
    import recbole  # pyright: ignore[reportMissingImports]
    from recbole.config import Config  # pyright: ignore[reportMissingImports]
    from recbole.data import create_dataset, data_preparation  # pyright: ignore[reportMissingImports]
    from recbole.model.sequential_recommender import SASRec  # pyright: ignore[reportMissingImports]
    from recbole.trainer import Trainer  # pyright: ignore[reportMissingImports]
    from recbole.utils import init_seed  # pyright: ignore[reportMissingImports]

    task = Task.read(folder)
    write_atomic(task, folder)
    sys.argv = sys.argv[:1]  # Config reads the command line as well
    config = Config(model="SASRec", dataset=NAME, config_dict=configuration(task, folder))
    batch = f"{config['train_batch_size']} examples"
    diary = Diary(task, version=recbole.__version__, loss="full softmax", batch=batch)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    diary.figures["catalogue"] = dataset.item_num - 1
    training, validation, _ = data_preparation(config, dataset)
    model = SASRec(config, training.dataset).to(config["device"])
    trainer = Trainer(config, model)
    diary.prepared(
        trainer.optimizer,
        batch=batch,
        clip=config["clip_grad_norm"],
        feed_forward=config["inner_size"],
        activation=config["hidden_act"],
        norms="after",
    )
    names = dataset.field2id_token["item_id"]
    people = np.array([int(name) if name.isdecimal() else -1 for name in dataset.field2id_token["user_id"]])
    ours = np.array([int(name) if name.isdecimal() else 0 for name in names])
    _, histories, targets = _rows(training.dataset.inter_feat, people, ours)
    check_training(task, np.hstack([histories, targets[:, None]]))
    check_questions(task, *_rows(validation.dataset.inter_feat, people, ours))

    lookup = torch.from_numpy(lookup_of(list(names), task.num_items))
    more = True
    while more:
        diary.epoch_begins()
        trainer._train_epoch(training, diary.epochs)
        more = diary.epoch_ends(lambda: _scorer(model, lookup))
    diary.evaluation(lambda: _evaluate(trainer, validation))
    # what RecBole reports masks nothing: ours must come to the same, or states and items were not handed over right
    diary.figures["ndcg10_unmasked"] = diary.ndcg10(lambda: _scorer(model, lookup), mask_history=False)
    diary.write(folder)


def _scorer(model: Any, lookup: Tensor) -> Scorer:
    model.eval()
    table = table_for_our_ids(model.item_embedding.weight, lookup)
    return lambda histories: _states(model, histories, lookup), table


def _states(model: Any, histories: Tensor, lookup: Tensor) -> Tensor:
    """Turn left-padded histories of our ids into RecBole's right-padded ones, and those into user states."""
    lengths = (histories > 0).sum(1)
    columns = torch.arange(histories.shape[1])[None] + (histories.shape[1] - lengths)[:, None]
    filled = columns < histories.shape[1]
    moved = histories.gather(1, columns.clamp(max=histories.shape[1] - 1))
    return with_one(model(lookup[moved].masked_fill(~filled, 0), lengths))


def _evaluate(trainer: Any, data: Any) -> Mapping[str, float]:
    found = trainer.evaluate(data, load_best_model=False, show_progress=False)
    return {"NDCG@10": float(found["ndcg@10"])}


def _rows(interactions: Any, people: np.ndarray, ours: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read users, left-padded histories and targets, in our ids, from what RecBole trains or answers on."""
    lists, lengths = interactions["item_id_list"].numpy(), interactions["item_length"].numpy()
    width = lists.shape[1]
    columns = np.arange(width)[None] - (width - lengths)[:, None]
    histories = np.where(columns >= 0, np.take_along_axis(lists, np.maximum(columns, 0), axis=1), 0)
    return people[interactions["user_id"].numpy()], ours[histories], ours[interactions["item_id"].numpy()]


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""odmt on the task that the peers get: python -m benchmarks.peer_odmt FOLDER in-batch|catalogue.

The steps are those of `odmt.training.fit` in one process, without its checkpoints and log, which the peers are spared
as well. "in-batch" is the loss 'in_batch', the library's own choice; "catalogue" is the loss 'full', a softmax over all
items, as the peers' is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

from odmt.attention import Block
from odmt.data.features import ItemFeatures
from odmt.data.loading import UserBatches, training_loader
from odmt.evaluate import metrics, ranks
from odmt.model import ODMT

from .peer_diary import Diary, Scorer
from .peer_task import Task, check_questions, check_training, examples

WEIGHT_DECAY, CLIP = 0.1, 5.0  # the defaults of odmt.training
LOSSES = {"in-batch": ("in-batch", "in_batch"), "catalogue": ("full softmax", "full")}
"""What the figures call a loss, and what odmt does."""


def main(folder: Path, loss: str) -> None:
    """Train and evaluate as the folder's task says, and leave the figures there."""
    task = Task.read(folder)
    settings, split = task.settings, task.split
    diary = Diary(
        task, version=version("odmt"), loss=LOSSES[loss][0], batch=f"{settings.batch} users", catalogue=task.num_items
    )
    model = ODMT(
        ItemFeatures({}, num_items=task.num_items),
        streams=["id"],
        dim=settings.dim,
        fusion="independent",
        backbone=f"sasrec(layers={settings.layers}, heads={settings.heads})",
        item_counts=split.item_counts(),
        loss=LOSSES[loss][1],
        length=settings.length,
        dropout=settings.dropout,
    )
    batches = UserBatches(split.num_users, settings.batch, seed=settings.seed)
    loader = training_loader(split, model.features, model.modalities, batches)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=WEIGHT_DECAY, fused=True)
    block = next(module for module in model.modules() if isinstance(module, Block))
    diary.prepared(
        optimizer,
        batch=f"{settings.batch} users",
        clip=CLIP,
        feed_forward=next(part.out_features for part in block.feed_forward if isinstance(part, nn.Linear)),
        activation="ReLU",
        norms="after",
    )
    _check(task)

    more = True
    while more:
        batches.epoch = diary.epochs
        diary.epoch_begins()
        model.train()
        for batch in loader:
            losses = model(batch)
            sum(losses.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]  # a tensor, not 0
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
        more = diary.epoch_ends(lambda: _scorer(model))
    diary.evaluation(lambda: _evaluate(model, task))
    diary.write(folder)


def _scorer(model: ODMT) -> Scorer:
    tables = model.encode_catalogue()
    return lambda histories: model.states(histories, tables)["id"], tables["id"]


def _evaluate(model: ODMT, task: Task) -> Mapping[str, float]:
    tables = model.encode_catalogue()
    questions = task.split.questions("valid")
    found = ranks(lambda histories: model.states(histories, tables), tables, questions, combine=model.ensemble)
    return {"NDCG@10": metrics(found["ensemble"])["NDCG@10"]}


def _check(task: Task) -> None:
    """Hold ourselves to what the peers are held to."""
    everyone = np.arange(task.split.num_users)
    events = task.split.training(everyone)
    check_training(task, examples(np.pad(events, ((0, 0), (task.settings.length + 1 - events.shape[1], 0)))))
    asked = task.split.questions("valid")
    check_questions(task, asked.users, asked.histories, asked.targets)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

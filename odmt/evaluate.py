"""Rank targets among the whole catalogue and report HR@k, NDCG@k and MRR, for every stream and their ensemble.

The rank of a target is 1 + how many items score higher + half of how many others score the same: the average over all
orders of the tied items, so that a model which scores everything alike earns chance and no more. HR@k counts rank <=
k, NDCG@k adds 1 / log2(rank + 1) for those, MRR averages 1 / rank. Counting needs no sort.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch

from odmt.types import Float, Int, Questions, Streams, Tensor

__all__ = ["CUTOFFS", "mask_seen", "metrics", "popularity_ranks", "rank_targets", "ranks"]

CUTOFFS = (5, 10, 20)
_TILE_BYTES = 1 << 28  # scores held at once: users per tile = this over 4 bytes * catalogue


def mask_seen(
    scores: Float[Tensor, "users items"],
    seen: Int[Tensor, "users any"],
    targets: Int[Tensor, " users"],
    *,
    repeats: Literal["rank", "miss"] = "rank",
) -> Float[Tensor, "users items"]:
    """Set padding (item 0) and each user's own history to -inf.

    A target that the user has had before keeps its score with repeats="rank"; with "miss" it is masked like the rest
    of the history, and can never be hit (what the released evaluation does).
    """
    kept = scores.gather(1, targets[:, None])
    masked = scores.scatter(1, seen, -torch.inf)
    masked[:, 0] = -torch.inf
    return masked if repeats == "miss" else masked.scatter(1, targets[:, None], kept)


def rank_targets(scores: Float[Tensor, "users items"], targets: Int[Tensor, " users"]) -> Float[Tensor, " users"]:
    """Rank each target among its row of scores, 1 is best; ties share their average rank, and NaN is ranked last."""
    target = scores.gather(1, targets[:, None])
    higher = (~(scores <= target)).sum(1)  # `scores > target`, but a NaN on either side counts against the target
    others = (scores == target).sum(1) - (~target.isnan()).squeeze(1).long()
    return 1.0 + higher.float() + 0.5 * others.float()


def ranks(
    states: Callable[[Int[Tensor, "users length"]], Streams],
    tables: Streams,
    questions: Questions,
    *,
    combine: Callable[[Streams], Tensor],
    mask_history: bool = True,
    repeats: Literal["rank", "miss"] = "rank",
    tile: int = 256,
    rank: int = 0,
    world: int = 1,
    progress: Callable[[Sequence[int]], Iterable[int]] = lambda tiles: tiles,
) -> dict[str, np.ndarray]:
    """Rank the targets of all questions: per stream, and for "ensemble", which is float32 [users] like the others.

    states: user states of histories, per stream [users, dim]; tables: item vectors per stream [items + 1, dim].
    combine: the ensemble's scores from those of the streams, as `ODMT.ensemble`.
    tile: users scored at once, fewer where the catalogue is large. Tiles are cut from the questions' own order and
        each process (`rank` of `world`) takes every world-th one, so any number of processes computes the same
        numbers; the entries of the other processes' tiles are 0, to be summed up.
    """
    device = next(iter(tables.values())).device
    num_users, num_items = len(questions.targets), len(next(iter(tables.values())))
    tile = max(1, min(tile, _TILE_BYTES // (4 * num_items)))
    heads = (*tables, "ensemble")
    found = {head: np.zeros(num_users, dtype=np.float32) for head in heads}
    for start in progress(range(rank * tile, num_users, world * tile)):
        part = slice(start, start + tile)
        histories, seen, targets = (
            torch.from_numpy(array[part].astype(np.int64)).to(device)
            for array in (questions.histories, questions.seen, questions.targets)
        )
        seen = seen if mask_history else torch.zeros_like(seen[:, :1])
        scores = {head: state @ tables[head].T for head, state in states(histories).items()}
        scores["ensemble"] = combine(scores)
        for head, values in scores.items():
            masked = mask_seen(values, seen, targets, repeats=repeats)
            found[head][part] = rank_targets(masked, targets).cpu().numpy()
    return found


def popularity_ranks(
    item_counts: np.ndarray,
    questions: Questions,
    *,
    mask_history: bool = True,
    repeats: Literal["rank", "miss"] = "rank",
) -> np.ndarray:
    """Rank the targets by how often items occur in training: the baseline that needs no model."""
    counts = torch.from_numpy(item_counts).float()
    ones = torch.ones(1)
    return ranks(
        lambda histories: {"popular": ones.expand(len(histories), 1)},
        {"popular": counts[:, None]},
        questions,
        combine=lambda scores: scores["popular"],
        mask_history=mask_history,
        repeats=repeats,
    )["popular"]


def metrics(ranks: np.ndarray, cutoffs: Sequence[int] = CUTOFFS) -> Mapping[str, float]:
    """Average HR@k, NDCG@k and MRR over users, from their ranks."""
    ranks = ranks.astype(np.float64)
    hits = {k: ranks <= k for k in cutoffs}
    gain = 1.0 / np.log2(ranks + 1.0)
    return {
        **{f"HR@{k}": float(hits[k].mean()) for k in cutoffs},
        **{f"NDCG@{k}": float((gain * hits[k]).mean()) for k in cutoffs},
        "MRR": float((1.0 / ranks).mean()),
    }

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

__all__ = ["CUTOFFS", "mask_seen", "metrics", "popularity_ranks", "rank_targets", "ranks", "top_items"]

CUTOFFS = (5, 10, 20)
_SCORES = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Scores of a head that are held at once: on a CPU what its caches hold, on a GPU what fills it."""
_ROWS = 32
"""Users whose scores are held at once however large the catalogue: fewer, and products wait for the tables."""


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


def rank_targets(
    scores: Float[Tensor, "users items"],
    targets: Int[Tensor, " users"],
    seen: Int[Tensor, "users any"] | None = None,
    *,
    repeats: Literal["rank", "miss"] = "rank",
) -> Float[Tensor, " users"]:
    """Rank each target among its row of scores, 1 is best; ties share their average rank, and NaN is ranked last.

    With `seen`, padding (item 0) and each user's own history are left out, as by `mask_seen`.

    What is left out is taken off the counts instead of being masked in the scores, and the comparisons are written as
    numbers and summed: two passes over the scores, where masking, boolean sums and a copy take much longer.
    """
    target = scores.gather(1, targets[:, None])
    exact = torch.float32 if scores.shape[1] < 1 << 24 else torch.float64  # counts up to here are whole numbers
    count = torch.empty(scores.shape, dtype=exact, device=scores.device)
    not_above = torch.le(scores, target, out=count).sum(1)
    below = torch.lt(scores, target, out=count).sum(1)
    ranked = torch.full_like(not_above, scores.shape[1])
    missed = torch.zeros_like(targets, dtype=torch.bool)
    if seen is not None:
        # each item left out once, however often it was seen
        out = torch.cat([torch.zeros_like(seen[:, :1]), seen], dim=1).sort(1).values
        once = torch.ones_like(out, dtype=torch.bool)
        once[:, 1:] = out[:, 1:] != out[:, :-1]
        is_target = out == targets[:, None]
        missed = is_target.any(1)
        once &= ~is_target
        values = scores.gather(1, out)
        not_above -= ((values <= target) & once).sum(1)
        below -= ((values < target) & once).sum(1)
        ranked -= once.sum(1)
    others = (not_above - below - 1).clamp(min=0)  # the target itself ties with itself, unless it is NaN
    found = 1.0 + (ranked - not_above) + 0.5 * others
    if seen is not None and repeats == "miss":
        # the target is masked, too: all that may be ranked stands above it, and what is masked ties with it
        found = torch.where(missed, ranked + 0.5 * (scores.shape[1] - ranked), found)
    return found.float()


def ranks(
    states: Callable[[Int[Tensor, "users length"]], Streams],
    tables: Streams,
    questions: Questions,
    *,
    combine: Callable[[Streams], Tensor],
    mask_history: bool = True,
    repeats: Literal["rank", "miss"] = "rank",
    tile: int = 1024,
    rank: int = 0,
    world: int = 1,
    progress: Callable[[Sequence[int]], Iterable[int]] = lambda tiles: tiles,
) -> dict[str, np.ndarray]:
    """Rank the targets of all questions: per stream, and for "ensemble", which is float32 [users] like the others.

    states: user states of histories, per stream [users, dim]; tables: item vectors per stream [items + 1, dim].
    combine: the ensemble's scores from those of the streams, as `ODMT.ensemble`.
    tile: users whose histories are read at once; they are scored in smaller groups. Tiles are cut from the questions
        in the order of the histories' lengths, so that little padding is read, and each process (`rank` of `world`)
        takes every world-th one, so any number of processes computes the same numbers; the entries of the other
        processes' tiles are 0, to be summed up.
    """
    device = next(iter(tables.values())).device
    num_users, num_items = len(questions.targets), len(next(iter(tables.values())))
    rows = max(_ROWS, _SCORES.get(device.type, _SCORES["cuda"]) // num_items)
    heads = (*tables, "ensemble")
    found = {head: np.zeros(num_users, dtype=np.float32) for head in heads}
    lengths = (questions.histories > 0).sum(1)
    order = lengths.argsort(kind="stable")
    for start in progress(range(rank * tile, num_users, world * tile)):
        users = order[start : start + tile]
        longest = max(1, lengths[users[-1]])
        read = states(torch.from_numpy(questions.histories[users, -longest:].astype(np.int64)).to(device))
        for group in range(0, len(users), rows):
            some = users[group : group + rows]
            seen, targets = (
                torch.from_numpy(array[some].astype(np.int64)).to(device)
                for array in (questions.seen, questions.targets)
            )
            seen = seen if mask_history else torch.zeros_like(seen[:, :1])
            scores = {head: state[group : group + rows] @ tables[head].T for head, state in read.items()}
            scores["ensemble"] = combine(scores)
            for head, values in scores.items():
                found[head][some] = rank_targets(values, targets, seen, repeats=repeats).cpu().numpy()
    return found


def top_items(
    states: Streams,
    tables: Streams,
    seen: Int[Tensor, "users any"],
    *,
    k: int,
    combine: Callable[[Streams], Tensor],
    chunk: int = 1 << 16,
) -> tuple[Float[Tensor, "users k"], Int[Tensor, "users k"]]:
    """Return the k best items of each user and their combined scores, best first; `seen` items are left out.

    The catalogue is scored `chunk` items at a time and only the best k are kept in between, so that memory does not
    grow with it. Of equal scores the item with the smaller number comes first. A user with fewer than k items left
    gets 0 (padding) with score -inf behind them.
    """
    num_items = len(next(iter(tables.values())))
    users = len(seen)
    device = next(iter(tables.values())).device
    best = torch.full((users, k), -torch.inf, device=device)
    items = torch.zeros(users, k, dtype=torch.long, device=device)
    for start in range(0, num_items, chunk):
        stop = min(start + chunk, num_items)
        scores = combine({name: state @ tables[name][start:stop].T for name, state in states.items()}).to(best.dtype)
        inside = (seen >= start) & (seen < stop)
        hidden = torch.where(inside, seen - start, stop - start)  # the others go to a column of their own
        scores = torch.cat([scores, scores.new_zeros(users, 1)], dim=1).scatter_(1, hidden, -torch.inf)[:, :-1]
        if start == 0:
            scores[:, 0] = -torch.inf
        together = torch.cat([best, scores], dim=1)
        places = _first_k(together, k)
        best = together.gather(1, places)
        items = torch.where(places < k, items.gather(1, places.clamp(max=k - 1)), start + places - k)
        items = items.masked_fill(best == -torch.inf, 0)
    return best, items


def _first_k(scores: Float[Tensor, "users items"], k: int) -> Int[Tensor, "users k"]:
    """Return the places of the k highest scores, the first of equal ones before the others."""
    values, places = scores.topk(k, dim=1)
    # topk takes any of equal scores; where some at the border were left out, only a sort knows which come first
    border = values[:, -1:]
    torn = (scores == border).sum(1) > (values == border).sum(1)
    if torn.any():
        places[torn] = scores[torn].sort(dim=1, descending=True, stable=True).indices[:, :k]
    places = places.sort(1).values
    order = scores.gather(1, places).sort(dim=1, descending=True, stable=True).indices
    return places.gather(1, order)


def popularity_ranks(
    item_counts: np.ndarray,
    questions: Questions,
    *,
    mask_history: bool = True,
    repeats: Literal["rank", "miss"] = "rank",
    tile: int = 1 << 16,
) -> np.ndarray:
    """Rank the targets by how often items occur in training: the baseline that needs no model.

    As `ranks` would, whose scores are then alike for all users: one sorted list says how many items lie above a target
    and beside it, and a user's own are taken off. tile: users at a time.
    """
    ordered = np.sort(item_counts[1:])
    found = np.zeros(len(questions.targets), dtype=np.float32)
    for start in range(0, len(found), tile):
        some = slice(start, start + tile)
        targets = questions.targets[some].astype(np.int64)[:, None]
        seen = questions.seen[some].astype(np.int64) if mask_history else np.zeros_like(targets)
        count = item_counts[targets]
        left_out = np.sort(seen, axis=1)
        once = left_out > 0
        once[:, 1:] &= left_out[:, 1:] != left_out[:, :-1]
        missed = (left_out == targets).any(1) & (repeats == "miss")
        once &= left_out != targets
        above = len(ordered) - ordered.searchsorted(count[:, 0], "right")
        beside = len(ordered) - above - ordered.searchsorted(count[:, 0], "left") - 1  # itself not
        above -= ((item_counts[left_out] > count) & once).sum(1)
        beside -= ((item_counts[left_out] == count) & once).sum(1)
        ranked = len(ordered) - once.sum(1)
        # a target that is masked ties with all that is
        found[some] = np.where(missed, ranked + 0.5 * (len(item_counts) - ranked), 1 + above + 0.5 * beside)
    return found


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

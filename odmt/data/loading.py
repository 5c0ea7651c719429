"""Batches of users in which every distinct item is read, encoded and scored once."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from odmt.data.splits import LeaveTwoOut
from odmt.data.tokens import by_length
from odmt.types import Batch, Contents, LiveContents, Part, Tensor

__all__ = ["Collate", "UserBatches", "leave_signals", "make_batch", "training_loader"]


def make_batch(
    histories: np.ndarray | Tensor | Sequence[Any],
    features: Contents,
    modalities: Sequence[str] | None = None,
    *,
    drawn: np.ndarray | None = None,
    part: Part | None = None,
    seed: int | None = None,
) -> Batch:
    """Build a batch from histories of global ids [users, length], left-padded with 0, newest last.

    Leading columns that nobody fills are cut. `modalities` are those whose content is read, by default all. Items come
    in the order of their number of tokens, so that the model need not pad them all to the longest. `drawn` are the ids
    of further candidates [any], which may repeat, for losses that ask for them: drawn by the chances
    `ODMT.draw_shares`, which the loss takes for granted. Where processes share a batch, `histories` are those of all,
    and `part` says which of them, and which items' content, are kept; `seed` as of `odmt.types.Batch`. Raises
    ValueError where there is no event, or padding behind one, and for what are no numbers of items.
    """
    histories = _numbers_of_items(histories, features.num_items)
    filled = histories > 0
    if not filled.any():
        raise ValueError(f"none of {len(histories)} histories has an event (0 is padding); a batch needs some")
    if (gap := (filled[:, :-1] & ~filled[:, 1:]).any(1)).any():
        row = int(gap.argmax())
        raise ValueError(
            f"history {row} has padding behind an event: {histories[row].tolist()}; put the zeros in front"
        )
    first = int(filled.any(0).argmax())
    histories, filled = histories[:, first:], filled[:, first:]
    events = histories[filled]
    further = events[:0] if drawn is None else drawn
    items, inverse = np.unique(np.concatenate([events, further]), return_inverse=True)
    counts = np.bincount(inverse[: len(events)], minlength=len(items))
    modalities = tuple(features.widths) if modalities is None else modalities
    order = by_length(features, modalities, items)
    items, counts = items[order], counts[order]
    index = np.zeros_like(histories)
    index[filled] = order.argsort()[inverse[: len(events)]]
    draws = None
    if drawn is not None:
        draws = torch.from_numpy(np.bincount(inverse[len(events) :], minlength=len(items))[order])
    wanted = items
    if part is not None:
        wanted, index, filled = part.of(items), part.of(index), part.of(filled)
    content = {name: features.gather(name, wanted) for name in modalities}
    tensors = (torch.from_numpy(array) for array in (items, counts, index, filled))
    return Batch(*tensors, content=content, draws=draws, part=part, seed=seed)


def _numbers_of_items(given: np.ndarray | Tensor | Sequence[Any], num_items: int) -> np.ndarray:
    """Take histories of any integers, as int64; refuse what is no number of an item, nor padding."""
    asked = "pass numbers of items as integers [users, length], left-padded with 0"
    try:
        histories = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"histories are no array ({error}); {asked}") from error
    if histories.ndim != 2 or histories.dtype.kind not in "iu":
        raise ValueError(f"histories are {histories.dtype} {list(histories.shape)}; {asked}")
    if (wrong := histories[(histories < 0) | (histories > num_items)]).size:
        raise ValueError(f"histories hold item {wrong[0]}; items are 1..{num_items}, and 0 is padding")
    return histories.astype(np.int64, copy=False)


class Collate:
    """Turn users into a training batch; a picklable callable for DataLoader workers.

    draws, shares: how many items are drawn for each batch, and every item's chance [num_items + 1]. Which they are
    depends on seed, epoch and the batch's first user alone.
    """

    def __init__(
        self,
        split: LeaveTwoOut,
        features: Contents,
        modalities: Sequence[str],
        batches: UserBatches,
        *,
        draws: int = 0,
        shares: np.ndarray | None = None,
    ) -> None:
        self.split = split
        self.features = features
        self.modalities = tuple(modalities)
        self.batches = batches
        if draws and shares is None:
            raise ValueError(f"draws={draws} items need every item's chance: pass shares [num_items + 1]")
        self.draws = draws
        self.cumulated = np.zeros(1) if shares is None else shares.cumsum()

    def __call__(self, users: Sequence[int]) -> Batch:
        histories = self.split.training(np.asarray(users))
        features = self.features
        if isinstance(features, LiveContents):
            features = features.in_training(self.batches.seed, self.batches.epoch)
        drawn = None
        if self.draws:
            places = self._random(users[0], 2).random(self.draws)
            drawn = self.cumulated.searchsorted(places * self.cumulated[-1], side="right")
        seed = int(self._random(users[0], 3).integers(1 << 62))
        return make_batch(
            histories, features, self.modalities, drawn=drawn, part=self.batches.part(len(users)), seed=seed
        )

    def _random(self, first_user: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.batches.seed, self.batches.epoch, first_user, purpose])


class UserBatches(Sampler[list[int]]):
    """Cut every epoch's permutation of users into batches of `batch_size`, and say who reads what of them.

    The permutation depends on seed and epoch alone, so any number of processes sees the same batches.

    shared: processes share every batch, and each is given its users all, with its `part`, so that the loss does not
        depend on the number of processes. Otherwise each process is given users of its own, as a batch of its own; a
        last batch too small for every process to have a user then joins the one before it.
    epoch: which permutation; first: how many batches of it to leave out. Both are set between passes.
    """

    def __init__(
        self, num_users: int, batch_size: int, *, seed: int, rank: int = 0, world: int = 1, shared: bool = False
    ) -> None:
        if batch_size < world and not shared:
            raise ValueError(
                f"batch_size={batch_size} is smaller than the {world} processes that share it; raise --train.batch-size"
            )
        self.num_users = num_users
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.shared = shared and world > 1
        self.epoch = 0
        self.first = 0

    def part(self, users: int) -> Part | None:
        """Say which part of a batch of so many users is this process's, where batches are shared."""
        return Part(self.rank, self.world, users) if self.shared else None

    def __len__(self) -> int:
        """Count the batches of a whole epoch."""
        fewest = 1 if self.shared else self.world
        return max(1, self.num_users // self.batch_size + (self.num_users % self.batch_size >= fewest))

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.whole()[self.first :]:
            yield (batch if self.shared else batch[self.rank :: self.world]).tolist()

    def whole(self) -> list[np.ndarray]:
        """Give the users of every batch of the epoch, whoever reads them."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_users)
        return np.split(order, np.arange(1, len(self)) * self.batch_size)


def training_loader(
    split: LeaveTwoOut,
    features: Contents,
    modalities: Sequence[str],
    batches: UserBatches,
    *,
    workers: int = 0,
    ahead: int = 2,
    draws: int = 0,
    shares: np.ndarray | None = None,
) -> DataLoader[Batch]:
    """Load the training batches of an epoch; set `batches.epoch` before each pass.

    ahead: batches that each of the `workers` prepares before they are asked for, all in memory.
    draws: items drawn for each batch as further candidates, each by its chance in `shares` [num_items + 1].
    """
    collate = Collate(split, features, modalities, batches, draws=draws, shares=shares)
    users = range(split.num_users)
    prefetch = {"prefetch_factor": ahead} if workers else {}
    how = {"num_workers": workers, "worker_init_fn": leave_signals, **prefetch}
    return DataLoader(users, batch_sampler=batches, collate_fn=collate, **how)  # pyright: ignore[reportArgumentType]


def leave_signals(worker: int) -> None:
    """Let a worker leave signals to the process that it reads for, which may want another batch before it stops."""
    del worker
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)

"""Recommend with a trained model, in the vendor's ids:

    python -m odmt.recommend runs/NAME --user 12 973
    python -m odmt.recommend runs/NAME --k 50 --out recommendations.csv

The first prints what two users of the run's dataset may like next, the second writes a file for all of them.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from odmt.evaluate import top_items
from odmt.model import ODMT
from odmt.types import Streams, Tensor

__all__ = ["Catalogue", "Recommender", "main"]

AT_ONCE = 256
"""Users who are read and scored at a time."""
COMPARED = 100_000
"""Most ids among which one that resembles an unknown one is looked for: each comparison takes microseconds."""


@runtime_checkable
class Catalogue(Protocol):
    """Name what is needed of a dataset: `odmt.data.format.Dataset` has it."""

    def ids(self) -> list[str]:
        """Give the vendor's item ids, entry i of item i + 1."""
        ...

    def users(self) -> list[str]:
        """Give the vendor's user ids."""
        ...

    def history(self, user: int) -> np.ndarray:
        """Give the items of a user, oldest first."""
        ...


class Recommender:
    """Say which items of a catalogue users may like next, best first, by the ids of the vendor.

    model: trained on `catalogue`, whose items it encodes once. head: the stream that ranks, or the ensemble of all.

    Users' histories are all the events that the catalogue has of them, those that validated and tested included; the
    model reads the newest that it was built to read (`model.length`). Scores order the items of one user, and are no
    probabilities. Items that came to the catalogue after training are ranked by their content and the id vector that
    it lets expect. So are, over a catalogue that has changed, those that were there and had no training events; over
    the one of training these have the id vectors that it left them, as in the run's test.
    """

    def __init__(
        self,
        model: ODMT,
        catalogue: Catalogue,
        *,
        head: str = "ensemble",
        progress: Callable[..., Iterable[Any]] | None = None,
    ) -> None:
        if head not in ("ensemble", *model.streams):
            raise ValueError(f"there is no head {head!r}; there are: {', '.join((*model.streams, 'ensemble'))}")
        self.ids = catalogue.ids()
        if len(self.ids) != model.num_items:
            raise ValueError(
                f"the model was loaded over {model.num_items:,} items and the catalogue has {len(self.ids):,}; pass "
                "from_pretrained the same dataset"
            )
        self.model, self.catalogue, self.head = model, catalogue, head
        self.new_items: Sequence[str] = ()
        """Those of `ids` that came after training, where that is known (`load`)."""
        with torch.inference_mode():
            self._tables = model.encode_catalogue(progress=progress)

    @classmethod
    def load(
        cls, run: str | Path, dataset: str | Path | None = None, *, device: str | None = None, **how: Any
    ) -> Recommender:
        """Load a run's model, or one that `save_pretrained` wrote, with its dataset.

        dataset: its folder, or its name below data/, where that is another one now than in training, or that of another
        catalogue of the vendor, such as the release of a later month with features of the same encoders
        (`odmt.pretrained.from_pretrained`).

        device: "cuda" where there is one, unless said. how: as of the class.

        Raises ValueError or `DatasetError` where the model, the dataset, its features or the device are not there.
        """
        from odmt.config import parse
        from odmt.data.format import find_dataset, open_dataset
        from odmt.encoders.frozen import choose_device
        from odmt.newcomers import TrainedItems
        from odmt.pretrained import from_pretrained, model_folder

        _check_no_checkpoint(Path(run))
        folder = model_folder(run)
        place = choose_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        experiment = parse(["--config", str(folder / "experiment.yaml"), "--data.augment"], configs=folder)
        catalogue = open_dataset(find_dataset(dataset or experiment.dataset, experiment.data.root))
        found = cls(from_pretrained(folder, catalogue, device=place), catalogue, **how)
        then = TrainedItems.read(folder / "items.parquet")
        trained_on = found.ids if then is None else then.ids
        found.new_items = sorted(set(found.ids).difference(trained_on))
        return found

    def users(
        self, users: Iterable[str] | None = None, *, k: int = 10, seen: bool = False
    ) -> Iterator[tuple[str, list[tuple[str, float]]]]:
        """Give, for users by the vendor's ids, all of them without, the best `k` items: (user, [(item, score), ...]).

        seen: whether items that a user has had may be recommended again.
        """
        rows = range(len(self._users)) if users is None else [self._row(user) for user in _listed(users, "users")]
        found = self._best((self.catalogue.history(row) for row in rows), k=k, seen=seen)
        for row, best in zip(rows, found, strict=True):
            yield self._users[row], best

    def histories(
        self, histories: Iterable[Sequence[str]], *, k: int = 10, seen: bool = False
    ) -> list[list[tuple[str, float]]]:
        """Give the best `k` items after each of some histories, of users who need not be in the dataset: the vendor's
        ids of items, oldest first.
        """
        numbers = [
            np.array([self._item(item) for item in _listed(history, f"history {row}")], dtype=np.int64)
            for row, history in enumerate(_listed(histories, "histories", of_lists=True))
        ]
        if empty := [row for row, history in enumerate(numbers) if not len(history)]:
            raise ValueError(f"history {empty[0]} is empty; what nobody is known to have liked, nothing follows")
        return list(self._best(numbers, k=k, seen=seen))

    def _best(self, histories: Iterable[np.ndarray], *, k: int, seen: bool) -> Iterator[list[tuple[str, float]]]:
        if not isinstance(k, Integral) or isinstance(k, bool):
            raise ValueError(f"k is {k!r}, and not a whole number; write k=10")
        if not 1 <= k <= len(self.ids):
            raise ValueError(f"k is {k}; there are {len(self.ids):,} items")
        for some in _groups(histories, AT_ONCE):
            read = _padded([history[-self.model.length :] for history in some], self.model.length)
            states = self.model.states(read, self._tables)
            had = _padded([history[:0] if seen else history for history in some], 1).to(self.model.device)
            scores, items = top_items(states, self._tables, had, k=k, combine=self._combined)
            for numbers, values in zip(items.tolist(), scores.tolist(), strict=True):
                # who has had all but a few items gets those few
                yield [(self.ids[item - 1], score) for item, score in zip(numbers, values, strict=True) if item]

    def _combined(self, scores: Streams) -> Tensor:
        return self.model.ensemble(scores) if self.head == "ensemble" else scores[self.head]

    @cached_property
    def _users(self) -> list[str]:
        return self.catalogue.users()

    @cached_property
    def _row_of(self) -> Mapping[str, int]:
        return {user: row for row, user in enumerate(self._users)}

    @cached_property
    def _number_of(self) -> Mapping[str, int]:
        return {item: number for number, item in enumerate(self.ids, start=1)}

    def _row(self, user: str) -> int:
        return _found(user, self._row_of, "user")

    def _item(self, item: str) -> int:
        return _found(item, self._number_of, "item")


def _check_no_checkpoint(path: Path) -> None:
    of_a_run = path.resolve().parent
    if of_a_run.name == "checkpoints" and (of_a_run.parent / "experiment.yaml").is_file():
        way_out = f"python -m odmt.consolidate {path} FOLDER, and name that folder"
        raise ValueError(f"{path} is a checkpoint, and not a model; make a model of it: {way_out}")


def _listed(given: Any, what: str, *, of_lists: bool = False) -> Iterable[Any]:
    """Refuse a lone id where a list belongs; of one that is text, every character would be taken for an id."""
    if isinstance(given, Iterable) and not isinstance(given, str):
        return given
    right = [str(given)]
    raise ValueError(f"{what} is {given!r}; pass a list: {[right] if of_lists else right}")


def _found(name: object, known: Mapping[str, int], what: str) -> int:
    if isinstance(name, str) and name in known:
        return known[name]
    if not isinstance(name, str) and str(name) in known:
        raise ValueError(f"{what} {name!r} is a number; ids are text: {str(name)!r}")
    near = difflib.get_close_matches(str(name), known, n=1) if len(known) <= COMPARED else []
    raise ValueError(f"there is no {what} {name!r}" + (f"; did you mean {near[0]!r}?" if near else " in the dataset"))


def _groups(histories: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    group = []
    for history in histories:
        group.append(history)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _padded(histories: Sequence[np.ndarray], least: int) -> Tensor:
    """Pad with 0 on the left, the newest event last."""
    made = np.zeros((len(histories), max(least, *map(len, histories), 1)), dtype=np.int64)
    for row, history in enumerate(histories):
        made[row, made.shape[1] - len(history) :] = history
    return torch.from_numpy(made)


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m odmt.recommend",
        description="Recommend with the model of a run: user, rank, item and score, as csv, in the vendor's ids.",
    )
    parser.add_argument("run", help="runs/NAME, or a folder that save_pretrained or odmt.consolidate wrote")
    parser.add_argument("--user", nargs="+", metavar="ID", help="these users (default: all of the dataset)")
    parser.add_argument("--k", type=int, default=10, help="items per user (default %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the csv goes (default: it is printed)")
    parser.add_argument("--head", default="ensemble", help="the stream that ranks (default %(default)s)")
    parser.add_argument("--seen", action="store_true", help="recommend items again that a user has had")
    parser.add_argument(
        "--dataset", metavar="DIR", help="the dataset's folder, or a later one's, or a name (default: the run's own)"
    )
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    chosen = parser.parse_args(argv)
    from tqdm import tqdm

    from odmt.run_folder import writing_whole

    try:
        if chosen.out is not None:
            _make_room(chosen.out)
        bar = partial(tqdm, desc="encode", unit="chunk", leave=False)
        recommender = Recommender.load(chosen.run, chosen.dataset, device=chosen.device, head=chosen.head, progress=bar)
        found = recommender.users(chosen.user, k=chosen.k, seen=chosen.seen)
        if recommender.new_items:
            new, there = len(recommender.new_items), len(recommender.ids)
            print(f"{new:,} of {there:,} items are new since training; the others were there", file=sys.stderr)
        if chosen.out is None:
            _write(sys.stdout, found)
            sys.stdout.flush()
            return 0
        users = len(chosen.user or recommender.catalogue.users())
        with _naming(chosen.out), writing_whole(chosen.out) as file:
            _write(file, iter(tqdm(found, desc="recommend", unit="user", total=users, leave=False)))
    except BrokenPipeError:  # who reads has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        return 141  # as of one that SIGPIPE ends
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted" + (f"; {chosen.out} was not written" if chosen.out else ""), file=sys.stderr)
        return 130
    print(f"wrote {chosen.out}")
    return 0


def _make_room(out: Path) -> None:
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; name a file, such as {out / 'recommendations.csv'}")
    with _naming(out):
        out.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def _naming(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written ({error}); name a file where you may write") from error


def _write(file: Any, found: Iterator[tuple[str, list[tuple[str, float]]]]) -> None:
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["user", "rank", "item", "score"])
    for user, best in found:
        rows.writerows([user, rank, item, f"{score:.6g}"] for rank, (item, score) in enumerate(best, start=1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

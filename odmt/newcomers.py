"""Take a trained model over to another catalogue of the same vendor: next month's, with items that it has never seen.

Items are found again by the vendor's ids. What is new is read by its content, as everything is; an id vector it has
not learnt, and gets the one that its content lets expect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from odmt.fusion import mean_of_tokens
from odmt.items import ItemEncoder, id_tables
from odmt.live import EncodedFeatures
from odmt.types import Tensor

__all__ = ["TrainedItems", "carried_over", "expect_ids"]

RARE, ENOUGH, MOST, MOST_LIVE = 2, 1000, 20_000, 2_000
"""Ids are expected to be like those of items with at most RARE training events, of at least ENOUGH items and at most
MOST, or MOST_LIVE where content has to be encoded first."""
PENALTIES = np.logspace(-3, 4, 8)
"""Of the ridge regression, for content of length 1; the errors of items left out choose."""
AT_ONCE = 256
"""Items whose content is held at a time: 0.6 GB of 197 tokens, 768 wide, and their products with the mask."""


@dataclass(frozen=True)
class TrainedItems:
    """Name the items that a model was trained on, in their order, and how often each occurred in training."""

    ids: Sequence[str]
    events: np.ndarray

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.events):
            raise ValueError(f"there are {len(self.ids)} ids and {len(self.events)} numbers of events")

    def write(self, path: Path) -> None:
        """Write them as parquet, columns `id` and `events`, whole or not at all."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        partial = path.with_name(f".{path.name}.partial")
        try:
            pq.write_table(pa.table({"id": pa.array(self.ids, pa.string()), "events": self.events}), partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @property
    def digest(self) -> str:
        """Hash all of it, 16 hexadecimal digits."""
        found = hashlib.sha256("\0".join(self.ids).encode())
        found.update(np.ascontiguousarray(self.events, dtype="<i8").tobytes())
        return found.hexdigest()[:16]

    @classmethod
    def read(cls, path: Path) -> TrainedItems | None:
        """Read what `write` wrote; None where there is nothing.

        Raises ValueError where it is damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not path.exists():
            return None
        try:
            table = pq.read_table(path)
            return cls(table["id"].to_pylist(), table["events"].to_numpy())
        except (pa.ArrowException, KeyError, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged ({error}); take another copy of the model, or train again") from error

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """Give the number that each of `ids` had in training, 0 where it is new: [len(ids) + 1], entry 0 padding."""
        number = {item: row for row, item in enumerate(self.ids, start=1)}
        return np.array([0, *(number.get(item, 0) for item in ids)], dtype=np.int64)


def carried_over(saved: Mapping[str, Tensor], model: ItemEncoder, rows: np.ndarray) -> dict[str, Tensor]:
    """Give the parameters that were `saved` the order of `model`'s catalogue, whose items were `rows` in training.

    A newcomer gets what padding has, which never occurred either: an id vector of zeros, and the smallest popularity;
    content stands in for its id where the model was trained so.
    """
    now, new = torch.from_numpy(rows), torch.from_numpy(rows == 0)
    known = {name for name in saved if name.rpartition(".")[2] == "id_known"}
    per_item = known | {f"{name}.weight" for name in id_tables(model)} | {"log_popularity"}
    moved = {name: saved[name][now] for name in per_item & saved.keys()}
    if model.stands_in:
        moved |= {name: moved[name] & ~new for name in known}
    return {**saved, **moved}


@torch.no_grad()
def expect_ids(model: ItemEncoder, then: TrainedItems, rows: np.ndarray) -> None:
    """Give items that are new, 0 in `rows`, or that never occurred in training, the id vectors that their content lets
    expect, where the model has any.

    That is a ridge regression (Gantner et al., ICDM 2010, section IV) of id vectors on the mean tokens of each
    modality, over the items that occurred least in training: how ids of popular ones lie tells of their popularity.
    A model whose ids are hidden in training (`hide`, `id_min_count`) has learnt what stands in, and is left as it is.

    Raises:
        ValueError: where the model reads ids and no content, or none of the items that it was trained on is left.
    """
    events = np.where(rows > 0, np.concatenate([[0], then.events])[rows], 0)
    new = np.flatnonzero(events == 0)[1:]
    if "id" not in model.inputs or not len(new):
        return
    if not rows.any():
        raise ValueError(
            f"none of the {len(rows) - 1:,} items of the catalogue has an id that the model was trained on, such as "
            f"{then.ids[0]!r}: it is another vendor's, or its ids are written otherwise; a model without ids "
            "(--model.streams text, say) can read any catalogue"
        )
    if not model.modalities:
        if len(unknown := np.flatnonzero(rows == 0)[1:]):
            raise ValueError(
                f"{len(unknown):,} items of the catalogue are new to the model, which knows items by id alone; train "
                "it again, or a model that reads content"
            )
        return
    teachers = _teachers(events, MOST_LIVE if model.encoders else MOST)
    if model.stands_in or len(teachers) < 2:
        return
    from sklearn.linear_model import RidgeCV

    tables = list(id_tables(model).values())
    shown = _content(model, teachers)
    learnt = [RidgeCV(alphas=PENALTIES).fit(shown, table.weight[teachers].double().cpu().numpy()) for table in tables]
    for some in np.array_split(new, 1 + len(new) // AT_ONCE):
        asked = _content(model, some)
        for table, found in zip(tables, learnt, strict=True):
            table.weight[some] = torch.from_numpy(np.atleast_2d(found.predict(asked))).to(table.weight)


def _teachers(events: np.ndarray, most: int) -> np.ndarray:
    """Choose the items that occurred least, all alike of those that occurred equally often, spread evenly if many."""
    there = np.flatnonzero(events)
    if not len(there):
        return there
    least = np.sort(events[there])[min(ENOUGH, len(there)) - 1]
    chosen = there[events[there] <= max(RARE, least)]
    return chosen[np.linspace(0, len(chosen) - 1, min(most, len(chosen))).astype(np.int64)]


def _content(model: ItemEncoder, items: np.ndarray) -> np.ndarray:
    """Average the tokens of each modality, brought to length 1, side by side; zeros where an item lacks it."""
    content = EncodedFeatures(model.features, model.encoders)
    made = []
    for name in model.modalities:
        parts = (content.gather(name, some) for some in np.array_split(items, 1 + len(items) // AT_ONCE))
        means = [mean_of_tokens(tokens.values.double(), tokens.mask).cpu() for tokens in parts]
        made.append(torch.nn.functional.normalize(torch.cat(means)))
    return torch.cat(made, dim=1).numpy()

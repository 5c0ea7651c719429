"""Measure a prepared folder: verify its files, count its histories, decode its media, draw samples to look at."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from data_adapters.check_histories import LENGTH, HistoryFacts, walk
from data_adapters.check_media import Job, decode, decode_all
from odmt.data.format import Dataset, DatasetError

__all__ = ["SHOWN_GROUPS", "Report", "Samples", "Unreadable", "inspect"]

POPULAR = 12
NEWEST = 10
"""Events shown of a sample history."""
SHOWN_GROUPS = 12
"""Groups of duplicates shown as pictures."""
ENTITY = re.compile(r"&(?:[a-z]{2,8}|#\d{2,6}|#x[0-9a-f]{2,6});", re.IGNORECASE)


@dataclass(frozen=True)
class Unreadable:
    """Name a file that cannot be decoded, and why."""

    item: int
    kind: str
    path: str
    reason: str


@dataclass
class Samples:
    """Hold what people look at: items 1..N drawn by a seed, the most popular ones, users with their newest events."""

    items: list[int]
    popular: list[int]
    users: dict[str, list[int]]
    """Per vendor's user id, the newest events, oldest first."""
    lengths: list[int]
    """Events of each of those users."""

    def all_items(self) -> set[int]:
        return {*self.items, *self.popular, *(item for items in self.users.values() for item in items)}


@dataclass
class Report:
    """Hold all that was found."""

    dataset: Dataset
    histories: HistoryFacts
    samples: Samples
    ids: Sequence[str]
    texts: Sequence[str | None]
    text_facts: dict[str, int]
    present: dict[str, int]
    """Per kind of content, how many items have it."""
    decoded: dict[str, int]
    """Per kind of media, how many files could be decoded."""
    unreadable: list[Unreadable] = field(default_factory=list)
    duplicates: list[list[int]] = field(default_factory=list)
    """Groups of items with the same picture, largest first."""
    thumbnails: dict[int, bytes] = field(default_factory=dict)
    """JPEG, by item."""
    filmed: set[int] = field(default_factory=set)
    """Items whose thumbnail is of their clip."""
    problems: list[str] = field(default_factory=list)
    """What makes the exit status 1, apart from unreadable files."""

    @cached_property
    def reasons(self) -> dict[int, str]:
        """Why an item has no thumbnail though it has a file."""
        return {one.item: one.reason for one in self.unreadable if one.kind != "frames"}


def inspect(dataset: Dataset, *, samples: int, workers: int, length: int = LENGTH) -> Report:
    """Read everything, decode everything, and report; `length` is that of histories in training.

    Raises:
        DatasetError: where the folder is damaged, so that its histories cannot be trusted.
    """
    problems = _verify(dataset)
    columns = pq.read_schema(dataset.path / "items.parquet").names
    kinds = [kind for kind in ("image", "video", "audio", "frames") if kind in columns]
    histories = walk(dataset, length=length)
    if histories.backwards:
        problems.append(f"times go back within the histories of {histories.backwards:,} users; write the folder anew")
    texts = dataset.texts() if "text" in columns else [None] * dataset.num_items
    media = {kind: dataset.column(kind) for kind in kinds}
    present = {"text": sum(text is not None for text in texts)} if "text" in columns else {}
    present |= {kind: sum(bool(value) for value in values) for kind, values in media.items()}
    report = Report(
        dataset=dataset,
        histories=histories,
        samples=_draw(dataset, histories, media, samples=samples),
        ids=dataset.ids(),
        texts=texts,
        text_facts=_text_facts(texts),
        present=present,
        decoded=Counter(),
        problems=problems,
    )
    _decode(report, media, workers=workers)
    return report


def _verify(dataset: Dataset) -> list[str]:
    replaced = []
    for modality in dataset.info.modalities.keys() - {"text"}:
        try:
            dataset.check_media(modality)
        except DatasetError as error:
            replaced.append(str(error))
    try:
        dataset.verify()
    except DatasetError as error:
        # other media than were recorded can still be looked at; other histories cannot be trusted
        if str(error) not in replaced:
            raise
    return sorted(replaced)


def _draw(dataset: Dataset, histories: HistoryFacts, media: dict[str, list[Any]], *, samples: int) -> Samples:
    rng = np.random.default_rng(0)
    looks = [media[kind] for kind in ("image", "video") if kind in media]
    shown = [row + 1 for row in range(dataset.num_items) if any(column[row] is not None for column in looks)]
    pool = np.array(shown) if shown else np.arange(1, dataset.num_items + 1)
    items = np.sort(rng.choice(pool, min(6 * samples, len(pool)), replace=False)).tolist()
    popular = np.argsort(-histories.counts[1:], kind="stable")[:POPULAR] + 1
    users = np.sort(rng.choice(dataset.num_users, min(samples, dataset.num_users), replace=False))
    events = [dataset.history(int(user)) for user in users]
    names = _user_ids(dataset, users.tolist())
    newest = {name: history[-NEWEST:].tolist() for name, history in zip(names, events, strict=True)}
    return Samples(items, popular.tolist(), newest, [len(history) for history in events])


def _user_ids(dataset: Dataset, users: Sequence[int]) -> list[str]:
    """Look up ids of users given in ascending order, a batch at a time: all of them may be too many to hold."""
    found: list[str] = []
    first = 0
    for batch in pq.ParquetFile(dataset.path / "users.parquet").iter_batches(columns=["id"]):
        rows = [user - first for user in users if first <= user < first + len(batch)]
        found += batch.column(0).take(rows).to_pylist() if rows else []
        first += len(batch)
    return found


def _text_facts(texts: Sequence[str | None]) -> dict[str, int]:
    given = [text for text in texts if text is not None]
    return {
        "with U+FFFD, so decoded wrongly once": sum("\ufffd" in text for text in given),
        "with HTML entities, such as &amp;": sum(ENTITY.search(text) is not None for text in given),
        "same as another item's": sum(count for count in Counter(given).values() if count > 1),
    }


def _jobs(report: Report, media: dict[str, list[Any]]) -> Iterator[Job]:
    root, wanted = report.dataset.media_root, report.samples.all_items()
    pictured = media.get("image", [None] * report.dataset.num_items)
    for kind in ("image", "video", "frames"):
        for item, value in enumerate(media.get(kind, ()), start=1):
            thumbnail = item in wanted and (kind == "image" or (kind == "video" and pictured[item - 1] is None))
            for path in [value] if isinstance(value, str) else value or ():
                yield Job(item, kind, root / path, thumbnail)


def _decode(report: Report, media: dict[str, list[Any]], *, workers: int) -> None:
    files = sum(report.present.get(kind, 0) for kind in ("image", "video"))
    digests: dict[bytes, list[int]] = {}
    if not files and not report.present.get("frames"):
        return
    results = decode_all(_jobs(report, media), workers=workers)
    for job, outcome in tqdm(results, total=None if "frames" in media else files, desc="media", disable=None, delay=1):
        if outcome.reason:
            path = str(job.path.relative_to(report.dataset.media_root))
            report.unreadable.append(Unreadable(job.item, job.kind, path, outcome.reason))
            continue
        report.decoded[job.kind] += 1
        if job.kind == "image":
            digests.setdefault(outcome.digest, []).append(job.item)
        if outcome.thumbnail:
            report.thumbnails[job.item] = outcome.thumbnail
            report.filmed |= {job.item} if job.kind == "video" else set()
    report.unreadable.sort(key=lambda one: (one.kind, one.item, one.path))
    groups = [sorted(items) for items in digests.values() if len(items) > 1]
    report.duplicates = sorted(groups, key=lambda items: (-len(items), items))
    for item in (group[0] for group in report.duplicates[:SHOWN_GROUPS]):
        # it was decoded once, in a process of its own, so that it can be decoded here
        if item not in report.thumbnails:
            path = report.dataset.media_root / media["image"][item - 1]
            report.thumbnails[item] = decode(Job(item, "image", path, thumbnail=True)).thumbnail

"""MicroLens, as released (50K, 100K, 1M): videos that people commented on, with title, cover and clip.

Ni et al. 2023, "A Content-Driven Micro-Video Recommendation Dataset at Scale", arXiv 2309.15379. Ids may have gaps, so
users and items are numbered anew by ascending vendor id. Only items that a kept user watched are in the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data_adapters.microlens_files import Events, read_events, read_titles
from data_adapters.text_files import ReleaseError
from odmt.data.format import Dataset, FileRecord, Histories, write_dataset

__all__ = ["LAYOUT", "convert"]

LAYOUT = """\
DIR holds one unpacked release of https://github.com/westlake-repl/MicroLens, under its own names:
  *_pairs.csv             user,item,timestamp (unix milliseconds), preferred because it has times; or
  *_pairs.tsv             user <tab> item item item, oldest first
  *_titles.csv            header and quoted titles (50K); or
  *_title*.csv            no header, the title is what follows the first comma (100K, 1M)
  *covers*/ITEM.jpg       optional
  *videos*/ITEM.mp4       optional
Where both kinds of titles are there, the quoted ones count and the others fill what is missing."""
CITATION = "Ni et al. 2023, A Content-Driven Micro-Video Recommendation Dataset at Scale, arXiv:2309.15379"
LICENCE = "see the release's readme; MicroLens' own: research use, modified copies may not be offered for download"

FEWEST_EVENTS = 4
"""Leave-two-out needs two events to train on, one to validate and one to test."""


def convert(raw: Path, out: Path, *, min_events: int = 5, overwrite: bool = False, made_by: str = "") -> Dataset:
    """Make the dataset folder `out` of the release in `raw`; users with fewer than `min_events` events are left out.

    Raises:
        ReleaseError: where a file is missing, unreadable, or leaves nothing; names file, line and field.
        DatasetError: where `out` is taken or cannot be written.
    """
    if min_events < FEWEST_EVENTS:
        raise ReleaseError(
            f"--min-events {min_events}: must be at least {FEWEST_EVENTS}, because leave-two-out trains on two events "
            "and takes one each to validate and test"
        )
    pairs, titles = _find_files(raw)
    events = read_events(pairs)
    kept, num_short, num_short_events = _drop_short(events, min_events, pairs)
    users, user_rows = np.unique(kept.users, return_inverse=True)
    ids, item_rows = np.unique(kept.items, return_inverse=True)
    # stable: equal times keep the file's order
    order = np.argsort(user_rows, kind="stable") if kept.times is None else np.lexsort((kept.times, user_rows))
    names = [str(i) for i in ids.tolist()]
    texts = read_titles(titles)
    tie_rule = (
        "the vendor's order in the file, oldest first"
        if kept.times is None
        else "time, then the order of lines in the file"
    )
    return write_dataset(
        out,
        name=out.name,
        histories=Histories(
            [str(u) for u in users.tolist()],
            np.concatenate([[0], np.cumsum(np.bincount(user_rows))]),
            item_rows[order] + 1,
            None if kept.times is None else kept.times[order],
        ),
        items={
            "id": names,
            "text": [texts.get(name) for name in names],
            "image": _find_media(raw, "cover", ".jpg", names),
            "video": _find_media(raw, "video", ".mp4", names),
        },
        tie_rule=tie_rule,
        media_root=raw.resolve(),
        licence=LICENCE,
        citation=CITATION,
        made_by=made_by,
        dropped={
            f"users with fewer than {min_events} events": num_short,
            "events of those users": num_short_events,
            "titles of items that no kept user watched": len(texts.keys() - set(names)),
        },
        sources=[FileRecord.of(path, name=path.name) for path in (pairs, *titles)],
        overwrite=overwrite,
    )


def _find_files(raw: Path) -> tuple[Path, list[Path]]:
    if not raw.is_dir():
        raise ReleaseError(f"no folder at {raw}\n{LAYOUT}")
    found = {kind: sorted(raw.glob(f"*pairs.{kind}")) for kind in ("csv", "tsv")}
    pairs = found["csv"] or found["tsv"]
    titles = sorted(raw.glob("*title*.csv"))
    for what, paths in (("pairs.csv or *pairs.tsv", pairs), ("title*.csv", titles)):
        if not paths:
            present = ", ".join(sorted(p.name for p in raw.iterdir())[:20]) or "nothing"
            raise ReleaseError(f"{raw}: no file named *{what}; it holds {present}\n{LAYOUT}")
    if len(pairs) > 1:
        raise ReleaseError(
            f"{raw}: holds the pairs of several releases ({', '.join(p.name for p in pairs)}); keep one per folder"
        )
    return pairs[0], titles


def _drop_short(events: Events, min_events: int, path: Path) -> tuple[Events, int, int]:
    users, rows, lengths = np.unique(events.users, return_inverse=True, return_counts=True)
    keep = lengths[rows] >= min_events
    if not keep.any():
        lower = f"lower --min-events (to {FEWEST_EVENTS} at least)"
        way_out = lower if lengths.max() >= FEWEST_EVENTS else f"leave-two-out needs {FEWEST_EVENTS}"
        raise ReleaseError(
            f"{path}: none of its {len(users)} users has {min_events} events, the longest history has {lengths.max()}; "
            f"{way_out}"
        )
    times = None if events.times is None else events.times[keep]
    return Events(events.users[keep], events.items[keep], times), int((lengths < min_events).sum()), int((~keep).sum())


def _find_media(raw: Path, what: str, suffix: str, names: Iterable[str]) -> list[str | None]:
    folders = sorted(p for p in raw.iterdir() if p.is_dir() and what in p.name.lower())
    files = {
        p.stem: p.relative_to(raw).as_posix()
        for folder in reversed(folders)
        for p in sorted(folder.rglob(f"*{suffix}"))
    }
    return [files.get(name) for name in names]

"""Generate a small release in MicroLens' vendor layout, planted so that content helps and the gain shows.

Every item has a topic and a style. They drive the words of its title, the colour and texture of its cover, and the
colour and motion of its clip. A user's next topic depends on the topic just watched, the next style on the style just
watched; among the items of that topic and style, popular and new ones are watched more. So the items at the end of a
history are often new and rarely seen in training: a model that reads content knows them, one that knows ids alone does
not. Ids have gaps, and some items lack a cover, clip or title.
"""

from __future__ import annotations

import csv
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_adapters.sample_content import STYLES, TOPICS, draw_clip, draw_cover, write_title
from data_adapters.text_files import ReleaseError

__all__ = ["Release", "generate", "plan"]

PAIRS = "MicroLens-sample_pairs.csv"
FIRST_DAY, DAYS = 18326, 921
"""Days since 1970 of the first event (2020-03-05), and the length of the period, as in MicroLens."""
DAY = 86_400_000
FRESH_DAYS, UNSEEN = 90.0, 0.002
"""How long an item stays new, and the weight before its upload: next to nothing, yet a topic is never empty."""
NO_TITLE, NO_COVER, NO_CLIP = 0.04, 0.06, 0.10
"""Share of the items that lack each."""


@dataclass(frozen=True)
class Release:
    """Hold what is planted: `ids`, `topics` and `styles` [items]; `events` [events, 3]: user, item row, unix milliseconds.

    `topic_steps` [topics, topics] and `style_steps` [styles, styles]: probabilities of the next given the current one.
    """

    ids: np.ndarray
    topics: np.ndarray
    styles: np.ndarray
    topic_steps: np.ndarray
    style_steps: np.ndarray
    events: np.ndarray


def generate(out: Path, *, seed: int = 0, users: int = 1000, items: int = 500, overwrite: bool = False) -> Release:
    """Write pairs.csv, titles.csv, covers and clips under `out`; the same arguments write the same bytes.

    Raises:
        ReleaseError: where `out` is taken or the numbers are too small.
    """
    if users < 10 or items < len(TOPICS) * len(STYLES):
        least = f"10 users and {len(TOPICS) * len(STYLES)} items (one per topic and style)"
        raise ReleaseError(f"--users {users} --items {items}: a sample needs at least {least}; raise them")
    _check_free(out, overwrite=overwrite)
    release = plan(seed, users=users, items=items)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        _write_pairs(partial / PAIRS, release)
        _write_content(partial, release, np.random.default_rng([seed, 1]))
        if out.exists():
            shutil.rmtree(out)
        os.rename(partial, out)
    except OSError as error:
        raise ReleaseError(
            f"{out}: writing failed ({error}); nothing was kept. Free some space, then run again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return release


def plan(seed: int, *, users: int, items: int) -> Release:
    """Draw topics, styles and who watches what and when, without writing anything."""
    rng = np.random.default_rng([seed, 0])
    cells = rng.permutation(np.arange(items) % (len(TOPICS) * len(STYLES)))
    topics, styles = cells // len(STYLES), cells % len(STYLES)
    topic_steps = _steps(len(TOPICS), rng, follow=0.70, stay=0.10)
    style_steps = _steps(len(STYLES), rng, follow=0.75, stay=0.05)
    popularity = rng.lognormal(0.0, 0.5, items)
    uploaded = rng.uniform(-0.3 * DAYS, 0.97 * DAYS, items)
    events = []
    for user in range(users):
        length = min(5 + int(rng.exponential(4.5)), 30)
        times = np.sort(rng.uniform(0.0, DAYS, length))
        topic, style, seen = int(rng.integers(len(TOPICS))), int(rng.integers(len(STYLES))), []
        for time in times:
            topic = int(rng.choice(len(TOPICS), p=topic_steps[topic]))
            style = int(rng.choice(len(STYLES), p=style_steps[style]))
            age = time - uploaded
            fresh = np.where(age >= 0, 0.1 + np.exp(-np.abs(age) / FRESH_DAYS), UNSEEN)
            weight = popularity * fresh * ((topics == topic) & (styles == style))
            weight[seen] = 0.0
            if not weight.any():  # the user has seen all of this topic and style
                continue
            item = int(rng.choice(items, p=weight / weight.sum()))
            seen.append(item)
            events.append((user, item, int((FIRST_DAY + time) * DAY)))
    ids = np.sort(rng.choice(np.arange(1, items * 5 // 4), items, replace=False))
    return Release(ids, topics, styles, topic_steps, style_steps, np.array(events, np.int64))


def _steps(states: int, rng: np.random.Generator, *, follow: float, stay: float) -> np.ndarray:
    cycle = rng.permutation(states)
    steps = np.full((states, states), (1.0 - follow - stay) / states)
    steps[cycle, np.roll(cycle, -1)] += follow
    steps[np.arange(states), np.arange(states)] += stay
    return steps


def _check_free(out: Path, *, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ReleaseError(f"{out} exists; name another folder, or overwrite it (--overwrite)")
    if not (out / PAIRS).is_file():
        raise ReleaseError(
            f"{out} holds no generated sample (no {PAIRS}), so it is not overwritten; name another folder"
        )


def _write_pairs(path: Path, release: Release) -> None:
    # one log of all users by time, so that the adapter has to sort out who is who
    order = np.argsort(release.events[:, 2], kind="stable")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "timestamp"])
        for user, item, time in release.events[order].tolist():
            writer.writerow([user + 1, release.ids[item], time])


def _write_content(folder: Path, release: Release, rng: np.random.Generator) -> None:
    covers, clips = folder / "MicroLens-sample_covers", folder / "MicroLens-sample_videos"
    covers.mkdir()
    clips.mkdir()
    with (folder / "MicroLens-sample_titles.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item", "title"])
        for row, name in enumerate(
            tqdm(release.ids.tolist(), desc="titles, covers, clips", unit=" items", disable=None)
        ):
            topic, style = int(release.topics[row]), int(release.styles[row])
            lacks = rng.random(3) < (NO_TITLE, NO_COVER, NO_CLIP)
            if not lacks[0]:
                writer.writerow([name, write_title(topic, style, rng)])
            if not lacks[1]:
                draw_cover(covers / f"{name}.jpg", topic, style, rng)
            if not lacks[2]:
                draw_clip(clips / f"{name}.mp4", topic, style, rng)

"""A release of the toy vendor, and the engine that reads events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from data_adapters.engine import Engine
from tests.unit.adapters.toy import START, write_events


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("engine"), memory="500MB") as engine:
        yield engine


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Write a small release: two users, a catalogue and pictures."""
    raw = tmp_path / "raw"
    write_events(raw / "events.csv", [(u, f"i{n}", START + 86_400 * n, n) for u in "ab" for n in range(6)])
    for n in range(5):
        (raw / "covers").mkdir(exist_ok=True)
        (raw / f"covers/i{n}.jpg").write_bytes(b"picture" * n)
    (raw / "items.txt").write_text("titles\n")
    return raw

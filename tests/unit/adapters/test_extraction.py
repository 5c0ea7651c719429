"""Pictures written out of other files: all of them or none, and only once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_adapters.extraction import extract, removed_on_failure
from data_adapters.text_files import ReleaseError

SLOW = """
import sys, time
from pathlib import Path
from data_adapters.extraction import extract

def files():
    yield "1.png", b"1"
    print("begun", flush=True)
    time.sleep(60)

extract(Path(sys.argv[1]), {"of": "x"}, files)
"""


def two() -> Iterator[tuple[str, bytes]]:
    yield "1.png", b"1"
    yield "2.png", b"2"


def test_is_done_once(tmp_path: Path) -> None:
    assert extract(tmp_path / "out/pictures", {"of": "x", "bytes": 3}, two) == 2
    assert {p.name for p in (tmp_path / "out/pictures").iterdir()} == {"1.png", "2.png", "extracted.json"}
    assert extract(tmp_path / "out/pictures", {"of": "x", "bytes": 3}, lambda: pytest.fail("read again")) == 2
    with pytest.raises(ReleaseError, match=r"holds pictures of {'of': 'x', 'bytes': 3}, not of {'of': 'y'}; remove it"):
        extract(tmp_path / "out/pictures", {"of": "y"}, two)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"of": "x"}'])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, content: str | None) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "diary.txt").write_text("dear")
    if content is not None:
        (mine / "extracted.json").write_text(content)
    with pytest.raises(ReleaseError, match=r"mine is taken.*--extract"):
        extract(mine, {"of": "x"}, two)
    assert (mine / "diary.txt").read_text() == "dear"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[str, bytes]]:
        yield "1.png", b"1"
        raise ReleaseError("key '2' is bad")

    with pytest.raises(ReleaseError, match="key '2' is bad"):
        extract(tmp_path / "pictures", {}, broken)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ReleaseError, KeyboardInterrupt])
def test_pictures_of_a_dataset_that_failed_are_removed(tmp_path: Path, error: type[BaseException]) -> None:
    extract(tmp_path / "pictures", {}, two)
    with removed_on_failure(tmp_path / "pictures"):
        pass
    with pytest.raises(error), removed_on_failure(None):
        raise error
    assert (tmp_path / "pictures").is_dir()
    with pytest.raises(error), removed_on_failure(tmp_path / "pictures"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_of(tmp_path: Path) -> None:
    def full() -> Iterator[tuple[str, bytes]]:
        yield "1.png", b"1"
        raise OSError(28, "No space left on device")

    with pytest.raises(ReleaseError, match=r"after 1 of them .*No space left.*--extract"):
        extract(tmp_path / "pictures", {}, full)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_process_leaves_nothing(tmp_path: Path, how: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path / "pictures")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(how)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 120
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []

"""A disk that fills up, or a process that dies, while a dataset is written: nothing half written is ever read later.

The limit on file size stands in for the disk: the kernel refuses a write in the middle of a file, as on a full disk, or
kills the process there where the signal has its default action.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from odmt.data.format import open_dataset, write_dataset

PROGRAM = """
import resource, signal, sys
from data_adapters.__main__ import main
limit, dies, *argv = sys.argv[1:]
if dies == "dies":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
sys.exit(main(argv))
"""


def run(limit: int, *argv: str, dies: bool = False) -> subprocess.CompletedProcess[str]:
    """Run an adapter in a process whose files may not pass `limit` bytes."""
    command = [sys.executable, "-c", PROGRAM, str(limit), "dies" if dies else "lives", *argv]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # which would be cut, too
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Give a release that makes files of 16, 48 and 96 kB (offsets, items, times) and titles of some 180 kB."""
    folder = tmp_path / "raw"
    folder.mkdir()
    events = [(user, 1 + (user * 7 + step) % 900, step) for user in range(1, 2001) for step in range(6)]
    lines = [f"{user},{item},{1583378629000 + step}\n" for user, item, step in events]
    titles = [f"{item},{hashlib.sha512(bytes(item)).hexdigest()}\n" for item in range(1, 901)]
    (folder / "MicroLens-50k_pairs.csv").write_text("".join(lines))
    (folder / "MicroLens-50k_titles.csv").write_text("item,title\n" + "".join(titles))
    return folder


@pytest.mark.parametrize("limit", [100, 30_000, 97_000])
def test_a_full_disk_leaves_nothing_behind(raw: Path, tmp_path: Path, limit: int) -> None:
    done = run(limit, "microlens", "--raw", str(raw), "--out", str(tmp_path / "lens"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "writing failed" in done.stderr
    assert "nothing was kept" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def test_a_full_disk_leaves_the_old_dataset_as_it_was(raw: Path, tmp_path: Path) -> None:
    old = write_dataset(
        tmp_path / "lens", name="old", histories=[("1", [1], None)], items={"id": ["a"]}, tie_rule="time"
    )
    done = run(1_000, "microlens", "--raw", str(raw), "--out", str(old.path), "--overwrite")
    assert done.returncode == 1
    assert "writing failed" in done.stderr
    assert open_dataset(old.path).fingerprint == old.fingerprint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lens", "raw"]


def test_a_process_that_dies_leaves_no_dataset(raw: Path, tmp_path: Path) -> None:
    done = run(30_000, "microlens", "--raw", str(raw), "--out", str(tmp_path / "lens"), dies=True)
    assert done.returncode < 0
    assert not (tmp_path / "lens").exists()
    for _ in range(1200):  # its child removes what it left
        if [p.name for p in tmp_path.iterdir()] == ["raw"]:
            break
        time.sleep(0.1)
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]
    done = run(10_000_000, "microlens", "--raw", str(raw), "--out", str(tmp_path / "lens"))
    assert done.returncode == 0
    assert open_dataset(tmp_path / "lens").num_users == 2000


def test_a_full_disk_leaves_no_half_sample(tmp_path: Path) -> None:
    done = run(2_000, "sample", "--out", str(tmp_path / "raw"), "--users", "100", "--items", "50")
    assert done.returncode == 1
    assert "writing failed" in done.stderr
    assert list(tmp_path.iterdir()) == []

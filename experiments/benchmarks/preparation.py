"""Prepare synthetic releases of MicroLens' shape at several sizes: time, memory, and what follows for the full one.

The full release has 1,006,528,709 interactions of 34,492,051 users with 1,142,528 items (Ni et al. 2023, arXiv
2309.15379); a smaller one here has as many interactions per user and per item. Lines are in no order, which is the
hardest case for sorting.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
from tqdm import tqdm

__all__ = ["add_arguments", "describe", "measure"]

FULL = {"interactions": 1_006_528_709, "users": 34_492_051, "items": 1_142_528}
PIECE = 5_000_000
COLUMNS = ["--user", "user", "--item", "item", "--time", "timestamp"]
LAYOUTS = {
    "microlens": ("MicroLens-bench_pairs.csv", ["microlens"]),
    "table": ("events.csv", ["table", "--events", "events.csv", *COLUMNS]),
}
"""Whole numbers as ids, with titles; and text as ids, as in most other releases."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add what this suite takes."""
    parser.add_argument(
        "--interactions",
        type=int,
        nargs="+",
        default=[12_500_000, 25_000_000, 50_000_000],
        metavar="N",
        help="sizes (default 12.5, 25 and 50 million)",
    )
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where large files go (default: the temporary folder)"
    )
    parser.add_argument(
        "--layouts", nargs="+", choices=[*LAYOUTS], default=[*LAYOUTS], help="kinds of releases for prepare"
    )
    parser.add_argument("--memory", default="2GB", metavar="SIZE", help="as for the adapters (default 2GB)")


def measure(arguments: Namespace) -> list[dict[str, Any]]:
    """Return, per layout and size, seconds, interactions per second, peak memory and bytes on disk."""
    found = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        for layout in arguments.layouts:
            for size in arguments.interactions:
                found.append(_measure_one(layout, size, Path(name), arguments.memory))
                print(_line(found[-1]), flush=True)
    return found


def describe(results: Sequence[Mapping[str, Any]]) -> str:
    """Say what the slopes mean for the full release, from the sizes measured of MicroLens' layout."""
    own = [r for r in results if r["layout"] == "microlens"]
    if len(own) < 2:
        return "give at least two sizes to see the slope"
    sizes = np.array([r["interactions"] for r in own], float)
    lines = []
    for name, unit, scale in (("seconds", "min", 60), ("disk_bytes", "GB", 1e9), ("scratch_bytes", "GB", 1e9)):
        slope, start = np.polyfit(sizes, [float(r[name]) for r in own], 1)
        full = start + slope * FULL["interactions"]
        per_million = slope * 1e6
        lines.append(
            f"{name}: {per_million:.3g} per million interactions, so {full / scale:.3g} {unit} for the full release"
        )
    # memory is what --memory grants, and what is kept per user (a hash, a length) and per item (a row, a file name)
    peak = max(r["peak_bytes"] - r["users"] * 16 for r in own)
    full = peak + FULL["users"] * 16 + FULL["items"] * 200
    lines.append(f"peak_bytes: bounded by --memory; about {full / 1e9:.3g} GB for the full release")
    return "\n".join(lines)


def _measure_one(layout: str, size: int, folder: Path, memory: str) -> dict[str, Any]:
    raw, out = folder / "raw", folder / "out"
    raw.mkdir()
    users, items = size * FULL["users"] // FULL["interactions"], size * FULL["items"] // FULL["interactions"]
    events, command = LAYOUTS[layout]
    _write_events(raw / events, size, users, items, prefix="" if layout == "microlens" else "A0")
    with (raw / "MicroLens-bench_title.csv").open("w") as file:
        file.writelines(f"{item}, a video about topic {item % 97} and number {item}\n" for item in range(1, items + 1))
    argv = [sys.executable, "-m", "data_adapters", *command, "--raw", str(raw), "--out", str(out), "--memory", memory]
    start = time.perf_counter()
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    disk = _watch(child, folder, base=_bytes_under(raw))
    _, status, usage = disk.pop("ended")
    seconds = time.perf_counter() - start
    if status:
        raise RuntimeError(f"{' '.join(argv)} ended with status {status}")
    written = _bytes_under(out)
    raw_bytes = (raw / events).stat().st_size
    shutil.rmtree(raw)
    shutil.rmtree(out)
    return {
        "layout": layout,
        "interactions": size,
        "users": users,
        "items": items,
        "raw_bytes": raw_bytes,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "per_second": round(size / seconds),
        "peak_bytes": usage.ru_maxrss * 1024,
        "disk_bytes": written,
        "scratch_bytes": disk["most"],
    }


def _watch(child: subprocess.Popen[bytes], folder: Path, *, base: int) -> dict[str, Any]:
    """Wait for the child; note the most that it had on disk, sampled twice a second."""
    most = 0
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            return {"most": most, "ended": (pid, status, usage)}
        most = max(most, _bytes_under(folder) - base)
        time.sleep(0.5)


def _bytes_under(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):  # which passes over folders that went meanwhile
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


def _write_events(path: Path, size: int, users: int, items: int, *, prefix: str) -> None:
    rng = np.random.default_rng(0)
    with (
        path.open("wb") as file,
        tqdm(total=size, desc=path.name, unit=" events", unit_scale=True, disable=None) as bar,
    ):
        file.write(b"user,item,timestamp\n")
        for begin in range(0, size, PIECE):
            rows = min(PIECE, size - begin)
            users_of = rng.integers(1, users + 1, rows)
            items_of = (items * rng.random(rows) ** 2).astype(np.int64) + 1  # some are watched far more than others
            times = 1_583_000_000_000 + rng.integers(0, 80_000_000_000, rows)
            ids = (pa.array(np.char.add(prefix, i.astype("U10")) if prefix else i) for i in (users_of, items_of))
            table = pa.table([*ids, pa.array(times)], names=["user", "item", "timestamp"])
            arrow_csv.write_csv(table, file, arrow_csv.WriteOptions(include_header=False, quoting_style="none"))
            bar.update(rows)


def _line(result: Mapping[str, Any]) -> str:
    return (
        f"{result['layout']:>9}  {result['interactions'] / 1e6:7.1f} M interactions  {result['seconds']:7.1f} s  "
        f"{result['per_second'] / 1e6:5.2f} M/s  cpu {result['cpu_seconds']:7.1f} s  "
        f"peak {result['peak_bytes'] / 1e9:5.2f} GB  disk {result['disk_bytes'] / 1e9:6.2f} GB  "
        f"while working {result['scratch_bytes'] / 1e9:6.2f} GB"
    )

"""A worker that dies is named with the file that it was reading, whatever its parent is doing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from odmt.encoders.last_read import LostWorkerError, naming_files, noting


class Files(Dataset[int]):
    def __len__(self) -> int:
        return 9

    def __getitem__(self, number: int) -> int:
        return noting(self.read)(Path(f"clips/{number}.mp4"))

    def read(self, path: Path) -> int:
        if path.stem == "3":
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        return int(path.stem)


@pytest.mark.parametrize("busy_s", [0.0, 1.0])
def test_a_lost_worker_is_named_while_its_parent_waits_and_while_it_computes(busy_s: float) -> None:
    seen: list[int] = []

    def go_through() -> None:
        with naming_files():
            for batch in DataLoader(Files(), batch_size=1, num_workers=1):
                seen.extend(batch.tolist())
                time.sleep(busy_s)

    with pytest.raises(LostWorkerError, match=r"while it read clips/3\.mp4\. Take that file out"):
        go_through()
    assert seen == list(range(len(seen)))
    assert len(seen) <= 3


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^out of memory$"), naming_files():
        raise RuntimeError("out of memory")

"""Settings every test shares: shapes are checked, no network, few threads; and where the real data lies."""

from __future__ import annotations

import os
import signal
from pathlib import Path

os.environ["ODMT_CHECK_SHAPES"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ACCELERATE_USE_CPU"] = "true"  # bit-equality is promised, and tested, on the CPU
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell's background job ignores Ctrl-C, and so would every child that a test starts and interrupts
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Give the folder of real releases, named by the variable ODMT_REAL_DATA; without it the test is skipped."""
    folder = os.environ.get("ODMT_REAL_DATA")
    if not folder:
        pytest.skip("ODMT_REAL_DATA is not set: the real releases are not at hand")
    return Path(folder)

"""Settings every test shares: shapes are checked, no network, few threads; and where the real data lies."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import sys
import zlib
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

if importlib.util.find_spec("hypothesis"):
    import hypothesis

    # the same examples each time, found however long they take; ODMT_SLOW looks for others
    slow = bool(os.environ.get("ODMT_SLOW"))
    checks = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("odmt", deadline=None, derandomize=not slow, suppress_health_check=checks)
    hypothesis.settings.load_profile("odmt")


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> None:
    _seed(zlib.crc32(fixturedef.argname.encode()))  # each its own: what two fixtures draw is not the same


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    _seed(1)  # no 0: many a fixture draws its models by that


def _seed(seed: int) -> None:
    """Let a test draw the same whatever ran before it, in whichever of pytest's processes."""
    random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


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

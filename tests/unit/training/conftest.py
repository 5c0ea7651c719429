"""The dataset that tests train on, and an accelerator that knows of no run before."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import tiny_dataset
from tests.unit.training.tiny_runs import fresh_accelerator


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    tiny_dataset(folder)
    return folder


@pytest.fixture(autouse=True)
def fresh_accelerator_for_each_test() -> None:
    fresh_accelerator()

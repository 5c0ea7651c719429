"""The dataset folder that tests read and damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.data.tiny_folder import write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny").path

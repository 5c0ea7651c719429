"""The generated sample, with the features that its demonstration uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_adapters.__main__ import main as prepare
from odmt.encoders.__main__ import main as encode


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make what `make demo` makes in data/sample."""
    folder = tmp_path_factory.mktemp("sample")
    raw, data = str(folder / "raw"), str(folder / "data" / "sample")
    assert prepare(["sample", "--out", raw]) == 0
    assert prepare(["microlens", "--raw", raw, "--out", data]) == 0
    assert encode([data, "--modality", "text", "--encoder", "tfidf(dim=64)"]) == 0
    assert encode([data, "--modality", "image", "--encoder", "histogram(bins=8)"]) == 0
    return Path(data)

"""A folder of configurations and ablations."""

from __future__ import annotations

from pathlib import Path

import pytest

FILES = {
    "configs/sample.yaml": "model: {dim: 64}\ntrain: {lr: 1e-4, batch_size: 32, bf16: true}\n",
    "configs/cpu.yaml": "train: {batch_size: 16, bf16: false}\n",
    "ablations/no_distill.yaml": "distill: {graph: []}\n",
    "ablations/narrow.yaml": "model: {dim: 8}\n",
    "ablations/wide.yaml": "model: {dim: 512}\n",
}


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path / "configs"

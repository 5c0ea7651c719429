"""The mend of a torchvision that does not fit its torch: models import, and other faults stay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTY = "if not hasattr(torch.ops.torchvision, 'nms'): raise RuntimeError('operator torchvision::nms does not exist')"


def in_new_process(script: str, folder: Path, repository: Path) -> str:
    """Run `script` where packages in `folder` go before installed ones."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(repository)])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_models_import_after_the_mend(repository: Path, tmp_path: Path) -> None:
    script = (
        "from odmt.encoders.torchvision_mend import mend_torchvision\n"
        "mend_torchvision()\n"
        "import timm, torchvision.transforms.v2\n"
        "from transformers import BertModel, CLIPModel, ViTModel\n"
        "print('imported')"
    )
    assert in_new_process(script, tmp_path, repository) == "imported\n"


@pytest.mark.parametrize(
    ("torchvision", "said"),
    [
        (FAULTY, "fine"),
        ("raise RuntimeError('another fault')", "another fault"),
        ("raise ImportError('no such thing')", "no such thing"),
    ],
)
def test_the_mend_is_for_one_fault_only(torchvision: str, said: str, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(f"import torch\n{torchvision}\n")
    script = (
        "from odmt.encoders.torchvision_mend import mend_torchvision\n"
        "mend_torchvision(); mend_torchvision()\n"
        "try: import torchvision; print('fine')\n"
        "except (RuntimeError, ImportError) as error: print(error)"
    )
    assert in_new_process(script, tmp_path, repository) == f"{said}\n"

"""wandb and mlflow, where they are not installed: the same tests with a folder of them beside our environment.

It takes minutes and a package index, so it runs where the variable ODMT_SLOW is set: ODMT_SLOW=1 make test
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ["wandb==0.31.0", "mlflow-skinny==3.17.2", "sqlalchemy==2.1.9", "alembic==1.20.1"]
"""The last two are for mlflow's database, a file."""


@pytest.mark.skipif(not os.environ.get("ODMT_SLOW"), reason="ODMT_SLOW is not set: it installs wandb and mlflow")
@pytest.mark.timeout(1200)
def test_they_hold_what_was_logged(tmp_path: Path, repository: Path) -> None:
    constraints = str(repository / "constraints.txt")  # what both bring, such as protobuf, must be ours
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", constraints]
    subprocess.run([*install, "--target", str(tmp_path), *PACKAGES], check=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(repository), str(tmp_path)])}
    tests = str(Path(__file__).with_name("test_trackers.py"))
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-rs", tests]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "skipped" not in done.stdout

"""RecBole's and RecTools' own models with our item vectors, each in an environment that its requirements file builds.

It takes minutes and a package index, so it runs where the variable ODMT_SLOW is set: ODMT_SLOW=1 make test
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BEFORE = {
    "recbole": """
import yaml
from recbole_sasrec import SETTINGS, Path, open_dataset, write_atomic
Path("dataset").mkdir()
write_atomic(open_dataset("data/sample"), Path("dataset"))
Path("sample.yaml").write_text(yaml.safe_dump({**SETTINGS, "epochs": 1}))
""",
    "rectools": """
from rectools_sasrec import Path, events
events(Path("data/sample")).to_csv("interactions.csv", index=False)
""",
}
"""Writes what the README's code takes to be there."""
AFTER = {
    "recbole": """
assert model.item_embedding.items.id_table.weight.grad.any()
""",
    "rectools": """
assert model.torch_model.item_model.item_net_blocks[0].items.id_table.weight.grad.any()
import rectools_sasrec
nets = {"item_net_block_types": [rectools_sasrec.ContentNet], "item_net_constructor_kwargs": {"content": "data/sample"}}
known = Dataset.construct(events(Path("data/sample")))
model = SASRecModel(epochs=1, **nets).fit(known)
model.save("saved")
answers = [m.recommend([1, 2, 3], known, k=10, filter_viewed=True) for m in (model, SASRecModel.load("saved"))]
assert answers[0].equals(answers[1])
""",
}
"""Says what must hold after it, and that what our script builds can be saved and loaded."""


@pytest.mark.skipif(not os.environ.get("ODMT_SLOW"), reason="ODMT_SLOW is not set: it builds an environment")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("library", sorted(BEFORE))
def test_their_model_learns_more_with_our_vectors(library: str, sample: Path, tmp_path: Path, repository: Path) -> None:
    python = environment(tmp_path / "environment", repository / "experiments/dropin" / f"requirements-{library}.txt")
    here = tmp_path / "here"
    (here / "data").mkdir(parents=True)
    (here / "data" / "sample").symlink_to(sample)
    script = str(repository / "experiments" / "dropin" / f"{library}_sasrec.py")
    told = run(python, script, "data/sample", repository=repository, cwd=here)
    assert [path.name for path in here.iterdir()] == ["data"], "the script leaves something where it runs"
    found = re.findall(r"seed \d: NDCG@10 (\d\.\d+) without, (\d\.\d+) with\n", told)
    assert len(found) == 3, told
    without, with_ours = (sum(map(float, column)) / 3 for column in zip(*found, strict=True))
    assert with_ours > without + 0.005, told
    code = "\n".join([BEFORE[library], readme_code(library, repository), AFTER[library]])
    run(python, "-c", code, repository=repository, cwd=here)


@pytest.mark.parametrize("library", sorted(BEFORE))
def test_the_readmes_code_is_short(library: str, repository: Path) -> None:
    code = readme_code(library, repository)
    assert sum(bool(line) for line in code.splitlines()) <= 15
    compile(code, "README.md", "exec")


def environment(folder: Path, requirements: Path) -> Path:
    """Build it and give its interpreter."""
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
    return python


def run(python: Path, *arguments: str, repository: Path, cwd: Path) -> str:
    path = os.pathsep.join([str(repository), str(repository / "experiments" / "dropin")])
    variables = {**os.environ, "PYTHONPATH": path, "ODMT_CHECK_SHAPES": ""}
    done = subprocess.run([python, *arguments], cwd=cwd, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def readme_code(library: str, repository: Path) -> str:
    """Give the block of the README that is marked ```python LIBRARY."""
    readme = (repository / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(rf"```python {library}\n(.*?)```", readme, flags=re.DOTALL)
    return code

"""Every configuration builds and takes a step, every overlay goes on every configuration, the README's commands run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data_adapters.__main__ import _parser as adapters_parser
from data_adapters.options import Options
from odmt import ItemFeatures, make_batch
from odmt.config import ConfigError, parse
from odmt.pretrained import build_model
from tests.networks import TINY, picture_dataset
from tests.tiny import NUM_USERS, tiny_dataset

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CONFIGS = REPOSITORY / "experiments" / "configs"
PARTS = ["microlens-cpu", "microlens-live", "sample-live"]
DATASETS = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem not in PARTS)
OVERLAYS = [*sorted(path.stem for path in (CONFIGS.parent / "ablations").glob("*.yaml")), *PARTS]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [line for language, code in BLOCKS if language == "bash" for line in code.replace("\\\n", " ").splitlines()]
HISTORIES = np.array([[0, 0, 1, 2, 3], [4, 5, 2, 6, 7]])


@pytest.mark.parametrize("overlay", ["", *OVERLAYS])
@pytest.mark.parametrize("name", DATASETS)
def test_every_configuration_takes_a_step(name: str, overlay: str) -> None:
    argv = ["--dataset", name, *(["--ablation", overlay] if overlay else [])]
    experiment = parse(argv, configs=CONFIGS)
    assert experiment.config is not None
    sizes = {"text": 2, "image": 3, "video": 4}
    arrays = {name: np.ones((7, most, 16), "float32") for name, most in sizes.items()}
    features = ItemFeatures.from_arrays(7, **arrays)
    model = build_model(experiment, features, item_counts=np.ones(8, dtype=np.int64))
    losses = model(make_batch(HISTORIES, features, model.modalities))
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert (losses["distill"] > 0) == bool(experiment.distill.graph)


def test_overlays_are_short_differences() -> None:
    for path in (CONFIGS.parent / "ablations").glob("*.yaml"):
        lines = path.read_text().splitlines()
        assert lines[0].startswith("# "), f"{path.name} does not say what it asks"
        assert len(lines) <= 8, f"{path.name} is more than a difference"


def test_the_readme_has_commands_and_code() -> None:
    assert not re.findall(r"^[A-Z_]+_TABLE$", README, flags=re.MULTILINE)
    assert len(PYTHON) >= 1
    assert {"make demo", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_the_readmes_code_runs(code: str) -> None:
    assert sum(bool(line) for line in code.splitlines()) <= 15
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("line", [line for line in COMMANDS if "experiments/train.py" in line])
def test_the_readmes_training_commands_parse(line: str) -> None:
    words = shlex.split(line.partition(" #")[0])
    argv = words[words.index("experiments/train.py") + 1 :]
    if "--help" not in argv:
        parse(argv, configs=CONFIGS)


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make ")])
def test_the_readmes_make_targets_exist(line: str) -> None:
    command = ["make", "-n", *line.split()[1:]]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def python(*arguments: str, cwd: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "ODMT_CHECK_SHAPES": "0", **environment}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("python -m data_adapters")])
def test_the_readmes_adapter_commands_parse(line: str) -> None:
    argv = shlex.split(line)[3:]
    arguments = adapters_parser(argv).parse_args(argv)
    if "raw" in arguments:
        Options.of(arguments)


def test_importing_odmt_costs_nothing_and_using_it_costs_torch_and_numpy() -> None:
    before = python("-c", "import sys, odmt; print(*sys.modules)")
    assert "torch" not in before.stdout.split()
    script = """
import sys, torch, numpy
before = set(sys.modules)
import odmt
for name in odmt.__all__:
    getattr(odmt, name)
assert dir(odmt) == sorted(odmt.__all__)
print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
"""
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"odmt", "torch", "numpy", "torchgen"}, done.stdout


def test_a_missing_dataset_is_answered_with_the_way_to_it(tmp_path: Path) -> None:
    train = str(REPOSITORY / "experiments" / "train.py")
    done = python(train, "--dataset", "microlens", "--data.root", str(tmp_path), "--output", str(tmp_path / "runs"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for words in ("https://github.com/westlake-repl/MicroLens", "-m data_adapters microlens", "-m odmt.encoders"):
        assert words in done.stderr
    assert not (tmp_path / "runs").exists()


def test_help_is_worth_reading() -> None:
    done = python(str(REPOSITORY / "experiments" / "train.py"), "--help")
    assert done.returncode == 0
    for words in ("--model.fusion", "--distill.graph", "ID-aware transformer", "Weight decay"):
        assert words in " ".join(done.stdout.replace("│", " ").split())


def test_a_misspelt_setting_is_answered_with_the_right_one() -> None:
    with pytest.raises(ConfigError, match=r"'train.epoch'; did you mean 'train.epochs'\?"):
        parse(["--dataset", "sample", "--train.epoch", "3"], configs=CONFIGS)


def train_by_two(dataset: Path, out: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    train = str(REPOSITORY / "experiments" / "train.py")
    small = ["--model.dim=16", "--train.batch-size=16", "--train.epochs=4", "--train.lr=0.01"]
    given = [f"--dataset={dataset}", f"--output={out}", "--name=two", *small, *settings]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", train, *given]
    done = python(*launch, cwd=out, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((out / "two" / "result.json").read_text())
    assert result["test"]["ensemble"]["HR@10"] > result["most_popular"]["HR@10"] + 0.2
    return done


def test_two_processes_train_together_and_count_nobody_twice(tmp_path: Path) -> None:
    tiny_dataset(tmp_path / "tiny")
    settings = ["--model.fusion=imt(layers=1)", "--train.log-every=2", "--model.ensemble=fitted"]
    train_by_two(tmp_path / "tiny", tmp_path, *settings)
    with np.load(tmp_path / "two" / "test_ranks.npz") as ranks:
        assert len(ranks["ensemble"]) == NUM_USERS
        assert (ranks["ensemble"] >= 1).all()  # a tile that nobody or two had ranked would show as 0 or twice the rank
        assert ranks["ensemble"].max() <= 24
    once = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in once if "valid" in line] == [1, 2, 3, 4]


def test_two_processes_train_through_an_encoder_chunk_by_chunk(tmp_path: Path) -> None:
    picture_dataset(tmp_path / "pictures", also={9: "empty.png"})
    alone = ["--model.fusion=independent", "--model.streams=image", "--distill.graph"]
    live = [f"--model.encoders=image={TINY} @ top(1)", "--train.encoder-lr=0.01", "--train.encode-chunk=5"]
    done = train_by_two(tmp_path / "pictures", tmp_path, *alone, *live)
    assert done.stdout.count("could not be read: 1 of image") == 1, "told once, by one of them"


@pytest.fixture(scope="module")
def small_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for command in (
        f"data_adapters sample --out {folder}/raw --users 80 --items 50",
        f"data_adapters microlens --raw {folder}/raw --out {folder}/sample",
        f"odmt.encoders {folder}/sample --modality text --encoder tfidf(dim=8)",
    ):
        done = python("-m", *command.split())
        assert done.returncode == 0, done.stderr
    return folder / "sample"


@pytest.mark.parametrize("overlay", ["videorec", "all_streams"])
def test_the_sample_trains_through_its_encoders(overlay: str, small_sample: Path, tmp_path: Path) -> None:
    train = str(REPOSITORY / "experiments" / "train.py")
    given = ["--dataset", str(small_sample), "--ablation", overlay, "sample-live", "--name", "live"]
    done = python(train, *given, "--output", str(tmp_path), "--train.epochs", "1", "--train.log-every", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "live" / "result.json").read_text())
    heads = {"videorec": {"video"}, "all_streams": {"id", "text", "image", "video"}}[overlay]
    assert set(result["test"]) == {*heads, "ensemble"}
    (weights,) = (tmp_path / "live" / "model").glob("*.safetensors")
    trained = {name.split(".")[1] for name in load_file(weights) if name.startswith("encoders.")}
    assert trained == heads & {"image", "video"}

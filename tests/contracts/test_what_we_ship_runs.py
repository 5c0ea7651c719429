"""Every configuration builds and takes a step, every overlay goes on every configuration, the README's commands run."""

from __future__ import annotations

import importlib
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
from experiments.train import main as train_main
from odmt import ItemFeatures, make_batch
from odmt.config import ConfigError, parse
from odmt.data.making import ENCODERS, RECIPES
from odmt.encoders import KNOWN, parse_encoder
from odmt.encoders.__main__ import parse as encoders_arguments
from odmt.pretrained import build_model
from tests.documents import CODE, COMMANDS, DOCUMENTS
from tests.networks import TINY, picture_dataset
from tests.tiny import NUM_USERS, tiny_dataset

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CONFIGS = REPOSITORY / "experiments" / "configs"
PARTS = ["microlens-cpu", "microlens-live", "sample-live"]
DATASETS = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem not in PARTS)
OVERLAYS = [*sorted(path.stem for path in (CONFIGS.parent / "ablations").glob("*.yaml")), *PARTS]
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
    assert len(CODE) >= 1
    assert {"make demo", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_within_the_project_lead_somewhere(name: str) -> None:
    for file, _, heading in re.findall(r"\]\(((?!http)[^)#]*)(#([^)]*))?\)", DOCUMENTS[name]):
        target = (REPOSITORY / name).parent / file if file else REPOSITORY / name
        assert target.exists(), f"{name} leads to {file}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            found = {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}
            assert heading in found, f"{name} leads to {file}#{heading}"


@pytest.mark.parametrize("code", CODE, ids=range(len(CODE)))
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


@pytest.mark.parametrize("name", DATASETS)
def test_what_a_missing_dataset_is_answered_with_makes_all_that_its_settings_read(name: str) -> None:
    commands = [shlex.split(line)[2:] for line in RECIPES[name].lines(Path("data", name))]
    encoded = [encoders_arguments(argv) for module, *argv in commands if module == "odmt.encoders"]
    for module, *argv in commands[: -len(encoded)]:
        assert module == "data_adapters"
        adapters_parser(argv).parse_args(argv)
    for one in encoded:
        parse_encoder(one.modality, one.encoder)
    streams = parse(["--dataset", name], configs=CONFIGS).model.streams
    assert [one.modality for one in encoded] == [stream for stream in streams if stream != "id"]
    assert all(one.dataset == f"data/{name}" for one in encoded)


def test_there_is_an_example_for_every_modality_that_has_encoders() -> None:
    assert ENCODERS.keys() == KNOWN.keys()


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
    assert "said by" not in done.stderr, "where our own words stand in the code is of no use to anybody"
    assert not (tmp_path / "runs").exists()


def test_an_error_that_we_did_not_word_says_whose_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs.py").write_text("def backbone(dim: int):\n    return int('no number')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("odmt.training.run", lambda _: importlib.import_module("theirs").backbone(8))
    monkeypatch.setattr("sys.argv", ["train.py", "--dataset", "sample"])
    with pytest.raises(SystemExit) as ended:
        train_main()
    assert str(ended.value).endswith("invalid literal for int() with base 10: 'no number'\n(said by theirs.py:2)")


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

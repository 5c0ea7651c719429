"""Configuration: where settings come from, who wins, and how each mistake is answered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from odmt.config import (
    SETTINGS,
    ConfigError,
    DataConfig,
    DistillConfig,
    Experiment,
    ModelConfig,
    TrainConfig,
    check,
    parse,
    to_yaml,
)
from odmt.flags import flatten

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


def refused(argv: list[str], configs: Path) -> str:
    with pytest.raises(ConfigError) as error:
        parse(argv, configs=configs)
    return str(error.value)


def refused_file(text: str, configs: Path) -> str:
    """Give the answer to a YAML file, less the path that it opens with."""
    path = configs / "mine.yaml"
    path.write_text(text)
    answer = refused(["--dataset", "sample", "--config", str(path)], configs)
    assert answer.startswith(str(path))
    return answer.removeprefix(str(path)).removeprefix(": ")


def test_a_dataset_brings_the_yaml_of_its_name(configs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = parse(["--dataset", "data/sample/"], configs=configs)
    assert (experiment.model.dim, experiment.train.lr, experiment.train.bf16) == (64, 1e-4, True)
    assert (experiment.name, experiment.folder) == ("sample-s1", Path("runs/sample-s1"))
    assert experiment.config == str(configs / "sample.yaml")
    assert capsys.readouterr().err == ""


def test_without_such_a_yaml_the_defaults_hold_and_a_line_says_so(
    configs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = parse(["--dataset", "other"], configs=configs)
    assert experiment == Experiment("other", name="other-s1")
    assert capsys.readouterr().err == f"{configs / 'other.yaml'} does not exist: starting from the built-in defaults\n"


def test_later_sources_win(configs: Path) -> None:
    argv = ["--dataset", "sample", "--ablation", "cpu", "narrow", "wide"]
    experiment = parse(argv, configs=configs)
    assert (experiment.train.batch_size, experiment.train.bf16, experiment.model.dim) == (16, False, 512)
    assert experiment.train.lr == 1e-4, "what no ablation names stays as the dataset's YAML has it"
    assert experiment.name == "sample-cpu+narrow+wide-s1"
    assert parse([*argv, "--model.dim", "4"], configs=configs).model.dim == 4
    assert parse(["--train.bf16", *argv], configs=configs).train.bf16, "the place on the command line does not matter"


def test_an_ablation_may_be_a_path(configs: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text("model: {dim: 2}\n")
    experiment = parse(["--dataset", "sample", "--ablation", str(path), "--seed", "7"], configs=configs)
    assert (experiment.model.dim, experiment.name) == (2, "sample-tiny-s7")


def test_the_dataset_may_stand_in_the_yaml(configs: Path) -> None:
    (configs / "mine.yaml").write_text("dataset: elsewhere\n")
    assert parse(["--config", str(configs / "mine.yaml")], configs=configs).dataset == "elsewhere"


@pytest.mark.parametrize("argv", [["--ablation", "no_distill"], ["--distill.graph"]])
def test_an_empty_list_empties(argv: list[str], configs: Path) -> None:
    assert parse(["--dataset", "sample", *argv], configs=configs).distill.graph == ()


def test_spellings_of_the_command_line(configs: Path) -> None:
    argv = ["--dataset=sample", "--train.batch-size=5", "--train.eval_users", "3", "--train.no-bf16"]
    argv += ["--name", "a run", "--distill.graph", "id -> text", "text->id", "--model.id_init=mean"]
    experiment = parse(argv, configs=configs)
    assert (experiment.train.batch_size, experiment.train.eval_users, experiment.train.bf16) == (5, 3, False)
    assert (experiment.name, experiment.distill.graph) == ("a run", ("id -> text", "text->id"))


def test_pairs_are_read_by_modality(configs: Path) -> None:
    argv = ["--dataset", "sample", "--data.features", "text=tfidf", "--data.max-tokens", "text=30"]
    data = parse(argv, configs=configs).data
    assert (data.selected_features(), data.token_limits()) == ({"text": "tfidf"}, {"text": 30})


# -- round trip ------------------------------------------------------------------------------------------------------

words = st.text("abc é🎬\"'\\-:#{}[],&*!|>%@", min_size=1, max_size=8).filter(lambda word: word.strip(" .-") != "")
rates = st.floats(1e-9, 1e9)
trees = st.fixed_dictionaries(
    {
        "dataset": words,
        "name": words,
        "output": words,
        "seed": st.integers(0, 2**32),
        "trackers": st.sampled_from([(), ("tensorboard",), ("tensorboard", "wandb")]),
    }
)
models = st.fixed_dictionaries(
    {"id_min_count": st.integers(0, 99), "backbone": st.just("sasrec(layers=3)"), "id_init": st.just("mean")}
)
graphs = st.lists(st.sampled_from(["id -> text", "text -> id", "ensemble -> id"]), unique=True).map(tuple)
distills = st.fixed_dictionaries({"graph": graphs, "temperature": rates, "loss": st.sampled_from(["ce", "kl"])})


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=trees, model=models, distill=distills, lr=rates, bf16=st.booleans(), length=st.integers(1, 99))
def test_what_is_written_reads_back_equal(
    tree: dict, model: dict, distill: dict, lr: float, bf16: bool, length: int, tmp_path: Path
) -> None:
    experiment = Experiment(
        **tree,
        data=DataConfig(length=length, max_tokens=("text=3",)),
        model=ModelConfig(**model),
        distill=DistillConfig(**distill),
        train=TrainConfig(lr=lr, bf16=bf16),
    )
    path = tmp_path / "experiment.yaml"
    path.write_text(to_yaml(experiment), encoding="utf-8")
    assert parse(["--config", str(path)], configs=tmp_path) == experiment


def test_a_parsed_experiment_repeats_itself_ablations_included(configs: Path, tmp_path: Path) -> None:
    argv = ["--dataset", "sample", "--ablation", "wide", "no_distill", "--model.dim", "16"]
    experiment = parse(argv, configs=configs)
    written = to_yaml(experiment)
    assert written.startswith(f"# from {configs / 'sample.yaml'} with wide with no_distill\ndataset: sample\n")
    (tmp_path / "experiment.yaml").write_text(written)
    assert parse(["--config", str(tmp_path / "experiment.yaml")], configs=configs) == experiment


def test_flatten_writes_what_a_command_line_would() -> None:
    tree = {"dataset": "a b", "model": {"dim": 8, "streams": ["id", "text"]}, "distill": {"graph": []}, "name": None}
    flags = ["--dataset=a b", "--model.dim=8", "--model.streams=id", "text", "--distill.graph", "--name=None"]
    assert flatten(tree) == flags


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "text", "answer"),
    [
        ("--model.dimm=3", "model: {dimm: 3}", "unknown setting 'model.dimm'; did you mean 'model.dim'?"),
        ("--lr=1", "lr: 1", "unknown setting 'lr'; there is train.lr"),
        ("--models.dim=1", "models: {dim: 1}", "unknown setting 'models.dim'; did you mean 'model.dim'?"),
        ("--model=5", "model: 5", "unknown setting 'model'; did you mean 'model.dim'?"),
        (
            "--model.dim=wide",
            "model: {dim: wide}",
            "Error parsing --model.dim: invalid literal for int() with base 10: 'wide'",
        ),
        (
            "--distill.ramp-by=month",
            "distill: {ramp_by: month}",
            "invalid choice 'month' for argument '--distill.ramp-by'. Expected one of ('epoch', 'step').",
        ),
    ],
)
def test_a_file_and_the_command_line_get_the_same_answer(flag: str, text: str, answer: str, configs: Path) -> None:
    assert refused(["--dataset", "sample", flag], configs) == f"command line: {answer}"
    assert refused_file(text, configs) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", " is empty; write settings as a mapping, for example model: {dim: 128}"),
        ("- 1\n", " holds a list; write settings as a mapping, for example model: {dim: 128}"),
        ("dim 64", " holds a str; write settings as a mapping, for example model: {dim: 128}"),
        (
            "seed: 1\nmodel:\n  dim: 3\n  dim: 4\n",
            " cannot be read as YAML: 'dim' is given twice, in lines 3 and 4; leave one",
        ),
        ("{seed: 1, seed: 2}", " cannot be read as YAML: 'seed' is given twice, in lines 1 and 1; leave one"),
        ("model: {dim: 3}\nmodel.dim: 4\n", "'model.dim' is given twice; give it once, with all its values"),
        ("ablation: [wide]\n", "ablation is a matter of the command line; write --ablation there"),
        ("overwrite: true\n", "overwrite is a matter of the command line; write --overwrite there"),
        ("train: {bf16: 1}", "invalid choice '1' for argument '--train.bf16'. Expected one of ('True', 'False')."),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(text: str, answer: str, configs: Path) -> None:
    assert refused_file(text, configs) == answer


def test_a_file_that_does_not_parse_is_named_with_the_line(configs: Path) -> None:
    assert "cannot be read as YAML" in (answer := refused_file("model: {dim: 3\ntrain: 4", configs))
    assert "line 2" in answer


def test_a_file_that_is_not_there_is_answered_with_those_that_are(configs: Path) -> None:
    answer = refused(["--config", str(configs / "nothing.yaml")], configs)
    assert answer == f"{configs / 'nothing.yaml'} does not exist; {configs} holds cpu.yaml, sample.yaml"


def test_an_unknown_ablation_is_answered_with_the_nearest(configs: Path) -> None:
    places = f"{configs.parent / 'ablations'} or {configs}"
    answer = refused(["--dataset", "sample", "--ablation", "no_distil"], configs)
    assert answer == f"--ablation no_distil: there is no no_distil.yaml in {places}; did you mean 'no_distill'?"
    answer = refused(["--dataset", "sample", "--ablation", "zzz"], configs)
    assert answer.endswith("; there is cpu, narrow, no_distill, sample, wide")


def test_every_value_is_given_once(configs: Path) -> None:
    twice = "is given twice; give it once, with all its values"
    argv = ["--dataset", "sample", "--ablation", "wide", "--ablation", "no_distill"]
    assert refused(argv, configs) == f"command line: 'ablation' {twice}"
    argv = ["--dataset", "sample", "--train.bf16", "--train.no-bf16"]
    assert refused(argv, configs) == f"command line: 'train.bf16' {twice}"


def test_a_dataset_is_needed(configs: Path) -> None:
    answer = "command line: no dataset is named; write --dataset NAME, a folder under data/, or a path"
    assert refused([], configs) == answer
    assert refused(["--dataset"], configs).startswith("command line: Missing value for argument '--dataset'")
    assert refused(["--dataset", "a", "b"], configs) == "command line: Unrecognized options: b"


@pytest.mark.parametrize(
    ("argv", "answer"),
    [
        (
            ["--model.streams", "id"],
            (
                "distill.graph: 'id -> text' names text, but the streams are id, ensemble; "
                "write --distill.graph with the edges you want, or with none"
            ),
        ),
        (
            ["--distill.graph", "id = text"],
            "distill.graph: edge 'id = text' is not of the form 'teacher -> student', for example 'id -> text'",
        ),
        (["--model.streams"], "model.streams=[]: name at least one stream, and each once"),
        (["--model.streams", "id", "id"], "model.streams=['id', 'id']: name at least one stream, and each once"),
        (
            ["--model.backbone", "sasrec(layer=2)"],
            "model.backbone: sasrec takes no argument 'layer'; did you mean 'layers'?",
        ),
        (
            ["--model.fusion", "itm"],
            (
                "model.fusion: unknown fusion 'itm'; did you mean 'imt'? "
                "(a class of your own is written package.module:Name)"
            ),
        ),
        (["--model.id-init", "txt"], "model.id_init='txt' is unknown; did you mean 'text'?"),
        (["--model.dropout", "1"], "model.dropout=1.0 is out of range; it is at least 0 and below 1"),
        (["--train.lr", "nan"], "train.lr=nan is out of range; it is finite and at least 1e-12"),
        (["--train.epochs", "0"], "train.epochs=0 is out of range; it is finite and at least 1"),
        (["--name", "../x"], "name='../x' is no name of a folder in runs; leave out the '/'"),
        (
            ["--resume", "--overwrite"],
            "resume and overwrite exclude each other: one goes on with the run folder, one replaces it",
        ),
        (["--data.features", "tfidf"], "data.features: 'tfidf' should read like text=tfidf, each name once"),
        (["--data.max-tokens", "text=0"], "data.max_tokens: text=0 is no number above 0; write text=30"),
        (["--model.hide", "text=1.5"], "model.hide: text=1.5 names no stream, or a rate that is not from 0 to below 1"),
        (["--model.hide", "text=often"], "model.hide: text=often is no number; write text=0.2"),
        (
            ["--distill.loss", "mse"],
            "distill.loss: unknown distillation loss 'mse'; there is ce, kl, dkd, ranking "
            "(a class of your own is written package.module:Name)",
        ),
        (
            ["--model.join", "sum(at='item')"],
            "distill.graph: 'id -> text' names id and text, but the streams are item, ensemble; "
            "write --distill.graph with the edges you want, or with none",
        ),
        (
            ["--model.loss", "full"],
            "model.loss=full leaves no logits to distil; write --distill.graph with no edges",
        ),
        (["--data.max-tokens", "imag=9"], "data.max_tokens names 'imag'; did you mean 'image'?"),
    ],
)
def test_what_types_cannot_say_is_checked_before_anything_runs(argv: list[str], answer: str, configs: Path) -> None:
    assert refused(["--dataset", "sample", *argv], configs) == answer


def test_edges_between_the_outputs_of_a_fusion_of_ones_own_are_left_to_the_model() -> None:
    model = ModelConfig(fusion="odmt.fusion:Independent")
    check(replace(Experiment("sample"), model=model, distill=DistillConfig(graph=("ensemble -> item",))))


# -- help ------------------------------------------------------------------------------------------------------------


def test_help_explains_every_setting_with_the_values_that_hold(
    configs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as leave:
        parse(["--dataset", "sample", "--help"], configs=configs)
    assert leave.value.code == 0
    printed = capsys.readouterr().out
    text = " ".join(printed.replace("│", " ").split())
    for name in SETTINGS:
        _, found, rest = text.partition(f"--{name.replace('_', '-')}")
        explanation = rest.partition("(default")[0].partition("(required")[0]
        assert found, name
        assert len(explanation.split()) > 3, f"{name} lacks an explanation"
    assert "--model.dim INT Width of item vectors and user states. (default: 64)" in text


def test_help_needs_no_dataset(configs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        parse(["-h"], configs=configs)
    assert (leave.value.code, "(required)" in capsys.readouterr().out) == (0, True)

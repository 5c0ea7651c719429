"""Configuration: where settings come from, who wins, what is written back, and what --help says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from odmt.config import SETTINGS, DataConfig, DistillConfig, Experiment, ModelConfig, TrainConfig, parse, to_yaml
from odmt.flags import flatten


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
    told = f"{configs / 'other.yaml'} does not exist: starting from the built-in defaults"
    assert capsys.readouterr().err == f"{told}\n"
    (configs.parent / "ablations" / "odmt.yaml").write_text("model: {dim: 32}\n")
    parse(["--dataset", "other"], configs=configs)
    assert capsys.readouterr().err == f"{told}; the recommended preset is --ablation odmt\n"
    parse(["--dataset", "other", "--ablation", "odmt"], configs=configs)
    assert capsys.readouterr().err == f"{told}\n", "who has it need not be told"


def test_an_overlay_that_changes_nothing_is_told(configs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parse(["--dataset", "sample", "--ablation", "wide", "no_distill", "--distill.graph", "id -> text"], configs=configs)
    told = "overlay no_distill changes nothing here: what it sets is so already\n"
    assert capsys.readouterr().err == told, "wide changes something, and there was no edge to take away"


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


def test_a_second_head_of_a_name_is_numbered() -> None:
    entries = ("id=gru4rec", "id=gru4rec(layers=2)", "id=my.nets:Own.GRU", "id", "id")
    assert ModelConfig(further_heads=entries, backbone="hstu").heads_beside() == {
        "id_gru4rec": ("id", "gru4rec"),
        "id_gru4rec_2": ("id", "gru4rec(layers=2)"),
        "id_gru": ("id", "my.nets:Own.GRU"),
        "id_2": ("id", "hstu"),
        "id_3": ("id", "hstu"),
    }


def test_a_further_stream_that_an_ablation_leaves_out_keeps_its_settings(configs: Path) -> None:
    chosen = ["--data.features", "words=text:tfidf", "--data.max-tokens", "words=3"]
    experiment = parse(["--dataset", "sample", "--model.streams", "id", "--distill.graph", *chosen], configs=configs)
    assert experiment.data.selected_features() == {"words": "text:tfidf"}


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
    {"id_min_count": st.integers(2, 99), "backbone": st.just("sasrec(layers=3)"), "id_init": st.just("mean")}
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


def test_a_parsed_experiment_repeats_itself_ablations_included(
    configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["--dataset", "sample", "--ablation", "wide", "no_distill", "--model.dim", "16"]
    experiment = parse(argv, configs=configs)
    written = to_yaml(experiment)
    assert written.startswith(f"# from {configs / 'sample.yaml'} with wide with no_distill\ndataset: sample\n")
    monkeypatch.chdir(configs.parent)
    assert to_yaml(experiment).startswith(f"# from {configs.name}/sample.yaml with wide"), "not where that is"
    (tmp_path / "experiment.yaml").write_text(written)
    assert parse(["--config", str(tmp_path / "experiment.yaml")], configs=configs) == experiment


def test_flatten_writes_what_a_command_line_would() -> None:
    tree = {"dataset": "a b", "model": {"dim": 8, "streams": ["id", "text"]}, "distill": {"graph": []}, "name": None}
    flags = ["--dataset=a b", "--model.dim=8", "--model.streams=id", "text", "--distill.graph", "--name=None"]
    assert flatten(tree) == flags


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

"""Mistakes in a configuration, and how each is answered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from odmt.config import ConfigError, DistillConfig, Experiment, ModelConfig, check, parse


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


@pytest.mark.parametrize("name", ["cpu", "cpu.yaml", "elsewhere/cpu.yml"])
def test_a_name_where_a_path_belongs_is_answered_with_both_ways(name: str, configs: Path) -> None:
    assert refused(["--dataset", "sample", "--config", name], configs) == (
        f"{name} does not exist, but {configs} holds cpu.yaml; start from it with --config {configs / 'cpu.yaml'}, or "
        "lay it over the dataset's own settings with --ablation cpu"
    )


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
            ["--model.streams", "id", "--distill.graph", "id -> text"],
            (
                "distill.graph: 'id -> text' names text, but the streams are id, ensemble; "
                "write --distill.graph with the edges you want, or bare, which is the empty list"
            ),
        ),
        (
            ["--distill.graph", "id = text"],
            "distill.graph: edge 'id = text' is not of the form 'teacher -> student', for example 'id -> text'",
        ),
        (["--model.streams"], "model.streams=[]: name at least one stream, and each once"),
        (["--model.streams", "id", "id"], "model.streams=['id', 'id']: name at least one stream, and each once"),
        (
            ["--model.streams", "id,text", "image"],
            "model.streams: 'id,text' is no name of a stream; write names apart: --model.streams id text image",
        ),
        (["--model.join", "sum(at='items')"], "model.join: at='items' is no place; did you mean 'item'?"),
        (
            ["--model.stream-backbones", "text=sasrec(layer=2)"],
            "model.stream_backbones: sasrec takes no argument 'layer'; did you mean 'layers'?",
        ),
        (
            ["--model.further-heads", "txet=gru4rec"],
            "model.further_heads names 'txet'; did you mean 'text'?",
        ),
        (
            ["--model.join", "sum(keep=['text'])", "--model.further-heads", "id=gru4rec"],
            "model.further_heads names 'id'; there is text, item",
        ),
        (
            ["--model.own-items"],
            "model.own_items is for further heads, and there is none; write --model.further-heads item",
        ),
        (
            ["--model.join", "sum(at='user')", "--model.further-heads", "text", "--model.own-items"],
            (
                "model.own_items: 'text_2' reads 'text', and would leave what it makes of other streams unread; "
                "write --model.join \"sum(at='item')\" and let it read item, or --model.no-own-items"
            ),
        ),
        (
            ["--model.id-min-count", "1"],
            (
                "model.id_min_count=1 hides ids of items without training events, and nothing would train what stands "
                "in for them; write --model.hide id=0.1, too"
            ),
        ),
        (
            ["--model.stream-backbones", "contents=recency"],
            "model.stream_backbones names 'contents'; did you mean 'content'?",
        ),
        (
            ["--model.join", "sum", "--model.stream-backbones", "content=recency", "--distill.graph"],
            "model.stream_backbones names 'content'; there is item",
        ),
        (
            ["--model.streams", "text", "image", "--model.fusion", "joint", "--model.join", "sum"],
            "model.join=sum needs two streams, and there is content; write none",
        ),
        (
            ["--model.join", "sum(keep='text')"],
            "model.join: keep='text' is True, False, 'content' or a list, as keep=['text']",
        ),
        (["--data.features", "id=text:tfidf"], "data.features names 'id'; there is text, image, video, audio"),
        (
            ["--model.join", "sum(keep=['txt'])"],
            "model.join names 'txt'; did you mean 'text'?",
        ),
        (
            ["--model.stream-backbones", "recency"],
            "model.stream_backbones: 'recency' should read like text=recency, each name once",
        ),
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
        (["--model.hide", "text=1.5"], "model.hide: text=1.5 is no rate from 0 to below 1; write text=0.2"),
        (["--model.hide", "txt=0.1"], "model.hide names 'txt'; did you mean 'text'?"),
        (["--model.hide", "text=often"], "model.hide: text=often is no number; write text=0.2"),
        (
            ["--distill.loss", "mse"],
            "distill.loss: unknown distillation loss 'mse'; there is ce, kl, dkd, ranking "
            "(a class of your own is written package.module:Name)",
        ),
        (
            ["--model.join", "sum(at='item')", "--distill.graph", "id -> text"],
            "distill.graph: 'id -> text' names id and text, but with model.join=sum(at='item') the streams are item, "
            "ensemble; write --distill.graph with the edges you want, or bare, which is the empty list",
        ),
        (
            ["--model.loss", "full", "--distill.graph", "id -> text"],
            "model.loss=full leaves no logits to distil; write --distill.graph with no edges",
        ),
        (
            ["--model.encoder-policy", "frozn"],
            "model.encoder_policy=frozn: unknown policy 'frozn'; did you mean 'frozen'?",
        ),
        (
            ["--model.encoder-policy", "top(2)"],
            (
                "model.encoder_policy=top(2) is for encoders of model.encoders without a policy of their own, and "
                "there are none"
            ),
        ),
        (["--data.max-tokens", "imag=9"], "data.max_tokens names 'imag'; did you mean 'image'?"),
    ],
)
def test_what_types_cannot_say_is_checked_before_anything_runs(argv: list[str], answer: str, configs: Path) -> None:
    assert refused(["--dataset", "sample", *argv], configs) == answer


@pytest.mark.parametrize(
    ("argv", "answer"),
    [
        (["--model.streams", "id,text"], "model.streams: 'id,text' is no name of a stream; write names apart"),
        (["--model.join", "sum(at='items')"], "model.join: at='items' is no place; did you mean 'item'?"),
        (["--model.join", "sum"], "names id, but with model.join=sum the streams are item, ensemble; write"),
    ],
)
def test_edges_of_a_file_hide_no_other_mistake_and_are_traced_to_it(
    argv: list[str], answer: str, configs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (configs / "sample.yaml").write_text("distill: {graph: [id -> *]}\n")
    monkeypatch.chdir(configs.parent)
    told = refused(["--dataset", "sample", *argv], configs)
    assert answer in told
    assert told.startswith("distill.graph: 'id -> *', which configs/sample.yaml sets, names id") == (argv[-1] == "sum")
    parse(["--dataset", "sample", "--model.join", "sum", "--distill.graph"], configs=configs)


def test_edges_between_the_outputs_of_a_fusion_of_ones_own_are_left_to_the_model() -> None:
    model = ModelConfig(fusion="odmt.fusion:Independent")
    check(replace(Experiment("sample"), model=model, distill=DistillConfig(graph=("ensemble -> item",))))

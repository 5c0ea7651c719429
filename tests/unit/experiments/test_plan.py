"""The plan: what it is told, what it counts beside what is really there, and what it says."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.benchmarks.floor import step_operations
from experiments.benchmarks.plans.command import main, parser
from experiments.benchmarks.plans.configurations import Configuration, Planned, with_lazy_ids
from experiments.benchmarks.plans.hollow import hollow_encoding, hollow_model, hollow_step
from experiments.benchmarks.plans.laws import DatasetShape, Laws, read_shape
from experiments.benchmarks.plans.memory import Engine, moments
from experiments.benchmarks.plans.readings import BatchShape, ItemTokens
from experiments.benchmarks.plans.times import disk_bytes
from experiments.benchmarks.workload import Shape, make_workload
from odmt.config import ConfigError, Experiment, parse
from odmt.pretrained import build_model
from tests.documents import COMMANDS

CONFIGS = Path(__file__).resolve().parent.parent.parent.parent / "experiments" / "configs"
TEXT = {"text": ItemTokens(24, np.array([3, 5, 5, 7]))}
SMALL = ["--dataset-shape", "users=9000", "items=500", "interactions=9e4", "--rate", "1e12", "--dataset", "microlens"]
SMALL += ["--data.root", "nowhere"]
SMALL += ["--ablation", "microlens-cpu", "id_only", "--model.dim=16"]


def experiment_of(*flags: str) -> Experiment:
    return parse(["--dataset", "microlens", "--ablation", "microlens-cpu", *flags], configs=CONFIGS)


def test_a_shape_is_read_as_written() -> None:
    shape = read_shape(["users=34e6", "items=1.1e6", "interactions=1e9", "text=30x768"])
    assert (shape.users, shape.items, shape.interactions) == (34_000_000, 1_100_000, 1_000_000_000)
    assert shape.tokens == {"text": (30, 768)}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["users=many", "items=5", "interactions=99"], r"users='many' is no whole number above 0; write users=34e6"),
        (["users=1.5", "items=5", "interactions=99"], r"users='1.5' is no whole number"),
        (["users=0", "items=5", "interactions=99"], r"users='0' is no whole number above 0"),
        (["users=9", "items=5"], r"lacks interactions; write users="),
        (["users=9", "users=8"], r"'users' is given twice"),
        (["user=9", "items=5"], r"'user=9' is neither .* did you mean 'users'\?"),
        (["users=9", "items=5", "interactions=99", "text=30x"], r"'text=30x' is neither .* write text=30x768"),
        (["users=9", "items=5", "interactions=18"], r"2.0 each, and the protocol keeps users of at least 5"),
    ],
)
def test_a_wrong_shape_is_named_with_the_way_out(entries: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=f"--dataset-shape.*{words}"):
        read_shape(entries)


@pytest.mark.parametrize("overlay", ["paper", "odmt", "item_gated"])
def test_a_hollow_model_has_the_parameters_of_a_real_one(overlay: str) -> None:
    experiment = experiment_of(overlay, "--model.dim=16")
    workload = make_workload(Shape(dim=16, width=24, num_items=50, streams=("id", "text"), users=8))
    real = build_model(experiment, workload.features, item_counts=workload.item_counts)
    hollow = hollow_model(experiment, 50, TEXT)
    assert {n: p.shape for n, p in hollow.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}
    assert sum(b.nbytes for b in hollow.buffers()) == sum(b.nbytes for b in real.buffers())


def test_what_a_step_keeps_is_what_a_real_one_keeps() -> None:
    """Torch's own hooks tell what a forward pass leaves for the backward pass; storages count once."""
    experiment = experiment_of("paper", "--model.dim=32", "--data.length=12")
    workload = make_workload(Shape(dim=32, width=24, num_items=300, streams=("id", "text"), batch=64))
    batch = workload.batch(0)
    model = build_model(experiment, workload.features, item_counts=workload.item_counts).train()
    saved: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        losses = model(batch)
    assert losses["ranking"].isfinite()
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    content = batch.content["text"]
    carried = [batch.items, batch.counts, batch.histories, batch.mask, content.values, content.mask]
    known |= {tensor.untyped_storage().data_ptr() for tensor in carried}
    really = sum(size for place, size in saved.items() if place not in known)
    lengths = np.sort(content.mask.sum(1).numpy())
    shape = BatchShape(np.sort(batch.mask.sum(1).numpy()), len(batch.items))
    tokens = {"text": ItemTokens(24, lengths)}
    kept = hollow_step(hollow_model(experiment, 300, tokens), shape, tokens, gpu=False).kept
    assert kept.batch == sum(tensor.untyped_storage().nbytes() for tensor in carried)
    assert kept.total - kept.batch == pytest.approx(really, rel=0.03)


def test_operations_are_those_of_the_floor_where_nothing_is_padded() -> None:
    experiment = experiment_of("paper", "--model.dim=64", "--data.length=12")
    workload = make_workload(
        Shape(dim=64, width=24, num_items=300, streams=("id", "image"), tokens=(("image", 9),), batch=32, full=True)
    )
    experiment = experiment_of("paper", "--model.dim=64", "--data.length=12", "--model.streams", "id", "image")
    histories = workload.histories(0)
    tokens = {"image": ItemTokens(24, np.array([9]))}
    shape = BatchShape((histories > 0).sum(1), len(np.unique(histories)))
    counted = hollow_step(hollow_model(experiment, 300, tokens), shape, tokens).operations
    floor = step_operations(workload.features, histories, dim=64, streams=("id", "image"))
    assert counted == pytest.approx(floor, rel=0.05)  # which counts half of causal attention, and no padded rows


def needs_of(engine: Engine, *, items: int = 5000) -> dict[str, dict[str, int]]:
    experiment = experiment_of("id_only", "--model.dim=16")
    model = hollow_model(experiment, items, {})
    step = hollow_step(model, BatchShape(np.array([3, 5, 9]), 12), {}, world=engine.processes, lazy=engine.lazy)
    found = moments(engine, model, step, hollow_encoding(model, {}), dim=16, bucket=1000)
    return {moment.name: {**moment.parts, "numbers": sum(step.parameters.values())} for moment in found}


@pytest.mark.parametrize(("processes", "per_number"), [(1, 16), (4, 20)])
def test_ddp_holds_weights_gradients_moments_and_copies(processes: int, per_number: int) -> None:
    update = needs_of(Engine("ddp", processes))["update"]
    numbers, buffers = update.pop("numbers"), update.pop("buffers")
    assert sum(update.values()) == per_number * numbers
    assert buffers == 5001 * (4 + 4 + 1)  # popularity, chances to be drawn, known ids


def test_lazy_ids_hold_no_gradient_of_a_table() -> None:
    found = needs_of(Engine("ddp", 2, lazy=True))
    update, table = found["update"], 5001 * 16
    others = update["numbers"] - table
    assert update["parameters"] == 4 * update["numbers"]
    assert update["optimizer"] == 8 * update["numbers"] + 4 * 5001
    assert update["buckets"] == 4 * others
    assert 4 * others <= update["gradients"] <= 8 * others + 4 * 12 * 16
    assert found["training"]["gradients"] < table


def test_fsdp_splits_all_but_what_a_step_gathers_and_tables_even_then() -> None:
    found, table = needs_of(Engine("fsdp", 4)), 5001 * 16
    numbers = found["update"]["numbers"]
    others = numbers - table
    for moment in found.values():
        assert moment["parameters"] + moment["optimizer"] == pytest.approx(12 * numbers / 4, rel=1e-3)
    assert found["training"]["buckets"] == found["evaluation"]["buckets"] == 4 * others
    assert found["update"]["gradients"] == pytest.approx(4 * others + table, rel=1e-3)
    lazy = needs_of(Engine("fsdp", 4, lazy=True))["evaluation"]
    assert lazy["parameters"] + lazy["optimizer"] == pytest.approx(12 * table + 4 * 5001 + 12 * others / 4, rel=1e-3)


def test_zero_3_holds_more_in_a_step_than_it_splits() -> None:
    training = needs_of(Engine("zero3", 4))["training"]
    assert training["parameters"] + training["optimizer"] == pytest.approx(20 * training["numbers"] / 4, rel=1e-3)
    assert training["buckets"] + training["gradients"] > 15 * 5001 * 16  # a table, its gradient, and copies of that


def test_zero_splits_moments_and_not_the_gradient_of_a_table_that_spans_shares() -> None:
    update = needs_of(Engine("zero2", 4))["update"]
    numbers, table = update["numbers"], 5001 * 16
    assert update["optimizer"] == pytest.approx(3 * numbers, rel=1e-3)  # (4 + 8) / 4
    assert update["gradients"] >= 2 * 4 * table  # as it comes, and where the process keeps those of its share


def test_popularity_says_how_many_items_are_distinct() -> None:
    shape = DatasetShape(users=100, items=10, interactions=500, tokens={})
    alike = Laws.stated(shape, zipf=0.0)
    batch = alike.batch(4, length=10)
    assert batch.lengths.tolist() == [3, 3, 3, 3]
    assert batch.distinct == round(10 * (1 - 0.9**12))
    assert Laws.stated(shape, zipf=1.0).batch(4, length=10).distinct < batch.distinct
    assert alike.stretched(40).shares.sum() == pytest.approx(1)
    assert Laws.stated(DatasetShape(100, 10, 2000, {})).events.mean() == pytest.approx(20, rel=0.01)


def test_features_take_two_bytes_a_number_and_where_they_lie() -> None:
    shape = DatasetShape(users=9, items=7, interactions=60, tokens={})
    found = disk_bytes(shape, {"text": ItemTokens(24, np.array([5]))}, parameters=10, kept=2)
    assert found["features of text"] == 7 * 5 * 24 * 2 + 8 * 2 * 8
    assert found["histories"] == 10 * 8 + 60 * 4


def test_the_largest_batch_fits_and_lazy_ids_are_a_way_out() -> None:
    shape = DatasetShape(users=90_000, items=1_000_000, interactions=900_000, tokens={})
    planned = Planned(shape, Laws.stated(shape), {})
    asked = Configuration(experiment_of("id_only", "--model.dim=64", "--train.batch-size=8"), Engine("ddp"))
    needs = planned.needs(asked)
    assert planned.largest_batch(asked, needs.most.total + 1e6) >= 8
    assert planned.largest_batch(asked, needs.most.total / 2) == 0
    lazy = with_lazy_ids(asked.experiment)
    assert lazy is not None
    assert planned.needs(Configuration(lazy, asked.engine)).moments[1].total < needs.moments[1].total
    found = list(planned.ways_out([asked], needs.most.total * 0.9))
    assert any("--model.dim 32" in words for words, _, _ in found)


def test_what_decides_by_values_is_refused() -> None:
    shape = DatasetShape(users=900, items=50, interactions=9000, tokens={})
    planned = Planned(shape, Laws.stated(shape), {})
    experiment = experiment_of("id_only", "--model.dim=16", "--model.backbone=huggingface(model_type='gpt2')")
    with pytest.raises(ConfigError, match=r"decides by values .* plan another"):
        planned.needs(Configuration(experiment, Engine("ddp")))


def test_the_plan_names_what_fits_and_what_would(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*SMALL, "--gpu-memory", "0.1", "--json", str(tmp_path / "plan.json")]) == 0
    printed = capsys.readouterr().out
    for words in ("rank^-0.6", "fits:", "largest batch that fits, one GPU:", "disk, GB: histories", "h, of which"):
        assert words in printed
    assert str(tmp_path) not in (tmp_path / "plan.json").read_text()
    assert main([*SMALL, "--gpu-memory", "0.0005"]) == 0
    printed = capsys.readouterr().out
    assert "does not fit" in printed
    assert "none" in printed


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--gpus", "0"], "--gpus 0 is out of range"),
        (["--spare", "1"], "--spare 1 is out of range"),
        (["--rate", "nan"], "--rate nan is out of range"),
        (["--train.batchsize=3"], "did you mean 'train.batch_size'"),
        (["--model.encoders", "image=resnet18", "--model.streams", "id", "image"], "would be trained from raw content"),
        (["--model.streams", "id", "image", "video"], "says nothing of 'image'"),
    ],
)
def test_wrong_input_ends_in_a_line(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    rate = [] if "--rate" in flags else ["--rate", "1e12"]
    shape = ["--dataset-shape", "users=9000", "items=500", "interactions=9e4"]
    assert main([*shape, *rate, "--dataset", "microlens", "--ablation", "microlens-cpu", *flags]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_without_a_shape_or_a_folder_the_way_to_the_folder_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset", "microlens", "--data.root", "nowhere", "--rate", "1e12"]) == 1
    assert "data_adapters microlens" in capsys.readouterr().err


def test_help_is_worth_reading(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for words in ("--dataset-shape", "--gpu-memory", "experiments/plan.py", "operations per second"):
        assert words in printed


def test_the_readmes_plans_parse() -> None:
    lines = [line for line in COMMANDS if line.startswith("python experiments/plan.py ")]
    assert lines
    for line in lines:
        arguments, settings = parser().parse_known_args(shlex.split(line)[2:])
        if not arguments.check:
            read_shape(arguments.dataset_shape)
            parse(settings, configs=CONFIGS)

"""Encoding while training: what it must not change, against the same model on stored features and in one piece."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from odmt import ItemFeatures, make_batch
from odmt.data.format import Dataset, open_dataset
from odmt.encoders.contents import LiveContent, LiveFeatures, contents_of
from odmt.encoders.policies import TrainedEncoder
from odmt.model import ODMT
from odmt.types import Raw
from tests.networks import NUM_ITEMS, TinyPatches, picture_dataset
from tests.processes import together

HISTORIES = np.array([[0, 3, 8, 1], [5, 24, 2, 9], [7, 7, 11, 24], [0, 0, 6, 14]])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data") / "pictures"
    return picture_dataset(folder, also={9: "empty.png", 10: "gone.png"})


def live_features(dataset: Dataset, encoder: TrainedEncoder) -> LiveFeatures:
    stored = ItemFeatures({}, num_items=dataset.num_items)
    content = LiveContent(contents_of(dataset, "image"), encoder.network.preparation, encoder.width)
    return LiveFeatures(stored, {"image": content}, order=["image"])


def make_live(dataset: Dataset, policy: str = "full", *, dropout: float = 0.0, **settings: Any) -> ODMT:
    torch.manual_seed(1)
    encoder = TrainedEncoder(TinyPatches(dropout=dropout), policy)
    features = live_features(dataset, encoder)
    return ODMT(features, dim=16, dropout=dropout, length=4, encoders={"image": encoder}, **settings).double()


def losses_and_gradients(
    model: ODMT, seed: int = 5, histories: np.ndarray = HISTORIES
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.train()
    model.zero_grad()
    torch.manual_seed(seed)
    loss = torch.stack(list(model(make_batch(histories, model.features)).values())).sum()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_frozen_and_frozen_live_give_the_same_loss(dataset: Dataset) -> None:
    live = make_live(dataset, "frozen-live")
    network = TinyPatches(dropout=0.0).eval()
    found = network.preparation([one for one in contents_of(dataset, "image") if one is not None])
    with torch.no_grad():
        tokens = iter(network(found.inputs).values.numpy())
    broken = {8, 9}
    rows = [None if one is None or i in broken else next(tokens) for i, one in enumerate(contents_of(dataset, "image"))]
    torch.manual_seed(1)
    stored = ODMT(ItemFeatures.from_arrays(NUM_ITEMS, image=rows), dim=16, dropout=0.0, length=4).double()
    stored.load_state_dict({name: x for name, x in live.state_dict().items() if not name.startswith("encoders.")})
    (ours, _), (theirs, gradients) = losses_and_gradients(live), losses_and_gradients(stored)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert gradients
    for name, table in stored.encode_catalogue().items():
        torch.testing.assert_close(live.encode_catalogue()[name], table, rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"fusion": "independent", "join": "sum(at='item')"},
        {
            "fusion": "joint",
            "join": "sum(at='item', keep='content')",
            "further_heads": {"item_2": ("item", "gru4rec")},
            "own_items": True,
        },
    ],
)
def test_chunks_change_no_gradient(chunk: int, settings: dict[str, Any], dataset: Dataset) -> None:
    settings = {"streams": ("id", "image"), **settings}
    whole = losses_and_gradients(make_live(dataset, **settings))
    parts = losses_and_gradients(make_live(dataset, chunk=chunk, **settings))
    torch.testing.assert_close(parts[0], whole[0], rtol=0, atol=1e-9)
    assert any(name.startswith("encoders.image.network.model.patches") for name in whole[1])
    assert parts[1].keys() == whole[1].keys()
    for name, gradient in whole[1].items():
        torch.testing.assert_close(parts[1][name], gradient, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_chunks_add_up_in_full_precision_under_autocast(dataset: Dataset) -> None:
    rng = np.random.default_rng(0)
    histories = rng.integers(1, NUM_ITEMS, (12, 4))

    def gradient(chunk: int, *, bf16: bool) -> torch.Tensor:
        model = make_live(dataset, streams=("image",), chunk=chunk).float().train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = torch.stack(list(model(make_batch(histories, model.features)).values())).sum()
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.encoders.parameters() if p.grad is not None])

    exact = gradient(0, bf16=False)
    whole, parts = ((gradient(chunk, bf16=True) - exact).norm() / exact.norm() for chunk in (0, 1))
    assert parts < 1.2 * whole


def gradients_of_a_process(rank: int, data: Path, out: Path) -> None:
    model = make_live(open_dataset(data), streams=("id", "image"), chunk=3).train()
    share = HISTORIES[2 * rank : 2 * rank + 2]
    wrapped = DistributedDataParallel(model)  # held: without it nothing is reduced
    losses = wrapped(make_batch(share, model.features))
    torch.stack(list(losses.values())).sum().backward()
    torch.save({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, out / f"{rank}.pt")


def test_chunks_change_no_gradient_of_two_processes(dataset: Dataset, tmp_path: Path) -> None:
    together(gradients_of_a_process, 2, dataset.path, tmp_path)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    model = make_live(dataset, streams=("id", "image"))  # in one piece, in one process, one share after the other
    halves = [losses_and_gradients(model, histories=share)[1] for share in (HISTORIES[:2], HISTORIES[2:])]
    assert found[0].keys() == halves[0].keys()
    assert any(name.startswith("encoders.image.network.model.patches") for name in halves[0])
    for name, gradient in halves[0].items():
        mean = (gradient + halves[1][name]) / 2
        assert torch.equal(found[0][name], found[1][name])
        torch.testing.assert_close(found[0][name], mean, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_what_is_not_trained_passes_its_encoder_once(dataset: Dataset) -> None:
    passed = {}
    for policy in ("frozen-live", "full"):
        model = make_live(dataset, policy, streams=("id", "image"), chunk=4)
        counted = 0

        def count(_: object, inputs: Any, __: object) -> None:
            nonlocal counted
            counted += len(inputs[0]["pixels"])

        encoder = model.encoders["image"]
        assert isinstance(encoder, TrainedEncoder)
        encoder.network.register_forward_hook(count)
        found = losses_and_gradients(model)
        whole = losses_and_gradients(make_live(dataset, policy, streams=("id", "image")))
        torch.testing.assert_close(found[0], whole[0], rtol=0, atol=1e-9)
        assert found[1].keys() == whole[1].keys()
        for name, gradient in whole[1].items():
            torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=1e-9)
        passed[policy] = counted
    assert passed["full"] == 2 * passed["frozen-live"] > 0


def test_encoders_in_half_precision_evaluate_as_they_train(dataset: Dataset) -> None:
    def images(*, bf16: bool, autocast: bool) -> torch.Tensor:
        encoder = TrainedEncoder(TinyPatches(dropout=0.0), bf16=bf16)
        raw = dict(live_features(dataset, encoder).gather("image", np.arange(1, 9)).inputs)  # pyright: ignore[reportAttributeAccessIssue]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return encoder(raw).values.float()

    trained = images(bf16=True, autocast=True)
    assert torch.equal(images(bf16=True, autocast=False), trained)
    exact = images(bf16=False, autocast=False)
    assert not torch.equal(trained, exact)
    torch.testing.assert_close(trained, exact, rtol=0, atol=0.05)


def test_encoding_again_repeats_what_dropout_did(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    again = losses_and_gradients(make_live(dataset, dropout=0.4, chunk=3))

    def kept(encode: Any, *arguments: Any, **_: Any) -> Any:
        return encode(*arguments)  # in the same chunks, with the same random numbers, and all of it kept

    monkeypatch.setattr("odmt.live.checkpoint", kept)
    once = losses_and_gradients(make_live(dataset, dropout=0.4, chunk=3))
    torch.testing.assert_close(again[0], once[0], rtol=0, atol=0)
    for name, gradient in once[1].items():
        torch.testing.assert_close(again[1][name], gradient, rtol=0, atol=1e-9)


def test_what_a_step_keeps_does_not_grow_with_the_batch(dataset: Dataset) -> None:
    kept = {}
    for chunk in (0, 4):
        model = make_live(dataset, streams=("image",), chunk=chunk).train()
        for users in (2, 16):
            histories = np.random.default_rng(0).integers(1, NUM_ITEMS + 1, (users, 4))
            sizes = 0

            def note(x: torch.Tensor) -> torch.Tensor:
                nonlocal sizes
                sizes += x.numel()
                return x

            batch = make_batch(histories, model.features)
            with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
                vectors = model.encode(batch.items, batch.content)
            kept[chunk, users] = sizes
            assert len(vectors["image"]) == len(batch.items)
    assert kept[0, 16] > 1.5 * kept[0, 2] > 0
    assert kept[4, 16] < kept[0, 16] / 100  # of chunks a number or two: inputs are there anyway


def test_items_without_content_lack_the_modality_and_are_told_of(dataset: Dataset) -> None:
    model = make_live(dataset)
    model.encode_catalogue()
    assert model.unreadable.keys() == {"image"}
    assert model.unreadable["image"].keys() == {9, 10}
    assert "empty" in model.unreadable["image"][9]
    assert "missing" in model.unreadable["image"][10]
    padding = model.features.gather("image", np.array([0]))
    assert isinstance(padding, Raw)
    assert not padding.there.any()
    raw = model.features.gather("image", np.array([9, 1, 24, 2]))
    assert isinstance(raw, Raw)
    assert raw.there.tolist() == [False, True, False, True]
    assert len(raw.inputs["pixels"]) == 2
    part = raw.part(slice(2, 4))
    assert part.there.tolist() == [False, True]
    assert torch.equal(part.inputs["pixels"], raw.inputs["pixels"][1:])
    assert raw.part(slice(0, 2)).broken.keys() == {0}


def test_a_batch_without_any_content_gives_every_parameter_a_gradient(dataset: Dataset) -> None:
    model = make_live(dataset, streams=("id", "image")).train()
    histories = np.array([[24, 9, 24, 10]])
    torch.stack(list(model(make_batch(histories, model.features)).values())).sum().backward()
    missing = [name for name, p in model.encoders.named_parameters() if p.grad is None]
    assert not missing
    assert all(not p.grad.any() for p in model.encoders.parameters() if p.grad is not None)


def test_the_catalogue_does_not_depend_on_processes_or_workers(dataset: Dataset) -> None:
    model = make_live(dataset)
    whole = model.encode_catalogue(chunk=5)
    with_workers = model.encode_catalogue(chunk=5, workers=2)
    shares = [model.encode_catalogue(chunk=5, rank=rank, world=3) for rank in range(3)]
    for name, table in whole.items():
        assert torch.equal(with_workers[name], table)
        assert torch.equal(sum(share[name] for share in shares), table)
    few = [model.encode_catalogue(chunk=24, rank=rank, world=3) for rank in range(3)]  # fewer chunks than processes
    for share in few:
        torch.testing.assert_close(share["image"], whole["image"])


def test_an_encoder_of_no_stream_is_refused(dataset: Dataset) -> None:
    encoder = TrainedEncoder(TinyPatches())
    with pytest.raises(ValueError, match="there is an encoder of 'video', but the streams are: id, image"):
        ODMT(live_features(dataset, encoder), encoders={"video": encoder})


def test_the_whole_catalogue_is_no_loss_to_train_encoders_by(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="loss 'full' would encode the whole catalogue at every step"):
        make_live(dataset, loss="full")


def test_real_files_stay_where_they_are(dataset: Dataset) -> None:
    assert all(path is None or isinstance(path, Path) for path in contents_of(dataset, "image"))

"""Training through an encoder, from files: what is learned, saved, told of, and taken up again."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from odmt.config import ConfigError
from odmt.data.features import FeatureError
from odmt.data.format import open_dataset
from odmt.encoders.caching import encode_modality
from odmt.encoders.last_read import LostWorkerError
from odmt.encoders.network import FrozenNetwork
from odmt.inputs import encoders_of, stored_features
from odmt.pretrained import from_pretrained
from odmt.training import run
from tests.networks import TINY, TinyPatches, picture_dataset
from tests.unit.training.tiny_runs import experiment, fresh_accelerator, lines

ALONE = ("--model.streams=image", "--distill.graph")
LIVE = (*ALONE, f"--model.encoders=image={TINY}(dropout=0.1)", "--train.encoder-lr=0.01")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_dataset(tmp_path_factory.mktemp("data") / "pictures", also={9: "empty.png"}).path


def test_a_run_learns_through_its_encoder_and_can_be_loaded(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(experiment(pictures, tmp_path, *LIVE, "--train.encode-chunk=5"))
    told = capsys.readouterr().out
    assert "could not be read: 1 of image, such as " in told
    assert json.loads((folder / "unreadable.json").read_text())["image"].popitem()[0].endswith("empty.png")
    losses = [line["loss"]["ranking"] for line in lines(folder) if "loss" in line]  # pyright: ignore[reportIndexIssue]
    assert losses[-1] < losses[0]
    model = from_pretrained(folder / "model", open_dataset(pictures))
    start = TinyPatches().state_dict()
    trained = model.encoders["image"].network.state_dict()
    assert all(not torch.equal(trained[name], start[name]) for name in start)
    fresh_accelerator()
    with pytest.raises(ValueError, match="encodes image by itself; pass the dataset"):
        from_pretrained(folder / "model", model.features)  # pyright: ignore[reportArgumentType]
    scores = model.score(torch.tensor([[3, 5], [4, 6]]), model.encode_catalogue())["image"][:, 1:]
    kinds = scores[:, ::2].mean(1) - scores[:, 1::2].mean(1)
    assert kinds[0] > 0 > kinds[1], "users stay with the colour they began with"


def test_workers_and_a_resumed_run_change_nothing(pictures: Path, tmp_path: Path) -> None:
    whole = run(experiment(pictures, tmp_path, *LIVE, "--name=whole"))
    fresh_accelerator()
    often = ("--train.checkpoint-minutes=1e-9", "--train.keep-checkpoints=99")
    varied = [*LIVE, "--data.workers=2", "--name=parts", *often]
    run(experiment(pictures, tmp_path, *varied))
    assert lines(tmp_path / "parts") == lines(whole)
    fresh_accelerator()
    (tmp_path / "parts" / "result.json").unlink()
    checkpoints = sorted((tmp_path / "parts" / "checkpoints").glob("step-*"))
    for path in checkpoints[len(checkpoints) // 2 :]:
        shutil.rmtree(path)
    run(experiment(pictures, tmp_path, *varied, "--resume"))
    assert lines(tmp_path / "parts") == lines(whole)
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("parts", "whole")]
    assert weights[0] == weights[1]


def test_checkpointing_changes_nothing(pictures: Path, tmp_path: Path) -> None:
    plain = run(experiment(pictures, tmp_path, *LIVE, "--name=plain", "--train.epochs=2"))
    fresh_accelerator()
    leaner = run(
        experiment(pictures, tmp_path, *LIVE, "--name=leaner", "--train.epochs=2", "--train.encoder-checkpointing")
    )
    assert lines(leaner) == lines(plain)


def test_what_is_kept_decoded_changes_nothing(pictures: Path, tmp_path: Path) -> None:
    plain = run(experiment(pictures, tmp_path, *LIVE, "--name=plain"))
    fresh_accelerator()
    kept = run(experiment(pictures, tmp_path, *LIVE, "--name=kept", "--data.store-gb=0.00001"))
    assert lines(kept) == lines(plain)
    (store,) = (pictures / "decoded" / "image").iterdir()
    assert (store / "pixels").stat().st_size == 10_000 // (3 * 16 * 16) * (3 * 16 * 16)


def test_encoders_have_a_learning_rate_of_their_own(pictures: Path, tmp_path: Path) -> None:
    folder = run(experiment(pictures, tmp_path, *LIVE, "--train.encoder-lr=1e-12", "--train.encoder-weight-decay=0"))
    still = from_pretrained(folder / "model", open_dataset(pictures)).encoders["image"].network.state_dict()
    for name, tensor in TinyPatches().state_dict().items():
        torch.testing.assert_close(still[name], tensor, atol=1e-6, rtol=0)


def test_frozen_reads_what_the_encoder_has_stored(pictures: Path, tmp_path: Path) -> None:
    stored = encode_modality(
        open_dataset(pictures), "image", FrozenNetwork(TinyPatches()), batch_size=8, progress=False
    )
    frozen = run(experiment(pictures, tmp_path, *ALONE, "--model.encoders=image=tiny @ frozen"))
    assert stored.folder.name in (frozen / "experiment.yaml").read_text()
    fresh_accelerator()
    live = (*ALONE, f"--model.encoders=image={TINY} @ frozen-live", "--model.dropout=0")
    plain = run(experiment(pictures, tmp_path, *live, "--name=live"))
    fresh_accelerator()
    same = (*ALONE, "--model.dropout=0", "--data.features=image=tiny", "--name=same")
    stored_run = run(experiment(pictures, tmp_path, *same))
    ours, theirs = (
        [line["loss"]["ranking"] for line in lines(folder) if "loss" in line]  # pyright: ignore[reportIndexIssue]
        for folder in (plain, stored_run)
    )
    np.testing.assert_allclose(ours, theirs, rtol=2e-3)  # what is stored is stored in half precision


def test_a_file_that_kills_its_worker_is_named(tmp_path: Path) -> None:
    fatal = picture_dataset(tmp_path / "fatal", also={9: "fatal.png"}).path
    with pytest.raises(LostWorkerError, match=r"while it read .*fatal\.png\. Take that file out of the dataset"):
        run(experiment(fatal, tmp_path, *LIVE, "--data.workers=1"))


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("image=histogram(bins=8)", "'histogram(bins=8)' is no network that could be trained; store its features"),
        ("image=resnet18 @ top(40)", "has 8 blocks; name fewer"),
    ],
)
def test_encoders_that_cannot_be_trained_are_refused(
    encoder: str, message: str, pictures: Path, tmp_path: Path
) -> None:
    encoder = encoder.replace("resnet18", "resnet18(pretrained=False)")
    with pytest.raises(ValueError) as caught:
        run(experiment(pictures, tmp_path, *ALONE, f"--model.encoders={encoder}"))
    assert message in str(caught.value)
    assert not list(tmp_path.glob("*/experiment.yaml")), "nothing is left behind"


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("cover=resnet18", "only modalities have content; there is text, image, video, audio"),
        ("image=resnet18 @ lorra", "unknown policy 'lorra'; did you mean 'lora'"),
        ("image=histograms", "did you mean 'histogram'"),
        ("image", 'should read like "image=resnet18 @ top\\(2\\)"'),
        ("audio=x", "there are no 'audio' encoders yet"),
    ],
)
def test_misspelt_encoders_are_answered_before_anything_is_read(encoder: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment(tmp_path / "nowhere", tmp_path, f"--model.encoders={encoder}")


def test_who_lacks_features_is_told_that_an_encoder_can_be_trained(tmp_path: Path) -> None:
    dataset = picture_dataset(tmp_path / "pictures")
    told = r"has no image features; make them with:\n.*\n.*; or train through an encoder, with --model.encoders image="
    with pytest.raises(FeatureError, match=told):
        stored_features(experiment(dataset.path, tmp_path, *ALONE), dataset)
    frozen = (*ALONE, "--model.encoders=image=tiny(dim=3) @ frozen")
    with pytest.raises(
        FeatureError, match=r"--encoder 'tiny\(dim=3\)'\nother encoders: python -m odmt\.encoders --help$"
    ):
        stored_features(experiment(dataset.path, tmp_path, *frozen), dataset)


def test_a_model_whose_encoder_made_tokens_otherwise_is_refused(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(experiment(pictures, tmp_path, *LIVE, "--train.epochs=1"))
    monkeypatch.setattr(TinyPatches, "method", lambda _: "mean of patches", raising=True)
    with pytest.raises(ValueError, match=r"encoder of image made tokens as 'TinyPatches', and this one .*'mean of pat"):
        from_pretrained(folder / "model", open_dataset(pictures))


def test_augmented_pictures_train_another_model_and_are_asked_for_by_a_setting(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = "class Mirror:\n    def __call__(self, frames, rng):\n        return frames[:, :, ::-1]\n"
    (tmp_path / "mirrors.py").write_text(mirror)
    monkeypatch.syspath_prepend(tmp_path)
    one_epoch = (*LIVE, "--train.epochs=1")
    folders = []
    for name, further in {"plain": [], "mirrored": ["--data.augment=image=mirrors:Mirror"]}.items():
        folders.append(run(experiment(pictures, tmp_path, *one_epoch, *further, f"--name={name}")))
        fresh_accelerator()
    plain, mirrored = (lines(folder)[0]["loss"] for folder in folders)
    assert plain != mirrored
    (tmp_path / "mirrors.py").unlink()  # what training alone needs, its model does without
    monkeypatch.delitem(sys.modules, "mirrors")
    model = from_pretrained(folders[1] / "model", open_dataset(pictures))
    result = json.loads((folders[1] / "result.json").read_text())
    assert result["epochs"] == 1
    assert model.encode_catalogue()["image"].isfinite().all()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["--data.augment=text=crop"], "data.augment names 'text', and only pictures and clips are"),
        (["--data.augment=image=crop(least=2.0)"], "crop(least=2.0): the smallest share of the area is above 0"),
        (["--data.augment=image=odmt.fusion:Joint"], "data.augment: image=odmt.fusion:Joint: "),
        (["--data.augment=image=fractions:Fraction"], "is no callable of frames and random numbers"),
        (["--data.augment=image=crop(last=0.5)"], "crop takes no argument 'last'"),
        (["--data.augment=image=blur"], "unknown augmentation 'blur'"),
        (["--data.augment=image=crop", "--model.encoder-policy=frozen"], "stored features of image are read"),
    ],
)
def test_augmentations_that_cannot_be_meant(pictures: Path, tmp_path: Path, settings: list[str], told: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=re.escape(told)):
        run(experiment(pictures, tmp_path, *LIVE, *settings))


def test_a_store_of_decoded_pixels_changes_nothing_that_is_learned(pictures: Path, tmp_path: Path) -> None:
    plain = run(experiment(pictures, tmp_path, *LIVE, "--name=plain", "--train.epochs=2"))
    fresh_accelerator()
    room_for_seven = f"--data.store-gb={7 * 3 * 16 * 16 / 1e9}"
    stored = [*LIVE, "--name=stored", "--train.epochs=2", "--data.workers=2", room_for_seven]
    folder = run(experiment(pictures, tmp_path, *stored))
    assert lines(folder) == lines(plain)
    decoded = pictures / "decoded"
    assert decoded.is_dir()
    shutil.rmtree(decoded)
    from_pretrained(folder / "model", open_dataset(pictures))
    assert not decoded.exists(), "to be loaded a model needs no gigabytes of the disk"


def test_half_precision_reaches_encoders_where_no_step_is_around_them(pictures: Path, tmp_path: Path) -> None:
    for flags, wanted in (((), False), (("--train.bf16",), True)):
        (encoder,) = encoders_of(experiment(pictures, tmp_path, *LIVE, *flags)).values()
        assert encoder.bf16 == wanted

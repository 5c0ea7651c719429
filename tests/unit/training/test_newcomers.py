"""A trained model over another catalogue: known items stay what they are, new ones are read by their content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from odmt import Recommender
from odmt.data.feature_writer import FeatureWriter
from odmt.data.features import open_features
from odmt.data.format import Dataset, write_dataset
from odmt.newcomers import TrainedItems, _teachers, expect_ids
from odmt.pretrained import from_pretrained, save_pretrained
from odmt.recommend import main
from odmt.training import run
from tests.networks import TINY, picture_dataset
from tests.unit.training.tiny_runs import experiment

WIDTH = 6
NEW = ("new a", "new b", "new c")


def kind(item: str) -> int:
    return "abc".index(item[-1]) % 2 if item.startswith("new") else int(item[1:]) % 2


def tokens_of(item: str) -> np.ndarray:
    """Show which of two kinds an item is of; nothing of the last newcomer."""
    drawn = np.random.default_rng(list(item.encode())).normal(scale=0.1, size=(2, WIDTH))
    drawn[:, kind(item)] += 1
    return drawn.astype("float32")[: 0 if item == "new c" else 2]


def write(
    path: Path, ids: list[str], *, encoder: str = "ours", titles: list[str] | None = None, **noted: Any
) -> Dataset:
    """Write a dataset whose users stay with one kind of items, of those in `ids`, and its features."""
    old = [sorted((item for item in ids if item.startswith("i") and kind(item) == k), key=number_of) for k in (0, 1)]
    rng = np.random.default_rng(0)
    users = []
    for user in range(60):
        had = [old[user % 2][number] for number in rng.integers(0, 8, size=8)]
        users.append((f"u{user}", [1 + ids.index(item) for item in had], list(range(8))))
    items = {"id": ids, "text": titles or ids}
    dataset = write_dataset(path, name=path.name, histories=users, items=items, tie_rule="none", made_by="tests")
    add_features(dataset, ids, encoder=encoder, **noted)
    return dataset


def add_features(dataset: Dataset, ids: list[str], *, encoder: str, **noted: Any) -> None:
    recipe = {"modality": "text", "dataset": dataset.content_fingerprint("text"), "encoder": encoder, "width": WIDTH,
              "settings": {"method": encoder}}  # fmt: skip
    with FeatureWriter(dataset.path / "features", recipe=recipe, num_items=len(ids)) as writer:
        writer.append(list(range(1, len(ids) + 1)), [tokens_of(item) for item in ids])
        writer.finish(noted)


def number_of(item: str) -> int:
    return int(item[1:])


THEN = [f"i{number}" for number in range(24)]
OCCURRED = THEN[:16]
"""Items that users have; ids of the others are expected from content, as those of newcomers are."""
NOW = ["new a", *reversed(THEN[:20]), "new b", "new c"]


@pytest.fixture(scope="module")
def then(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write(tmp_path_factory.mktemp("data") / "then", THEN)


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write(tmp_path_factory.mktemp("data") / "now", NOW)


def trained(then: Dataset, output: Path, *flags: str) -> Path:
    return run(experiment(then.path, output, "--train.epochs=8", *flags))


@pytest.fixture(scope="module")
def folder(then: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(then, tmp_path_factory.mktemp("runs"))


def test_known_items_have_the_vectors_that_they_had(folder: Path, then: Dataset, now: Dataset) -> None:
    before, after = from_pretrained(folder, then), from_pretrained(folder, now)
    old, new = before.encode_catalogue(), after.encode_catalogue()
    for name, vectors in old.items():
        for item in OCCURRED:
            torch.testing.assert_close(new[name][1 + NOW.index(item)], vectors[1 + THEN.index(item)])
        assert not new[name][0].any()
    history = [THEN[3], THEN[5]]
    numbers = [torch.tensor([[1 + ids.index(item) for item in history]]) for ids in (THEN, NOW)]
    states = [
        model.states(ids, tables) for model, ids, tables in zip((before, after), numbers, (old, new), strict=True)
    ]
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name])


def test_new_items_go_to_those_who_like_their_kind(folder: Path, now: Dataset) -> None:
    for head in ("id", "text", "ensemble"):
        recommender = Recommender.load(folder, now.path, head=head)
        assert recommender.new_items == list(NEW)
        scores = [dict(best) for best in recommender.histories([["i0", "i2", "i4"], ["i1", "i3", "i5"]], k=20)]
        assert scores[0]["new a"] - scores[0]["new b"] > scores[1]["new a"] - scores[1]["new b"]
    (best,) = recommender.histories([["new b"]], k=3)  # and who had one is told what is like it
    assert [kind(item) for item, _ in best] == [1, 1, 1]


def test_ids_are_expected_from_content(folder: Path, now: Dataset) -> None:
    model = from_pretrained(folder, now)
    ids = model.id_table.weight.detach()
    centres = [ids[[1 + NOW.index(item) for item in THEN[:20] if kind(item) == k]].mean(0) for k in (0, 1)]
    for item in NEW[:2]:
        near = [float((ids[1 + NOW.index(item)] - centre).norm()) for centre in centres]
        assert near[kind(item)] < near[1 - kind(item)]
    rows = TrainedItems(THEN, np.ones(24, dtype=np.int64)).rows(NOW)
    assert rows.tolist() == [0, 0, *range(20, 0, -1), 0, 0]


def test_where_content_stands_in_nothing_else_is_expected(then: Dataset, now: Dataset, tmp_path: Path) -> None:
    folder = trained(then, tmp_path, "--model.hide=id=0.3", "--model.id-min-count=1")
    model = from_pretrained(folder, now)
    new = [1 + NOW.index(item) for item in NEW]
    assert not model.id_known[new].any()
    assert not model.id_table.weight[new].any()
    assert model.id_known[[1 + NOW.index(item) for item in THEN[:20]]].sum() >= 8
    scores = [dict(best) for best in Recommender(model, now).histories([["i0", "i2"], ["i1", "i3"]], k=20)]
    assert scores[0]["new a"] - scores[0]["new b"] > scores[1]["new a"] - scores[1]["new b"]


def test_teachers_are_the_items_that_occurred_least() -> None:
    events = np.array([0, 0, 1, 2, 3, 1, 0, 50])
    assert _teachers(events, 99).tolist() == [2, 3, 4, 5, 7]  # too few: all
    many = np.concatenate([[0], np.repeat([1, 2, 3], [900, 900, 900])])
    assert _teachers(many, 9999).tolist() == list(range(1, 1801))
    assert _teachers(np.concatenate([[0], np.repeat([3, 4, 5], [900, 900, 900])]), 9999).tolist() == list(
        range(1, 1801)
    )
    assert len(_teachers(np.ones(50_000), 20_000)) == 20_000
    assert not len(_teachers(np.zeros(4), 9))


def test_the_command_tells_how_many_are_new(folder: Path, now: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--dataset", str(now.path), "--user", "u1", "--k", "2"]) == 0
    printed = capsys.readouterr()
    assert "3 of 23 items are new since training" in printed.err
    assert printed.out.count("u1,") == 2


def test_features_made_as_in_training_are_found_among_others(folder: Path, tmp_path: Path) -> None:
    both = write(tmp_path / "both", NOW)
    add_features(both, NOW, encoder="theirs")
    assert from_pretrained(folder, both).num_items == len(NOW)
    other = write(tmp_path / "other", NOW, encoder="theirs")
    with pytest.raises(
        ValueError, match=r"no text features that were made as in training, by ours \(method: ours\); make"
    ):
        from_pretrained(folder, other)
    fitted = write(tmp_path / "fitted", NOW, fitted=True)
    with pytest.raises(ValueError, match="no text features that were made as in training"):
        from_pretrained(folder, fitted)


def test_what_was_fitted_to_a_catalogue_is_read_over_no_other(tmp_path: Path) -> None:
    then, now = (write(tmp_path / name, ids, fitted=True) for name, ids in (("then", THEN), ("now", NOW)))
    folder = trained(then, tmp_path, "--train.epochs=1")
    assert from_pretrained(folder, then).num_items == 24
    with pytest.raises(ValueError, match=r"by ours .* fitted to the catalogue of training and says nothing of another"):
        from_pretrained(folder, now)


def test_corrected_content_is_read_as_it_is_now(folder: Path, then: Dataset, tmp_path: Path) -> None:
    corrected = write(tmp_path / "corrected", THEN, titles=[f"{item}, corrected" for item in THEN])
    before, after = from_pretrained(folder, then), from_pretrained(folder, corrected)
    assert torch.equal(before.encode_catalogue()["id"], after.encode_catalogue()["id"])


def test_ids_alone_know_nothing_of_new_items(folder: Path, then: Dataset, now: Dataset, tmp_path: Path) -> None:
    ids = trained(then, tmp_path / "runs", "--model.streams=id", "--distill.graph", "--train.epochs=1")
    with pytest.raises(
        ValueError, match="3 items of the catalogue are new to the model, which knows items by id alone"
    ):
        from_pretrained(ids, now)
    assert from_pretrained(ids, write(tmp_path / "gone", THEN[:20])).num_items == 20
    elsewhere = write(tmp_path / "elsewhere", [f"i{number}" for number in range(100, 124)])
    with pytest.raises(
        ValueError, match=r"none of the 24 items .* is another vendor's, or its ids are written otherwise"
    ):
        from_pretrained(folder, elsewhere)
    text = trained(then, tmp_path / "texts", "--model.streams=text", "--distill.graph", "--train.epochs=1")
    assert from_pretrained(text, elsewhere).num_items == 24  # content alone goes anywhere


def test_the_preset_goes_over_to_another_catalogue(then: Dataset, now: Dataset, tmp_path: Path) -> None:
    preset = ["--model.fusion=joint", "--model.join=sum(at='item', keep='content')", "--model.further-heads=item",
              "--model.own-items", "--model.ensemble=fitted", "--distill.graph", "--model.id-init=text",
              "--train.id-updates=lazy"]  # fmt: skip
    folder = trained(then, tmp_path, *preset)
    before, after = (from_pretrained(folder, data) for data in (then, now))
    old, new = before.encode_catalogue(), after.encode_catalogue()
    assert {"item", "item_2", "content"} <= new.keys()
    for name in old:
        for item in OCCURRED:
            torch.testing.assert_close(new[name][1 + NOW.index(item)], old[name][1 + THEN.index(item)])
        assert new[name][[1, len(NOW) - 1]].norm(dim=1).min() > 0


def test_items_listed_wrongly_are_refused(folder: Path, now: Dataset, then: Dataset, tmp_path: Path) -> None:
    listed = folder / "model" / "items.parquet"
    kept = listed.read_bytes()
    try:
        for broken in (kept[:50], kept[:8] + bytes([kept[8] ^ 255]) + kept[9:]):
            listed.write_bytes(broken)
            with pytest.raises(ValueError, match=r"items\.parquet (is damaged|does not list the items)"):
                from_pretrained(folder, now)
        TrainedItems(THEN[:10], np.ones(10, dtype=np.int64)).write(listed)
        with pytest.raises(
            ValueError, match=r"does not list the items that model.safetensors beside it was trained on"
        ):
            from_pretrained(folder, then)
        listed.unlink()
        with pytest.raises(ValueError, match=r"items\.parquet is missing, or does not list the items"):
            from_pretrained(folder, then)
    finally:
        listed.write_bytes(kept)


def test_without_its_items_a_model_is_read_over_its_own_catalogue_alone(
    folder: Path, then: Dataset, now: Dataset, tmp_path: Path
) -> None:
    turned = write(tmp_path / "turned", THEN[::-1])
    features = open_features(turned, ["text"])
    with pytest.raises(ValueError, match="of another catalogue or made otherwise; pass the dataset"):
        from_pretrained(folder, features)
    model, settings = from_pretrained(folder, then), experiment(then.path, tmp_path)
    save_pretrained(model, settings, tmp_path / "kept", items=TrainedItems(THEN, np.ones(24, dtype=np.int64)))
    assert from_pretrained(tmp_path / "kept", turned).num_items == 24
    save_pretrained(model, settings, tmp_path / "kept")
    assert Recommender.load(tmp_path / "kept", then.path).new_items == []
    for other in (turned, now):
        with pytest.raises(ValueError, match=r"was trained on text features .* of another catalogue"):
            from_pretrained(tmp_path / "kept", other)


def test_nothing_is_expected_where_nothing_is_new(folder: Path, then: Dataset) -> None:
    model = from_pretrained(folder, then)
    before = model.id_table.weight.detach().clone()
    expect_ids(model, TrainedItems(THEN, np.ones(24, dtype=np.int64)), np.arange(25))
    assert torch.equal(model.id_table.weight, before)


def test_ids_that_are_numbers_in_a_foreign_table_are_texts(tmp_path: Path) -> None:
    dataset = write(tmp_path / "data", THEN)
    table = pq.read_table(dataset.path / "items.parquet").to_pydict()
    pq.write_table(pa.table({**table, "id": list(range(24))}), dataset.path / "items.parquet")
    assert dataset.ids() == [str(number) for number in range(24)]


def test_encoders_of_the_model_read_new_items(tmp_path: Path) -> None:
    """Pictures of a later catalogue: items that stayed are what they were, new red ones are liked by who likes red."""
    then = picture_dataset(tmp_path / "data" / "then")
    media, there = tmp_path / "data" / "then-media", then.ids()
    for number, colour in enumerate([(220, 30, 30), (30, 30, 220)]):
        Image.new("RGB", (30, 20), colour).save(media / f"new {number}.png")
    ids = ["new 0", *reversed(there), "new 1"]
    images = [f"{item[1:]}.png" if item.startswith("i") else f"{item}.png" for item in ids]
    users = [(f"u{user}", [1 + ids.index(there[kind]) for kind in (0, 2, 4, 6, 8)], None) for user in (0, 1)]
    items = {"id": ids, "image": [None if item == there[-1] else name for item, name in zip(ids, images, strict=True)]}
    now = write_dataset(
        tmp_path / "data" / "now", name="now", histories=users, items=items, tie_rule="none", media_root=media
    )
    encoder = f"--model.encoders=image={TINY}"
    folder = run(experiment(then.path, tmp_path, "--model.streams", "id", "image", encoder, "--train.encode-chunk=5"))
    before, after = from_pretrained(folder, then), from_pretrained(folder, now)
    old, new = before.encode_catalogue(), after.encode_catalogue()
    for name, vectors in old.items():
        for item in there:
            torch.testing.assert_close(new[name][1 + ids.index(item)], vectors[1 + there.index(item)])
    for head in ("id", "image", "ensemble"):
        recommender = Recommender.load(folder, now.path, head=head)
        assert recommender.new_items == ["new 0", "new 1"]
        blue, red = (dict(best) for best in recommender.histories([there[0:6:2], there[1:6:2]], k=26))
        assert red["new 0"] - red["new 1"] > blue["new 0"] - blue["new 1"]

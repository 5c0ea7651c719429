"""Which of several feature caches of a dataset is meant, by names, keys and streams."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from odmt.data.features import FeatureError, open_features
from tests.unit.data.test_features import Shelf, write_features


def test_several_caches_need_a_choice(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    keys = {
        name: write_features(shelf, encoder=name, seed=i).name for i, name in enumerate(("ours@1f", "tfidf(dim=2)"))
    }
    with pytest.raises(FeatureError, match="several caches") as caught:
        open_features(shelf, ["text"])
    for name, key in keys.items():
        assert f"{key}  {name}" in str(caught.value)
    assert "--data.features text=" in str(caught.value)
    with pytest.raises(FeatureError, match="no caches that match 'nobody'"):
        open_features(shelf, ["text"], select={"text": "nobody"})
    with pytest.raises(FeatureError, match="chosen for 'image'"):
        open_features(shelf, ["text"], select={"image": "nobody"})
    for wanted in ("ours", "ours@1f", keys["ours@1f"][:6], keys["ours@1f"]):
        chosen = open_features(shelf, ["text"], select={"text": wanted})
        assert chosen.tables["text"].folder == tmp_path / "features" / "text" / keys["ours@1f"]
    assert open_features(shelf, ["text"], select={"text": "tfidf"}).tables["text"].folder is not None


def test_an_encoder_is_named_by_the_arguments_that_were_typed(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    names = ("histogram(bins=4, grid=2)", "histogram(bins=6, grid=2)", "mean of some/vit@1f(frames=8, whole='pad')")
    keys = [write_features(shelf, encoder=name, seed=i).name for i, name in enumerate(names)]
    for wanted, key in (
        ("histogram(bins=4)", keys[0]),
        ("histogram(grid=2,bins=6)", keys[1]),
        ('vit(whole="pad")', keys[2]),
        ("mean of some/vit@1f(frames=8)", keys[2]),
    ):
        assert open_features(shelf, ["text"], select={"text": wanted}).keys == {"text": key}
    for wanted, found in (("histogram(grid=2)", 2), ("histogram(bins=5)", "no"), ("histogram(bins=4, grid=3)", "no")):
        with pytest.raises(FeatureError, match=f"{found} caches that match"):
            open_features(shelf, ["text"], select={"text": wanted})


def test_a_model_of_a_hub_is_found_without_its_owner(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    key = write_features(shelf, encoder="mean of somebody/mini-lm@1f").name
    for wanted in ("mini-lm", "mini-lm@1f", "somebody/mini-lm"):
        assert open_features(shelf, ["text"], select={"text": wanted}).keys == {"text": key}
    with pytest.raises(FeatureError, match="no caches that match 'somebody'"):
        open_features(shelf, ["text"], select={"text": "somebody"})


def test_a_further_cache_is_read_beside_the_first_under_a_name_of_its_own(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    keys = {name: write_features(shelf, encoder=name, seed=i).name for i, name in enumerate(("ours", "tfidf(dim=2)"))}
    both = open_features(shelf, ["text", "words"], select={"text": "ours", "words": "text:tfidf"})
    assert both.keys == {"text": keys["ours"], "words": keys["tfidf(dim=2)"]}
    for select, answer in (
        ({"words": "text:"}, r"choose with --data\.features words=text:"),
        (
            {},
            r"'words' is no modality and has no features of its own; say what it reads with --data\.features words=",
        ),
        ({"words": "tfidf"}, "'words' is no modality"),
        ({"words": ":tfidf"}, "'words' is no modality"),
        ({"words": "txt:tfidf"}, r"data\.features: words=txt:tfidf names 'txt'; did you mean 'text'\?"),
    ):
        with pytest.raises(FeatureError, match=answer):
            open_features(shelf, ["words"], select=select)
    with pytest.raises(FeatureError, match=r"'txt' is no modality .* own; did you mean 'text'\? A further stream says"):
        open_features(shelf, ["txt"])
    with pytest.raises(FeatureError, match="'text' and 'words' are the same features"):
        open_features(shelf, ["text", "words"], select={"text": "ours", "words": "text:ours"})
    with pytest.raises(FeatureError, match="image=text:ours would show text as image"):
        open_features(shelf, ["image"], select={"image": "text:ours"})


def test_features_of_a_modality_of_ones_own_are_found(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    brand = write_features(shelf, modality="brand", encoder="shop").name
    assert open_features(shelf, ["brand"]).keys == {"brand": brand}
    assert open_features(shelf, ["maker"], select={"maker": "brand:shop"}).keys == {"maker": brand}


@pytest.mark.parametrize("name", ["ours", "ours@1f", "ours(dim=2)"])
def test_an_encoder_is_found_by_its_name_where_its_tokens_were_pooled(tmp_path: Path, name: str) -> None:
    shelf = Shelf(tmp_path)
    pooled = write_features(shelf, encoder=f"mean of {name}", seed=0).name
    other = write_features(shelf, encoder="mean of ours_too", seed=1).name
    for wanted in ("ours", name, "mean of ours", f"mean of {name}"):
        assert open_features(shelf, ["text"], select={"text": wanted}).keys == {"text": pooled}
    whole = write_features(shelf, encoder=name, seed=2).name
    for wanted in ("ours", name):
        with pytest.raises(FeatureError, match=f"2 caches that match '{re.escape(wanted)}'") as caught:
            open_features(shelf, ["text"], select={"text": wanted})
        assert {key for key in (pooled, whole, other) if f"\n  {key}  " in str(caught.value)} == {pooled, whole}
        assert re.search(rf"--data.features text=({pooled}|{whole}) ", str(caught.value))
    assert open_features(shelf, ["text"], select={"text": f"mean of {name}"}).keys == {"text": pooled}

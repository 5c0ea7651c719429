"""Token tables: gathering against a plain loop, what arrays may be given, and which folders are refused."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given

from odmt.data.feature_writer import FeatureWriter
from odmt.data.features import FeaturedDataset, FeatureError, ItemFeatures, TokenTable, open_features
from odmt.types import Features


@dataclass(frozen=True)
class Shelf:
    """What features need to know of a dataset: three items with this text."""

    path: Path
    content: str = "three titles"
    num_items: int = 3

    def content_fingerprint(self, modality: str) -> str:
        return hashlib.sha256(f"{modality} {self.content}".encode()).hexdigest()


def write_features(
    shelf: Shelf, *, modality: str = "text", encoder: str = "tiny", width: int = 2, seed: int = 0
) -> Path:
    recipe = {
        "modality": modality,
        "dataset": shelf.content_fingerprint(modality),
        "encoder": encoder,
        "width": width,
        "settings": {"encoder": encoder, "seed": seed},
    }
    rng = np.random.default_rng(seed)
    with FeatureWriter(shelf.path / "features", recipe=recipe, num_items=shelf.num_items) as writer:
        writer.append([3, 1], [rng.standard_normal((4, width)), rng.standard_normal((1, width))])
        return writer.finish({})


def table_of(lengths: list[int], *, width: int, dtype: type = np.float32, gaps: int = 0) -> TokenTable:
    spans = np.zeros((len(lengths) + 1, 2), dtype=np.int64)
    start = gaps
    # stored backwards, so that nothing works only because items lie in order
    for item in range(len(lengths), 0, -1):
        spans[item] = start, lengths[item - 1]
        start += lengths[item - 1] + gaps
    values = np.random.default_rng(0).standard_normal((start, width)).astype(dtype)
    return TokenTable(values, spans)


@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    picks=st.lists(st.integers(0, 100), max_size=8),
    max_tokens=st.none() | st.integers(1, 6),
    gaps=st.integers(0, 2),
    dtype=st.sampled_from([np.float16, np.float32]),
)
def test_gather_against_a_loop(
    lengths: list[int], picks: list[int], max_tokens: int | None, gaps: int, dtype: type
) -> None:
    table = table_of(lengths, width=3, dtype=dtype, gaps=gaps)
    items = [pick % (len(lengths) + 1) for pick in picks]

    ours = table.gather(items, max_tokens)

    rows = [table.values[s : s + n][:max_tokens] for s, n in table.spans[items]] if items else []
    longest = max([1, *map(len, rows)])
    assert ours.values.shape == (len(items), longest, 3)
    assert ours.mask.shape == (len(items), longest)
    for i, row in enumerate(rows):
        assert ours.mask[i].tolist() == [True] * len(row) + [False] * (longest - len(row))
        np.testing.assert_array_equal(ours.values[i, : len(row)].numpy(), row)
        assert not ours.values[i, len(row) :].any()
    assert ours.values.dtype == (torch.float16 if dtype is np.float16 else torch.float32)


def test_gather_refuses_items_that_do_not_exist() -> None:
    table = table_of([1, 2], width=3)
    for items in ([3], [-1]):
        with pytest.raises(FeatureError, match="the table has 0 to 2"):
            table.gather(items)


def test_gather_hands_out_copies() -> None:
    table = table_of([2, 2], width=3)
    before = table.values.copy()
    table.gather([1, 2]).values.zero_()
    np.testing.assert_array_equal(table.values, before)


def test_from_arrays_takes_one_token_several_and_none() -> None:
    features = ItemFeatures.from_arrays(
        3, text=np.arange(24.0).reshape(3, 4, 2), image=[np.ones(5), None, np.full((2, 5), 2.0)], video=np.ones((3, 7))
    )
    assert isinstance(features, Features)
    assert features.num_items == 3
    assert dict(features.widths) == {"text": 2, "image": 5, "video": 7}
    image = features.gather("image", [0, 1, 2, 3])
    assert image.mask.tolist() == [[False, False], [True, False], [False, False], [True, True]]


def test_items_without_any_token_still_fill_one_column() -> None:
    features = ItemFeatures.from_arrays(2, text=[None, np.ones(3)])
    tokens = features.gather("text", [0, 1])
    assert tokens.values.shape == (2, 1, 3)
    assert not tokens.mask.any()


@pytest.mark.parametrize(
    ("given_text", "message"),
    [
        (np.ones((2, 4)), "2 entries for 3 items"),
        (np.ones(3), "expected .items, width."),
        ([None, None, None], "even their width is unknown"),
        ([np.ones(4), None, np.ones(5)], "item 3 has shape"),
        ([np.ones(4), None, np.array([1, 2, np.nan, 4])], "item 3 holds NaN"),
    ],
)
def test_from_arrays_refuses_what_cannot_be_meant(given_text: object, message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        ItemFeatures.from_arrays(3, text=given_text)  # pyright: ignore[reportArgumentType]


def test_features_are_not_called_as_the_stream_of_ids() -> None:
    with pytest.raises(FeatureError, match=r"features are called 'id', which .*; give them another name, as id_text"):
        ItemFeatures.from_arrays(3, id=np.ones((3, 4)))


def test_unknown_modality_is_named() -> None:
    features = ItemFeatures.from_arrays(1, text=np.ones((1, 2)))
    with pytest.raises(FeatureError, match="no 'image' features here; there are text"):
        features.gather("image", [1])
    with pytest.raises(FeatureError, match="max_tokens names 'image'"):
        ItemFeatures(features.tables, num_items=1, max_tokens={"image": 3})


def test_open_features_maps_what_was_written(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    assert isinstance(shelf, FeaturedDataset)
    write_features(shelf)
    write_features(shelf, modality="image", width=3)
    features = open_features(shelf, ["image", "text"], max_tokens={"text": 2})
    assert list(features.widths) == ["image", "text"]
    assert features.gather("text", [1, 2, 3]).mask.tolist() == [[True, False], [False, False], [True, True]]
    assert isinstance(features.tables["text"].values, np.memmap)
    expected = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float16)
    np.testing.assert_array_equal(features.gather("text", [3]).values[0].numpy(), expected[:2])


def test_keys_name_the_folders_that_were_read(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    folder = write_features(shelf)
    assert dict(open_features(shelf, ["text"]).keys) == {"text": folder.name}
    assert dict(ItemFeatures.from_arrays(1, image=np.ones((1, 2))).keys) == {"image": ""}


def test_limits_are_replaced_whole() -> None:
    whole = ItemFeatures.from_arrays(1, text=np.ones((1, 4, 2)), image=np.ones((1, 3, 2)))
    short = whole.limited({"text": 3})
    other = short.limited({"image": 1})
    lengths = [[f.gather(m, [1]).values.shape[1] for m in ("text", "image")] for f in (whole, short, other)]
    assert lengths == [[4, 3], [3, 3], [4, 1]]
    assert other.tables["text"].values is whole.tables["text"].values
    with pytest.raises(FeatureError, match="max_tokens names 'video'"):
        whole.limited({"video": 1})


def test_a_mapped_table_travels_to_workers_by_name(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, num_items=3)
    write_features(shelf, width=4000)
    features = open_features(shelf, ["text"])
    data = pickle.dumps(features)
    assert len(data) < 2000
    again = pickle.loads(data)
    assert torch.equal(again.gather("text", [3, 1]).values, features.gather("text", [3, 1]).values)


def test_features_of_another_dataset_are_refused_with_both_fingerprints(tmp_path: Path) -> None:
    made_for, opened = Shelf(tmp_path), Shelf(tmp_path, content="other titles")
    write_features(made_for)
    with pytest.raises(FeatureError, match="another dataset") as caught:
        open_features(opened, ["text"])
    assert made_for.content_fingerprint("text")[:16] in str(caught.value)
    assert opened.content_fingerprint("text")[:16] in str(caught.value)


def edit_recipe(folder: Path, **changes: object) -> None:
    path = folder / "recipe.yaml"
    recipe = {**yaml.safe_load(path.read_text()), **changes}
    path.write_text(yaml.safe_dump({k: v for k, v in recipe.items() if v is not None}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: cut(folder / "tokens.npy"), "damaged"),
        (lambda folder: cut(folder / "spans.npy"), "damaged"),
        (lambda folder: (folder / "tokens.npy").unlink(), "damaged"),
        (lambda folder: (folder / "recipe.yaml").unlink(), "cannot be read"),
        (lambda folder: (folder / "recipe.yaml").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "recipe.yaml").write_bytes(b"a: \xff"), "cannot be read"),
        (lambda folder: edit_recipe(folder, settings=None, done=None), "lacks done, settings"),
        (lambda folder: edit_recipe(folder, schema=2), "schema is 2"),
        (lambda folder: edit_recipe(folder, settings={"layer": -2}), "was edited or moved"),
        (lambda folder: np.save(folder / "spans.npy", np.full((4, 2), 9)), "do not belong together"),
        (lambda folder: np.save(folder / "spans.npy", np.zeros((3, 2), dtype=int)), "holds 2 items"),
        (lambda folder: np.save(folder / "spans.npy", np.ones((4, 2), dtype=int)), "item 0 is padding"),
        (lambda folder: np.save(folder / "tokens.npy", np.ones((5, 2))), "float16 or float32"),
    ],
)
def test_damaged_folders_are_refused(tmp_path: Path, damage: object, message: str) -> None:
    folder = write_features(Shelf(tmp_path))
    damage(folder)  # pyright: ignore[reportCallIssue]
    with pytest.raises(FeatureError, match=message):
        open_features(Shelf(tmp_path), ["text"])


def test_a_damaged_cache_does_not_block_another_that_is_chosen_by_key(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    good, damaged = (write_features(shelf, encoder=name, seed=i) for i, name in enumerate(("ours", "theirs")))
    (damaged / "recipe.yaml").write_text("{")
    for key in (good.name, good.name[:6]):
        assert open_features(shelf, ["text"], select={"text": key}).keys == {"text": good.name}
    for select in ({}, {"text": "ours"}, {"text": "theirs"}):  # it could be the one that is meant
        with pytest.raises(FeatureError, match=f"{damaged.name}.*choose another by .* key, among {good.name}"):
            open_features(shelf, ["text"], select=select)
    with pytest.raises(FeatureError, match="cannot be read"):
        open_features(shelf, ["text"], select={"text": damaged.name})


def test_a_folder_under_another_key_is_refused(tmp_path: Path) -> None:
    folder = write_features(Shelf(tmp_path))
    shutil.move(folder, folder.with_name("0" * 16))
    with pytest.raises(FeatureError, match="was edited or moved"):
        open_features(Shelf(tmp_path), ["text"])


def test_gather_has_no_loop_over_items() -> None:
    def calls(items: int) -> int:
        table, seen = table_of([3] * items, width=4, dtype=np.float16), 0

        def count(_frame: object, event: str, _argument: object) -> None:
            nonlocal seen
            seen += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            table.gather(np.arange(1, items + 1))
        finally:
            sys.setprofile(None)
        return seen

    calls(10)  # what only the first call does
    assert calls(3000) == calls(10)

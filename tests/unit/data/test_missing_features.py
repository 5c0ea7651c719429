"""Features that are not there: all that are missing are told at once, each with what makes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from odmt.data.feature_writer import FeatureWriter
from odmt.data.features import MissingFeaturesError, open_features
from tests.unit.data.test_features import Shelf, write_features
from tests.unit.data.tiny_folder import write


def test_missing_features_name_the_commands_of_all(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    write_features(shelf, modality="image")
    with pytest.raises(MissingFeaturesError) as caught:
        open_features(shelf, ["text", "image", "video", "words"], select={"words": "text:tfidf(dim=64)"})
    head, *commands, note = str(caught.value).splitlines()
    assert head == f"{tmp_path} has no text and no video features; make them with:"
    assert commands == [
        f"  python -m odmt.encoders {tmp_path} --modality text --encoder sentence-transformers/all-MiniLM-L6-v2 --pool "
        "mean",
        f"  python -m odmt.encoders {tmp_path} --modality video --encoder 'vit_base_patch32_clip_224.openai(frames=8)'",
        f"  python -m odmt.encoders {tmp_path} --modality text --encoder 'tfidf(dim=64)'",
    ]
    assert note == "other encoders: python -m odmt.encoders --help"
    assert caught.value.encodable == ("text", "video"), "for words there is no content of that name"


def test_missing_features_without_encoders_or_content_name_another_way(tmp_path: Path) -> None:
    writer = (
        r"odmt\.data\.feature_writer\.FeatureWriter writes what you have computed \(python -m pydoc odmt\.data\.feat"
    )
    with pytest.raises(MissingFeaturesError, match=rf"has no audio features; there are no audio encoders; {writer}"):
        open_features(Shelf(tmp_path), ["audio"])
    dataset = write(tmp_path / "tiny")
    with pytest.raises(MissingFeaturesError, match="its items have no video, so leave that stream out, or prepare"):
        open_features(dataset, ["video"])
    with pytest.raises(MissingFeaturesError, match=rf"or take another name for it, such as my_audio; {writer}"):
        open_features(dataset, ["audio"])
    computed = {"modality": "my_audio", "dataset": dataset.content_fingerprint("my_audio"), "encoder": "ours"}
    recipe = computed | {"width": 2, "settings": {}}
    with FeatureWriter(dataset.path / "features", recipe=recipe, num_items=dataset.num_items) as writes:
        writes.append([1], [np.ones((1, 2))])
        writes.finish({})
    assert open_features(dataset, ["my_audio"]).widths == {"my_audio": 2}

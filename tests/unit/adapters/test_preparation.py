"""What a preparation writes and records, and what it refuses to begin."""

from __future__ import annotations

import shutil
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_adapters.preparation import summarise
from data_adapters.release import Media
from data_adapters.text_files import ReleaseError
from odmt.data.format import DatasetError, hash_file, open_dataset
from tests.unit.adapters.toy import FULL, LOOSE, adapter, run


def test_writes_texts_columns_and_media(raw: Path, tmp_path: Path) -> None:
    options = replace(LOOSE, html="strip", columns=("brand", "title"))
    dataset = run(raw, tmp_path / "out", options, toy=adapter(**FULL)).dataset
    texts = dict(zip(dataset.ids(), dataset.texts(), strict=True))
    assert texts["i1"] == "Title & 1 by A & 1"
    assert texts["i2"] == "Title & 2 by late"
    assert texts["i0"] == "half ?"
    assert dataset.column("brand")[:4] == [None, "A &amp; 1", "late", "A &amp; 3"], "columns stay as they are"
    assert dataset.column("title")[1] == "<b>Title</b> &amp;amp; 1"
    assert [path and path.name for path in dataset.media("image")] == [f"i{n}.jpg" for n in range(5)] + [None]
    assert dataset.info.dropped["catalogue rows of items without a kept event"] == 3
    assert dataset.info.modalities == {"text": 6, "image": 5}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"columns": ("titel",)}, "--columns titel: no such field; there are title, brand"),
        ({"columns": ("id",)}, "--columns id: items.parquet has a column of that name"),
        ({"columns": ("text",)}, "--columns text: items.parquet has a column of that name"),
        ({"text": "{titel}"}, "did you mean 'title'?"),
        ({"min_events": 7}, "none of its 2 users has 7 events, the longest history has 6; lower --min-events"),
        ({"k_core": 3}, "nothing is left of 2 users in the 3-core"),
        ({"min_rating": 9.0}, "no event is rated 9 or higher; lower --min-rating"),
    ],
)
def test_refuses_options_that_cannot_be(raw: Path, tmp_path: Path, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ReleaseError) as caught:
        run(raw, tmp_path / "out", replace(LOOSE, **options), toy=adapter(**FULL))
    assert why in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"]


def test_records_how_it_was_made(raw: Path, tmp_path: Path) -> None:
    options = replace(LOOSE, k_core=2, columns=("brand", "title"), max_events=50)
    arguments = Namespace(flavour="vanilla", raw=raw, out="x", overwrite=False, memory="1GB")
    dataset = run(
        raw, tmp_path / "toy", options, toy=adapter(**FULL), arguments=arguments, made_by="the command"
    ).dataset
    info = yaml.safe_load((tmp_path / "toy/dataset.yaml").read_text())
    recorded = info["preparation"]
    assert recorded.pop("odmt")
    assert recorded == {
        "adapter": "toy", "min_rating": "", "repeats": "keep", "min_events": "4", "k_core": "2", "max_events": "50",
        "users": "", "text": "{title} by {brand}", "html": "unescape", "columns": "brand, title", "pack": "False",
        "flavour": "vanilla",
    }  # fmt: skip
    assert (info["name"], info["made_by"], info["licence"], info["citation"]) == ("toy", "the command", "free", "none")
    sources = {record["name"]: record for record in info["sources"]}
    assert list(sources) == ["events.csv", "items.txt", "covers/"]
    assert sources["events.csv"]["sha256"] == hash_file(raw / "events.csv")
    assert sources["covers/"]["size"] == sum(p.stat().st_size for p in (raw / "covers").iterdir())
    assert info["notes"]["times"] == "s, whole seconds"
    assert dataset.info.tie_rule == "time, then the order of lines in the file"


def test_works_from_any_place(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    toy = adapter(**FULL)
    relative = run(Path("raw"), Path("out"), toy=toy).dataset
    assert all(path is None or path.is_file() for path in relative.media("image"))
    assert run(raw, tmp_path / "out", toy=toy).was_there
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for nameless in (".", "..", "../here/.."):
        (tmp_path / "here/file").touch()
        with pytest.raises(DatasetError, match=r"is no dataset folder|has no name of its own"):
            run(Path("../raw"), Path(nameless), toy=toy)
        (tmp_path / "here/file").unlink()
        with pytest.raises(DatasetError, match=r"is no dataset folder|has no name of its own"):
            run(Path("../raw"), Path(nameless), toy=toy)


def test_a_file_that_is_not_there_is_named(raw: Path, tmp_path: Path) -> None:
    (raw / "items.txt").unlink()
    with pytest.raises(ReleaseError, match=r"no file at .*items\.txt"):
        run(raw, tmp_path / "out", toy=adapter(**FULL))


@pytest.mark.parametrize("memory", ["lots", "", "2", "-5GB"])
def test_memory_that_is_no_size_is_refused(raw: Path, tmp_path: Path, memory: str) -> None:
    with pytest.raises(ReleaseError, match=f"--memory {memory}: .*write a size such as 2GB"):
        run(raw, tmp_path / "out", memory=memory)
    with pytest.raises(DatasetError, match="give --memory another size"):
        run(raw, tmp_path / "out", memory="1KB")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"]


def test_a_packed_folder_needs_no_other(raw: Path, tmp_path: Path) -> None:
    (raw / "covers/i1-1.png").write_bytes(b"one")
    (raw / "covers/i1-2.png").write_bytes(b"two")

    def media(raw: Path) -> dict[str, Media]:
        return {"image": Media(field="covers/{id}.jpg"), "frames": Media([raw / "covers"], [".png"])}

    run(raw, tmp_path / "out", replace(LOOSE, pack=True), toy=adapter(**(FULL | {"media": media})))
    shutil.rmtree(raw)
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = open_dataset(tmp_path / "moved")
    assert moved.info.media_root == "media"
    assert [p and p.read_bytes() for p in moved.media("image")] == [*(b"picture" * n for n in range(5)), None]
    frames = moved.column("frames")[1]
    assert [(moved.media_root / path).read_bytes() for path in frames] == [b"one", b"two"]
    moved.verify()
    moved.check_media("image")


def test_summarises_content(raw: Path, tmp_path: Path) -> None:
    lines = summarise(run(raw, tmp_path / "out", toy=adapter(**FULL)).dataset).splitlines()
    assert lines[0] == f"{tmp_path / 'out'}: 2 users, 6 items, 12 interactions"
    assert "  text: 6" in lines
    assert "  image: 5 (1 items have none)" in lines
    assert "  left out: 3 catalogue rows of items without a kept event" in lines
    assert not [line for line in lines if "left out: 0" in line]

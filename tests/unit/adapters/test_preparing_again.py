"""A second preparation: nothing to do, what changed, the same bytes, what must not be lost."""

from __future__ import annotations

import shutil
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from data_adapters.release import Media
from odmt.data.format import DatasetError, open_dataset
from tests.unit.adapters.toy import FULL, LOOSE, START, adapter, run, write_events


def test_a_second_run_has_nothing_to_do(raw: Path, tmp_path: Path) -> None:
    toy, out = adapter(**FULL), tmp_path / "out"
    assert not run(raw, out, toy=toy, made_by="first").was_there
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    again = run(raw, out, toy=toy, made_by="second", memory="600MB")
    assert again.was_there
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    assert not run(raw, out, toy=toy, made_by="third", overwrite=True).was_there
    assert open_dataset(out).info.made_by == "third"


def change_events(raw: Path) -> None:
    write_events(raw / "events.csv", [("c", f"i{n}", START, 1) for n in range(6)])


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "events": (change_events, "source events.csv is changed"),
    "new file": (lambda raw: write_events(raw / "events2.csv", [("c", "i1", START, 1)]), "source events2.csv is new"),
    "catalogue": (lambda raw: (raw / "items.txt").write_text("others\n"), "source items.txt is changed"),
    "cover changed": (lambda raw: (raw / "covers/i1.jpg").write_bytes(b"x"), "source covers/ is changed"),
    "cover gone": (lambda raw: (raw / "covers/i0.jpg").unlink(), "source covers/ is changed"),
    "cover new": (lambda raw: (raw / "covers/i5.jpg").write_bytes(b""), "source covers/ is changed"),
    "clip new": (lambda raw: (raw / "covers/i5.mp4").write_bytes(b"x"), "source covers/ is changed"),
}


@pytest.mark.parametrize(("change", "why"), CHANGES.values(), ids=CHANGES)
def test_a_second_run_says_which_source_changed(
    raw: Path, tmp_path: Path, change: Callable[[Path], object], why: str
) -> None:
    def media(raw: Path) -> dict[str, Media]:
        return {"image": Media([raw / "covers"], [".jpg"]), "video": Media([raw / "covers"], [".mp4"])}

    toy, out = adapter(**(FULL | {"media": media})), tmp_path / "out"
    run(raw, out, toy=toy)
    assert run(raw, out, toy=toy).was_there
    change(raw)
    with pytest.raises(DatasetError) as caught:
        run(raw, out, toy=toy)
    assert f"{out} exists, made differently: {why}; name another folder, or overwrite it (--overwrite)" == str(
        caught.value
    )


def test_a_second_run_says_which_option_changed(raw: Path, tmp_path: Path) -> None:
    toy, out = adapter(**FULL), tmp_path / "out"
    run(raw, out, toy=toy)
    for options, why in (
        ({"min_events": 5}, "min_events was '4', now '5'"),
        ({"text": "brand"}, "text was '{title} by {brand}', now 'brand'"),
        ({"columns": ("brand",)}, "columns was '', now 'brand'"),
        ({"pack": True}, "pack was 'False', now 'True'"),
    ):
        with pytest.raises(DatasetError) as caught:
            run(raw, out, replace(LOOSE, **options), toy=toy)
        assert why in str(caught.value)
    with pytest.raises(DatasetError, match="flavour was '', now 'vanilla'"):
        run(raw, out, toy=toy, arguments=Namespace(flavour="vanilla"))
    with pytest.raises(DatasetError, match="adapter was 'toy', now 'other'"):
        run(raw, out, toy=toy, name="other")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    for overwrite in (False, True):
        with pytest.raises(DatasetError, match="is no dataset folder"):
            run(raw, tmp_path / "taken", toy=toy, overwrite=overwrite)
    assert (tmp_path / "taken/file").exists()


def test_two_preparations_give_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    for options in (LOOSE, replace(LOOSE, pack=True, k_core=2)):
        for place in ("one", "two"):
            run(raw, tmp_path / place / "out", options, toy=adapter(**FULL), made_by=place, overwrite=True)
        one, two = (
            {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
            for folder in (tmp_path / "one/out", tmp_path / "two/out")
        )
        name = Path("dataset.yaml")
        assert one.pop(name).replace(b"made_by: one", b"") == two.pop(name).replace(b"made_by: two", b"")
        assert one == two


def test_the_only_copy_of_packed_media_is_not_overwritten(raw: Path, tmp_path: Path) -> None:
    toy, out = adapter(**FULL), tmp_path / "out"
    packed = replace(LOOSE, pack=True)
    run(raw, out, packed, toy=toy)
    for cover in (raw / "covers").iterdir():
        cover.unlink()
    with pytest.raises(DatasetError, match=r"i\d\.jpg lies inside the folder that would be replaced .*--pack"):
        run(raw, out, toy=toy, overwrite=True)
    shutil.rmtree(raw / "covers")
    (raw / "covers").symlink_to(out / "media/image/covers")
    with pytest.raises(DatasetError, match="lies inside the folder that would be replaced"):
        run(raw, out, toy=toy, overwrite=True)
    assert len(list((out / "media/image/covers").iterdir())) == 5
    again = run(raw, out, replace(packed, k_core=2), toy=toy, overwrite=True).dataset
    assert [p and p.is_file() for p in again.media("image")] == [True] * 5 + [None]


def rename_items(raw: Path) -> None:
    write_events(raw / "events.csv", [("c", f"i{n}", START, 1) for n in range(1, 8)])


LOSSES: dict[str, tuple[dict[str, object], Callable[[Path, Path], object], dict[str, str]]] = {
    "nothing": ({}, lambda raw, out: None, {}),
    "another text": ({}, lambda raw, out: None, {"text": "the items' text content changed"}),
    "no text": ({"catalogues": (), "text": ""}, lambda raw, out: None, {"text": "there is no text any more"}),
    "other items": ({}, lambda raw, out: rename_items(raw), dict.fromkeys(("image", "text"), "the items changed")),
    "damaged": (
        {},
        lambda raw, out: (out / "users.parquet").unlink(),
        dict.fromkeys(("image", "text"), "the replaced folder was damaged, so what they were made from is unknown"),
    ),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_features_that_overwriting_removes_are_named_with_the_reason(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    about, change, lost = LOSSES[kind]
    out = tmp_path / "out"
    run(raw, out, toy=adapter(**FULL))
    for modality in ("image", "text"):
        cache = out / "features" / modality / ("0" * 16)
        cache.mkdir(parents=True)
        (cache / "recipe.yaml").write_text(f"encoder: tiny {modality}\n")
    change(raw, out)
    options = replace(LOOSE, text="brand") if kind == "another text" else LOOSE
    run(raw, out, options, toy=adapter(**(FULL | about)), overwrite=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if "features" in line]
    assert lines == [
        f"warning: removed {out}/features/{modality}/{'0' * 16}: {why} (encoder: tiny {modality}); encode again if you "
        "need them"
        for modality, why in lost.items()
    ]
    assert {m for m in ("image", "text") if (out / "features" / m / ("0" * 16)).is_dir()} == {"image", "text"} - {*lost}

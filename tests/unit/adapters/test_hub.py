"""Any dataset of Hugging Face's `datasets`: saved ones, folders of data files, and what the hub's loader gives."""

from __future__ import annotations

import io
import json
from datetime import datetime
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_adapters.__main__ import main
from data_adapters.hub_files import open_hub, open_local
from data_adapters.text_files import ReleaseError
from odmt.data.format import Dataset, open_dataset

PHOTOS = pa.schema([("sku", pa.string()), ("photo", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
START = datetime(2020, 1, 1)
EVENTS = {
    "buyer": [7, 7, 8, 7, 8, 7, 8, 8],
    "sku": ["b", "a", "a", "b", "c", "c", "b", "c"],
    "at": [START.replace(day=day) for day in (2, 1, 1, 3, 3, 4, 2, 4)],
}
HISTORIES = {"7": ["a", "b", "b", "c"], "8": ["a", "b", "c", "c"]}
COLUMNS = ["--user", "buyer", "--item", "sku", "--time", "at"]
ITEMS = {"sku": ["a", "b", "d"], "name": ["Ant", None, "Dog"], "kind": [1, 0, 1], "tags": [["x", "y"], [], None]}


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def items(**more: list) -> datasets.Dataset:
    return datasets.Dataset.from_dict(ITEMS | more).cast_column("kind", datasets.ClassLabel(names=["bird", "beast"]))


def prepared(raw: Path | str, out: Path, *options: str, columns: list[str] = COLUMNS) -> Dataset:
    assert main(["hub", "--raw", str(raw), "--out", str(out), "--min-events", "4", *columns, *options]) == 0
    return open_dataset(out)


def refused(raw: Path | str, out: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["hub", "--raw", str(raw), "--out", str(out), "--min-events", "4", *COLUMNS, *options]) == 1
    assert not out.exists()
    return capsys.readouterr().err


def histories(dataset: Dataset) -> dict[str, list[str]]:
    ids = dataset.ids()
    return {user: [ids[item - 1] for item in dataset.history(u)] for u, user in enumerate(dataset.users())}


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "prepared/out"


def test_saved_dataset_with_items_of_its_own(tmp_path: Path, out: Path) -> None:
    raw = tmp_path / "shop"
    datasets.Dataset.from_dict(EVENTS).save_to_disk(raw)
    items().save_to_disk(raw / "items")
    dataset = prepared(raw, out, "--items", "items", "--text", "{name}: {kind}", "--columns", "tags")
    assert histories(dataset) == HISTORIES
    assert dataset.texts()[::2] == ["Ant: beast", None]
    assert dataset.column("tags") == ["x, y", None, None]
    assert dataset.times is not None
    assert dataset.times[0] == 1577836800000
    assert dataset.info.notes["dataset"] == "shop"
    assert "state.json" in {source.name for source in dataset.info.sources}
    assert prepared(raw, out, "--items", "items", "--text", "{name}: {kind}", "--columns", "tags").path == out


def test_splits_of_a_saved_dataset(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "shop"
    whole = datasets.Dataset.from_dict(EVENTS)
    datasets.DatasetDict(train=whole.select(range(5)), test=whole.select(range(5, 8))).save_to_disk(raw)
    assert "join all: test+train" in refused(raw, out, capsys)
    assert "no split 'tset'; there are test, train" in refused(raw, out, capsys, "--split", "tset")
    assert histories(prepared(raw, out, "--split", "train+test")) == HISTORIES


@pytest.mark.parametrize("kind", ["parquet", "csv", "json"])
def test_folder_of_data_files(tmp_path: Path, out: Path, kind: str) -> None:
    raw = tmp_path / "shop"
    raw.mkdir()
    whole = datasets.Dataset.from_dict(EVENTS | {"at": [str(at) for at in EVENTS["at"]]})
    for place, rows in enumerate((range(5), range(5, 8))):
        getattr(whole.select(rows), f"to_{kind}")(raw / f"part-{place}.{kind}")
    (raw / "readme.md").write_text("# Shop")
    dataset = prepared(raw, out)
    assert histories(dataset) == HISTORIES
    assert {source.name for source in dataset.info.sources} == {f"part-0.{kind}", f"part-1.{kind}"}


def test_ids_in_csv_stay_text_and_content_may_be_in_the_events(tmp_path: Path, out: Path) -> None:
    raw = tmp_path / "log.csv"
    rows = ["user,item,time,title", "01,007,1577836800,Bond", "01,7,1577836801,", "01,NA,1577836803,nil"]
    raw.write_text("\n".join([*rows, "01,007,1577836802,Bond"]))
    dataset = prepared(raw, out, "--text", "title", columns=[])
    assert histories(dataset) == {"01": ["007", "7", "007", "NA"]}
    assert dataset.texts() == ["Bond", None, "nil"]


def test_pictures_in_a_column_become_files(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "shop"
    odd = "../c.d/é"
    events = EVENTS | {"sku": [odd if sku == "c" else sku for sku in EVENTS["sku"]]}
    datasets.Dataset.from_dict(events).save_to_disk(raw)
    pictures = [{"bytes": png(1), "path": None}, None, {"bytes": b"\xff\xd8\xff broken", "path": "x.png"}]
    table = items(photo=pictures, sku=["a", "b", odd]).cast_column("photo", datasets.Image())
    table.save_to_disk(raw / "items")
    options = ["--items", "items", "--image", "photo", "--text", "name"]
    dataset = prepared(raw, out, *options)
    root = Path(dataset.info.media_root)
    assert root == out.with_name("out-images")
    images = dict(zip(dataset.ids(), dataset.column("image"), strict=True))
    assert images == {"a": "a.png", "b": None, odd: "%2E%2E%2Fc%2Ed%2F%C3%A9.jpg"}
    assert (root / "a.png").read_bytes() == png(1)
    assert {p.name for p in out.parent.iterdir()} == {"out", "out-images"}
    assert prepared(raw, out, *options).path == out  # nothing is written again
    capsys.readouterr()
    assert f"{raw} is taken" in refused(raw, out.with_name("two"), capsys, *options, "--extract", str(raw))


def test_pictures_that_are_paths_elsewhere_are_not_followed(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "shop"
    raw.mkdir()
    datasets.Dataset.from_dict(EVENTS).to_parquet(raw / "events.parquet")
    (raw / "things").mkdir()
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(2))
    pictures = [{"bytes": None, "path": str(secret)}, None, None]
    pq.write_table(pa.table({"sku": ["a", "b", "c"], "photo": pictures}, PHOTOS), raw / "things/items.parquet")
    message = refused(raw, out, capsys, "--items", "things", "--image", "photo")
    assert "item 'a', field 'photo': a path without the picture" in message
    assert not out.with_name("out-images").exists()


def test_pictures_are_known_by_what_they_were_made_of(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "shop"
    datasets.Dataset.from_dict(EVENTS).save_to_disk(raw)
    photos = [{"bytes": png(seed), "path": None} for seed in range(3)]
    items(photo=photos).cast_column("photo", datasets.Image()).save_to_disk(raw / "items")
    options = ["--items", "items", "--image", "photo"]
    whole = prepared(raw, out, *options)
    monkeypatch.chdir(tmp_path)
    assert prepared("shop", out, *options).path == whole.path
    Path("shop").rename("moved")
    prepared("moved", out.with_name("two"), *options, "--extract", str(out.with_name("out-images")))
    items(photo=photos[::-1]).cast_column("photo", datasets.Image()).save_to_disk("moved/items")
    capsys.readouterr()
    extract = ["--extract", str(out.with_name("out-images"))]
    assert "out-images holds pictures of" in refused("moved", out.with_name("three"), capsys, *options, *extract)


def test_media_beside_the_data(tmp_path: Path, out: Path) -> None:
    raw = tmp_path / "shop"
    (raw / "covers").mkdir(parents=True)
    (raw / "covers/b.webp").touch()
    datasets.Dataset.from_dict(EVENTS).to_parquet(raw / "events.parquet")
    assert prepared(raw, out, "--image", "covers").column("image") == [None, "covers/b.webp", None]


def test_the_hubs_loader(tmp_path: Path) -> None:
    # the loader takes a folder in the place of a name; the same call fetches from the hub
    folder = tmp_path / "org/shop"
    folder.mkdir(parents=True)
    whole = datasets.Dataset.from_dict(EVENTS)
    whole.select(range(5)).to_parquet(folder / "train.parquet")
    whole.select(range(5, 8)).to_parquet(folder / "test.parquet")
    with pytest.raises(ReleaseError, match="has the splits train, test; choose with --split"):
        open_hub(str(folder))
    parts = open_hub(str(folder), split="train+test")
    assert [sum(table.num_rows for table in part.batches(["sku"])) for part in parts] == [5, 3]
    assert all(part.path.suffix == ".arrow" for part in parts)


def test_loading_scripts_are_never_run(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    script = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    (folder / "shop.py").write_text(script)
    assert "neither a dataset saved" in refused(folder, out, capsys)
    with pytest.raises(ReleaseError, match=r"nor could it be had.*script"):
        open_hub(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_name_that_is_nearly_there_is_offered(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/shop").mkdir(parents=True)
    assert "no file or folder at dato (did you mean 'data'?)" in refused("dato", out, capsys)
    assert "no file or folder at data/shup (did you mean 'data/shop'?)" in refused("data/shup", out, capsys)


def test_an_unreachable_hub_is_asked_once(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waited {seconds} s to ask again"))
    message = refused("org/name", out, capsys)
    assert "nor could it be had from the hub: it cannot be reached (" in message
    assert "HF_HUB_OFFLINE=1" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("nobody/nothing-here", ["no file or folder at nobody/nothing-here, nor could it be had from the hub"]),
        ("/nowhere/at/all", ["no file or folder at /nowhere/at/all", "no name of a dataset"]),
        ("nosuchdir", ["no file or folder at nosuchdir, and it is no name of a dataset", "ORG/NAME"]),
        ("../up", ["no name of a dataset"]),
    ],
)
def test_says_where_nothing_is(out: Path, capsys: pytest.CaptureFixture[str], raw: str, words: list[str]) -> None:
    message = refused(raw, out, capsys)
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--user", "buyers"], ["no column 'buyers' (--user)", "did you mean 'buyer'?"]),
        (["--items", "../shop"], ["--items ../shop"]),
        (["--items", "nothing"], ["--items nothing: no such file or folder"]),
        (["--split", "train"], ["has no splits"]),
        (["--config", "x"], ["--config and --revision"]),
        (["--text", "{title}"], ["no field 'title'"]),
    ],
)
def test_says_which_option_is_wrong(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: list[str]
) -> None:
    raw = tmp_path / "shop"
    datasets.Dataset.from_dict(EVENTS).save_to_disk(raw)
    message = refused(raw, out, capsys, *options)
    assert [word for word in words if word not in message] == [], message


def test_damaged_files(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "shop"
    datasets.Dataset.from_dict(EVENTS).save_to_disk(raw)
    (arrow,) = raw.glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:40])
    assert f"{raw}" in refused(raw, out, capsys)
    arrow.with_name("state.json").write_text(json.dumps({}))
    assert "not a dataset that `datasets` saved" in refused(raw, out, capsys)
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"PAR1 no")
    with pytest.raises(ReleaseError, match=r"bad\.parquet: cannot be read"):
        open_local(bad)
    bad.write_bytes(b"")
    with pytest.raises(ReleaseError, match=r"bad\.parquet"):
        open_local(bad)


def test_missing_ids(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "shop"
    datasets.Dataset.from_dict(EVENTS | {"sku": ["b", None, *EVENTS["sku"][2:]]}).save_to_disk(raw)
    assert "row 2" in refused(raw, out, capsys)
    datasets.Dataset.from_dict(EVENTS).save_to_disk(tmp_path / "good")
    items(sku=["a", " ", "c"]).save_to_disk(tmp_path / "good/items")
    message = refused(tmp_path / "good", out, capsys, "--items", "items", "--text", "name")
    assert "row 2, field 'sku': empty" in message

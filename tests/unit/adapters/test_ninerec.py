"""NineRec as released: no headers, columns in either order, sets with and without times, texts in two languages."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import pytest

from data_adapters.__main__ import main
from odmt.data.format import Dataset, open_dataset

# as the README has it; u14500 has a tie, u7 too few
PAIRS = [
    ("u14500", "v17551", "1600000003"),
    ("u14500", "v33", "1600000001"),
    ("u2", "v33", "1600000009"),
    ("u14500", "v165612", "1600000001"),
    ("u2", "v17551", "1600000005"),
    ("u14500", "v33", "1600000007"),
    ("u2", "v165612", "1600000006"),
    ("u2", "v33", "1600000005"),
    ("u7", "v33", "1600000005"),
]
HISTORIES = {"u14500": ["v33", "v165612", "v17551", "v33"], "u2": ["v17551", "v33", "v165612", "v33"]}
USER_FIRST = "".join(f"{user},{item},{time}\n" for user, item, time in PAIRS)
ITEM_FIRST = "".join(f"{item},{user},{time}\r\n" for user, item, time in PAIRS)
ITEMS = (
    'v17551,韩国电影，《女教师》,"Korean Movie, The Governess"\r\n'
    'v33,"中文, ""引号""",plain\r\n'
    "v165612,,\r\n"
    "v99,没人看,seen by nobody\r\n"
)
BEHAVIOUR = "u14500\tv33 v165612 v17551 v33\nu2\tv17551 v33  v165612 v33\nu7\tv33\n"
RELEASE: Mapping[str, str | bytes] = {
    "KU_pair.csv": USER_FIRST,
    "KU_item.csv": ITEMS,
    "KU_url.csv": "v17551,http://example.org\n",
    "KU_cover/v33.jpg": b"\xff\xd8",
    "KU_cover/v17551.jpg": b"\x89PNG",
    "QB_cover/v165612.jpg": b"of another set",
}


def write(raw: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return raw


def prepare(raw: Path, *words: str) -> Dataset:
    out = raw.with_name("out")
    assert main(["ninerec", "--raw", str(raw), "--out", str(out), "--min-events", "4", *words]) == 0
    return open_dataset(out)


def histories(dataset: Dataset) -> dict[str, list[str]]:
    ids = dataset.ids()
    return {user: [ids[i - 1] for i in dataset.history(row).tolist()] for row, user in enumerate(dataset.users())}


@pytest.mark.parametrize("pairs", [USER_FIRST, ITEM_FIRST, "\ufeff" + ITEM_FIRST])
def test_tells_users_from_items_by_their_letters(tmp_path: Path, pairs: str) -> None:
    dataset = prepare(write(tmp_path / "raw", {**RELEASE, "KU_pair.csv": pairs}))
    assert histories(dataset) == HISTORIES
    assert dataset.times is not None
    assert dataset.times[0] == 1600000001000
    assert dict(zip(dataset.ids(), dataset.texts(), strict=True)) == {
        "v17551": "Korean Movie, The Governess",
        "v33": "plain",
        "v165612": None,
    }
    assert dict(zip(dataset.ids(), dataset.column("image"), strict=True)) == {
        "v17551": "KU_cover/v17551.jpg",
        "v33": "KU_cover/v33.jpg",
        "v165612": None,
    }


def test_texts_in_chinese_and_the_other_language_as_a_column(tmp_path: Path) -> None:
    dataset = prepare(write(tmp_path / "raw", RELEASE), "--language", "zh", "--columns", "en")
    assert dict(zip(dataset.ids(), dataset.texts(), strict=True)) == {
        "v17551": "韩国电影，《女教师》",
        "v33": '中文, "引号"',
        "v165612": None,
    }
    assert dataset.column("en")[dataset.ids().index("v33")] == "plain"


def test_english_texts_keep_commas_that_nothing_quotes(tmp_path: Path) -> None:
    items = 'v33,"中文",english "quoted" text, with comma, and another\nv17551,一,"quoted, whole"\nv165612,一,a,\n'
    dataset = prepare(write(tmp_path / "raw", {**RELEASE, "KU_item.csv": items}), "--columns", "zh")
    assert dict(zip(dataset.ids(), dataset.texts(), strict=True)) == {
        "v33": 'english "quoted" text, with comma, and another',
        "v17551": "quoted, whole",
        "v165612": "a,",
    }
    assert dataset.column("zh")[dataset.ids().index("v33")] == "中文"


def test_without_covers_there_is_no_column_of_pictures(tmp_path: Path) -> None:
    files = {name: content for name, content in RELEASE.items() if "KU_cover" not in name}
    dataset = prepare(write(tmp_path / "raw", files))
    assert set(dataset.info.modalities) == {"text"}


@pytest.mark.parametrize("with_pairs", [True, False])
def test_sequences_are_read_where_pairs_have_no_times(tmp_path: Path, with_pairs: bool) -> None:
    files = {"QB_behaviour.tsv.gz": gzip.compress(BEHAVIOUR.encode()), "QB_item.csv": ITEMS}
    if with_pairs:
        files["QB_pair.csv"] = "".join(f"{user},{item}\n" for user, item, _ in PAIRS).encode()
    dataset = prepare(write(tmp_path / "raw", files))
    assert histories(dataset) == HISTORIES
    assert dataset.times is None
    assert "QB_behaviour.tsv.gz" in dataset.info.notes["order"]


def test_pairs_without_times_alone_keep_their_order(tmp_path: Path) -> None:
    pairs = "".join(f"{user},{item}\n" for user, item, _ in PAIRS)
    dataset = prepare(write(tmp_path / "raw", {"TN_pair.csv": pairs, "TN_item.csv": ITEMS}))
    assert histories(dataset)["u14500"] == ["v17551", "v33", "v165612", "v33"]
    assert dataset.times is None


def test_times_are_preferred_to_sequences(tmp_path: Path) -> None:
    dataset = prepare(write(tmp_path / "raw", {**RELEASE, "KU_behaviour.tsv": "u1\tv33 v33 v33 v33\n"}))
    assert dataset.times is not None
    assert dataset.users() == ["u14500", "u2"]


def test_several_sets_are_refused_unless_one_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = {
        "sets/Bili_500K_pair.csv": ITEM_FIRST,
        "sets/Bili_500K_item.csv": ITEMS,
        "Source_Bili_2M_cover/v33.jpg": b"shared",
        "Bili_Food_behaviour.tsv": BEHAVIOUR,
    }
    raw = write(tmp_path / "raw", {**RELEASE, **others})
    arguments = ["ninerec", "--raw", str(raw), "--out", str(tmp_path / "out"), "--min-events", "4"]
    assert main(arguments) == 1
    assert "Bili_500K, Bili_Food, KU: choose one with --domain" in capsys.readouterr().err
    assert main([*arguments, "--domain", "QB"]) == 1
    assert "--domain QB" in capsys.readouterr().err
    assert main([*arguments, "--domain", "Bili_Food"]) == 1
    assert "no Bili_Food_item.csv" in capsys.readouterr().err
    dataset = prepare(raw, "--domain", "Bili_500K")
    assert histories(dataset) == HISTORIES
    assert dataset.info.modalities["image"] == 1
    assert dataset.column("image")[dataset.ids().index("v33")] == "Source_Bili_2M_cover/v33.jpg"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"KU_pair.csv": "14500,17551,1600000003\n"}, ["KU_pair.csv, line 1", "14500,17551", "told apart"]),
        ({"KU_pair.csv": USER_FIRST.replace("1600000009", "noon")}, ["KU_pair.csv, line 3", "time", "noon"]),
        ({"KU_pair.csv": USER_FIRST.replace("u2,v17551", "u2,")}, ["KU_pair.csv, line 5", "item"]),
        ({"KU_pair.csv": USER_FIRST.replace(",v165612,1600000006", "")}, ["KU_pair.csv, line 7", "1 fields"]),
        ({"KU_item.csv": ITEMS + "v100,only Chinese\n"}, ["KU_item.csv, line 5", "2 fields"]),
        ({"KU_item.csv": ITEMS.replace('Governess"', "Governess")}, ["KU_item.csv, line 1", "quote"]),
        ({"KU_item.csv": None}, ["no KU_item.csv"]),
        ({"KU_pair.csv": None}, ["no X_pair.csv or X_behaviour.tsv", "KU_cover, KU_item.csv"]),
    ],
)
def test_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: Mapping[str, str | None], words: list[str]
) -> None:
    raw = write(tmp_path / "raw", {n: c for n, c in {**RELEASE, **files}.items() if c is not None})
    assert main(["ninerec", "--raw", str(raw), "--out", str(tmp_path / "out"), "--min-events", "4"]) == 1
    printed = capsys.readouterr().err
    assert all(word in printed for word in words), printed
    assert not (tmp_path / "out").exists()

"""H&M as released: ids with leading zeros, baskets of one day, articles bought again, photos in folders by prefix."""

from __future__ import annotations

import csv
import gzip
import io
from argparse import Namespace
from pathlib import Path

import pytest

from data_adapters.__main__ import main
from data_adapters.hm import read, read_articles
from data_adapters.text_files import ReleaseError
from odmt.data.format import Dataset, open_dataset

HEADER = (
    "article_id,product_code,prod_name,product_type_no,product_type_name,product_group_name,graphical_appearance_no,"
    "graphical_appearance_name,colour_group_code,colour_group_name,perceived_colour_value_id,"
    "perceived_colour_value_name,perceived_colour_master_id,perceived_colour_master_name,department_no,department_name,"
    "index_code,index_name,index_group_no,index_group_name,section_no,section_name,garment_group_no,garment_group_name,"
    "detail_desc"
)
COLUMNS = HEADER.split(",")
STRAP, VEST, BRA, SOCKS, UNSOLD = "0108775015", "0108775044", "0110065001", "0111565001", "0999999999"
CUSTOMERS = [f"{n:02x}" * 32 for n in (0, 17, 250)]
# customer 0: a basket of two in no order of ids, the same article twice in one basket, and again on a later day
TRANSACTIONS = [
    ("2018-09-20", 0, SOCKS),
    ("2018-09-20", 0, STRAP),
    ("2018-09-20", 1, BRA),
    ("2018-09-22", 0, BRA),
    ("2018-09-22", 0, BRA),
    ("2018-09-22", 2, STRAP),
    ("2018-09-25", 1, VEST),
    ("2018-09-25", 0, SOCKS),
    ("2018-09-26", 1, BRA),
    ("2018-09-27", 1, STRAP),
]
HISTORIES = {CUSTOMERS[0]: [SOCKS, STRAP, BRA, BRA, SOCKS], CUSTOMERS[1]: [BRA, VEST, BRA, STRAP]}


def transactions(*, stripped: bool = False) -> list[str]:
    rows = [
        f"{day},{CUSTOMERS[customer]},{article.lstrip('0') if stripped else article},0.0508305084745762,{1 + customer}"
        for day, customer, article in TRANSACTIONS
    ]
    return ["t_dat,customer_id,article_id,price,sales_channel_id", *rows]


def articles(*, stripped: bool = False) -> list[str]:
    named = [
        (STRAP, "Strap top", "Vest top", "Black", 'Jersey top with "narrow", adjustable straps.'),
        (VEST, "Strap top (1)", "Vest top", "White", ""),
        (BRA, "OP T-shirt (Idro)", "Bra", "Black", "Microfibre bra,\nlined & moulded."),
        (SOCKS, "20 den 1p Stockings", "Underwear Tights", "", "Semi shiny nylon stockings."),
        (UNSOLD, "Never bought", "Bra", "Black", "No."),
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for article, name, kind, colour, description in named:
        values = dict.fromkeys(COLUMNS, "7") | {
            "article_id": article.lstrip("0") if stripped else article,
            "product_code": article[:7],
            "prod_name": name,
            "product_type_name": kind,
            "graphical_appearance_name": "Solid",
            "colour_group_name": colour,
            "department_name": "Jersey Basic",
            "index_group_name": "Ladieswear",
            "detail_desc": description,
        }
        writer.writerow([values[column] for column in COLUMNS])
    return out.getvalue().splitlines()


def write(path: Path, lines: list[str], *, end: str = "\n") -> Path:
    data = "".join(line + end for line in lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    write(folder / "transactions_train.csv", transactions())
    write(folder / "articles.csv", articles())
    write(folder / "customers.csv", ["customer_id,FN,Active", f"{CUSTOMERS[0]},,"])
    for article in (STRAP, BRA, UNSOLD):
        write(folder / "images" / article[:3] / f"{article}.jpg", ["any bytes"])
    return folder


def prepared(raw: Path, *words: str) -> Dataset:
    out = raw.parent / "out"
    assert main(["hm", "--raw", str(raw), "--out", str(out), "--min-events", "4", *words]) == 0
    return open_dataset(out)


def histories(dataset: Dataset) -> dict[str, list[str]]:
    ids = dataset.ids()
    return {user: [ids[i - 1] for i in dataset.history(n)] for n, user in enumerate(dataset.users())}


def test_baskets_keep_the_order_of_lines_and_repeats_stay(raw: Path) -> None:
    dataset = prepared(raw)
    assert histories(dataset) == HISTORIES
    assert dataset.ids() == [STRAP, VEST, BRA, SOCKS]
    assert dataset.times is not None
    assert (dataset.times[:5] // 86_400_000).tolist() == [17_794, 17_794, 17_796, 17_796, 17_799]
    assert dataset.info.notes["baskets"].startswith("events carry a day")
    assert dataset.info.dropped["users with fewer than 4 events"] == 1
    assert dataset.info.dropped["catalogue rows of items without a kept event"] == 1


def test_texts_photos_and_columns(raw: Path) -> None:
    dataset = prepared(raw, "--columns", "product_code", "garment_group_name")
    assert [" ".join((text or "").split()) for text in dataset.texts()] == [
        'Strap top. Vest top. Black. Solid. Jersey Basic. Ladieswear. Jersey top with "narrow", adjustable straps.',
        "Strap top (1). Vest top. White. Solid. Jersey Basic. Ladieswear",
        "OP T-shirt (Idro). Bra. Black. Solid. Jersey Basic. Ladieswear. Microfibre bra, lined & moulded.",
        "20 den 1p Stockings. Underwear Tights. Solid. Jersey Basic. Ladieswear. Semi shiny nylon stockings.",
    ]
    photos = [path and path.relative_to(raw).as_posix() for path in dataset.media("image")]
    assert photos == [f"images/010/{STRAP}.jpg", None, f"images/011/{BRA}.jpg", None]
    assert dataset.column("product_code") == ["0108775", "0108775", "0110065", "0111565"]
    assert dataset.column("garment_group_name") == ["7"] * 4


def test_without_photos_there_is_no_column_of_pictures(raw: Path) -> None:
    (raw / "images").rename(raw.parent / "elsewhere")
    assert set(prepared(raw).info.modalities) == {"text"}


@pytest.mark.parametrize("stripped", ["transactions", "articles", "both"])
def test_zeros_that_a_spreadsheet_cut_are_put_back(raw: Path, stripped: str) -> None:
    write(raw / "transactions_train.csv", transactions(stripped=stripped != "articles"), end="\r\n")
    write(raw / "articles.csv", articles(stripped=stripped != "transactions"))
    dataset = prepared(raw)
    assert histories(dataset) == HISTORIES
    assert [text is None for text in dataset.texts()] == [False] * 4
    assert [path is None for path in dataset.media("image")] == [False, True, False, True]


def test_gzipped_files_are_read(raw: Path) -> None:
    for name, lines in (("transactions_train.csv", transactions()), ("articles.csv", articles())):
        (raw / name).unlink()
        write(raw / f"{name}.gz", lines)
    assert histories(prepared(raw)) == HISTORIES


def test_articles_have_all_their_columns(raw: Path) -> None:
    release = read(raw, Namespace())
    assert len(release.fields) == 24
    rows = dict(read_articles(raw / "articles.csv"))
    assert set(rows) == {STRAP, VEST, BRA, SOCKS, UNSOLD}
    assert tuple(rows[STRAP]) == tuple(release.fields)


def test_what_is_missing_is_named(raw: Path) -> None:
    write(raw / "articles.csv", ["article_id,prod_name", f"{STRAP},Strap top"])
    with pytest.raises(ReleaseError, match=r"articles\.csv, line 1: the header has no product_type_name, colour_gr"):
        read(raw, Namespace())
    (raw / "articles.csv").rename(raw / "articles.csv.zip")
    with pytest.raises(ReleaseError, match=r"no file named articles\.csv; it holds articles\.csv\.zip, .*; unpack the"):
        read(raw, Namespace())
    with pytest.raises(ReleaseError, match="no folder at"):
        read(raw / "absent", Namespace())


def test_a_wrong_line_is_named(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = raw / "transactions_train.csv.gz"
    (raw / "transactions_train.csv").unlink()
    good = transactions()
    for line, message in (
        (f"20.9.2018,{CUSTOMERS[0]},{STRAP},0.05,1", "line 6: time is '20.9.2018', must be a date"),
        (f"2018-13-20,{CUSTOMERS[0]},{STRAP},0.05,1", "line 6: time is '2018-13-20', must be a date"),
        (f"2018-09-20,,{STRAP},0.05,1", "line 6: user is '', must not be empty"),
        (f"2018-09-20,{CUSTOMERS[0]},{STRAP}", "line 6: 3 fields"),
    ):
        write(path, [*good[:5], line, *good[5:]])
        assert main(["hm", "--raw", str(raw), "--out", str(raw.parent / "out"), "--min-events", "4"]) == 1
        assert f"transactions_train.csv.gz, {message}" in capsys.readouterr().err
    write(path, good)
    write(raw / "articles.csv", [*articles(), f'{STRAP},"cut'])
    assert main(["hm", "--raw", str(raw), "--out", str(raw.parent / "out"), "--min-events", "4"]) == 1
    assert "articles.csv, line 8: broken quotes" in capsys.readouterr().err
    assert not (raw.parent / "out").exists()

"""H&M's purchases, as released for its Kaggle competition in 2022: fashion articles with photo, names and description.

Purchases carry a day and no time: a customer's basket of one day keeps the order of the file's lines, which means
nothing. Buying an article again is an event again (a row each; the vendor repeats rows for several pieces).
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_adapters.release import Adapter, Catalogue, Delimited, Release
from data_adapters.text_files import ReleaseError, first_record, read_rows
from data_adapters.vendor_files import check_folder, find_file, folders_in, held, pictures_in

__all__ = ["ADAPTER", "LAYOUT", "read", "read_articles"]

LAYOUT = """\
DIR holds the unpacked files of https://www.kaggle.com/competitions/h-and-m-personalized-fashion-recommendations/data
  transactions_train.csv        t_dat,customer_id,article_id,price,sales_channel_id, plain or .gz
  articles.csv                  article_id and 24 columns more, each of which --columns can keep, plain or .gz
  images/010/0108775015.jpg     optional: the first three digits of the article, then the article
customers.csv is not needed. Article ids are padded to 10 digits where a program cut their leading zeros.
Text: the article's name, product type, colour, appearance, department, index group and description.
Events carry a day, so that a basket ties; articles bought again are kept (see --repeats)."""
TEXT = (
    "{prod_name}. {product_type_name}. {colour_group_name}. {graphical_appearance_name}. {department_name}. "
    "{index_group_name}. {detail_desc}"
)
TEXT_COLUMNS = (
    "prod_name",
    "product_type_name",
    "colour_group_name",
    "graphical_appearance_name",
    "department_name",
    "index_group_name",
    "detail_desc",
)
ID_WIDTH = 10


def read(raw: Path, arguments: Namespace) -> Release:
    """Describe the release in `raw`."""
    transactions, articles = (_find(raw, name) for name in ("transactions_train.csv", "articles.csv"))
    header = first_record(articles)
    if missing := [name for name in ("article_id", *TEXT_COLUMNS) if name not in header]:
        raise ReleaseError(
            f"{articles}, line 1: the header has no {', '.join(missing)}, it is {', '.join(header)}; "
            f"download it again\n{LAYOUT}"
        )
    return Release(
        events=[Delimited(transactions, {"user": ("customer_id", 1), "item": ("article_id", 2), "time": ("t_dat", 0)})],
        catalogues=[Catalogue(articles, lambda: read_articles(articles))],
        fields=tuple(name for name in header if name != "article_id"),
        text=TEXT,
        media=pictures_in([folder for folder in folders_in(raw) if folder.name.startswith("images")]),
        media_root=raw,
        time_unit="date",
        item_width=ID_WIDTH,
        notes={"baskets": "events carry a day, no time: those of one day keep the order of the file's lines"},
    )


def read_articles(path: Path) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    """Yield (article_id, other columns) per row of articles.csv.

    Raises:
        ReleaseError: as `read_rows`.
    """
    for _, row in read_rows(path):
        yield row["article_id"], {name: value for name, value in row.items() if name != "article_id"}


def _find(raw: Path, name: str) -> Path:
    check_folder(raw, LAYOUT)
    if path := find_file(raw, name):
        return path
    unpack = "; unpack the .zip" if any(raw.glob("*.zip")) else ""
    raise ReleaseError(f"{raw}: no file named {name}; it holds {held(raw)}{unpack}\n{LAYOUT}")


ADAPTER = Adapter(
    help="H&M Personalized Fashion Recommendations (Kaggle 2022): purchases, articles, photos",
    layout=LAYOUT,
    read=read,
    licence="see the rules of the Kaggle competition: for the competition and non-commercial research",
    citation="H&M Group 2022, H&M Personalized Fashion Recommendations, Kaggle",
)

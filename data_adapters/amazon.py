"""Amazon's reviews, as released in 2014, 2018 and 2023: products that people rated, with title, brand and description.

The releases disagree: csv files without header hold user,item (2014) or item,user (2018), times are days in seconds or
milliseconds, metadata are Python literals or JSON. Which release a file is of is told by its first lines
(`data_adapters.amazon_events`), and asked for where they do not tell.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from data_adapters.amazon_events import PAIR, describe, find_events, plain_name
from data_adapters.amazon_items import FIELDS, read_meta, visual_features
from data_adapters.release import Adapter, Catalogue, Delimited, Release
from data_adapters.text_files import ReleaseError, first_record, read_rows
from data_adapters.vendor_files import add_images_argument, check_folder, find_file, folders_in, pictures_of

__all__ = ["ADAPTER", "LAYOUT", "read"]

LAYOUT = """\
DIR holds one category of one release, its files beside each other or one folder down, each plain or .gz:
  2014, https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html
    reviews_Beauty_5.json         5-core reviews; or
    ratings_Beauty.csv            user,item,rating,seconds; no header
    meta_Beauty.json              titles, brands, categories; Python literals, which are parsed and never run
    image_features_Beauty.b       optional: the published visual features, imported as they are
  2018, https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/
    Luxury_Beauty_5.json          5-core reviews; or
    Luxury_Beauty.csv             item,user,rating,seconds; no header, and not the order of 2014
    meta_Luxury_Beauty.json
  2023, https://amazon-reviews-2023.github.io
    Baby_Products.csv             user_id,parent_asin,rating,timestamp (5-core or 0-core); or
    Baby_Products.{train,valid,test}.csv   the same, split (last_out, timestamp, *_w_his): put together again; or
    Baby_Products.jsonl           raw reviews
    meta_Baby_Products.jsonl
  or a small copy: interactions.tsv (user_id item_id timestamp) and items.tsv (item_id title)
  *image*/ASIN.jpg                optional pictures, or --images; the releases hold addresses (--columns image_url)
Text: "{title}. {brand}. {categories}. {description}"; further fields: features, price, image_url.
Reviews of 2014 and 2018 carry days, so that many tie, and some come twice (see --repeats)."""
TEXT_FIELDS = ("title", "brand", "categories", "description")
"""What the text is made of, most telling first, since encoders cut; features and prices are lists of noise."""


def read(raw: Path, arguments: Namespace) -> Release:
    """Describe the release in `raw`."""
    check_folder(raw, LAYOUT)
    files = _files(raw)
    try:
        paths = _named(raw, arguments.events) if arguments.events else find_events(raw, files)
    except ReleaseError as error:
        raise ReleaseError(f"{error}\n{LAYOUT}") from error
    if plain_name(paths[0]) == PAIR:
        return _read_pair(paths, raw, arguments)
    sources = [describe(path, arguments.year) for path in paths]
    if len({source.year for source in sources}) > 1:
        found = ", ".join(f"{source.file.path.name} is of {source.year}" for source in sources)
        raise ReleaseError(f"{raw}: {found}; their ids and times do not fit together, name files of one release")
    meta = [path for path in files if re.fullmatch(r"meta.*\.jsonl?(\.gz)?", path.name, re.IGNORECASE)]
    return Release(
        events=[source.file for source in sources],
        catalogues=[Catalogue(path, partial(read_meta, path)) for path in meta],
        fields=FIELDS if meta else (),
        text=_template(FIELDS if meta else ()),
        media=pictures_of(arguments, raw, folders_in(raw, "image")),
        media_root=raw,
        features=[visual_features(path) for path in files if re.fullmatch(r"image_features.*\.b", path.name)],
        notes={
            "release": sources[0].year,
            "columns": "; ".join(f"{source.file.path.name}: {source.why}" for source in sources),
            "metadata": ", ".join(path.name for path in meta) or "none, so that items have no text",
        },
    )


def _files(raw: Path) -> list[Path]:
    folders = [raw, *(path for path in raw.iterdir() if path.is_dir() and "image" not in path.name.lower())]
    return sorted(p for folder in folders for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def _named(raw: Path, names: Sequence[str]) -> list[Path]:
    for name in names:
        if not (raw / name).is_file():
            raise ReleaseError(f"--events {name}: no file at {raw / name}; names count from --raw")
    return [raw / name for name in names]


def _template(fields: Sequence[str]) -> str:
    return ". ".join(f"{{{field}}}" for field in TEXT_FIELDS if field in fields)


def _read_pair(paths: Sequence[Path], raw: Path, arguments: Namespace) -> Release:
    (interactions,) = paths
    items = find_file(interactions.parent, "items.tsv")
    if arguments.year != "auto" or items is None:
        raise ReleaseError(
            f"{interactions}: "
            + ("there is no items.tsv beside it" if items is None else "its columns have names, leave --year out")
        )
    fields = [name for name in _header(items, "item_id", "title") if name != "item_id"]
    rating = {"rating": ("rating",)} if "rating" in _header(interactions, "user_id", "item_id", "timestamp") else {}
    columns = {"user": ("user_id",), "item": ("item_id",), "time": ("timestamp",), **rating}
    return Release(
        events=[Delimited(interactions, columns, delimiter="\t", quote="")],
        catalogues=[Catalogue(items, partial(_read_items, items))],
        fields=fields,
        text=_template(fields),
        media=pictures_of(arguments, raw, folders_in(raw, "image")),
        media_root=raw,
        notes={"release": f"{interactions.name} and {items.name}"},
    )


def _header(path: Path, *names: str) -> list[str]:
    header = first_record(path, delimiter="\t", quote="")
    if missing := [name for name in names if name not in header]:
        raise ReleaseError(f"{path}, line 1: the header {header} does not name {', '.join(missing)}; add the names")
    return header


def _read_items(path: Path) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    for _, row in read_rows(path, delimiter="\t", quote=""):
        yield row["item_id"], {name: value for name, value in row.items() if name != "item_id"}


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--year",
        choices=("auto", "2014", "2018", "2023"),
        default="auto",
        help="release of a csv without header, 2014 and 2023: user,item; 2018: item,user (default: by its lines)",
    )
    add("--events", nargs="+", metavar="FILE", help="files of events in DIR, where it holds more than one kind")
    add_images_argument(parser, "folders of DIR named *image*")


ADAPTER = Adapter(
    help="Amazon reviews 2014, 2018, 2023: ratings or reviews, metadata, published visual features",
    layout=LAYOUT,
    read=read,
    licence="see the pages of the releases: academic research; texts and pictures are those of the products' sellers",
    citation="2014: McAuley et al. 2015, arXiv:1506.04757; He and McAuley 2016, arXiv:1602.01585. "
    "2018: Ni, Li and McAuley 2019, EMNLP D19-1018. 2023: Hou et al. 2024, arXiv:2403.03952",
    add_arguments=_add_arguments,
    defaults={"html": "strip"},
)

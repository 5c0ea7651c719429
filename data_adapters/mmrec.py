"""MMRec's datasets (baby, sports, clothing, microlens, ...): renumbered events with extracted image and text features.

Zhou 2023, "MMRec: Simplifying Multimodal Recommendation", arXiv 2302.03497. Row i of a feature file is the item whose
itemID is i. The column x_label is MMRec's own split (0 train, 1 validation, 2 test), which is random for the Amazon
sets; histories here are in the order of time and split at their ends, as everywhere in this library.
"""

from __future__ import annotations

import ast
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from data_adapters.microlens_features import open_matrix
from data_adapters.release import Adapter, Catalogue, Delimited, ReadyFeatures, Release
from data_adapters.text_files import ReleaseError, first_record, read_lines, read_rows
from data_adapters.vendor_files import check_folder, folders_in, held, pictures_in

__all__ = ["ADAPTER", "LAYOUT", "read"]

LAYOUT = """\
DIR is one of the folders that https://github.com/enoche/MMRec/tree/master/data links to:
  NAME.inter              tabs, header with userID, itemID, timestamp (and rating, x_label)
  image_feat.npy, text_feat.npy   optional, row i of itemID i
  meta-NAME.csv           optional: itemID, asin, title, brand, categories, description (made by MMRec's preprocessing)
  i_id_mapping.csv        optional, tabs: asin, itemID (field asin; of microlens, the official item id)
  missed_img_itemIDs.csv  optional: itemIDs whose image features are the mean of the others; they count as missing
  images/ITEMID.jpg       optional
Text: {title} {brand} {categories} {description}; none without meta-NAME.csv"""
CITATION = "Zhou 2023, MMRec: Simplifying Multimodal Recommendation, arXiv:2302.03497"
LICENCE = "see the source of the data: Amazon review data (McAuley, academic use), or MicroLens"

MISSED = "missed_img_itemIDs.csv"
FIELDS = ("asin", "title", "brand", "categories", "description")
COLUMNS = {"user": ("userID",), "item": ("itemID",), "time": ("timestamp",), "rating": ("rating",)}


def read(raw: Path, arguments: Namespace) -> Release:
    """Describe the dataset in `raw`.

    Raises:
        ReleaseError: where there is not one .inter file, or it lacks a column.
    """
    check_folder(raw, LAYOUT)
    tables = sorted(raw.glob("*.inter"))
    if len(tables) != 1:
        raise ReleaseError(f"{raw}: {len(tables)} files named *.inter, must be one; it holds {held(raw)}\n{LAYOUT}")
    header = first_record(tables[0], delimiter="\t", quote="")
    present = {role: names for role, names in COLUMNS.items() if names[0] in header}
    missing = [COLUMNS[role][0] for role in ("user", "item", "time") if role not in present]
    if missing:
        raise ReleaseError(
            f"{tables[0]}, line 1: no column {', '.join(missing)} in the header {header}; MMRec's .inter files have "
            "userID, itemID, timestamp and tabs between (for RecBole's own atomic files use the adapter recbole)"
        )
    metas = sorted(raw.glob("meta*.csv"))
    mappings = [path for path in (raw / "i_id_mapping.csv",) if path.is_file()]
    return Release(
        events=[Delimited(tables[0], present, delimiter="\t", quote="")],
        catalogues=[
            *(Catalogue(path, lambda path=path: _items(path, ",")) for path in metas),
            *(Catalogue(path, lambda path=path: _items(path, "\t")) for path in mappings),
        ],
        fields=FIELDS,
        text="{title} {brand} {categories} {description}" if metas else "",
        media=pictures_in([folder for folder in folders_in(raw) if folder.name == "images"]),
        media_root=raw,
        integer_ids=True,
        features=[
            _features(path, modality)
            for modality in ("image", "text")
            if (path := raw / f"{modality}_feat.npy").is_file()
        ],
        notes={
            **({"x_label": "MMRec's split is not used"} if "x_label" in header else {}),
            **(
                {"image_feat.npy": f"MMRec fills items without picture with the mean, and says in {MISSED} which"}
                if (raw / "image_feat.npy").is_file() and not (raw / MISSED).is_file()
                else {}
            ),
        },
    )


def _features(path: Path, modality: str) -> ReadyFeatures:
    filled = _without_picture(path.parent) if modality == "image" else set()
    rows = [row for row in range(len(open_matrix(path))) if row not in filled]
    return ReadyFeatures(
        modality,
        "MMRec",
        path,
        lambda: open_matrix(path)[rows] if filled else open_matrix(path),
        [str(row) for row in rows],
    )


def _without_picture(raw: Path) -> set[int]:
    path = raw / MISSED
    numbers = read_lines(path) if path.is_file() and path.stat().st_size else ()
    try:
        return {int(line) for _, line in numbers}
    except ValueError as error:
        raise ReleaseError(f"{path}: not one itemID per line ({error}); download it again, or remove it") from error


def _items(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, str | None]]]:
    for number, row in read_rows(path, delimiter=delimiter):
        item = row.get("itemID", "").strip().removesuffix(".0")  # pandas writes ids of a column with gaps as 12.0
        if not item.isdecimal():
            raise ReleaseError(f"{path}, line {number}: itemID is {item[:40]!r}, must be a number; check the header")
        values: dict[str, str | None] = {field: row[field].strip() for field in FIELDS if field in row}
        values["categories"] = _first_path(row.get("categories", ""), path, number)
        yield item, values


def _first_path(categories: str, path: Path, number: int) -> str:
    """Return "Sports Dance" of "[['Sports', 'Dance'], ['Shoes']]", a Python literal: MMRec uses the first path."""
    if not categories.strip().startswith("["):
        return categories.strip()
    try:
        paths = ast.literal_eval(categories.strip())
    except (ValueError, SyntaxError) as error:
        raise ReleaseError(
            f"{path}, line {number}: categories is {categories[:60]!r}, no list of lists ({error}); download it again"
        ) from error
    first = paths[0] if paths else []
    return " ".join(map(str, first)) if isinstance(first, list) else str(first)


ADAPTER = Adapter(
    help="MMRec's baby, sports, clothing, microlens, with their extracted features",
    layout=LAYOUT,
    read=read,
    licence=LICENCE,
    citation=CITATION,
)

"""MicroLens, as released (50K, 100K, 1M, full, and the MM-CTR challenge): videos that people commented on.

Ni et al. 2023, "A Content-Driven Micro-Video Recommendation Dataset at Scale", arXiv 2309.15379. Item ids may have gaps
and mean the same video in all files of a release, so that files of 100K describe 50K, too. `MicroLens-1M_items.tsv`
lists the items by the ids that pairs and titles use as well, and is not needed. Comments are the events themselves.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from data_adapters.microlens_challenge import is_challenge, read_challenge
from data_adapters.microlens_features import find_features
from data_adapters.microlens_files import read_quoted, read_split, starts_with_header
from data_adapters.microlens_pairs import compare_pairs
from data_adapters.release import Adapter, Catalogue, Delimited, Media, Release
from data_adapters.text_files import ReleaseError, read_lines
from data_adapters.vendor_files import SUFFIXES, check_folder, find_files, folders_in, held

__all__ = ["ADAPTER", "LAYOUT", "read"]

LAYOUT = """\
DIR holds one unpacked release of https://github.com/westlake-repl/MicroLens, under its own names, plain or .gz:
  *_pairs.csv             user,item,timestamp (unix milliseconds), preferred because it has times; or
  *_pairs.tsv             user <tab> item item item, oldest first
  *_titles.csv            header and quoted titles (50K); or
  *_title*.csv            no header, the title is what follows the first comma (100K, 1M); or *_title*.tsv, with a tab
  *covers*/ITEM.jpg, *videos*/ITEM.mp4, *audio*/ITEM.*, *frames*/ITEM-1.jpg   optional
  *tags*.csv              item,category (field tags), optional
  *_duration.txt          item,seconds (field duration), optional
  *_likes_and_views.txt   item <tab> likes <tab> views, optional; they tell of the future
  extracted_modality_features/*_CLIPRN50.npy, *_BgeM3.npy, *_VideoMAE.npy (or .json)   optional ready features
Where both kinds of titles are there, the quoted ones count and the others fill what is missing. Archives are not
unpacked. The MM-CTR challenge (https://erel-mir.github.io/challenge/mmctr-track2) is known by its parquet files:
  item_seq.parquet, or else MicroLens_1M_x1/{train,valid,test}.parquet   each user's longest sequence is its history
  item_feature.parquet    title, tags, levels of likes and views, ready features of text (BERT) and image (CLIPRN50)
  item_images/ITEM.jpg    optional
They are read within 1 GB of memory, whatever --memory says.
Text: {title}"""
CITATION = "Ni et al. 2023, A Content-Driven Micro-Video Recommendation Dataset at Scale, arXiv:2309.15379"
LICENCE = "see the release's readme; MicroLens' own: research use, modified copies may not be offered for download"

LEAKS: dict[str, str] = dict.fromkeys(
    ("likes", "views"), "counted when the data was collected, after the last event: it tells what became popular"
)
OTHERS = (
    ("*tags*.csv", ",", ("tags",)),
    ("*duration.txt", ",", ("duration",)),
    ("*likes_and_views.txt", "\t", ("likes", "views")),
)
"""Files that are optional: pattern, delimiter, fields after the item."""
FOLDERS = {"frames": ("frame",), "video": ("video",), "audio": ("audio",), "image": ("cover", "image")}
"""Words that a folder's name is known by; the first that fits counts."""
ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".tgz", ".tar.gz")


def read(raw: Path, arguments: Namespace) -> Release:
    """Describe the release in `raw`.

    Raises:
        ReleaseError: where a file is missing, unreadable, or there are several releases.
    """
    check_folder(raw, LAYOUT)
    if is_challenge(raw):
        return read_challenge(raw, media=find_media(raw), notes=packed(raw), leaks=LEAKS)
    table, lists = _one(raw, "*pairs.csv"), _one(raw, "*pairs.tsv")
    titles = [path for kind in ("csv", "tsv") for path in find_files(raw, f"*title*.{kind}")]
    for what, found in (("pairs.csv or *pairs.tsv", table or lists), ("title*.csv", titles)):
        if not found:
            raise ReleaseError(f"{raw}: no file named *{what}; it holds {held(raw)}\n{LAYOUT}")
    notes = packed(raw)
    if table and lists:
        notes["pairs"] = compare_pairs(table, lists)
    others = _others(raw)
    fields = ("title", *dict.fromkeys(field for _, names in others for field in names))
    return Release(
        events=[_events(table or lists)],
        catalogues=[*_titles(titles), *(catalogue for catalogue, _ in others)],
        fields=fields,
        text="{title}",
        media=find_media(raw),
        media_root=raw,
        time_unit="ms",
        integer_ids=True,
        features=find_features(raw),
        leaks={field: why for field, why in LEAKS.items() if field in fields},
        notes=notes,
    )


def _events(path: Path | None) -> Delimited:
    assert path is not None
    number, line = next(read_lines(path))
    if ".tsv" in path.suffixes:
        if line.count("\t") != 1:
            raise ReleaseError(
                f"{path}, line {number}: {line.count(chr(9))} tabs where `user<tab>item item ...` has one: "
                f"{line[:80]!r}; a file with another delimiter must be rewritten with tabs"
            )
        return Delimited(path, {"user": ("user", 0), "items": ("items", 1)}, delimiter="\t", quote="")
    if line.count(",") != 2:
        raise ReleaseError(
            f"{path}, line {number}: {line.count(',') + 1} comma-separated fields where user,item,timestamp are "
            f"expected: {line[:80]!r}; a file with another delimiter must be rewritten with commas"
        )
    # columns count by position alone, since readers disagree about their names
    return Delimited(path, {"user": (0,), "item": (1,), "time": (2,)}, quote="")


def _titles(paths: list[Path]) -> list[Catalogue]:
    quoted = {path: ".csv" in path.suffixes and starts_with_header(path) for path in paths}
    return [
        Catalogue(path, lambda path=path: read_quoted(path, "title"))
        if quoted[path]
        else Catalogue(path, lambda path=path: read_split(path, "\t" if ".tsv" in path.suffixes else ",", "title"))
        # titles of the plain kind are often cut at their first comma
        for path in sorted(paths, key=lambda path: (not quoted[path], path.name))
    ]


def _others(raw: Path) -> list[tuple[Catalogue, tuple[str, ...]]]:
    return [
        (Catalogue(path, lambda path=path, mark=mark, fields=fields: read_split(path, mark, *fields)), fields)
        for pattern, mark, fields in OTHERS
        for path in find_files(raw, pattern)
    ]


def find_media(raw: Path) -> dict[str, Media]:
    """Return the folders of media by what their names say."""
    kinds: dict[str, list[Path]] = {}
    for folder in folders_in(raw):
        kind = _kind(folder.name)
        if kind and "feature" not in folder.name.lower():
            kinds.setdefault(kind, []).append(folder)
    return {kind: Media(folders, SUFFIXES["image" if kind == "frames" else kind]) for kind, folders in kinds.items()}


def packed(raw: Path) -> dict[str, str]:
    """Say which archives lie there without the folder that they hold."""
    kinds = {_kind(p.name) for p in folders_in(raw)}
    names = [p.name for p in sorted(raw.iterdir()) if p.is_file() and p.name.lower().endswith(ARCHIVES)]
    names = [name for name in names if not _kind(name) or _kind(name) not in kinds]
    return {"not unpacked": f"{', '.join(names)}: unpack beside and prepare again to use them"} if names else {}


def _kind(name: str) -> str | None:
    return next((kind for kind, words in FOLDERS.items() if any(word in name.lower() for word in words)), None)


def _one(raw: Path, pattern: str) -> Path | None:
    paths = find_files(raw, pattern)
    if len(paths) > 1:
        raise ReleaseError(
            f"{raw}: holds the pairs of several releases ({', '.join(p.name for p in paths)}); keep one per folder"
        )
    return paths[0] if paths else None


ADAPTER = Adapter(
    help="MicroLens-50K, -100K, -1M, full, and the MM-CTR challenge's, as released",
    layout=LAYOUT,
    read=read,
    licence=LICENCE,
    citation=CITATION,
)

"""ODMT's own release (Ji et al. 2023): Amazon Arts and Office, H&M and Stream, as its public code reads them.

No times: a line holds a user's items, oldest first. Pictures come as files or in an LMDB of pickles, which is read
without trusting it (`data_adapters.lmdb_pictures`) and written out as PNG files.
"""

from __future__ import annotations

import hashlib
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_adapters.extraction import add_extract_argument, extract, extract_folder
from data_adapters.lmdb_pictures import count_pictures, read_pictures
from data_adapters.release import Adapter, Catalogue, Delimited, Media, Release
from data_adapters.text_files import ReleaseError, read_lines
from data_adapters.vendor_files import check_folder, held, pictures_in

__all__ = ["ADAPTER", "LAYOUT", "read", "read_titles"]

LAYOUT = """\
DIR holds one dataset of https://github.com/xyliugo/ODMT (its readme links the files), under its own names:
  TAG_user_behaviours.tsv + TAG_text.tsv           Amazon (Arts, Office): user <tab> item item ..., item <tab> title
  hm_pick_users_5W.tsv + hm_pick_items_5W.tsv      H&M, and bili likewise: ids are v and a number
  10wu_ks_pairs.tsv + 10wu_ks_title.csv            Stream: item,title
  images/ITEM.jpg                                  optional; or
  *.lmdb                                           optional: built by the release's 1_lmdb_build.py
Pictures of an LMDB are written to OUT-images (see --extract). The release's code trains on the newest 15 events of a
user: --max-events 15.
Text: {title}"""


@dataclass(frozen=True)
class _Kind:
    behaviours: str
    """The part of the file name that tells the kind."""
    texts: str
    """What stands there in the name of the file with the texts."""
    separator: str = "\t"
    key: Callable[[str], str] = str
    """The LMDB's key of an item."""


def _number_of(item: str) -> str:
    """Return 123 of v0123."""
    return item.replace("v", "").lstrip("0") or "0"


KINDS = {
    "amazon": _Kind("_user_behaviours.tsv", "_text.tsv"),
    "hm": _Kind("_pick_users_", "_pick_items_", key=_number_of),
    "stream": _Kind("_ks_pairs.tsv", "_ks_title.csv", separator=","),
}


def read(raw: Path, arguments: Namespace) -> Release:
    """Describe the release in `raw`; pictures of an LMDB are written out first, which takes a while."""
    name, kind, behaviours, texts = _find(raw)
    folder = extract_folder(arguments)
    was_there = folder.exists()
    media, root, notes = _pictures(raw, kind, folder)
    return Release(
        events=[Delimited(behaviours, {"user": (0,), "items": (1,)}, delimiter="\t", quote="")],
        catalogues=[Catalogue(texts, lambda: read_titles(texts, separator=kind.separator))],
        fields=("title",),
        text="{title}",
        media=media,
        media_root=root,
        extracted=None if was_there or root != folder else folder,
        notes={"layout": name, **notes},
    )


def read_titles(path: Path, *, separator: str = "\t") -> Iterator[tuple[str, Mapping[str, str | None]]]:
    """Yield (item, title) per line: what follows the first separator; further tabs are spaces, quotes are plain.

    Raises:
        ReleaseError: as `read_lines`, and where a line has no separator.
    """
    for number, line in read_lines(path):
        item, found, title = line.partition(separator)
        if not found:
            what = "tab" if separator == "\t" else "comma"
            raise ReleaseError(f"{path}, line {number}: no {what} between item and title: {line[:80]!r}")
        yield item.strip(), {"title": " ".join(title.split("\t"))}


def _find(raw: Path) -> tuple[str, _Kind, Path, Path]:
    check_folder(raw, LAYOUT)
    found = [(name, kind, path) for name, kind in KINDS.items() for path in sorted(raw.glob(f"*{kind.behaviours}*"))]
    if not found:
        raise ReleaseError(f"{raw}: no file of users' behaviours; it holds {held(raw)}\n{LAYOUT}")
    if len(found) > 1:
        names = ", ".join(path.name for *_, path in found)
        raise ReleaseError(f"{raw}: holds the behaviours of several datasets ({names}); keep one per folder")
    name, kind, behaviours = found[0]
    texts = behaviours.with_name(behaviours.name.replace(kind.behaviours, kind.texts))
    if not texts.is_file():
        raise ReleaseError(f"{raw}: holds {behaviours.name} but no {texts.name}, its items' titles\n{LAYOUT}")
    return name, kind, behaviours, texts


def _pictures(raw: Path, kind: _Kind, folder: Path) -> tuple[dict[str, Media], Path, dict[str, str]]:
    if (raw / "images").is_dir():
        return pictures_in([raw / "images"]), raw, {"pictures": "images/"}
    databases = sorted(raw.glob("*.lmdb"))
    if not databases:
        return {}, raw, {}
    if len(databases) > 1:
        raise ReleaseError(f"{raw}: holds {', '.join(p.name for p in databases)}; keep the one with the pictures")
    database = databases[0]
    data = database / "data.mdb" if database.is_dir() else database
    with data.open("rb") as file:
        beginning = hashlib.sha256(file.read(1 << 20)).hexdigest()
    made_of = {"lmdb": database.name, "bytes": data.stat().st_size, "sha256 of the first MiB": beginning}
    count = extract(folder, made_of, lambda: read_pictures(database), total=count_pictures(database))
    notes = {"pictures": f"{count:,} of {database.name}, written to {folder.name} as PNG"}
    return {"image": Media([folder], (".png",), stem=kind.key)}, folder, notes


ADAPTER = Adapter(
    help="ODMT's own release: Amazon Arts and Office, H&M, Stream",
    layout=LAYOUT,
    read=read,
    licence="none is stated; the datasets it was made of have their own (Amazon reviews, H&M, MicroLens)",
    citation=(
        "Ji et al. 2023, Online Distillation-enhanced Multi-modal Transformer for Sequential Recommendation, ACM MM, "
        "arXiv:2308.04067"
    ),
    add_arguments=add_extract_argument,
)

"""NineRec: two source and nine downstream datasets of one layout, with texts in Chinese and English and covers.

The README gives the columns of X_pair.csv as user, item, time, and the code beside it as item, user, time: what a
column is, is told by the letter that its ids start with, u or v.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from glob import escape
from pathlib import Path

from data_adapters.release import Adapter, Catalogue, Delimited, Release
from data_adapters.text_files import ReleaseError, first_record, read_records
from data_adapters.vendor_files import check_folder, find_file, find_files, folders_in, held, pictures_in

__all__ = ["ADAPTER", "read"]

LAYOUT = """NineRec, from https://github.com/westlake-repl/NineRec: Bili_2M, Bili_500K, Bili_Food, Bili_Dance,
Bili_Movie, Bili_Cartoon, Bili_Music, KU, QB, TN, DY. For a set X, in one folder or in folders of it, without headers:

  X_pair.csv        user and item, in either order, then time: u1,v2,1600000000 (QB and TN have no time)
  X_behaviour.tsv   user, tab, items with spaces between, oldest first: u1  v2 v3 v4
  X_item.csv        item, Chinese text, English text; what follows the second comma is English, quoted or not
  X_cover/v2.jpg    covers, named by item (Source_Bili_2M_cover is of Bili_2M and Bili_500K)

X_pair.csv is read where it has times or is alone, else X_behaviour.tsv. Where several X are there, choose with
--domain. Text: {en} or {zh}, by --language."""

KINDS = ("pair.csv", "behaviour.tsv")
SHARED_COVERS = {"Bili_500K": "Bili_2M"}


def read(raw: Path, arguments: Namespace) -> Release:
    """Choose one set X and tell what the columns of its pairs are.

    Raises:
        ReleaseError: where files are missing, several sets are there and none is chosen, or ids have no u or v.
    """
    check_folder(raw, LAYOUT)
    domain = _domain(raw, arguments.domain)
    items = _find(raw, f"{domain}_item.csv")
    if items is None:
        raise ReleaseError(f"{raw}: no {domain}_item.csv, which has the texts\n{LAYOUT}")
    events = _events(_find(raw, f"{domain}_pair.csv"), _find(raw, f"{domain}_behaviour.tsv"))
    return Release(
        events=[events],
        catalogues=[Catalogue(items, lambda: _read_items(items))],
        fields=("zh", "en"),
        text=f"{{{arguments.language}}}",
        media=pictures_in(_covers(raw, domain)),
        media_root=raw,
        notes={
            "domain": domain,
            "order": "time" if "time" in events.columns else f"the order in {events.path.name}, which has no times",
        },
    )


def _domain(raw: Path, chosen: str) -> str:
    pattern = re.compile(rf"(.+)_(?:{'|'.join(map(re.escape, KINDS))})(?:\.gz)?")
    found = sorted(
        {
            match[1]
            for path in find_files([raw, *folders_in(raw)], "*.csv", "*.tsv")
            if (match := pattern.fullmatch(path.name))
        }
    )
    if not found:
        raise ReleaseError(f"{raw}: no X_pair.csv or X_behaviour.tsv; it holds {held(raw)}\n{LAYOUT}")
    if chosen and chosen not in found:
        raise ReleaseError(f"--domain {chosen}: {raw} has interactions of {', '.join(found)}")
    if not chosen and len(found) > 1:
        raise ReleaseError(f"{raw} has interactions of {', '.join(found)}: choose one with --domain")
    return chosen or found[0]


def _events(pairs: Path | None, behaviour: Path | None) -> Delimited:
    """Take the pairs where they have times or are alone, else the sequences."""
    if pairs:
        columns = _pair_columns(pairs)
        if "time" in columns or behaviour is None:
            return Delimited(pairs, columns)
    assert behaviour is not None, "one of the two named the domain"
    return Delimited(behaviour, {"user": (0,), "items": (1,)}, delimiter="\t", quote="")


def _pair_columns(path: Path) -> dict[str, tuple[int]]:
    first = first_record(path)
    places = [letter for value in first[:2] for letter in "uv" if re.fullmatch(rf"{letter}\d+", value)]
    if sorted(places) != ["u", "v"]:
        raise ReleaseError(
            f"{path}, line 1: {','.join(first)!r} has no user such as u14500 and item such as v17551 in its first two "
            "columns, so that they cannot be told apart; name them with the adapter `table`"
        )
    time = {"time": (2,)} if len(first) > 2 and first[2] else {}
    return {"user": (places.index("u"),), "item": (places.index("v"),), **time}


def _read_items(path: Path) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    for number, fields in read_records(path):
        if len(fields) < 3:
            raise ReleaseError(
                f"{path}, line {number}: {len(fields)} fields, {fields[:3]}; needed are item, Chinese and English text"
            )
        # commas that nothing quotes are the English text's: Chinese has its own (U+FF0C)
        yield fields[0], {"zh": fields[1], "en": ",".join(fields[2:])}


def _covers(raw: Path, domain: str) -> list[Path]:
    names = {
        f"{prefix}{name}_cover" for prefix in ("", "Source_") for name in (domain, SHARED_COVERS.get(domain, domain))
    }
    return [path for folder in (raw, *folders_in(raw)) for path in folders_in(folder) if path.name in names]


def _find(raw: Path, name: str) -> Path | None:
    return find_file([raw, *folders_in(raw)], escape(name))


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--domain", default="", metavar="X", help="which set, where several are there: QB")
    parser.add_argument(
        "--language", choices=("zh", "en"), default="en", help="language of texts (default %(default)s)"
    )


ADAPTER = Adapter(
    help="NineRec: Bili, KU, QB, TN, DY and the Bili source sets",
    layout=LAYOUT,
    read=read,
    add_arguments=_add_arguments,
    licence="see https://github.com/westlake-repl/NineRec: research; modified copies may not be offered for download",
    citation="Zhang et al., NineRec: A Benchmark Dataset Suite for Evaluating Transferable Recommendation, TPAMI 2024",
)

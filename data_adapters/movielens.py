"""MovieLens in every layout it was released in: .dat with double colons, csv, ml-100k's u.data, and plain tsv pairs."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_adapters.release import Adapter, Catalogue, Columns, Delimited, Release
from data_adapters.text_files import ReleaseError, first_record, read_lines, read_records, read_rows
from data_adapters.vendor_files import check_folder, find_file, held, pictures_in

__all__ = ["ADAPTER", "read"]

LAYOUT = """MovieLens, from https://grouplens.org/datasets/movielens: the unpacked archive, one of

  ratings.dat, movies.dat   ml-1m, ml-10m
  ratings.csv, movies.csv   ml-20m, ml-25m, ml-32m, ml-latest, ml-latest-small
  u.data, u.item            ml-100k
  interactions.tsv, items.tsv (or .gz), with headers user_id item_id timestamp and item_id title

and, where you have them, pictures named by movie (posters/1.jpg) in posters/ or images/.
RecBole's copies (ml-100k.inter) are for the adapter `recbole`.

Every rating is an event, whatever its stars; --min-rating 4 keeps what people liked. Text: {title}. {genres}"""

NO_GENRES = "(no genres listed)"
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""What the flags at the end of u.item stand for, in their order (u.genre)."""

POSITIONS: Columns = {"user": (0,), "item": (1,), "rating": (2,), "time": (3,)}


def read(raw: Path, arguments: Namespace) -> Release:
    """Tell the layout by the names of the files.

    Raises:
        ReleaseError: where no layout fits, or its file of movies is missing or not readable.
    """
    check_folder(raw, LAYOUT)
    for layout in (_dat, _csv, _hundred_thousand, _pair):
        if release := layout(raw):
            return release
    raise ReleaseError(f"{raw}: none of MovieLens' layouts fits; it holds {held(raw)}\n{LAYOUT}")


def _dat(raw: Path) -> Release | None:
    found = _both(raw, "ratings.dat", "movies.dat")
    if not found:
        return None
    ratings, movies = found
    encoding = _encoding(movies)  # ml-1m's titles are Latin-1, ml-10m's UTF-8
    return _release(
        Delimited(ratings, POSITIONS, delimiter="::", quote=""),
        Catalogue(movies, lambda: _read_dat(movies, encoding)),
        layout=f"ratings.dat and movies.dat ({encoding.upper()})",
    )


def _csv(raw: Path) -> Release | None:
    found = _both(raw, "ratings.csv", "movies.csv")
    if not found:
        return None
    ratings, movies = found
    _check_header(movies, ",", "movieId", "title", "genres")
    columns: Columns = {
        "user": ("userId", 0),
        "item": ("movieId", 1),
        "rating": ("rating", 2),
        "time": ("timestamp", 3),
    }
    return _release(
        Delimited(ratings, columns), Catalogue(movies, lambda: _read_csv(movies)), layout="ratings.csv and movies.csv"
    )


def _hundred_thousand(raw: Path) -> Release | None:
    found = _both(raw, "u.data", "u.item")
    if not found:
        return None
    ratings, movies = found
    return _release(
        Delimited(ratings, POSITIONS, delimiter="\t", quote=""),
        Catalogue(movies, lambda: _read_u_item(movies)),
        layout="u.data and u.item",
    )


def _pair(raw: Path) -> Release | None:
    found = _both(raw, "interactions.tsv", "items.tsv")
    if not found:
        return None
    events, items = found
    _check_header(items, "\t", "item_id", "title")
    columns: Columns = {"user": ("user_id", 0), "item": ("item_id", 1), "time": ("timestamp", 2)}
    return _release(
        Delimited(events, columns, delimiter="\t", quote=""),
        Catalogue(items, lambda: _read_items(items)),
        layout="interactions.tsv and items.tsv",
        fields=("title",),
        # lost where the files were made and not to be had back; a title with a gap still says much
        notes={"titles with a letter lost (U+FFFD)": str(sum("\ufffd" in line for _, line in read_lines(items)))},
    )


def _release(
    events: Delimited,
    catalogue: Catalogue,
    *,
    layout: str,
    fields: tuple[str, ...] = ("title", "genres"),
    notes: Mapping[str, str] | None = None,
) -> Release:
    raw = events.path.parent
    folders = [folder for folder in (raw / "posters", raw / "images") if folder.is_dir()]
    return Release(
        events=[events],
        catalogues=[catalogue],
        fields=fields,
        text=". ".join(f"{{{name}}}" for name in fields),
        media=pictures_in(folders),
        media_root=raw,
        integer_ids=True,
        notes={"layout": layout, **(notes or {})},
    )


def _both(raw: Path, events: str, items: str) -> tuple[Path, Path] | None:
    """Find a layout's files, plain or gzipped."""
    found = find_file(raw, events), find_file(raw, items)
    if found[0] is None:
        return None
    if found[1] is None:
        raise ReleaseError(f"{raw}: holds {found[0].name} but no {items}, which has the titles\n{LAYOUT}")
    return found[0], found[1]


def _check_header(path: Path, delimiter: str, *names: str) -> None:
    header = first_record(path, delimiter=delimiter, quote='"' if delimiter == "," else "")
    if not {*names} <= {*header}:
        raise ReleaseError(f"{path}, line 1: the header is {header}, it must have {', '.join(names)}\n{LAYOUT}")


def _encoding(path: Path) -> str:
    try:
        for _ in read_lines(path):
            pass
    except ReleaseError as error:
        if isinstance(error.__cause__, UnicodeDecodeError):
            return "latin-1"
        raise
    return "utf-8"


def _read_dat(path: Path, encoding: str) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    for number, fields in read_records(path, delimiter="::", quote="", encoding=encoding):
        if len(fields) < 3:
            raise ReleaseError(f"{path}, line {number}: {'::'.join(fields)!r} is not MovieID::Title::Genres")
        yield fields[0], {"title": "::".join(fields[1:-1]), "genres": _listed(fields[-1])}


def _read_csv(path: Path) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    for _, row in read_rows(path):
        yield row["movieId"], {"title": row["title"], "genres": _listed(row["genres"])}


def _read_u_item(path: Path) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    for number, line in read_lines(path, encoding="latin-1"):
        item, *rest = line.split("|")
        flags = rest[-len(GENRES) :]
        if len(rest) <= len(GENRES) or not set(flags) <= {"0", "1"}:
            raise ReleaseError(f"{path}, line {number}: {line[:60]!r} does not end in {len(GENRES)} flags of genres")
        genres = [genre for genre, flag in zip(GENRES, flags, strict=True) if flag == "1" and genre != "unknown"]
        title = rest[0]
        # movie 267 is called "unknown" and has no other field
        yield item, {"title": "" if title == "unknown" else title, "genres": ", ".join(genres)}


def _read_items(path: Path) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    for _, row in read_rows(path, delimiter="\t", quote=""):
        yield row["item_id"], {"title": row["title"]}


def _listed(genres: str) -> str:
    return "" if genres == NO_GENRES else genres.replace("|", ", ")


ADAPTER = Adapter(
    help="MovieLens 100K, 1M, 10M, 20M, 25M, 32M, latest",
    layout=LAYOUT,
    read=read,
    licence="GroupLens: research use; no redistribution without permission; see the README of the archive",
    citation="F. M. Harper and J. A. Konstan. The MovieLens Datasets: History and Context. ACM TiiS 5(4), 2015.",
)

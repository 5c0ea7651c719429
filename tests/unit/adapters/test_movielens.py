"""MovieLens in each of its layouts, which hold the same films, and the real ml-1m with its exact counts."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import pytest

from data_adapters.__main__ import main
from odmt.data.format import Dataset, open_dataset

# user, movie, stars, seconds: 10 rates in no order, 2 in a tie, 3 too little
RATINGS = [
    (10, 318, 5, 978300760),
    (10, 7, 3, 978300019),
    (10, 1, 1, 978300055),
    (10, 7, 4, 978301000),
    (2, 1, 5, 978298413),
    (2, 318, 4, 978298413),
    (2, 7, 4, 978298413),
    (2, 1193, 2, 978298400),
    (3, 1, 5, 978298413),
]
HISTORIES = {"2": ["1193", "1", "318", "7"], "10": ["7", "1", "318", "7"]}
FLAGS = {"1": {3, 4, 5}, "7": {5, 14}, "318": {8}, "267": {0}}


def joined(separator: str, end: str = "\n") -> str:
    return "".join(separator.join(map(str, rating)) + end for rating in RATINGS)


def item(number: str, title: str, date: str = "01-Jan-1995") -> str:
    flags = "|".join(str(int(place in FLAGS[number])) for place in range(19))
    return f"{number}|{title}|{date}||http://us.imdb.com/M/title-exact?{number}|{flags}\n"


ONE_MILLION: Mapping[str, bytes] = {
    "ratings.dat": joined("::").encode(),
    "movies.dat": (
        "1::Toy Story (1995)::Animation|Children's|Comedy\n"
        "7::Les Misérables: The Film (1995)::Comedy|Romance\n"
        "318::Shawshank Redemption, The (1994)::Drama\n"
        "2001::Nobody's (2001)::Drama\n"
    ).encode("latin-1"),
    "users.dat": b"1::F::1::10::48067\n",
}
TEN_MILLION = {**ONE_MILLION, "movies.dat": ONE_MILLION["movies.dat"].decode("latin-1").encode()}
LATEST: Mapping[str, bytes] = {
    "ratings.csv": f"userId,movieId,rating,timestamp\r\n{joined(',', chr(13) + chr(10))}".encode(),
    "movies.csv": (
        "\ufeffmovieId,title,genres\r\n"
        "1,Toy Story (1995),Animation|Children's|Comedy\r\n"
        '7,"Les Misérables: The Film (1995)",Comedy|Romance\r\n'
        '318,"Shawshank Redemption, The (1994)",Drama\r\n'
        "2001,Nobody's (2001),(no genres listed)\r\n"
    ).encode(),
    "links.csv": b"movieId,imdbId,tmdbId\r\n",
}
HUNDRED_THOUSAND: Mapping[str, bytes] = {
    "u.data": joined("\t").encode(),
    "u.item": "".join(
        [
            item("1", "Toy Story (1995)"),
            item("7", "Les Misérables: The Film (1995)"),
            item("318", "Shawshank Redemption, The (1994)"),
            item("267", "unknown", date=""),
        ]
    ).encode("latin-1"),
    "u1.base": b"not read\n",
}
LAYOUTS = {"ml-1m": ONE_MILLION, "ml-10m": TEN_MILLION, "ml-latest": LATEST, "ml-100k": HUNDRED_THOUSAND}


def prepare(raw: Path, files: Mapping[str, bytes], *words: str) -> Dataset:
    for name, content in files.items():
        path = raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    out = raw.with_name("out")
    assert main(["movielens", "--raw", str(raw), "--out", str(out), "--min-events", "4", *words]) == 0
    return open_dataset(out)


def histories(dataset: Dataset) -> dict[str, list[str]]:
    ids = dataset.ids()
    return {user: [ids[i - 1] for i in dataset.history(row).tolist()] for row, user in enumerate(dataset.users())}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_films_and_histories(tmp_path: Path, layout: str) -> None:
    dataset = prepare(tmp_path / "raw", LAYOUTS[layout])
    assert histories(dataset) == HISTORIES
    assert dataset.users() == ["2", "10"]  # as numbers, not as text
    assert dict(zip(dataset.ids(), dataset.texts(), strict=True)) == {
        "1": "Toy Story (1995). Animation, Children's, Comedy",
        "7": "Les Misérables: The Film (1995). Comedy, Romance",
        "318": "Shawshank Redemption, The (1994). Drama",
        "1193": None,
    }
    assert dataset.times is not None
    assert dataset.times[0] == 978298400000
    assert dataset.info.modalities["text"] == 3
    assert dataset.info.dropped["users with fewer than 4 events"] == 1


def test_names_the_layout_and_the_encoding(tmp_path: Path) -> None:
    assert "LATIN-1" in prepare(tmp_path / "a" / "raw", ONE_MILLION).info.notes["layout"]
    assert "UTF-8" in prepare(tmp_path / "b" / "raw", TEN_MILLION).info.notes["layout"]


def test_a_film_without_genres_or_without_a_name_has_less_text(tmp_path: Path) -> None:
    ratings = b"".join(b"5\t%d\t4\t97830001%d\n" % (movie, place) for place, movie in enumerate((267, 1, 7, 318)))
    dataset = prepare(tmp_path / "raw", {**HUNDRED_THOUSAND, "u.data": ratings})
    assert dataset.texts()[dataset.ids().index("267")] is None
    ratings = b"userId,movieId,rating,timestamp\n" + b"".join(b"5,2001,0.5,97830001%d\n" % n for n in range(4))
    dataset = prepare(tmp_path / "csv" / "raw", {**LATEST, "ratings.csv": ratings})
    assert dataset.texts() == ["Nobody's (2001)"]


def test_keeps_what_people_liked_on_request(tmp_path: Path) -> None:
    more = joined("::") + "10::1::5::978302000\n10::318::4::978303000\n"
    dataset = prepare(tmp_path / "raw", {**ONE_MILLION, "ratings.dat": more.encode()}, "--min-rating", "4")
    assert histories(dataset) == {"10": ["318", "7", "1", "318"]}
    assert dataset.info.dropped["events rated below 4"] == 3


def test_finds_posters_by_movie(tmp_path: Path) -> None:
    posters = {"posters/7.jpg": b"a", "posters/0318.jpg": b"another number", "posters/1.PNG": b"b"}
    dataset = prepare(tmp_path / "raw", ONE_MILLION | posters)
    assert dict(zip(dataset.ids(), dataset.column("image"), strict=True)) == {
        "1": "posters/1.PNG",
        "7": "posters/7.jpg",
        "318": None,
        "1193": None,
    }


def test_reads_the_pair_of_plain_files(tmp_path: Path) -> None:
    lines = "".join(f"{user}\t{movie}\t{time}\n" for user, movie, _, time in RATINGS)
    files = {
        "interactions.tsv.gz": gzip.compress(f"user_id\titem_id\ttimestamp\n{lines}".encode()),
        "items.tsv": 'item_id\ttitle\n1\t"Toy" Story\n7\tWings of Courage (\ufffd)\n318\tA, B\n'.encode(),
    }
    dataset = prepare(tmp_path / "raw", files)
    assert histories(dataset) == HISTORIES
    assert dataset.texts() == ['"Toy" Story', "Wings of Courage (\ufffd)", "A, B", None]
    assert dataset.info.notes["titles with a letter lost (U+FFFD)"] == "1"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"ratings.dat": joined("::").replace("1::5::978298413", "1::5::soon", 1).encode()},
            ["line 5", "time", "soon"],
        ),
        ({"ratings.dat": joined("::").replace("3::", "x::", 1).encode()}, ["ratings.dat"]),
        ({"movies.dat": b"1::Toy Story\n"}, ["movies.dat, line 1", "MovieID::Title::Genres"]),
        (
            {"ratings.csv": LATEST["ratings.csv"], "movies.csv": b"id,name\n1,Toy\n", "ratings.dat": None},
            ["movies.csv, line 1", "movieId"],
        ),
        ({"ratings.csv": LATEST["ratings.csv"], "ratings.dat": None}, ["no movies.csv"]),
        ({"ratings.dat": None}, ["holds movies.dat, users.dat", "u.data"]),
    ],
)
def test_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: Mapping[str, bytes | None], words: list[str]
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, content in ({**ONE_MILLION, **files}).items():
        if content is not None:
            (raw / name).write_bytes(content)
    assert main(["movielens", "--raw", str(raw), "--out", str(tmp_path / "out"), "--min-events", "4"]) == 1
    printed = capsys.readouterr().err
    assert all(word in printed for word in words), printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [("|0\n", "\n", "1|Toy Story"), ("1|Toy", "1;Toy\n1|Toy", "1;Toy"), ("1|Toy", "7\n1|Toy", "7")],
)
def test_a_line_of_films_that_is_cut_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, shown: str
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, content in HUNDRED_THOUSAND.items():
        (raw / name).write_bytes(content.replace(old.encode(), new.encode(), 1) if name == "u.item" else content)
    assert main(["movielens", "--raw", str(raw), "--out", str(tmp_path / "out"), "--min-events", "4"]) == 1
    assert f"u.item, line 1: '{shown}" in capsys.readouterr().err


def test_the_real_ml_1m_has_the_published_counts(real_data: Path, tmp_path: Path) -> None:
    assert main(["movielens", "--raw", str(real_data / "ml-1m"), "--out", str(tmp_path / "ml-1m")]) == 0
    dataset = open_dataset(tmp_path / "ml-1m")
    dataset.verify()
    assert (dataset.num_users, dataset.num_items, dataset.num_interactions) == (6_040, 3_416, 999_611)
    assert dataset.info.modalities["text"] == 3_416
    assert dataset.texts()[:2] == ["Toy Story", "Jumanji"]
    assert sum("\ufffd" in (text or "") for text in dataset.texts()) == 38
    assert dataset.info.notes["titles with a letter lost (U+FFFD)"] == "38"
    assert dataset.info.dropped["users with fewer than 5 events"] == 0

"""A small category of Amazon's reviews, in the files of each of its releases."""

from __future__ import annotations

import gzip
import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from data_adapters.amazon import ADAPTER, read
from data_adapters.amazon_events import POSITIONS
from data_adapters.release import Release

DAY = 86_400
USERS = ["A1YJEY40YUW4SE", "A3Z74TDRGD0HU", "A60XNB876KYML"]
BOOK, ASINS = "0205616461", ["B000052YAN", "B001MA0QY2", "B0000530HU", "B00021DJ32"]
ITEMS = [BOOK, *ASINS]
# (user, item, rating, day): the first user ends in a tie, the second rated an item twice, lines are in no order
EVENTS = [
    (USERS[0], ITEMS[0], 5.0, 16_001),
    (USERS[1], ITEMS[1], 1.0, 16_000),
    (USERS[0], ITEMS[2], 3.0, 16_005),
    (USERS[0], ITEMS[1], 4.0, 16_005),
    (USERS[0], ITEMS[3], 2.0, 16_002),
    (USERS[1], ITEMS[2], 1.0, 16_001),
    (USERS[1], ITEMS[1], 2.0, 16_003),
    (USERS[1], ITEMS[0], 5.0, 16_004),
    (USERS[2], ITEMS[4], 5.0, 16_004),
]
HISTORIES = {
    USERS[0]: [ITEMS[0], ITEMS[3], ITEMS[2], ITEMS[1]],
    USERS[1]: [ITEMS[1], ITEMS[2], ITEMS[1], ITEMS[0]],
}

META_2014 = [
    {
        "asin": BOOK,
        "title": "Bio-Active Anti-Aging Serum &amp; Cream",
        "categories": [["Beauty", "Skin Care", "Face"], ["Beauty", "Gifts"]],
        "description": 'It\'s a <b>serum</b>,\nnot a "book".',
        "price": 12.99,
        "imUrl": "http://ecx.images-amazon.com/images/I/1.jpg",
        "related": {"also_bought": ["B000052YAN"]},
        "salesRank": {"Beauty": 461765},
    },
    {"asin": ASINS[0], "brand": "Bosch", "title": "Sonne \ud83d\ude00", "categories": [["Beauty"]]},
    {"asin": ASINS[0], "brand": "Second", "title": "Second", "price": 3},
    {"asin": ASINS[1], "brand": "", "categories": [[]], "title": None},
]


def write(path: Path, lines: list[str], *, end: str = "\n") -> Path:
    data = "".join(line + end for line in lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def parsed(*words: str) -> Namespace:
    parser = ArgumentParser()
    ADAPTER.add_arguments(parser)
    return parser.parse_args(words)


def described(raw: Path, *words: str) -> Release:
    return read(raw, parsed(*words))


def ratings(order: str, events: list[tuple[str, str, float, int]] = EVENTS) -> list[str]:
    factor = DAY * 1000 if order == "2023" else DAY
    place = sorted(range(4), key=lambda i: POSITIONS[order][i])
    rows = [(user, item, str(rating), str(day * factor)) for user, item, rating, day in events]
    return [",".join(row[i] for i in place) for row in rows]


def reviews(year: str) -> list[str]:
    extra: dict[str, Any] = {"verified": True, "vote": "2"} if year == "2018" else {"helpful": [0, 1]}
    return [
        json.dumps(
            {
                "user_id": user,
                "parent_asin": item,
                "asin": "B0VARIANT0",
                "rating": rating,
                "timestamp": day * DAY * 1000,
                "text": 'A "quote",\nand more',
            }
            if year == "2023"
            else {
                "reviewerID": user,
                "asin": item,
                "overall": rating,
                "unixReviewTime": day * DAY,
                "reviewText": "It's fine",
                **extra,
            }
        )
        for user, item, rating, day in EVENTS
    ]

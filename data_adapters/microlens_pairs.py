"""Compare MicroLens' two files of the same events: pairs.csv, which is read, with pairs.tsv."""

from __future__ import annotations

from collections import Counter
from itertools import groupby, islice
from pathlib import Path

from data_adapters.microlens_files import open_database
from data_adapters.text_files import ReleaseError, read_lines

__all__ = ["compare_pairs"]

SAMPLE, LARGEST = 256, 1 << 30
"""Users compared: the first in pairs.tsv; and the size of pairs.csv from which one more pass takes too long."""


def compare_pairs(table: Path, lists: Path) -> str:
    """Say whether the first users of pairs.tsv (`lists`) have the same events in pairs.csv (`table`), in their order.

    Equal times leave the order open. Lines that are no events are for the reader of `table` to report.

    Raises:
        ReleaseError: where most users differ, so that the files are of different releases; or `lists` is not readable.
    """
    if table.stat().st_size > LARGEST:
        return f"{table.name} is read; it was too large to compare with {lists.name}"
    ours = _sample(lists)
    theirs = _events_of(set(ours), table)
    other_items = [user for user, items in ours.items() if Counter(items) != Counter(i for i, _ in theirs[user])]
    if 2 * len(other_items) > len(ours):
        user = other_items[0]
        raise ReleaseError(
            f"{lists} and {table} hold different events: of the {len(ours)} users compared, {len(other_items)} differ; "
            f"user {user} has {len(ours[user])} events in the one, {len(theirs[user])} in the other. "
            "They are of different releases; keep one of them"
        )
    other_order = [user for user in ours if user not in set(other_items) and not _follows(ours[user], theirs[user])]
    differ = [
        f"{len(users)} have other {what}, the first is user {users[0]}"
        for what, users in (("events", other_items), ("order", other_order))
        if users
    ]
    found = "; ".join(differ) or "all have the same events in the same order"
    return f"{table.name} is read; of the first {len(ours)} users of {lists.name}, {found}"


def _sample(lists: Path) -> dict[int, list[int]]:
    users: dict[int, list[int]] = {}
    for number, line in islice(read_lines(lists), SAMPLE):
        user, tab, items = line.partition("\t")
        if not tab or not all(field.isdecimal() for field in [user.strip(), *items.split()]):
            raise ReleaseError(
                f"{lists}, line {number}: {line[:80]!r} is not `user<tab>item item ...`; as {lists.name} is not needed "
                "beside pairs.csv, remove it, or download it again"
            )
        users[int(user)] = [int(item) for item in items.split()]
    return users


def _events_of(users: set[int], table: Path) -> dict[int, list[tuple[int, int]]]:
    """Return (item, time) of the users' events, by time and then by line."""
    with open_database() as database:
        rows = database.execute(
            """
            SELECT try_cast(trim(u) AS BIGINT), try_cast(trim(i) AS BIGINT), try_cast(trim(t) AS BIGINT)
            FROM read_csv($path, columns = {'u': 'VARCHAR', 'i': 'VARCHAR', 't': 'VARCHAR'}, header = false,
                          delim = ',', quote = '', escape = '', ignore_errors = true, null_padding = true)
            WHERE list_contains($users, try_cast(trim(u) AS BIGINT))
            """,
            {"path": str(table), "users": sorted(users)},
        ).fetchall()
    events: dict[int, list[tuple[int, int]]] = {user: [] for user in users}
    for user, item, time in rows:
        events[user].append((item, time or 0))
    return {user: sorted(pairs, key=lambda pair: pair[1]) for user, pairs in events.items()}


def _follows(items: list[int], events: list[tuple[int, int]]) -> bool:
    start = 0
    for _, tied in groupby(events, key=lambda pair: pair[1]):
        same = [item for item, _ in tied]
        if Counter(items[start : start + len(same)]) != Counter(same):
            return False
        start += len(same)
    return True

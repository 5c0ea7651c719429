"""Choose which events stay, in SQL over whole numbers, in the order that `Options` states."""

from __future__ import annotations

from data_adapters.engine import Engine
from data_adapters.event_files import stripped
from data_adapters.events import EventFacts
from data_adapters.options import FEWEST_EVENTS, Options
from data_adapters.text_files import ReleaseError

__all__ = ["number_events", "select_events"]

ORDER = "ORDER BY time, place"
"""Time, then the order of lines; time is NULL everywhere where the vendor gives none."""


def number_events(engine: Engine, *, integer_ids: bool = False, item_width: int = 0) -> None:
    """Replace ids by their rank; text ids lose blanks around them, and items gain zeros up to `item_width`.

    Makes the tables `user_ids` (user, u), `item_ids` (item, i) and `numbered` (u, i, time, rating, place).
    """
    for what, row, width in (("user", "u", 0), ("item", "i", item_width)):
        name = what if integer_ids else stripped(what)
        if width and not integer_ids:
            name = f"CASE WHEN length({name}) < {width} THEN lpad({name}, {width}, '0') ELSE {name} END"
        engine.run(
            f"CREATE TABLE {what}_ranks AS SELECT *, (dense_rank() OVER (ORDER BY name) - 1)::INTEGER AS {row} "
            f"FROM (SELECT {what}, {name} AS name FROM (SELECT DISTINCT {what} FROM events))",
            label=f"{what}s",
        )
        engine.run(f"CREATE TABLE {what}_ids AS SELECT DISTINCT name AS {what}, {row} FROM {what}_ranks")
    engine.run(
        "CREATE TABLE numbered AS SELECT u, i, time, rating, events.rowid AS place FROM events "
        "JOIN user_ranks USING (user) JOIN item_ranks USING (item)",
        label="numbering",
    )
    for table in ("events", "user_ranks", "item_ranks"):
        engine.run(f"DROP TABLE {table}")


def select_events(engine: Engine, options: Options, facts: EventFacts, *, where: str) -> dict[str, int]:
    """Leave what `options` keep in `chosen` (u, i, time, place) and its users in `kept_users` (u, n), its items in
    `kept_items` (i).

    Returns what was left out and why.

    Raises:
        ReleaseError: where nothing is left, or an option asks for what the release does not have.
    """
    dropped: dict[str, int] = {}
    if options.min_rating is not None:
        if not facts.has_ratings:
            raise ReleaseError(f"--min-rating {options.min_rating:g}: {where} has no ratings; leave the option out")
        key = f"events rated below {options.min_rating:g}"
        dropped[key] = _keep(engine, f"SELECT * FROM numbered WHERE rating >= {options.min_rating}")
    if options.repeats != "keep":
        if options.repeats == "exact" and not facts.has_times:
            raise ReleaseError(f"--repeats exact: {where} has no times; choose among keep, consecutive, first, last")
        dropped[f"repeated events (--repeats {options.repeats})"] = _keep(engine, _without_repeats(options.repeats))
    _keep_core(engine, options, dropped, where=where)
    if options.max_events is not None:
        key = f"events older than the newest {options.max_events} of a user"
        newest = f"QUALIFY row_number() OVER (PARTITION BY u ORDER BY time DESC, place DESC) <= {options.max_events}"
        # `numbered` may still hold the events of users that are left out, which are counted above
        (before,) = engine.one("SELECT sum(n)::BIGINT FROM kept_users")
        _keep(engine, f"SELECT numbered.* FROM numbered SEMI JOIN kept_users USING (u) {newest}")
        _replace(engine, "kept_users", "SELECT u, count(*) AS n FROM numbered GROUP BY u")
        dropped[key] = before - engine.one("SELECT sum(n)::BIGINT FROM kept_users")[0]
    if options.users is not None:
        (users,) = engine.one("SELECT count(*) FROM kept_users")
        _replace(engine, "kept_users", f"SELECT * FROM kept_users ORDER BY u LIMIT {options.users}")
        dropped[f"users after the first {options.users}"] = max(0, users - options.users)
    (left,) = engine.one("SELECT sum(n)::BIGINT FROM kept_users")
    (all_of_them,) = engine.one("SELECT count(*) FROM numbered")
    chosen = "" if left == all_of_them else "SEMI JOIN kept_users USING (u)"
    engine.run(f"CREATE VIEW chosen AS SELECT * FROM numbered {chosen}")
    _replace(engine, "kept_items", "SELECT DISTINCT i FROM chosen")
    return dropped


def _keep(engine: Engine, sql: str) -> int:
    (before,) = engine.one("SELECT count(*) FROM numbered")
    _replace(engine, "numbered", sql, label="selecting")
    (after,) = engine.one("SELECT count(*) FROM numbered")
    return before - after


def _replace(engine: Engine, table: str, sql: str, *, label: str = "") -> None:
    engine.run(f"CREATE TABLE next AS {sql}", label=label)
    engine.run(f"DROP TABLE IF EXISTS {table}")
    engine.run(f"ALTER TABLE next RENAME TO {table}")


def _without_repeats(policy: str) -> str:
    match policy:
        case "exact":
            return "SELECT * FROM numbered QUALIFY row_number() OVER (PARTITION BY u, i, time ORDER BY place) = 1"
        case "consecutive":
            return f"SELECT * FROM numbered QUALIFY i IS DISTINCT FROM lag(i) OVER (PARTITION BY u {ORDER})"
        case "first":
            return f"SELECT * FROM numbered QUALIFY row_number() OVER (PARTITION BY u, i {ORDER}) = 1"
        case _:
            latest = "ORDER BY time DESC, place DESC"
            return f"SELECT * FROM numbered QUALIFY row_number() OVER (PARTITION BY u, i {latest}) = 1"


def _keep_core(engine: Engine, options: Options, dropped: dict[str, int], *, where: str) -> None:
    """Leave out short users and rare items until neither changes; the events of who is left are the core."""
    fewest = max(options.min_events, options.k_core)
    _replace(engine, "lengths", "SELECT u, count(*) AS n FROM numbered GROUP BY u", label="history lengths")
    users, events, longest = engine.one(
        "SELECT count(*), coalesce(sum(n), 0)::BIGINT, coalesce(max(n), 0) FROM lengths"
    )
    _replace(engine, "kept_users", f"SELECT * FROM lengths WHERE n >= {fewest}")
    items_left_out = 0
    if options.k_core > 1:
        (items,) = engine.one("SELECT count(DISTINCT i) FROM numbered")
        items_left_out = items - _shrink_to_core(engine, options, fewest)
    (left,) = engine.one("SELECT count(*) FROM kept_users")
    if not left:
        _refuse_empty(options, users, longest, where)
    (kept,) = engine.one("SELECT sum(n)::BIGINT FROM kept_users")
    if options.k_core > 1:
        users_left_out = f"users outside the {options.k_core}-core, or with fewer than {options.min_events} events"
        dropped[users_left_out] = users - left
        dropped[f"items outside the {options.k_core}-core"] = items_left_out
        dropped["events of those users and items"] = events - kept
        _keep(engine, "SELECT * FROM numbered SEMI JOIN kept_users USING (u) SEMI JOIN kept_items USING (i)")
    else:
        dropped[f"users with fewer than {options.min_events} events"] = users - left
        dropped["events of those users"] = events - kept


def _shrink_to_core(engine: Engine, options: Options, fewest: int) -> int:
    """Leave out users and items in turns until neither changes; return how many items are left."""
    before = (-1, -1)
    _replace(engine, "kept_items", "SELECT DISTINCT i FROM numbered")
    while True:
        among = "SELECT {} FROM numbered SEMI JOIN kept_users USING (u) SEMI JOIN kept_items USING (i) GROUP BY {}"
        rare = f"{among.format('i', 'i')} HAVING count(*) >= {options.k_core}"
        _replace(engine, "kept_items", rare, label="items with enough events")
        short = f"{among.format('u, count(*) AS n', 'u')} HAVING count(*) >= {fewest}"
        _replace(engine, "kept_users", short, label="users with enough events")
        now = engine.one("SELECT (SELECT count(*) FROM kept_users), (SELECT count(*) FROM kept_items)")
        if now == before:
            return now[1]
        before = now


def _refuse_empty(options: Options, users: int, longest: int, where: str) -> None:
    if options.k_core > 1 and longest >= options.min_events:
        raise ReleaseError(
            f"{where}: nothing is left of {users} users in the {options.k_core}-core with at least "
            f"{options.min_events} events a user; lower --k-core or --min-events"
        )
    if not users:
        raise ReleaseError(f"{where}: no event is rated {options.min_rating or 0:g} or higher; lower --min-rating")
    lower = f"lower --min-events (to {FEWEST_EVENTS} at least)"
    way_out = lower if longest >= FEWEST_EVENTS else f"leave-two-out needs {FEWEST_EVENTS}"
    raise ReleaseError(
        f"{where}: none of its {users} users has {options.min_events} events, the longest history has {longest}; "
        f"{way_out}"
    )

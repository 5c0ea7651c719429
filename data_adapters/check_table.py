"""Word what a check found as rows of a table, for the terminal and for the page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from data_adapters.check_content import Report

__all__ = ["Section", "table_of"]

Section = tuple[str, list[tuple[str, str]]]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def table_of(report: Report) -> list[Section]:
    """Return the sections of the table: titles, and rows of name and value."""
    sections = [("Counts", _counts(report)), ("Histories", _histories(report)), ("Items", _items(report))]
    if report.text_facts and report.present.get("text"):
        sections.append(("Texts", [(name, _of(n, report.present["text"])) for name, n in report.text_facts.items()]))
    media = [kind for kind in ("image", "video", "frames") if report.present.get(kind)]
    if media:
        sections.append(("Media", _media(report, media)))
    return sections


def _counts(report: Report) -> list[tuple[str, str]]:
    dataset, facts = report.dataset, report.histories
    rows = [
        ("users", f"{dataset.num_users:,}"),
        ("items", f"{dataset.num_items:,}"),
        ("interactions", f"{dataset.num_interactions:,}"),
        ("density", f"{dataset.num_interactions / dataset.num_users / dataset.num_items:.3%}"),
    ]
    if facts.first_time is None or facts.last_time is None:
        return [*rows, ("times", "none")]
    return [*rows, ("first event", _date(facts.first_time)), ("last event", _date(facts.last_time))]


def _date(milliseconds: int) -> str:
    try:
        return f"{EPOCH + timedelta(milliseconds=milliseconds):%Y-%m-%d %H:%M:%S} UTC"
    except OverflowError:
        return f"{milliseconds} ms from 1970, outside the calendar"


def _histories(report: Report) -> list[tuple[str, str]]:
    facts, dataset = report.histories, report.dataset
    shortest, longest = facts.quantile(0), facts.quantile(1)
    middle = ", ".join(f"{facts.quantile(share)} ({share:.0%})" for share in (0.25, 0.5, 0.75, 0.95))
    rows = [
        ("events per user", f"{shortest} to {longest}, mean {dataset.num_interactions / dataset.num_users:.2f}"),
        ("quantiles", middle),
        ("repeated events (same user and item)", _of(facts.repeats, dataset.num_interactions)),
        ("users with repeats", _of(facts.repeaters, dataset.num_users)),
    ]
    if facts.first_time is None:
        return rows
    return [
        *rows,
        ("repeats at the same time too", _of(facts.exact, dataset.num_interactions)),
        ("test target decided by the tie rule", f"{_of(facts.tied_test, dataset.num_users)} of the users"),
        ("validation target decided by the tie rule", f"{_of(facts.tied_valid, dataset.num_users)} of the users"),
        ("tie rule", report.dataset.info.tie_rule),
    ]


def _items(report: Report) -> list[tuple[str, str]]:
    counts, trained, num_items = report.histories.counts[1:], report.histories.trained[1:], report.dataset.num_items
    top, training = int(counts.argmax()), f"with --data.length {report.histories.length}"
    rows = [
        ("most popular", f"{report.ids[top]}, {counts[top]:,} events"),
        ("events per item", f"{counts.min():,} to {counts.max():,}, median {np.median(counts):,.0f}"),
        ("items with fewer than 5 events", _of(int((counts < 5).sum()), num_items)),
        ("cold items (in no training event)", f"{_of(int((trained == 0).sum()), num_items)} {training}"),
        (
            "users whose test target is cold",
            f"{_of(report.histories.cold_tests, report.dataset.num_users)} {training}",
        ),
    ]
    return rows + [(f"items without {kind}", _of(num_items - n, num_items)) for kind, n in report.present.items()]


def _media(report: Report, kinds: list[str]) -> list[tuple[str, str]]:
    rows = []
    for kind in kinds:
        failed = sum(one.kind == kind for one in report.unreadable)
        rows.append((f"{kind} files decoded", f"{report.decoded[kind]:,}"))
        rows.append((f"{kind} files unreadable", _of(failed, failed + report.decoded[kind])))
    if "image" in kinds:
        extra = sum(len(group) for group in report.duplicates)
        rows.append(("items that share a picture with another", f"{_of(extra, report.decoded['image'])}"))
        rows.append(("pictures that are shared", f"{len(report.duplicates):,}"))
    return rows


def _of(count: int, total: int) -> str:
    if not count:
        return "0"
    share = f"{count / max(1, total):.1%}"
    return f"{count:,} ({'all but a few' if share == '100.0%' and count < total else share})"

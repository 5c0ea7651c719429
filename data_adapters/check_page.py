"""Lay out what a check found as one page of HTML that needs no other file and no script, in light and in dark."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from data_adapters.check_content import SHOWN_GROUPS, Report
from data_adapters.check_histories import LONGEST
from data_adapters.check_table import Section, table_of

__all__ = ["write_page"]

LISTED = 500
"""Unreadable files and groups of duplicates listed."""
BARS = 40

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60666d; --line: #e2e5e9; --paper: #fbfbfc; --card: #fff;
  --accent: #3b6fd4; --bad: #c0392b; --hold: #b7791f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ec; --soft: #9aa1a9; --line: #30353b; --paper: #15181b;
  --card: #1d2125; --accent: #7ea6f4; --bad: #ff8a7a; --hold: #e5b454; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.1rem; margin: 2.5rem 0 .75rem; }
p { margin: .25rem 0; } .soft { color: var(--soft); }
.verdict { display: inline-block; margin-top: .75rem; padding: .25rem .75rem; border-radius: 999px; font-weight: 600;
  border: 1px solid var(--accent); color: var(--accent); }
.verdict.bad { border-color: var(--bad); color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 1rem; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1rem 1.1rem; }
.tile h3 { margin: 0 0 .5rem; font-size: .95rem; }
table { width: 100%; border-collapse: collapse; font-size: .88rem; }
td, th { padding: .28rem 0; border-top: 1px solid var(--line); vertical-align: top; text-align: left; }
tr:first-child td { border-top: 0; }
.tile td:last-child { text-align: right; font-variant-numeric: tabular-nums; padding-left: 1rem; }
.scroll { overflow-x: auto; } .scroll td, .scroll th { padding-right: 1rem; } .reason { color: var(--bad); }
code { font: .85em ui-monospace, SFMono-Regular, Menlo, monospace; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font-size: 11px; }
svg rect { fill: var(--accent); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(124px, 1fr)); gap: 1rem .85rem; }
.row { display: flex; gap: .7rem; overflow-x: auto; padding-bottom: .6rem; } .row .item { flex: 0 0 98px; }
.item { margin: 0; min-width: 0; }
.cover { aspect-ratio: 1; border-radius: 9px; overflow: hidden; background: var(--card); border: 1px solid var(--line);
  display: flex; align-items: center; justify-content: center; color: var(--soft); font-size: .75rem;
  text-align: center; position: relative; }
.cover img { width: 100%; height: 100%; object-fit: contain; display: block; }
.cover.none { border-style: dashed; } .cover.broken { border: 1px dashed var(--bad); color: var(--bad); }
.mark { position: absolute; left: .35rem; top: .35rem; padding: 0 .4rem; border-radius: 5px; font-size: .68rem;
  font-weight: 600; background: var(--hold); color: #fff; } .mark.film { background: #0009; left: auto; right: .35rem; }
figcaption { font-size: .78rem; line-height: 1.3; margin-top: .35rem; overflow-wrap: anywhere;
  display: -webkit-box; -webkit-line-clamp: 3; -webkit-box-orient: vertical; overflow: hidden; }
.id { font-size: .7rem; color: var(--soft); overflow-wrap: anywhere; }
.person { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: .8rem 1rem .5rem;
  margin-bottom: .9rem; } .person p { margin: 0 0 .5rem; }
"""


def write_page(report: Report, path: Path) -> None:
    """Write the page."""
    path.write_text(_page(report), encoding="utf-8")


def _page(report: Report) -> str:
    info = report.dataset.info
    bad = report.problems or report.unreadable
    verdict = f"{len(report.unreadable):,} files cannot be read" if report.unreadable else "see the problems below"
    body = [
        f"<h1>{escape(info.name)}</h1>",
        f'<p class="soft">{info.num_users:,} users · {info.num_items:,} items · {info.num_interactions:,} events</p>',
        f'<p class="soft"><code>{escape(info.made_by)}</code></p>' if info.made_by else "",
        f'<p class="verdict{" bad" if bad else ""}">{verdict if bad else "all content can be read"}</p>',
        *(f'<p class="reason">{escape(problem)}</p>' for problem in report.problems),
        "<h2>What is in it</h2>",
        f'<div class="tiles">{"".join(_tile(section) for section in table_of(report))}</div>',
        "<h2>Events per user</h2>",
        f'<div class="tile">{_histogram(report.histories.lengths)}</div>',
        "<h2>Sample histories</h2>",
        '<p class="soft">The newest events of users drawn at random, oldest first. '
        "The last one is the test target, the one before it validates.</p>",
        *(
            _person(report, user, items, length)
            for (user, items), length in zip(report.samples.users.items(), report.samples.lengths, strict=True)
        ),
        "<h2>Most popular items</h2>",
        _sheet(_item(report, i, f"{report.histories.counts[i]:,} events") for i in report.samples.popular),
        "<h2>Items drawn at random</h2>",
        _sheet(_item(report, item) for item in report.samples.items),
        _duplicates(report),
        _unreadable(report),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(info.name)}: content check</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _tile(section: Section) -> str:
    title, rows = section
    lines = "".join(f"<tr><td>{escape(name)}</td><td>{_tied(value)}</td></tr>" for name, value in rows)
    return f'<div class="tile"><h3>{escape(title)}</h3><table>{lines}</table></div>'


def _tied(value: str) -> str:
    # a count and its share stay on one line
    return escape(value).replace(" (", "&nbsp;(")


def _bars(lengths: np.ndarray) -> list[tuple[str, int]]:
    """Sum users in ranges of equal width up to the 99th percentile; the last bar holds all that is longer."""
    present = np.flatnonzero(lengths)
    first = int(present[0])
    most = int(np.searchsorted(np.cumsum(lengths), 0.99 * lengths.sum()))
    width = max(1, -(-(most - first + 1) // BARS))
    bars = []
    for start in range(first, most + 1, width):
        stop = min(start + width, LONGEST + 1)
        label = f"{start}" if width == 1 else f"{start}-{stop - 1}"
        bars.append((label, int(lengths[start:stop].sum())))
    if rest := int(lengths.sum()) - sum(count for _, count in bars):
        bars.append(("more", rest))
    return bars


def _histogram(lengths: np.ndarray) -> str:
    bars = _bars(lengths)
    width, height, floor = 1000.0, 220.0, 196.0
    step, highest = min(64.0, width / len(bars)), max(count for _, count in bars)
    every = max(1, len(bars) // 14)
    parts = []
    for i, (label, count) in enumerate(bars):
        tall = max(1.0, (floor - 18) * count / highest) if count else 0.0
        parts.append(
            f'<rect x="{i * step + step * 0.08:.1f}" y="{floor - tall:.1f}" width="{step * 0.84:.1f}" '
            f'height="{tall:.1f}" rx="2"><title>{label} events: {count:,} users</title></rect>'
        )
        last = i == len(bars) - 1
        if last or (i % every == 0 and i + every < len(bars)):
            start = label.split("-")[0]
            parts.append(f'<text x="{(i + 0.5) * step:.1f}" y="{floor + 16}" text-anchor="middle">{start}</text>')
    parts.append(f'<text x="{width:.0f}" y="12" text-anchor="end">highest bar: {highest:,} users</text>')
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="events per user">{"".join(parts)}</svg>'


def _person(report: Report, user: str, items: Sequence[int], length: int) -> str:
    marks = {len(items) - 1: "test", len(items) - 2: "valid"} if length > 1 else {}
    earlier = f", the newest {len(items)} shown" if length > len(items) else ""
    cells = "".join(_item(report, item, mark=marks.get(i, "")) for i, item in enumerate(items))
    return (
        f'<div class="person"><p>user <strong>{escape(user)}</strong> '
        f'<span class="soft">{length:,} events{earlier}</span></p><div class="row">{cells}</div></div>'
    )


def _sheet(cells: Iterable[str]) -> str:
    return f'<div class="sheet">{"".join(cells)}</div>'


def _item(report: Report, item: int, note: str = "", *, mark: str = "") -> str:
    text = report.texts[item - 1]
    label = f'<span class="mark">{mark}</span>' if mark else ""
    title = escape(text) if text else '<span class="soft">no text</span>'
    small = escape(report.ids[item - 1]) + (f" · {escape(note)}" if note else "")
    return (
        f'<figure class="item">{_cover(report, item, label)}<figcaption title="{escape(text or "")}">{title}'
        f'</figcaption><div class="id">{small}</div></figure>'
    )


def _cover(report: Report, item: int, label: str) -> str:
    thumbnail = report.thumbnails.get(item)
    if thumbnail:
        film = '<span class="mark film">clip</span>' if item in report.filmed else ""
        data = base64.b64encode(thumbnail).decode()
        return f'<div class="cover">{label}{film}<img alt="" src="data:image/jpeg;base64,{data}"></div>'
    reason = report.reasons.get(item)
    if reason:
        return f'<div class="cover broken" title="{escape(reason)}">{label}unreadable</div>'
    return f'<div class="cover none">{label}no cover</div>'


def _duplicates(report: Report) -> str:
    if not report.duplicates:
        return ""
    cells = _sheet(
        _item(report, group[0], f"and {len(group) - 1:,} more") for group in report.duplicates[:SHOWN_GROUPS]
    )
    rows = "".join(
        f"<tr><td>{len(group):,}</td><td><code>{escape(', '.join(report.ids[i - 1] for i in group[:20]))}"
        f"{', ...' if len(group) > 20 else ''}</code></td></tr>"
        for group in report.duplicates[:LISTED]
    )
    table = f'<div class="scroll"><table><tr><th>items</th><th>ids</th></tr>{rows}</table></div>'
    rest = _rest(len(report.duplicates))
    return f"<h2>Items with the same picture</h2>{cells}<details><summary>all groups</summary>{table}{rest}</details>"


def _unreadable(report: Report) -> str:
    if not report.unreadable:
        return ""
    rows = "".join(
        f"<tr><td>{one.kind}</td><td>{escape(report.ids[one.item - 1])}</td><td><code>{escape(one.path)}</code></td>"
        f'<td class="reason">{escape(one.reason)}</td></tr>'
        for one in report.unreadable[:LISTED]
    )
    head = "<tr><th>kind</th><th>item</th><th>file</th><th>reason</th></tr>"
    table = f'<div class="scroll"><table>{head}{rows}</table></div>'
    return f"<h2>Files that cannot be read</h2>{table}{_rest(len(report.unreadable))}"


def _rest(total: int) -> str:
    return f'<p class="soft">and {total - LISTED:,} more</p>' if total > LISTED else ""

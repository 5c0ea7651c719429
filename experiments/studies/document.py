"""A report as blocks that are written as Markdown and as one self-contained HTML page, readable in dark and light."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Block", "Code", "Figure", "Heading", "Paragraph", "Table", "to_html", "to_markdown"]

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --rule: #ccc; --tint: #f3f3f3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e4e4; --paper: #171717; --rule: #444; --tint: #242424; } }
body { color: var(--ink); background: var(--paper); font: 15px/1.5 system-ui, sans-serif; max-width: 84em;
       margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--rule); padding: .25em .7em; text-align: left; white-space: nowrap; }
th { background: var(--tint); }
.wide { overflow-x: auto; }
code, pre { background: var(--tint); font-size: .9em; }
pre { padding: .7em; overflow-x: auto; }
figure { margin: 1em 0; }
svg { max-width: 100%; height: auto; }
"""


@dataclass(frozen=True)
class Heading:
    """Hold a heading; level 1 is the title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Hold a paragraph; `code` and **what is important** are marked as in Markdown."""

    text: str


@dataclass(frozen=True)
class Table:
    """Hold a table of text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Code:
    """Hold lines to be typed."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Figure:
    """Hold a drawing: inline in HTML, in Markdown the file beside it that holds the same; `caption` describes it."""

    svg: str
    file: str
    caption: str


Block = Heading | Paragraph | Table | Code | Figure


def to_markdown(blocks: Sequence[Block]) -> str:
    """Write the blocks as Markdown, table columns lined up."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def to_html(blocks: Sequence[Block], *, title: str) -> str:
    """Write the blocks as an HTML page that is well-formed XML, too, and loads nothing."""
    head = (
        f'<meta charset="utf-8"/><meta name="viewport" content="width=device-width"/><title>{escape(title)}</title>'
        f"<style>{STYLE}</style>"
    )
    body = "\n".join(_html(block) for block in blocks)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return text
        case Code(lines):
            return "\n".join(["```bash", *lines, "```"])
        case Figure(_, file, caption):
            alternative = caption.partition(".")[0]
            return f"![{alternative}]({file})\n\n{caption}"
        case Table(header, rows):
            cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
            widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
            cells.insert(1, ["-" * width for width in widths])
            lines = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells)
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_inline(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_inline(text)}</p>"
        case Code(lines):
            return f"<pre>{escape(chr(10).join(lines))}</pre>"
        case Figure(svg, _, caption):
            return f"<figure>{svg}<figcaption>{_inline(caption)}</figcaption></figure>"
        case Table(header, rows):
            head = "".join(f"<th>{_inline(cell)}</th>" for cell in header)
            lines = ("".join(f"<td>{_inline(cell)}</td>" for cell in row) for row in rows)
            body = "\n".join(f"<tr>{line}</tr>" for line in lines)
            return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'


def _inline(text: str) -> str:
    strong = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", escape(text))
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", strong)

"""A forest plot as SVG, without a library: a line per row with its mean and interval, in panels side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Mark", "Panel", "draw"]

PANEL, GAP, TOP, ROW, LETTER = 290, 24, 34, 24, 6.6
STYLE = """
.forest { color: #1b1b1b } .forest text { fill: currentColor; font: 12px system-ui, sans-serif }
.forest .rule { stroke: currentColor; opacity: .25 } .forest .whisker { stroke: #3b7dd8; stroke-width: 2 }
.forest .mean { fill: #3b7dd8 } .forest .seed { fill: none; stroke: #e08a2e; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) { .forest { color: #e4e4e4 } }
"""


@dataclass(frozen=True)
class Mark:
    """Hold a row's mean, the ends of its interval (nan draws none), and single values shown as rings."""

    mean: float
    low: float
    high: float
    rings: tuple[float, ...] = ()


@dataclass(frozen=True)
class Panel:
    """Hold a panel: a mark per row, None where there is nothing to draw; `zero` keeps zero in sight with a line."""

    title: str
    marks: Sequence[Mark | None]
    zero: bool = False


def draw(labels: Sequence[str], panels: Sequence[Panel]) -> str:
    """Draw the panels, the rows' labels on their left; readable on dark and on light paper."""
    left = 12 + LETTER * max(len(label) for label in labels)
    width, height = left + len(panels) * (PANEL + GAP), TOP + ROW * len(labels) + 28
    size = f'width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" class="forest" {size} role="img">', f"<style>{STYLE}</style>"]
    parts += [_text(left - 10, _line(number) + 4, label, "end") for number, label in enumerate(labels)]
    parts += [_panel(panel, left + number * (PANEL + GAP)) for number, panel in enumerate(panels)]
    return "\n".join([*parts, "</svg>"])


def ticks(low: float, high: float, *, at_most: int = 5) -> list[float]:
    """Give round numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / at_most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _panel(panel: Panel, left: float) -> str:
    shown = [value for mark in panel.marks if mark for value in (mark.mean, mark.low, mark.high, *mark.rings)]
    values = [value for value in shown if math.isfinite(value)] + [0.0] * panel.zero
    if not values:
        return _text(left, TOP - 18, f"{panel.title}: nothing yet", "start")
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.01 * abs(high) or 1e-3
    low, high = low - margin, high + margin

    def across(value: float) -> float:
        return left + PANEL * (value - low) / (high - low)

    bottom = _line(len(panel.marks)) - ROW / 2
    parts = [_text(left, TOP - 18, panel.title, "start")]
    for tick in ticks(low, high):
        weight = ' style="opacity:.8"' if panel.zero and tick == 0 else ""
        x = across(tick)
        parts.append(f'<path class="rule" d="M{x:.1f} {TOP - 8}V{bottom:.1f}"{weight}/>')
        parts.append(_text(x, bottom + 16, f"{tick:.4g}", "middle"))
    for number, mark in enumerate(panel.marks):
        if mark is None:
            continue
        y = _line(number)
        if math.isfinite(mark.low) and math.isfinite(mark.high):
            parts.append(f'<path class="whisker" d="M{across(mark.low):.1f} {y}H{across(mark.high):.1f}"/>')
        parts.append(f'<circle class="mean" cx="{across(mark.mean):.1f}" cy="{y}" r="4"/>')
        parts += [f'<circle class="seed" cx="{across(ring):.1f}" cy="{y}" r="3"/>' for ring in mark.rings]
    return "\n".join(parts)


def _line(number: int) -> float:
    return TOP + ROW * number + ROW / 2


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'

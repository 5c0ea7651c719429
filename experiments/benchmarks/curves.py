"""Curves as an SVG page, without a library: panels with both axes logarithmic, measured points beside a formula."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Panel", "draw"]

WIDTH, HEIGHT, MARGIN = 320, 240, 46
COLOURS = {"measured": "#1f5fa8", "formula": "#c2571a"}


@dataclass(frozen=True)
class Panel:
    """Hold one panel's curves over the same x: name -> y; a y of None is left out."""

    title: str
    x_label: str
    y_label: str
    x: Sequence[float]
    curves: Mapping[str, Sequence[float | None]]


def draw(panels: Sequence[Panel], *, columns: int, caption: str) -> str:
    """Lay panels out in rows; "measured" is drawn with points, "formula" as a dashed line."""
    rows = math.ceil(len(panels) / columns)
    size = f'width="{columns * WIDTH}" height="{rows * HEIGHT + 24}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">']
    parts.append('<rect width="100%" height="100%" fill="white"/>')
    for number, panel in enumerate(panels):
        left, top = number % columns * WIDTH, number // columns * HEIGHT
        parts.append(f'<g transform="translate({left},{top})">{_panel(panel)}</g>')
    parts.append(f'<text x="8" y="{rows * HEIGHT + 14}">{escape(caption)}</text></svg>')
    return "\n".join(parts) + "\n"


def _panel(panel: Panel) -> str:
    values = [y for curve in panel.curves.values() for y in curve if y]
    across, up = _scale(panel.x, MARGIN, WIDTH - 12), _scale(values, HEIGHT - MARGIN, 26)
    axis = f"M{MARGIN} 26V{HEIGHT - MARGIN}H{WIDTH - 12}"
    parts = [f'<path d="{axis}" fill="none" stroke="#888"/>', _text(WIDTH / 2, 14, panel.title, "middle")]
    parts += [_text(across(x), HEIGHT - MARGIN + 14, _short(x), "middle") for x in panel.x]
    parts += [_text(MARGIN - 4, up(y) + 4, _short(y), "end") for y in (min(values), max(values))]
    parts.append(_text(WIDTH / 2, HEIGHT - 14, panel.x_label, "middle"))
    for place, (name, curve) in enumerate(panel.curves.items()):
        points = [(across(x), up(y)) for x, y in zip(panel.x, curve, strict=True) if y]
        dashes = ' stroke-dasharray="5 3"' if name == "formula" else ""
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[name]}"{dashes}/>')
        if name == "measured":
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[name]}"/>' for x, y in points]
        label = f"{name}, {panel.y_label}"
        parts.append(f'<g fill="{COLOURS[name]}">{_text(MARGIN + 6, 36 + 13 * place, label, "start")}</g>')
    return "".join(parts)


def _scale(values: Sequence[float], low: float, high: float):
    least, most = math.log(min(values)), math.log(max(values))
    spread = most - least or 1.0
    return lambda value: low + (high - low) * (math.log(value) - least) / spread


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 1000 else f"{value:.0e}".replace("e+0", "e") if value >= 1e5 else f"{value:.0f}"

"""The tables and the plot of a suite's report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from .document import Table
from .figures import METRICS, TESTED, Difference, RowFigures, Spread
from .forest import Mark, Panel, draw
from .suite import Suite, Variant
from .tuning import Tuning

__all__ = ["accuracy", "against", "caption", "cost", "plot", "streams", "tuning"]

NORMAL = 1.96
CAPTION = (
    "Test NDCG@10 of the ensemble. Left: dots are means over seeds, rings single seeds, whiskers 95 % intervals over "
    "users (mean ± 1.96 standard errors; those of two rows may overlap although their difference is sure). Right: the "
    "difference to {base}; whiskers are the paired t test's 95 % intervals over users, not corrected for the number "
    "of rows. No whisker covers the choice of the seed."
)


def caption(suite: Suite) -> str:
    """Say what the plot shows."""
    return CAPTION.format(base="the base" if suite.one_base else "each row's own base")


def accuracy(rows: Sequence[RowFigures], suite: Suite) -> Table:
    """Give each row's metrics on test, and the validation score that its epoch was chosen by."""
    lines = []
    bases = {suite.base, *suite.bases.values()}
    for row in rows:
        spreads = [row.valid, *(row.metrics[metric] for metric in METRICS), row.cold]
        label = f"{row.label} (base)" if row.label in bases else row.label
        lines.append([label, str(len(row.runs)), *(_spread(spread) for spread in spreads)])
    return Table(("row", "seeds", "validation NDCG@10", *METRICS, "cold HR@10"), lines)


def against(rows: Sequence[RowFigures], suite: Suite) -> Table:
    """Give each row's differences to its base, and which that is where not all have the same."""
    header = ["row", *([] if suite.one_base else ["base"]), "seeds in both"]
    for metric in TESTED:
        header += [metric, "relative", "p", "p (Holm)", "seeds ahead"]
    tested = [row for row in rows if row.against]
    lines = [
        [
            row.label,
            *([] if suite.one_base else [suite.bases[row.label]]),
            ", ".join(str(seed) for seed in row.against[TESTED[0]].seeds),
            *(cell for metric in TESTED for cell in _difference(row.against[metric])),
        ]
        for row in tested
    ]
    return Table(header, lines)


def streams(rows: Sequence[RowFigures]) -> Table:
    """Give the NDCG@10 of every stream beside the ensemble's, and how much alike streams are."""
    heads = list(dict.fromkeys(head for row in rows for head in row.streams))
    lines = [
        [
            row.label,
            *(_spread(row.streams.get(head)) for head in heads),
            _spread(row.metrics["NDCG@10"]),
            _spread(row.alike),
        ]
        for row in rows
    ]
    return Table(("row", *heads, "ensemble", "alike"), lines)


def cost(rows: Sequence[RowFigures], suite: Suite, tuned: Tuning | None) -> Table:
    """Give what each row is, what it was tuned to, and took."""
    words = {variant.label: _words(variant) for variant in suite.rows}
    if tuned is not None:
        for row, best in tuned.chosen.items():
            words[row] += f", {_tried(tuned.words(row, best))}"
    lines = []
    for row in rows:
        results = [run.result for run in row.runs.values()]
        lines.append(
            [
                row.label,
                words[row.label],
                ", ".join(f"{count:,}" for count in dict.fromkeys(result["parameters"] for result in results)),
                ", ".join(f"{result['epochs']} ({result['best_epoch']})" for result in results),
                f"{fmean(result['seconds'] for result in results) / 60:.1f}",
                ", ".join(dict.fromkeys(run.header.get("commit", "unknown") for run in row.runs.values())),
            ]
        )
    return Table(("row", "settings", "parameters", "epochs (best) per seed", "minutes, mean", "commit"), lines)


def tuning(found: Tuning) -> Table:
    """Give the validation NDCG@10 of every row with every set of settings that was tried, the best of a row marked;
    what was tried instead where a row sets some of it itself."""
    lines = []
    for row, scores in found.scores.items():
        best, cells = found.chosen.get(row), []
        for place, score in enumerate(scores):
            cell = "–" if score is None else f"**{score:.4f}**" if place == best else f"{score:.4f}"
            words = found.words(row, place)
            other = "" if words == found.attempts[place] else f" ({_tried(words)})"
            cells.append("=" if words is None else cell + other)
        lines.append([row, *cells])
    return Table(("row", *(_tried(words) for words in found.attempts)), lines)


def plot(rows: Sequence[RowFigures], suite: Suite) -> str:
    """Draw the NDCG@10 of every row and its difference to its base."""
    levels: list[Mark | None] = []
    apart: list[Mark | None] = []
    for row in rows:
        whisker = NORMAL * row.over_users.error
        spread = row.metrics["NDCG@10"]
        rings = tuple(spread.by_seed.values()) if len(spread.by_seed) > 1 else ()
        levels.append(Mark(spread.mean, spread.mean - whisker, spread.mean + whisker, rings))
        found = row.against.get("NDCG@10")
        apart.append(Mark(found.mean, found.low, found.high) if found else None)
    what = f"“{suite.base}”" if suite.one_base else "each row's base"
    panels = [Panel("NDCG@10 on test", levels), Panel(f"difference to {what}", apart, zero=True)]
    return draw([_drawn_label(row.label, suite) for row in rows], panels)


def _drawn_label(label: str, suite: Suite) -> str:
    if label not in suite.bases:
        return f"{label} (base)"
    return label if suite.one_base else f"{label} (against “{suite.bases[label]}”)"


def _words(variant: Variant) -> str:
    return _code(" ".join((*variant.overlays, *variant.flags))) or "the dataset's own"


def _tried(words: str | None) -> str:
    return _code(words or "") or "as configured"


def _code(words: str) -> str:
    return f"`{words}`" if words else ""


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    return f"{spread.mean:.4f}" + ("" if math.isnan(spread.deviation) else f" ± {spread.deviation:.4f}")


def _difference(found: Difference) -> list[str]:
    share = "–" if math.isnan(found.share) else f"{100 * found.share:+.1f} %"
    error = "" if math.isnan(found.error) else f" ± {found.error:.4f}"
    sure = [_p(found.p), _p(found.p_holm)]
    return [f"{found.mean:+.4f}{error}", share, *sure, f"{found.ahead} of {len(found.seeds)}"]


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "<.001" if value < 0.001 else f"{value:.3f}"

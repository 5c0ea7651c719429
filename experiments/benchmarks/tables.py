"""Figures of --json files as Markdown: python experiments/bench.py --table experiments/results/step.json ...

Steps and evaluation share a layout, other libraries have their own; the day, the commit, the machine and the options of
each file stand below. Ratios are medians of the turns' own ratios, which is not the ratio of the two medians beside
them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["peer_table", "speed_table", "tables_of"]

SPEED = (
    "what",
    "dim",
    "batch",
    "ours, s",
    "reference, s",
    "ratio (median of paired ratios)",
    "floor, s",
    "times the floor",
    "peak memory",
    "equal",
)
PEERS = (
    "data",
    "library",
    "loss, batch",
    "feed-forward",
    "epoch, s: median (range)",
    "evaluation, s",
    "memory, GB",
    "trained",
    "best NDCG@10",
    "to the peers' best NDCG@10",
)

SIDES = ("ours", "reference")


def tables_of(files: Sequence[Path]) -> str:
    """Lay out what files hold of the suites step, eval and peers, and say where it comes from.

    Raises:
        ValueError: where a file holds none of them.
    """
    trees = {path: json.loads(path.read_text()) for path in files}
    for path, tree in trees.items():
        if not {"step", "eval", "peers"} & set(tree):
            held = ", ".join(set(tree) - {"about", "command"})
            raise ValueError(f"{path} holds {held}; tables are made of the suites step, eval and peers")
    speed = [entry for tree in trees.values() for entry in (*tree.get("step", ()), *tree.get("eval", ()))]
    peers = [entry for tree in trees.values() for entry in tree.get("peers", ())]
    tables = [table for table in (speed and speed_table(speed), peers and peer_table(peers)) if table]
    sources = [f"({path.name}: {tree['about']}; {tree['command']})" for path, tree in trees.items()]
    return "\n\n".join(["\n".join(table) for table in tables] + ["\n".join(sources)])


def speed_table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lay out entries of the suites step and eval."""
    return _markdown(SPEED, [_memory(r) if r.get("what") == "memory" else _speed(r) for r in results])


def peer_table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lay out entries of the suite peers, a row per run."""
    return _markdown(PEERS, [_peer(r) for r in results])


def _speed(r: Mapping[str, Any]) -> list[str]:
    peaks = [f"{side} {r[f'{side}_peak_bytes'] / 1e9:.2f} GB" for side in SIDES if r.get(f"{side}_peak_bytes")]
    return [
        _what(r),
        str(r["dim"]),
        str(r.get("batch", "")),
        f"{r['ours_s']:.3f}",
        f"{r['reference_s']:.3f}" if "reference_s" in r else "",
        f"{r['ratio']:.1f}" if "ratio" in r else "",
        f"{r['floor_s']:.3f}",
        f"{r['floor_ratio']:.1f}",
        ", ".join(peaks),
        {True: "yes", False: "no"}[r["equal"]] if "equal" in r else "",
    ]


def _what(r: Mapping[str, Any]) -> str:
    if "what" not in r:
        options = [f"dropout {r['dropout']}" if r["dropout"] else "", "bf16" if r["bf16"] else ""]
        options += ["compiled" if r["compile"] else "", r["device"] if r["device"] != "cpu" else ""]
        return ", ".join(["step", r["data"], *filter(None, options)])
    if r["what"] == "encoding":
        return f"encoding {r['items']:,} items"
    done = {"ranking": "ranking", "full": "reading and ranking", "top": f"the {r.get('k')} best"}[r["what"]]
    return f"{done}: {r['users']:,} users, {r['items']:,} items, {r['streams']} streams and their ensemble"


def _memory(r: Mapping[str, Any]) -> list[str]:
    above = ", ".join(f"{what} {r[f'{what}_peak_bytes'] / 1e6:.0f} MB" for what in ("encoding", "ranking", "top"))
    what = f"memory beyond {r['table_bytes'] / 1e6:.0f} MB of tables: {r['items']:,} items, {r['users']} users"
    return [what, str(r["dim"]), *[""] * 6, above, ""]


def _peer(r: Mapping[str, Any]) -> list[str]:
    if r["over_budget"]:
        what = f"no epoch within the budget of {r['budget_s']:g} s that it could tell of"
        return [r["dataset"], r["name"], *[""] * 5, what, "", "never"]
    never = f"never in {r['training_s']:.0f} s (budget {r['budget_s']:g} s)"
    reached = never if r["target_s"] is None else f"{r['target_s']:.0f} s, {r['target_evaluations']} epochs"
    return [
        r["dataset"],
        f"{r['name']} {r['version']}",
        f"{r['loss']}, {r['batch']}",
        str(r["hyper_parameters"]["feed_forward"]),
        f"{median(r['epoch_s']):.1f} ({min(r['epoch_s']):.1f} to {max(r['epoch_s']):.1f})",
        f"{r['evaluation_s']:.1f}",
        f"{r['training_bytes'] / 1e9:.2f}",
        f"{r['training_s']:.0f} s, {r['evaluations']} epochs",
        f"{max(r['ndcg10']):.4f}",
        f"{r['target_ndcg10']:.4f}: {reached}",
    ]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]

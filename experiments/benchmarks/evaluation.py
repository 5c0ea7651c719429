"""Evaluation beside the release's way: item encoding, scoring and ranking, the full ranking, and memory by chunk.

encoding  `ODMT.encode_catalogue` against the plain batch in batches of 512, tokens read from memory on both sides.
ranking   `odmt.evaluate.ranks` against a sort per user and head, over given states and tables of random numbers; the
          ranks are shown to be equal first.
full      MicroLens-50k's whole evaluation, states of 50,000 histories included, against 19,220 items in two streams.
memory    of a fresh process by items per chunk (encoding) and users per tile (ranking).
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odmt.distill import ensemble
from odmt.evaluate import ranks
from odmt.types import Questions, Streams, Tokens

from . import machine
from .floor import encoding_operations, state_operations
from .sides import argsort_ranks, plain_of
from .workload import Shape, Workload, make_workload

__all__ = ["add_arguments", "describe", "measure"]

CHUNK = 512


def add_arguments(parser: ArgumentParser) -> None:
    """Add what this suite takes."""
    machine.add_arguments(parser, repeats=3)
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 768], metavar="D", help="encoding (128 768)")
    parser.add_argument("--encode", type=int, default=1024, metavar="N", help="items to encode (default 1024)")
    parser.add_argument("--users", type=int, default=512, metavar="N", help="users to rank for (default 512)")
    parser.add_argument("--catalogues", type=int, nargs="+", default=[2_000, 20_000], metavar="N", help="(2000 20000)")
    parser.add_argument("--streams", type=int, default=3, metavar="N", help="streams to rank (default 3)")
    parser.add_argument("--full", type=int, nargs=2, default=[50_000, 19_220], metavar="N", help="users and items")
    parser.add_argument("--tiles", type=int, nargs="+", default=[64, 256, 1024], metavar="N", help="(64 256 1024)")


def measure(arguments: Namespace) -> list[dict[str, Any]]:
    """Return one entry per measurement, told apart by `what`."""
    device = machine.setup(arguments)
    rate = machine.matrix_rate(device)
    found = []
    for entry in _entries(arguments, device, rate):
        found.append({**entry, "threads": torch.get_num_threads(), "operations_per_s": rate})
        print(_line(entry), flush=True)
    return found


def describe(results: Sequence[Mapping[str, Any]]) -> str:
    """Say what the floor is."""
    rate = results[0]["operations_per_s"] / 1e9
    return (
        f"floor: matrix operations at {rate:.0f} G/s, measured; ranks were equal to those of sorting before timing\n"
        "peaks are of fresh processes, beyond what their imports took; the encoding's hold model and features"
    )


def _entries(arguments: Namespace, device: torch.device, rate: float) -> Iterator[dict[str, Any]]:
    for dim in arguments.dims:
        yield _encoding(Shape(dim=dim, num_items=arguments.encode), device, rate, arguments.repeats)
    for num_items in arguments.catalogues:
        yield _ranking(arguments.users, num_items, arguments.streams, device, rate, arguments.repeats)
    users, items = arguments.full
    yield _full(Shape(dim=128, num_items=items, streams=("id", "text"), users=users), device, rate)
    for tile in arguments.tiles:
        shape = Shape(dim=128, num_items=arguments.encode)
        _, encoding = machine.in_child(_encode, shape, tile, arguments, device=arguments.device)
        _, ranking = machine.in_child(
            _rank, max(arguments.catalogues), max(arguments.tiles), tile, arguments, device=arguments.device
        )
        yield {"what": "memory", "chunk": tile, "encoding_peak_bytes": encoding, "ranking_peak_bytes": ranking}


def _encoding(shape: Shape, device: torch.device, rate: float, repeats: int) -> dict[str, Any]:
    workload = make_workload(shape)
    model = workload.model().to(device).eval()
    plain = plain_of(model, workload)
    expected, tables = plain.encode_catalogue(_batches(workload, device)), model.encode_catalogue()
    for name, table in tables.items():
        difference = (table[1:].cpu() - expected[name]).abs().max().item() / expected[name].abs().max().item()
        assert difference <= 1e-5, f"item vectors of {name} differ by {difference:.1e} of the largest"
    ours_s, reference_s = [], []
    for _ in range(repeats):
        ours_s.append(machine.seconds(model.encode_catalogue, device))
        reference_s.append(machine.seconds(lambda: plain.encode_catalogue(_batches(workload, device)), device))
    operations = encoding_operations(
        workload.features, np.arange(1, shape.num_items + 1), dim=shape.dim, streams=shape.streams
    )
    return {
        "what": "encoding",
        "dim": shape.dim,
        "items": shape.num_items,
        "equal": True,
        **_compared(ours_s, reference_s, sum(operations.values()) / rate),
        "ours_s_per_item": median(ours_s) / shape.num_items,
    }


def _batches(workload: Workload, device: torch.device) -> Iterator[tuple[Tensor, dict[str, Tokens]]]:
    for items in torch.arange(1, workload.shape.num_items + 1).split(CHUNK):
        content = {name: workload.padded(name, items.numpy()).to(device) for name in workload.modalities}
        yield items.to(device), content


def _ranking(
    users: int, num_items: int, num_streams: int, device: torch.device, rate: float, repeats: int
) -> dict[str, Any]:
    dim = 128
    tables, states, questions = _random_questions(users, num_items, num_streams, dim, device)
    ours = partial(ranks, partial(_states_of, states), tables, questions, combine=ensemble)
    found, expected = ours(), argsort_ranks(states, tables, questions)
    same = np.mean([np.mean(found[head] == expected[head]) for head in expected])
    # products over other tiles round differently, which may swap two neighbours
    assert all(np.abs(found[head] - expected[head]).max() <= 2 for head in expected), "ranks differ from sorting"
    assert same > 0.99, f"only {same:.1%} of the ranks equal those of sorting"
    ours_s, reference_s = [], []
    for _ in range(repeats):
        ours_s.append(machine.seconds(ours, device))
        reference_s.append(machine.seconds(lambda: argsort_ranks(states, tables, questions), device))
    floor_s = 2 * users * num_items * dim * num_streams / rate
    return {
        "what": "ranking",
        "users": users,
        "items": num_items,
        "streams": num_streams,
        "equal": True,
        "same_ranks": float(same),
        **_compared(ours_s, reference_s, floor_s),
        "ours_s_per_user": median(ours_s) / users,
    }


def _full(shape: Shape, device: torch.device, rate: float) -> dict[str, Any]:
    workload = make_workload(shape)
    model = workload.model().to(device).eval()
    rng = torch.Generator().manual_seed(0)
    tables = {name: torch.randn(shape.num_items + 1, shape.dim, generator=rng).to(device) for name in model.streams}
    questions = workload.split.questions("test")
    seconds = machine.seconds(
        lambda: ranks(lambda histories: model.states(histories, tables), tables, questions, combine=model.ensemble),
        device,
    )
    lengths = (questions.histories > 0).sum(1)
    states = len(tables) * state_operations(lengths, dim=shape.dim, last_only=True)
    scores = 2 * shape.users * shape.num_items * shape.dim * len(tables)
    heads = len(tables) + 1
    return {
        "what": "full",
        "users": shape.users,
        "items": shape.num_items,
        "streams": len(tables),
        "ours_s": seconds,
        "floor_s": (states + scores) / rate,
        "floor_ratio": seconds * rate / (states + scores),
        # were every head's scores written once and read once, beside the products
        "scores_traffic_s": 8 * heads * shape.users * shape.num_items / machine.bandwidth(device),
    }


def _compared(ours_s: list[float], reference_s: list[float], floor_s: float) -> dict[str, float]:
    return {
        "ours_s": median(ours_s),
        "reference_s": median(reference_s),
        "ratio": median(theirs / ours for theirs, ours in zip(reference_s, ours_s, strict=True)),
        "floor_s": floor_s,
        "floor_ratio": median(ours_s) / floor_s,
    }


def _random_questions(
    users: int, num_items: int, num_streams: int, dim: int, device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Tensor], Questions]:
    """Draw item tables, user states and questions; a history's newest entry is the number of its user."""
    draw, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    names = [f"stream{number}" for number in range(num_streams)]
    tables = {name: torch.randn(num_items + 1, dim, generator=draw).to(device) for name in names}
    states = {name: torch.randn(users, dim, generator=draw).to(device) for name in names}
    seen = rng.integers(1, num_items + 1, size=(users, 12))
    histories = np.arange(users)[:, None]
    return tables, states, Questions(np.arange(users), histories, seen, rng.integers(1, num_items + 1, size=users))


def _states_of(states: Mapping[str, Tensor], histories: Tensor) -> Streams:
    return {name: state[histories[:, -1]] for name, state in states.items()}


def _encode(shape: Shape, chunk: int, arguments: Namespace) -> None:
    device = machine.setup(arguments)
    make_workload(shape).model().to(device).encode_catalogue(chunk)


def _rank(num_items: int, users: int, tile: int, arguments: Namespace) -> None:
    device = machine.setup(arguments)
    tables, states, questions = _random_questions(users, num_items, arguments.streams, 128, device)
    ranks(partial(_states_of, states), tables, questions, combine=ensemble, tile=tile)


def _line(r: Mapping[str, Any]) -> str:
    if r["what"] == "memory":
        sizes = f"encoding {r['encoding_peak_bytes'] / 1e6:7.0f} MB  ranking {r['ranking_peak_bytes'] / 1e6:7.0f} MB"
        return f"{'memory':>9}  chunk {r['chunk']:5}  {sizes}"
    size = (
        f"dim {r['dim']}, {r['items']} items" if r["what"] == "encoding" else f"{r['users']} users, {r['items']} items"
    )
    times = f"ours {r['ours_s']:8.3f} s  floor {r['floor_s']:7.3f} s, {r['floor_ratio']:5.2f} times it"
    if "reference_s" not in r:
        return f"{r['what']:>9}  {size}  {times}  (writing and reading the scores: {r['scores_traffic_s']:.2f} s)"
    return f"{r['what']:>9}  {size}  {times}  reference {r['reference_s']:8.3f} s  ratio {r['ratio']:5.1f}"

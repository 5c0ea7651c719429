"""Evaluation beside the release's way: item encoding, ranking, the best items, the full ranking, and memory.

encoding  `ODMT.encode_catalogue` against the plain batch in batches of 512, tokens read from memory on both sides.
ranking   `odmt.evaluate.ranks` against a sort per user and head, over given states and tables of random numbers.
top       `odmt.evaluate.top_items` against a sort of all scores, over the same.
full      MicroLens-50k's whole evaluation, states of 50,000 histories included, against 19,220 items in two streams.
memory    what the three hold beyond tables and model while the catalogue grows, in a fresh process for each size.

The first three are shown to be equal in float64 before they are timed. Both sides take turns; see `machine.take_turns`.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odmt.distill import ensemble
from odmt.evaluate import ranks, top_items
from odmt.types import Questions, Streams, Tokens

from . import machine
from .floor import compared, encoding_operations, state_operations
from .sides import argsort_ranks, plain_of
from .workload import Shape, Workload, make_workload

__all__ = ["add_arguments", "describe", "measure"]

CHUNK, TOP = 512, 10
"""Items that are encoded at once, by either side; and best items given to a user."""
DIM, GROWING_DIM = 128, 64
"""Width of tables to rank; and while the catalogue grows."""
TOLERANCE, PRECISE_ITEMS = 1e-9, 256
"""Largest difference of item vectors in float64, as a share of the largest value; and how many items are compared."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add what this suite takes."""
    machine.add_arguments(parser, repeats=3)
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 768], metavar="D", help="encoding (128 768)")
    parser.add_argument("--encode", type=int, default=1024, metavar="N", help="items to encode (default 1024)")
    parser.add_argument("--users", type=int, default=512, metavar="N", help="users to rank for (default 512)")
    parser.add_argument("--catalogues", type=int, nargs="+", default=[2_000, 20_000], metavar="N", help="(2000 20000)")
    parser.add_argument("--streams", type=int, default=3, metavar="N", help="streams to rank (default 3)")
    parser.add_argument("--full", type=int, nargs=2, default=[50_000, 19_220], metavar="N", help="users and items")
    grow = [20_000, 100_000, 1_000_000]
    parser.add_argument("--grow", type=int, nargs="+", default=grow, metavar="N", help="memory (20000 100000 1000000)")


def measure(arguments: Namespace) -> list[dict[str, Any]]:
    """Return one entry per measurement, told apart by `what`."""
    found = []
    for entry in _entries(arguments, machine.setup(arguments)):
        if not entry.get("equal", True):
            raise RuntimeError(f"nothing was timed, because both sides differ: {entry}")
        found.append({**entry, "device": arguments.device, "threads": torch.get_num_threads()})
        print(_line(entry), flush=True)
    return found


def describe(results: Sequence[Mapping[str, Any]]) -> str:
    """Say what was compared, and what floor and memory are."""
    rates = [r[key] / 1e9 for r in results for key in ("rate_min", "rate_max") if key in r]
    equal = {r["what"]: r["equal_in"] for r in results if "equal_in" in r}
    return "\n".join(
        [
            *(f"equal before timing, {what}: {told}" for what, told in equal.items()),
            "floor: matrix operations at the best rate seen beside each entry; rates were "
            f"{min(rates):.0f} to {max(rates):.0f} G/s",
            "memory: beyond model and item tables, and for the encoding beyond the tables that it returns",
        ]
    )


def _entries(arguments: Namespace, device: torch.device) -> Iterator[dict[str, Any]]:
    for dim in arguments.dims:
        yield _encoding(Shape(dim=dim, num_items=arguments.encode), device, arguments.repeats)
    for num_items in arguments.catalogues:
        sizes = arguments.users, num_items, arguments.streams
        yield _ranking(*sizes, device, arguments.repeats)
        yield _top(*sizes, device, arguments.repeats)
    users, items = arguments.full
    yield _full(Shape(dim=128, num_items=items, streams=("id", "text"), users=users), device, arguments.repeats)
    for num_items in arguments.grow:
        yield machine.in_child(_memory, num_items, arguments, device=arguments.device)[0]


def _encoding(shape: Shape, device: torch.device, repeats: int) -> dict[str, Any]:
    difference = _encoding_difference(shape.but(num_items=min(PRECISE_ITEMS, shape.num_items)), device)
    entry = {"what": "encoding", "dim": shape.dim, "items": shape.num_items, **_equal(difference)}
    if not entry["equal"]:
        return entry
    workload = make_workload(shape)
    model = workload.model().to(device).eval()
    plain = plain_of(model, workload)
    items = np.arange(1, shape.num_items + 1)
    operations = sum(encoding_operations(workload.features, items, dim=shape.dim, streams=shape.streams).values())
    sides = partial(model.encode_catalogue, CHUNK), lambda: plain.encode_catalogue(_batches(workload, device))
    found = _timed(sides, operations, device, repeats)
    return {**entry, **found, "ours_s_per_item": found["ours_s"] / shape.num_items}


def _encoding_difference(shape: Shape, device: torch.device) -> float:
    """Compare item vectors in float64; as a share of the largest."""
    workload = make_workload(shape)
    model = workload.model().to(device, torch.float64).eval()
    with torch.no_grad():
        expected = plain_of(model, workload).encode_catalogue(_batches(workload, device))
    tables = model.encode_catalogue(CHUNK)
    return max(
        ((table[1:].cpu() - expected[name]).abs().max() / expected[name].abs().max()).item()
        for name, table in tables.items()
    )


def _equal(difference: float) -> dict[str, Any]:
    told = f"float64, {PRECISE_ITEMS} items at most: vectors to {TOLERANCE:.0e} of the largest"
    return {"equal": difference <= TOLERANCE, "equal_in": told, "float64_difference": difference}


def _batches(workload: Workload, device: torch.device) -> Iterator[tuple[Tensor, dict[str, Tokens]]]:
    for items in torch.arange(1, workload.shape.num_items + 1).split(CHUNK):
        content = {name: workload.padded(name, items.numpy()).to(device) for name in workload.modalities}
        yield items.to(device), content


def _ranking(users: int, num_items: int, num_streams: int, device: torch.device, repeats: int) -> dict[str, Any]:
    tables, states, questions = _random_questions(users, num_items, num_streams, device)
    precise = _double(tables), _double(states)
    found, expected = _our_ranks(*precise, questions), argsort_ranks(precise[1], precise[0], questions)
    rounded = _our_ranks(tables, states, questions)
    entry = {
        "what": "ranking",
        "dim": DIM,
        "users": users,
        "items": num_items,
        "streams": num_streams,
        "equal": all(np.array_equal(found[head], expected[head]) for head in expected),
        "equal_in": "float64: every rank",
        "float32_same_ranks": float(np.mean([np.mean(rounded[head] == expected[head]) for head in expected])),
    }
    if not entry["equal"]:
        return entry
    sides = partial(_our_ranks, tables, states, questions), partial(argsort_ranks, states, tables, questions)
    found = _timed(sides, 2 * users * num_items * DIM * num_streams, device, repeats)
    return {**entry, **found, "ours_s_per_user": found["ours_s"] / users}


def _top(users: int, num_items: int, num_streams: int, device: torch.device, repeats: int) -> dict[str, Any]:
    tables, states, questions = _random_questions(users, num_items, num_streams, device)
    seen = torch.from_numpy(questions.seen).to(device)
    ours = partial(top_items, k=TOP, combine=ensemble)
    precise = _double(states), _double(tables)
    entry = {
        "what": "top",
        "dim": DIM,
        "users": users,
        "items": num_items,
        "streams": num_streams,
        "k": TOP,
        "equal": torch.equal(ours(*precise, seen)[1], _sorted_top(*precise, seen)),
        "equal_in": f"float64: every one of the {TOP} best items",
    }
    if not entry["equal"]:
        return entry
    sides = partial(ours, states, tables, seen), partial(_sorted_top, states, tables, seen)
    return {**entry, **_timed(sides, 2 * users * num_items * DIM * num_streams, device, repeats)}


def _sorted_top(states: Streams, tables: Streams, seen: Tensor) -> Tensor:
    """Find the best items as the release ranks: all scores at once, masked, and sorted user by user."""
    scores = torch.stack([states[name] @ tables[name].T for name in tables]).mean(0).scatter(1, seen, -torch.inf)
    scores[:, 0] = -torch.inf
    return torch.stack([torch.argsort(row, descending=True, stable=True)[:TOP] for row in scores])


def _full(shape: Shape, device: torch.device, repeats: int) -> dict[str, Any]:
    workload = make_workload(shape)
    model = workload.model().to(device).eval()
    rng = torch.Generator().manual_seed(0)
    tables = {name: torch.randn(shape.num_items + 1, shape.dim, generator=rng).to(device) for name in model.streams}
    questions = workload.split.questions("test")
    ours = partial(ranks, lambda h: model.states(h, tables), tables, questions, combine=model.ensemble)
    lengths = (questions.histories > 0).sum(1)
    states = len(tables) * state_operations(lengths, dim=shape.dim, last_only=True)
    scores = 2 * shape.users * shape.num_items * shape.dim * len(tables)
    heads = len(tables) + 1
    return {
        "what": "full",
        "dim": shape.dim,
        "users": shape.users,
        "items": shape.num_items,
        "streams": len(tables),
        **_timed([ours], states + scores, device, repeats),
        # were every head's scores written once and read once, beside the products
        "scores_traffic_s": 8 * heads * shape.users * shape.num_items / machine.bandwidth(device),
    }


def _memory(num_items: int, arguments: Namespace) -> dict[str, Any]:
    """Measure what it takes to encode a catalogue of ids and short titles, and to rank and search its tables."""
    device = machine.setup(arguments)
    shape = Shape(dim=GROWING_DIM, num_items=num_items, streams=("id", "text"), tokens=(("text", 4),))
    model = make_workload(shape).model().to(device).eval()
    model.encode(torch.arange(1, 3, device=device))  # libraries load at first use
    tables: dict[str, Tensor] = {}
    encoding = machine.peak_above(lambda: tables.update(model.encode_catalogue(CHUNK)), device)
    table_bytes = sum(table.nbytes for table in tables.values())
    _, states, questions = _random_questions(arguments.users, num_items, 2, device, dim=shape.dim)
    states = dict(zip(tables, states.values(), strict=True))
    seen = torch.from_numpy(questions.seen).to(device)
    ranking = machine.peak_above(partial(_our_ranks, tables, states, questions), device)
    top = machine.peak_above(partial(top_items, states, tables, seen, k=TOP, combine=ensemble), device)
    return {
        "what": "memory",
        "items": num_items,
        "dim": shape.dim,
        "chunk": CHUNK,
        "users": arguments.users,
        "table_bytes": table_bytes,
        "encoding_peak_bytes": encoding - table_bytes,
        "ranking_peak_bytes": ranking,
        "top_peak_bytes": top,
    }


def _timed(
    sides: Sequence[Callable[[], object]], operations: float, device: torch.device, repeats: int
) -> dict[str, float]:
    """Time ours, and the reference if there is one, in turns, beside the floor of so many operations."""
    turns = [lambda _, side=side: machine.seconds(side, device) for side in sides]
    times, rates = machine.take_turns(turns, device, repeats=repeats)
    return compared(times, [operations] * repeats, rates)


def _our_ranks(tables: Streams, states: Streams, questions: Questions) -> dict[str, np.ndarray]:
    return ranks(partial(_states_of, states), tables, questions, combine=ensemble)


def _double(streams: Streams) -> Streams:
    return {name: values.double() for name, values in streams.items()}


def _random_questions(
    users: int, num_items: int, num_streams: int, device: torch.device, *, dim: int = DIM
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


def _line(r: Mapping[str, Any]) -> str:
    if r["what"] == "memory":
        above = ", ".join(f"{what} {r[f'{what}_peak_bytes'] / 1e6:.0f} MB" for what in ("encoding", "ranking", "top"))
        return f"{'memory':>9}  {r['items']} items  tables {r['table_bytes'] / 1e6:.0f} MB; beyond them: {above}"
    size = (
        f"dim {r['dim']}, {r['items']} items" if r["what"] == "encoding" else f"{r['users']} users, {r['items']} items"
    )
    times = f"ours {r['ours_s']:8.3f} s  floor {r['floor_s']:7.3f} s, {r['floor_ratio']:5.2f} times it"
    if "reference_s" not in r:
        return f"{r['what']:>9}  {size}  {times}  (writing and reading the scores: {r['scores_traffic_s']:.2f} s)"
    return f"{r['what']:>9}  {size}  {times}  reference {r['reference_s']:8.3f} s  ratio {r['ratio']:5.1f}"

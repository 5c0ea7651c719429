"""The plan in words and tables, and as a tree for --json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .configurations import MOST_BATCHES, Configuration, Needs, Planned, read_tokens
from .hollow import table_names
from .memory import Moment
from .times import Rates, disk_bytes, host_bytes, slower_than_formula

__all__ = ["told"]

GROWTH = Path(__file__).resolve().parent.parent.parent / "results" / "growth.json"
LONG_EVALUATION = 0.5
"""Share of an epoch that evaluation takes, above which it is pointed out."""


def told(
    planned: Planned,
    configurations: Sequence[Configuration],
    rates: Rates,
    room: float,
    *,
    print: Callable[[str], object],
) -> dict[str, Any]:
    """Print what configurations need, whether it fits into `room` bytes and how long it takes, and give the same."""
    shape, settings = planned.shape, configurations[0].experiment
    asked = min(settings.train.eval_users or shape.users, shape.users)
    batch = planned.laws.batch(settings.train.batch_size, settings.data.length)
    print(
        f"{shape.users:,} users, {shape.items:,} items, {shape.interactions:,} interactions; {planned.laws.told}\n"
        f"a batch of {settings.train.batch_size:,} users: {batch.lengths.sum():,} training events of "
        f"{batch.distinct:,} distinct items; streams {', '.join(settings.model.streams)}; dim {settings.model.dim}"
    )
    for name, one in planned.stored.items():
        read = read_tokens(settings, planned.stored)[name]
        print(f"{name}: {one.mean:g} tokens stored per item, {read.mean:g} read, each {one.width} numbers")
    found = [(one, planned.needs(one)) for one in configurations]
    print(f"\nGB per GPU at the moments that ask for most; {room / 1e9:.1f} GB may be used\n")
    print(_memory(found, room))
    if any(one.experiment.train != settings.train for one in configurations):
        print("(ZeRO with --train.id-updates dense: odmt.launch refuses lazy ids there)")
    largest = {str(one): planned.largest_batch(one, room) for one in configurations}
    most = MOST_BATCHES * settings.train.batch_size
    print("")
    for name, size in largest.items():
        print(f"largest batch that fits, {name}: {f'{size:,}' if size else 'none'}{' or more' if size == most else ''}")
    out = (
        []
        if any(largest.values())
        else [(words, one, needs) for words, one, needs in planned.ways_out(list(configurations), room)]
    )
    if not any(largest.values()):
        print(_ways_out(out))
    parameters = sum(found[0][1].step.parameters.values())
    disk = disk_bytes(shape, planned.stored, parameters, settings.train.keep_checkpoints)
    host = host_bytes(shape, len(planned.stored), settings.data.length, asked)
    for one, needs in found:
        if one.engine.name == "fsdp" and not one.lazy:
            tables = sum(needs.step.parameters[name] for name in table_names(needs.model))
            host[f"id tables, while {one} evaluates"] = 4 * tables
    print("\ndisk, GB: " + _listed(disk))
    print(f"host's memory per process, GB: {_listed(host)} (of all users the test asks, whatever --train.eval-users)")
    print(_times(planned, found, rates, asked))
    return {
        "shape": asdict(shape),
        "laws": planned.laws.told,
        "batch": {"users": settings.train.batch_size, "events": int(batch.lengths.sum()), "distinct": batch.distinct},
        "rates": asdict(rates),
        "room_bytes": room,
        "configurations": [_tree(planned, *one, rates, largest) for one in found],
        "ways_out": [{"how": words, "configuration": str(one), "bytes": needs.most.total} for words, one, needs in out],
        "disk_bytes": disk,
        "host_bytes": host,
    }


def _tree(
    planned: Planned, one: Configuration, needs: Needs, rates: Rates, largest: Mapping[str, int]
) -> dict[str, Any]:
    taken = planned.times(one, needs, rates)
    return {
        "configuration": str(one),
        "moments": {moment.name: {**moment.parts, "total": moment.total} for moment in needs.moments},
        "largest_batch": largest[str(one)],
        "operations": needs.step.operations,
        "times": {**asdict(taken), "epoch": taken.epoch},
    }


def _memory(found: Sequence[tuple[Configuration, Needs]], room: float) -> str:
    names = [name for name in found[0][1].moments[0].parts if any(m.parts[name] for _, n in found for m in n.moments)]
    head = f"{'':20} {'':10} " + " ".join(f"{name:>11}" for name in names) + f" {'total':>8}"
    lines = [head]
    for one, needs in found:
        for place, moment in enumerate(needs.moments):
            label = str(one) if place == 0 else ""
            lines.append(f"{label:20} {_row(moment, names)}")
        verdict = "fits" if needs.most.total <= room else "does not fit"
        lines[-1] += f"   {verdict}: {needs.most.total / 1e9:.2f} GB at its most"
    return "\n".join(lines)


def _row(moment: Moment, names: Sequence[str]) -> str:
    parts = " ".join(f"{moment.parts[name] / 1e9:11.2f}" for name in names)
    return f"{moment.name:10} {parts} {moment.total / 1e9:8.2f}"


def _ways_out(found: Sequence[tuple[str, Configuration, Needs]]) -> str:
    if not found:
        return "nothing that was tried fits: lazy ids, four times the GPUs, an eighth of the width"
    lines = [f"  {one} {words}: {needs.most.total / 1e9:.2f} GB" for words, one, needs in found]
    return "\n".join(["what would fit, the batch as configured:", *lines])


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size / 1e9:.1f}" for name, size in sizes.items())


def _times(planned: Planned, found: Sequence[tuple[Configuration, Needs]], rates: Rates, asked: int) -> str:
    numbers = [f"{rates.operations / 1e12:.3g}e12 operations/s"]
    numbers += [f"memory {rates.bandwidth / 1e9:.4g} GB/s"] if rates.bandwidth else []
    numbers += [f"link {rates.link / 1e9:.4g} GB/s"] if rates.link else ["what is sent between GPUs not counted"]
    lines = [f"\ntime at the least, from {', '.join(numbers)} per GPU: {rates.told}"]
    for one, needs in found:
        taken = planned.times(one, needs, rates)
        lines.append(
            f"{one!s:20} step {taken.step:8.3f} s ({needs.step.operations:.2e} operations), {taken.steps:,} steps per "
            f"epoch, epoch {taken.epoch / 3600:8.2f} h, of which evaluating {asked:,} users "
            f"{taken.evaluation / 3600:.2f} h"
        )
        if taken.evaluation > LONG_EVALUATION * taken.epoch:
            lines.append(f"{'':20} evaluation is most of it: --train.eval-users N validates fewer")
    if slower := slower_than_formula(GROWTH):
        lines.append(
            f"steps measured on a CPU took {slower[0]:.1f} to {slower[1]:.1f} times their formula "
            "(results/growth.json); how it is on a GPU we have not measured"
        )
    return "\n".join(lines)

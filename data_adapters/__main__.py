"""Turn a vendor's release into a dataset folder: python -m data_adapters VENDOR --raw DIR --out data/NAME."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from data_adapters import microlens, sample
from data_adapters.text_files import ReleaseError
from odmt.data.format import Dataset, DatasetError


def main(argv: Sequence[str]) -> int:
    """Run one command and return the exit status; what is wrong with a user's files goes to stderr, no traceback."""
    arguments = _parser().parse_args(argv)
    made_by = shlex.join(["python", "-m", "data_adapters", *argv])
    try:
        if arguments.command == "sample":
            _generate(arguments)
        else:
            _summarise(
                microlens.convert(
                    arguments.raw,
                    arguments.out,
                    min_events=arguments.min_events,
                    overwrite=arguments.overwrite,
                    made_by=made_by,
                )
            )
    except (ReleaseError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_adapters", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="VENDOR")
    raw = argparse.RawDescriptionHelpFormatter
    lens = commands.add_parser(
        "microlens", help="MicroLens-50K, -100K, -1M as released", description=microlens.LAYOUT, formatter_class=raw
    )
    lens.add_argument("--raw", type=Path, required=True, metavar="DIR", help="the unpacked release")
    lens.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="dataset folder to write, such as data/microlens"
    )
    lens.add_argument(
        "--min-events",
        type=int,
        default=5,
        metavar="N",
        help="leave out users with fewer events (default 5, at least 4)",
    )
    lens.add_argument("--overwrite", action="store_true", help="replace the dataset folder that is there")
    small = commands.add_parser(
        "sample", help="generate a small release in MicroLens' layout", description=sample.__doc__, formatter_class=raw
    )
    small.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the release, such as data/raw/sample"
    )
    small.add_argument("--seed", type=int, default=0, help="the same seed writes the same files (default 0)")
    small.add_argument("--users", type=int, default=1000, help="number of users (default 1000)")
    small.add_argument("--items", type=int, default=500, help="number of items (default 500)")
    small.add_argument("--overwrite", action="store_true", help="replace the release that is there")
    return parser


def _generate(arguments: argparse.Namespace) -> None:
    release = sample.generate(
        arguments.out, seed=arguments.seed, users=arguments.users, items=arguments.items, overwrite=arguments.overwrite
    )
    counts = f"{arguments.users:,} users, {len(release.ids):,} items, {len(release.events):,} events"
    print(f"{arguments.out}: {counts}, seed {arguments.seed}")
    print(f"next: python -m data_adapters microlens --raw {arguments.out} --out data/sample")


def _summarise(dataset: Dataset) -> None:
    info = dataset.info
    print(f"{dataset.path}: {info.num_users:,} users, {info.num_items:,} items, {info.num_interactions:,} interactions")
    for modality, name in (("text", "titles"), ("image", "covers"), ("video", "videos")):
        count = info.modalities[modality]
        missing = f" ({info.num_items - count:,} items have none)" if count < info.num_items else ""
        print(f"  {name}: {count:,}{missing}")
    for reason, count in info.dropped.items():
        if count:
            print(f"  left out: {count:,} {reason}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

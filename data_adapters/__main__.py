"""Turn a vendor's release into a dataset folder: python -m data_adapters VENDOR --raw DIR --out data/NAME."""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from data_adapters.options import Options
from data_adapters.release import Adapter
from data_adapters.text_files import ReleaseError
from odmt.data.format import DatasetError

VENDORS = (
    "amazon",
    "hm",
    "hub",
    "kuairand",
    "kuairec",
    "microlens",
    "mmrec",
    "movielens",
    "ninerec",
    "odmt-release",
    "pixelrec",
    "recbole",
    "table",
)
"""Commands; the module of that name, with _ for -, holds the `ADAPTER`."""


def main(argv: Sequence[str]) -> int:
    """Run one command and return the exit status; what is wrong with a user's files goes to stderr, no traceback."""
    try:
        arguments = _parser(argv).parse_args(argv)
        return arguments.command(arguments, shlex.join(["python", "-m", "data_adapters", *argv]))
    except (ReleaseError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was kept", file=sys.stderr)
        return 130


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_adapters", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    # the module of the command that is asked for, or all for their one-line descriptions
    wanted = argv[:1] if argv[:1] and argv[0] in (*VENDORS, "sample", "check") else (*VENDORS, "sample", "check")
    for name in wanted:
        if name == "sample":
            _add_sample(commands)
        elif name == "check":
            _add_check(commands)
        else:
            _add_vendor(commands, name, importlib.import_module(f"data_adapters.{name.replace('-', '_')}").ADAPTER)
    return parser


def _add_sample(commands: argparse._SubParsersAction) -> None:
    from data_adapters import sample

    parser = commands.add_parser(
        "sample",
        help="generate a small release in MicroLens' layout",
        description=sample.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the release, such as data/raw/sample"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed writes the same files (default 0)")
    parser.add_argument("--users", type=int, default=1000, help="number of users (default 1000)")
    parser.add_argument("--items", type=int, default=500, help="number of items (default 500)")
    parser.add_argument("--overwrite", action="store_true", help="replace the release that is there")
    parser.set_defaults(command=_generate)


def _add_check(commands: argparse._SubParsersAction) -> None:
    from data_adapters import check

    parser = commands.add_parser(
        "check",
        help="look at a prepared folder before training",
        description=check.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_arguments(parser)
    parser.set_defaults(command=lambda arguments, made_by: check.run(arguments))


def _add_vendor(commands: argparse._SubParsersAction, name: str, adapter: Adapter) -> None:
    parser = commands.add_parser(
        name,
        help=adapter.help,
        description=adapter.layout,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        conflict_handler="resolve",
    )
    parser.add_argument("--raw", type=Path, required=True, metavar="DIR", help="the unpacked release")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help=f"dataset folder to write, such as data/{name}"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the dataset folder that is there")
    parser.add_argument(
        "--memory", default="2GB", metavar="SIZE", help="memory for sorting; the rest waits on disk (default 2GB)"
    )
    Options.add_arguments(parser, adapter.defaults)
    adapter.add_arguments(parser)
    parser.set_defaults(command=lambda arguments, made_by: _prepare(name, adapter, arguments, made_by))


def _prepare(name: str, adapter: Adapter, arguments: argparse.Namespace, made_by: str) -> int:
    from data_adapters.preparation import prepare, summarise  # DuckDB takes a moment to load; --help need not

    options = Options.of(arguments)
    prepared = prepare(
        adapter,
        arguments.raw,
        arguments.out,
        options=options,
        name=name,
        arguments=arguments,
        memory=arguments.memory,
        overwrite=arguments.overwrite,
        made_by=made_by,
    )
    print(summarise(prepared.dataset))
    if prepared.was_there:
        print("nothing to do: it was made from the same files with the same options")
    return 0


def _generate(arguments: argparse.Namespace, made_by: str) -> int:
    from data_adapters import sample

    release = sample.generate(
        arguments.out, seed=arguments.seed, users=arguments.users, items=arguments.items, overwrite=arguments.overwrite
    )
    counts = f"{arguments.users:,} users, {len(release.ids):,} items, {len(release.events):,} events"
    print(f"{arguments.out}: {counts}, seed {arguments.seed}")
    print(f"next: python -m data_adapters microlens --raw {arguments.out} --out data/sample")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

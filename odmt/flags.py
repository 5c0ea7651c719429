"""Settings as flags: YAML files become the `--section.name=value` of a command line, and tyro reads both."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from odmt.spec import did_you_mean

__all__ = ["ConfigError", "check_names", "find_overlay", "flatten", "load_flags", "read_flags", "read_pairs"]

Settings = TypeVar("Settings")


class ConfigError(ValueError):
    """Say which source gave which setting, what is wrong with it, and what to write instead."""


def flatten(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Turn nested settings into flags: {"model": {"dim": 8}} into ["--model.dim=8"], an empty list into a bare flag."""
    flags: list[str] = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flags += flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            first = f"--{prefix}{name}" + (f"={value[0]}" if value else "")
            flags += [first, *(str(element) for element in value[1:])]
        else:
            flags.append(f"--{prefix}{name}={value}")
    return flags


def load_flags(path: Path) -> list[str]:
    """Read a YAML file of nested settings as flags; raises ConfigError for what is no mapping or names a key twice."""
    try:
        tree = UniqueKeyLoader(path.read_text(encoding="utf-8")).get_single_data()
    except FileNotFoundError as error:
        there = ", ".join(sorted(found.name for found in path.parent.glob("*.yaml"))) or "no YAML file"
        raise ConfigError(f"{path} does not exist; {path.parent} holds {there}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(tree, Mapping):
        found = "is empty" if tree is None else f"holds a {type(tree).__name__}"
        raise ConfigError(f"{path} {found}; write settings as a mapping, for example model: {{dim: 128}}")
    return flatten(tree)


def find_overlay(name: str, folders: Sequence[Path], *, flag: str = "--ablation") -> Path:
    """Find NAME.yaml in the first of `folders` that holds it; a name that ends in .yaml is a path already.

    Raises ConfigError that names the `flag` after which it was written.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    for folder in folders:
        if (path := folder / f"{name}.yaml").is_file():
            return path
    known = sorted(path.stem for folder in folders for path in folder.glob("*.yaml"))
    places = " or ".join(str(folder) for folder in folders)
    raise ConfigError(f"{flag} {name}: there is no {name}.yaml in {places}; {did_you_mean(name, known)}")


def check_names(flags: Iterable[str], known: Iterable[str], source: str) -> set[str]:
    """Give the names of the settings in `flags`, written as in `known`.

    Refuses a setting that does not exist, and one that a source gives twice, of which tyro would keep the last.
    """
    spellings = {name.replace("_", "-"): name for name in known}
    seen: set[str] = set()
    for written in [flag[2:].partition("=")[0] for flag in flags if flag.startswith("--")]:
        if not written or written == "help" or written.startswith("tyro-"):
            continue  # the parser's own
        section, dot, leaf = written.replace("_", "-").rpartition(".")
        name = spellings.get(section + dot + leaf) or spellings.get(section + dot + leaf.removeprefix("no-"))
        if name is None:
            namesakes = [name for name in spellings.values() if name.rpartition(".")[2] == leaf.replace("-", "_")]
            hint = did_you_mean(written, namesakes or spellings.values())
            raise ConfigError(f"{source}: unknown setting {written!r}; {hint}")
        if name in seen:
            raise ConfigError(f"{source}: {name!r} is given twice; give it once, with all its values")
        seen.add(name)
    return seen


def read_flags(
    settings: Settings, flags: Sequence[str], source: str, *, strict: bool = True, bare_bools: bool = True
) -> Settings:
    """Lay `flags` over `settings`, a dataclass; `strict=False` leaves flags of other settings aside.

    Booleans are `--name` and `--no-name` with `bare_bools`, else `--name=True`. Raises ConfigError for a value of the
    wrong type; exits after printing help where `strict` and `--help` is among the flags.
    """
    config = () if bare_bools else (tyro.conf.FlagConversionOff,)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            if strict:
                return tyro.cli(type(settings), args=flags, default=settings, config=config)
            return tyro.cli(type(settings), args=flags, default=settings, return_unknown_args=True, add_help=False)[0]
    except SystemExit as error:
        if not error.code:
            raise
        raise ConfigError(f"{source}: {_first_paragraph(printed.getvalue())}") from None


def _first_paragraph(box: str) -> str:
    """Read what tyro drew in a box: the lines between its title and the first rule."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]
    rule = next((number for number, line in enumerate(lines) if line.startswith(("─", "╰"))), len(lines))
    return " ".join(lines[:rule])


def read_pairs(entries: Iterable[str], setting: str, example: str) -> dict[str, str]:
    """Read NAME=VALUE entries of a setting as {name: value}; `example` shows in errors how one is written."""
    pairs: dict[str, str] = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        if not name or not value or name in pairs:
            raise ConfigError(f"{setting}: {entry!r} should read like {example}, each name once")
        pairs[name] = value
    return pairs


class UniqueKeyLoader(yaml.SafeLoader):
    """Refuse a key that stands twice in one mapping, of which PyYAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise yaml.YAMLError(f"{name!r} is given twice, in lines {lines[name]} and {line}; leave one")
            lines[name] = line
        return super().construct_mapping(node, deep)

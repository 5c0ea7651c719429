"""One tree of frozen dataclasses, filled by YAML files and the command line through one parser (tyro).

Later sources win: built-in defaults, the dataset's YAML, ablations in the order given, the command line. Each becomes
the same flags, so that `lr: 1e-4` is a number and a misspelt name gets the same answer wherever it stands. No model
or encoder takes the tree itself: whoever builds one hands over plain arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tyro
import yaml

from odmt.flags import ConfigError, check_names, find_overlay, load_flags, read_flags
from odmt.settings import DataConfig, DistillConfig, Experiment, ModelConfig, TrainConfig
from odmt.settings_check import check, leaves

__all__ = [
    "ConfigError",
    "DataConfig",
    "DistillConfig",
    "Experiment",
    "ModelConfig",
    "TrainConfig",
    "overlay_folders",
    "parse",
    "to_yaml",
]


@dataclass(frozen=True)
class Sources:
    """Where settings come from; read ahead of them."""

    dataset: str | None = None
    config: str | None = None
    ablation: tuple[str, ...] = ()


SETTINGS = dict(leaves(Experiment("")))
PRESET = "odmt"
"""The overlay that is recommended where a dataset has no settings of its own."""
COMMAND_LINE_ONLY = ("ablation", "config", "overwrite", "resume")


def parse(argv: Sequence[str], *, configs: Path) -> Experiment:
    """Read an experiment from the command line, the dataset's YAML under `configs`, and the ablations that it names.

    Raises ConfigError naming the source; `--help` prints the settings, with the values these sources give, and exits.
    Tells on stderr where there is no such YAML, and which ablations change nothing.
    """
    here = "command line"
    typed = check_names(argv, SETTINGS, here)
    sources = read_flags(Sources(), argv, here, strict=False)
    experiment = Experiment(sources.dataset or "")
    start = _find_config(sources, configs)
    overlays = [find_overlay(name, overlay_folders(configs)) for name in sources.ablation]
    files: dict[str, Path] = {}
    for path in [start, *overlays] if start else overlays:
        flags = load_flags(path)
        names = check_names(flags, SETTINGS, str(path))
        for name in names.intersection(COMMAND_LINE_ONLY):
            raise ConfigError(f"{path}: {name} is a matter of the command line; write --{name} there")
        files |= dict.fromkeys(names, _seen_from_here(path))
        before, experiment = experiment, read_flags(experiment, flags, str(path), bare_bools=False)
        if experiment == before and path != start:
            print(f"overlay {path.stem} changes nothing here: what it sets is so already", file=sys.stderr)
    if not experiment.dataset:
        if not {"-h", "--help"}.isdisjoint(argv):
            tyro.cli(Experiment, args=["--help"])
        raise ConfigError(f"{here}: no dataset is named; write --dataset NAME, a folder under data/, or a path")
    experiment = read_flags(experiment, argv, here)
    experiment = replace(experiment, name=experiment.name or experiment.default_name, config=start and str(start))
    check(experiment, {name: path for name, path in files.items() if name not in typed})
    return experiment


def overlay_folders(configs: Path) -> list[Path]:
    """Say where overlays are looked for by name: beside `configs`, and in it."""
    return [configs.parent / "ablations", configs]


def _find_config(sources: Sources, configs: Path) -> Path | None:
    if sources.config is not None:
        path = Path(sources.config)
        name = path.stem if path.suffix in (".yaml", ".yml") else path.name
        meant = configs / f"{name}.yaml"
        if not path.exists() and meant.is_file():
            raise ConfigError(
                f"{path} does not exist, but {configs} holds {meant.name}; start from it with --config {meant}, or lay "
                f"it over the dataset's own settings with --ablation {name}"
            )
        return path
    if sources.dataset is None:
        return None
    path = configs / f"{Path(sources.dataset).absolute().name}.yaml"
    if path.is_file():
        return path
    is_there = any((folder / f"{PRESET}.yaml").is_file() for folder in overlay_folders(configs))
    advice = f"; the recommended preset is --ablation {PRESET}" if is_there and PRESET not in sources.ablation else ""
    print(f"{_seen_from_here(path)} does not exist: starting from the built-in defaults{advice}", file=sys.stderr)
    return None


def to_yaml(experiment: Experiment) -> str:
    """Write the settings as YAML that `parse` reads back, as `--config FILE`, to an equal experiment.

    What concerns one start only (which files were read, resume, overwrite) is left out and takes no part in equality.
    """
    tree = {name: value for name, value in asdict(experiment).items() if name not in COMMAND_LINE_ONLY}
    origin = _seen_from_here(Path(experiment.config)) if experiment.config else "the built-in defaults"
    heading = f"# from {origin}" + "".join(f" with {name}" for name in experiment.ablation)
    return f"{heading}\n{yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)}"


def _seen_from_here(path: Path) -> Path:
    """Leave out where on this machine the working directory lies: run folders are shared."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

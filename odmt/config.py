"""One tree of frozen dataclasses, filled by YAML files and the command line through one parser (tyro).

Later sources win: built-in defaults, the dataset's YAML, ablations in the order given, the command line. Each becomes
the same flags, so that `lr: 1e-4` is a number and a misspelt name gets the same answer wherever it stands. No model
or encoder takes the tree itself: whoever builds one hands over plain arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
import yaml

from odmt.backbones import BACKBONES
from odmt.data.manifest import MODALITIES
from odmt.distill import Edge
from odmt.flags import ConfigError, check_names, find_overlay, load_flags, read_flags, read_pairs
from odmt.fusion import FUSIONS
from odmt.model import CONTEXT, FIXED
from odmt.spec import did_you_mean, parse_call

__all__ = [
    "ConfigError",
    "DataConfig",
    "DistillConfig",
    "Experiment",
    "ModelConfig",
    "TrainConfig",
    "parse",
    "to_yaml",
]


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how much of it."""

    root: str = "data"
    """Folder of the dataset folders; `--dataset NAME` means ROOT/NAME unless NAME is itself a path."""
    length: int = 10
    """Events a user state is computed from. Histories are cut to the newest LENGTH + 3 before the split."""
    features: tuple[str, ...] = ()
    """Which features to read where a modality has several, as MODALITY=KEY or MODALITY=ENCODER: text=tfidf."""
    max_tokens: tuple[str, ...] = ()
    """Most tokens read per item, as MODALITY=NUMBER: text=30 image=50. Without it, all that are stored."""
    workers: int = 0
    """Processes that prepare batches; 0 prepares them in the training process."""

    def selected_features(self) -> dict[str, str]:
        """Read `features` as {modality: key or encoder}."""
        return read_pairs(self.features, "data.features", "text=tfidf")

    def token_limits(self) -> dict[str, int]:
        """Read `max_tokens` as {modality: number}."""
        pairs = read_pairs(self.max_tokens, "data.max_tokens", "text=30")
        for modality, number in pairs.items():
            if not (number.isdecimal() and int(number) > 0):
                raise ConfigError(f"data.max_tokens: {modality}={number} is no number above 0; write {modality}=30")
        return {modality: int(number) for modality, number in pairs.items()}


@dataclass(frozen=True)
class ModelConfig:
    """What is trained. A component is written as a call, and may be your own: "my_pkg.nets:Mamba(state=16)"."""

    streams: tuple[str, ...] = ("id", "text")
    """What an item is seen through: id and any modality with features; each is a head unless the fusion joins them."""
    dim: int = 128
    """Width of item vectors and user states."""
    fusion: str = "imt(layers=2, heads=2)"
    """How the streams of an item meet: imt (ID-aware transformer), independent (not at all), sum (one stream)."""
    backbone: str = "sasrec(layers=2, heads=2)"
    """Sequence model; every stream has one of its own."""
    dropout: float = 0.1
    """Dropout wherever a component's call does not set its own."""
    id_init: str = "random"
    """What the id table starts from: random, the first token of a modality (text, image, ...), or the mean of all."""
    popularity: float = 1.0
    """Strength of the popularity correction in the in-batch loss: 1 is the published one, 0 none."""
    candidates: Literal["batch", "catalogue"] = "batch"
    """Whether a target competes with the items of its batch or with all (ids and small catalogues, no distillation)."""


@dataclass(frozen=True)
class DistillConfig:
    """Which streams teach which while they train."""

    graph: tuple[str, ...] = ("id -> text", "ensemble -> id")
    """Edges "teacher -> student" between streams; "ensemble", the mean of all, may teach. No edges: no distillation."""
    temperature: float = 0.5
    """Softmax temperature of teacher and student."""
    loss: Literal["ce", "kl"] = "ce"
    """Cross entropy or KL divergence from teacher to student; they differ only where gradient reaches the teacher."""
    detach: bool = False
    """Keep the distillation's gradient out of the teachers. The published method lets it in."""
    weight: float = 1.0
    """Weight of the distillation loss once it is ramped up."""
    ramp_epochs: float = 50.0
    """Epochs over which the weight rises, slowly at first; 0 gives the full weight from the start."""


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained; the checkpoint with the best validation NDCG@10 of the ensemble is the result."""

    epochs: int = 40
    """Most passes over the users."""
    batch_size: int = 256
    """Users per batch, shared among the processes."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.1
    """Weight decay of AdamW."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Learning rate after the warm-up: as it is, or falling to 0 at the last epoch."""
    clip: float = 5.0
    """Largest norm of the gradient; larger ones are scaled down. 0 leaves all as they are."""
    patience: int = 5
    """Epochs without a better validation score before training stops; 0 never stops early."""
    bf16: bool = False
    """Multiply matrices in bfloat16."""
    compile: bool = False
    """Let torch.compile make kernels of the transformer blocks: minutes at first, and no gain on most CPUs."""
    eval_users: int = 0
    """Users validated after an epoch, a fixed random choice; 0 takes all. The test takes all users in any case."""
    mask_history: bool = True
    """Keep the items of a user's own history out of the ranking."""
    repeats: Literal["rank", "miss"] = "rank"
    """A target that the history holds already is ranked like any other, or always a miss (the released evaluation)."""
    log_every: int = 50
    """Steps between two lines of losses in metrics.jsonl."""


@dataclass(frozen=True)
class Experiment:
    """Train a recommender on a dataset folder and test the best epoch once.

    Later sources win: defaults, the dataset's YAML, --ablation files in order, the command line.
    """

    dataset: str
    """Dataset folder: a name under --data.root, or a path."""
    name: str | None = None
    """Name of the run. By default DATASET-ABLATIONS-sSEED."""
    ablation: tuple[str, ...] = field(default=(), compare=False)
    """YAML files laid on top, in this order: names in experiments/ablations or experiments/configs, or paths."""
    config: str | None = field(default=None, compare=False)
    """YAML file to start from. By default the one in experiments/configs named like the dataset, if there is one."""
    output: str = "runs"
    """Folder of the run folders."""
    seed: int = 1
    """Seed of initial weights, batches and dropout."""
    overwrite: bool = field(default=False, compare=False)
    """Replace the run folder if it exists."""
    resume: bool = field(default=False, compare=False)
    """Go on from the last checkpoint in the run folder."""
    trackers: tuple[str, ...] = ()
    """Where accelerate logs besides metrics.jsonl: tensorboard, wandb, ..."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @property
    def folder(self) -> Path:
        """Give the run's folder, OUTPUT/NAME."""
        return Path(self.output) / (self.name or self.default_name)

    @property
    def default_name(self) -> str:
        """Name the run after its dataset, ablations and seed."""
        ablations = "+".join(Path(name).name.removesuffix(".yaml") for name in self.ablation)
        return "-".join(part for part in (Path(self.dataset).absolute().name, ablations, f"s{self.seed}") if part)


@dataclass(frozen=True)
class Sources:
    """Where settings come from; read ahead of them."""

    dataset: str | None = None
    config: str | None = None
    ablation: tuple[str, ...] = ()


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    for entry in fields(tree):
        value = getattr(tree, entry.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name, value


SETTINGS = dict(_leaves(Experiment("")))
COMMAND_LINE_ONLY = ("ablation", "config", "overwrite", "resume")
AT_LEAST: Mapping[str, float] = {
    **dict.fromkeys(("data.length", "model.dim", "train.epochs", "train.batch_size", "train.log_every"), 1),
    **dict.fromkeys(("distill.temperature", "train.lr"), 1e-12),
    **dict.fromkeys(("seed", "data.workers", "model.popularity", "distill.weight", "distill.ramp_epochs"), 0),
    **dict.fromkeys(("train.weight_decay", "train.warmup_steps", "train.clip"), 0),
    **dict.fromkeys(("train.patience", "train.eval_users"), 0),
}


def parse(argv: Sequence[str], *, configs: Path) -> Experiment:
    """Read an experiment from the command line, the dataset's YAML under `configs`, and the ablations that it names.

    Raises ConfigError naming the source; `--help` prints the settings, with the values these sources give, and exits.
    """
    here = "command line"
    check_names(argv, SETTINGS, here)
    sources = read_flags(Sources(), argv, here, strict=False)
    experiment = Experiment(sources.dataset or "")
    start = _find_config(sources, configs)
    overlays = [find_overlay(name, [configs.parent / "ablations", configs]) for name in sources.ablation]
    for path in [start, *overlays] if start else overlays:
        flags = load_flags(path)
        names = check_names(flags, SETTINGS, str(path))
        for name in names.intersection(COMMAND_LINE_ONLY):
            raise ConfigError(f"{path}: {name} is a matter of the command line; write --{name} there")
        experiment = read_flags(experiment, flags, str(path), bare_bools=False)
    if not experiment.dataset:
        if not {"-h", "--help"}.isdisjoint(argv):
            tyro.cli(Experiment, args=["--help"])
        raise ConfigError(f"{here}: no dataset is named; write --dataset NAME, a folder under data/, or a path")
    experiment = read_flags(experiment, argv, here)
    experiment = replace(experiment, name=experiment.name or experiment.default_name, config=start and str(start))
    check(experiment)
    return experiment


def _find_config(sources: Sources, configs: Path) -> Path | None:
    if sources.config is not None:
        return Path(sources.config)
    if sources.dataset is None:
        return None
    path = configs / f"{Path(sources.dataset).absolute().name}.yaml"
    if path.is_file():
        return path
    print(f"{path} does not exist: starting from the built-in defaults", file=sys.stderr)
    return None


def check(experiment: Experiment) -> None:
    """Check what types cannot say: ranges, components against their constructors, edges against the streams."""
    for name, value in _leaves(experiment):
        low = AT_LEAST.get(name)
        if low is not None and not (isinstance(value, int | float) and low <= value < float("inf")):
            raise ConfigError(f"{name}={value} is out of range; it is finite and at least {low}")
    if experiment.name and (Path(experiment.name).name != experiment.name or experiment.name == ".."):
        raise ConfigError(f"name={experiment.name!r} is no name of a folder in {experiment.output}; leave out the '/'")
    if experiment.resume and experiment.overwrite:
        raise ConfigError("resume and overwrite exclude each other: one goes on with the run folder, one replaces it")
    data, model = experiment.data, experiment.model
    if not 0 <= model.dropout < 1:
        raise ConfigError(f"model.dropout={model.dropout} is out of range; it is at least 0 and below 1")
    if not model.streams or len(set(model.streams)) < len(model.streams):
        raise ConfigError(f"model.streams={list(model.streams)}: name at least one stream, and each once")
    if model.id_init not in (starts := ["random", "mean", *(name for name in model.streams if name != "id")]):
        raise ConfigError(f"model.id_init={model.id_init!r} is unknown; {did_you_mean(model.id_init, starts)}")
    for setting, pairs in {"data.features": data.selected_features(), "data.max_tokens": data.token_limits()}.items():
        # a modality that an ablation leaves out may keep its settings; a misspelt one may not
        for name in pairs.keys() - {*model.streams, *MODALITIES}:
            raise ConfigError(f"{setting} names {name!r}; {did_you_mean(name, (*model.streams, *MODALITIES))}")
    _check_component(model.backbone, BACKBONES, "backbone")
    _check_component(model.fusion, FUSIONS, "fusion")
    _check_edges(experiment)


def _check_component(text: str, known: Mapping[str, str], kind: str) -> None:
    try:
        parse_call(text, known=known, kind=kind).check(CONTEXT, fixed=FIXED)
    except ValueError as error:
        raise ConfigError(f"model.{kind}: {error}") from error


def _check_edges(experiment: Experiment) -> None:
    names = (*experiment.model.streams, "ensemble")
    if experiment.distill.graph and experiment.model.candidates == "catalogue":
        raise ConfigError("model.candidates=catalogue leaves no logits to distil; write --distill.graph with no edges")
    for text in experiment.distill.graph:
        try:
            edge = Edge.parse(text)
        except ValueError as error:
            raise ConfigError(f"distill.graph: {error}") from error
        # which streams leave another fusion is known once it is built, and the model checks it then
        missing = {edge.teacher, edge.student}.difference(names)
        if missing and experiment.model.fusion.partition("(")[0].strip() in ("imt", "independent"):
            found = f"'{edge}' names {' and '.join(sorted(missing))}, but the streams are {', '.join(names)}"
            raise ConfigError(f"distill.graph: {found}; write --distill.graph with the edges you want, or with none")


def to_yaml(experiment: Experiment) -> str:
    """Write the settings as YAML that `parse` reads back, as `--config FILE`, to an equal experiment.

    What concerns one start only (which files were read, resume, overwrite) is left out and takes no part in equality.
    """
    tree = {name: value for name, value in asdict(experiment).items() if name not in COMMAND_LINE_ONLY}
    origin = experiment.config or "the built-in defaults"
    heading = f"# from {origin}" + "".join(f" with {name}" for name in experiment.ablation)
    return f"{heading}\n{yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)}"

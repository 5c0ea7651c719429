"""What one configuration needs, the largest batch that fits, and, where nothing fits, what would."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from odmt.components import LOSSES
from odmt.config import ConfigError, Experiment
from odmt.items import STORED_CHUNK
from odmt.model import ODMT
from odmt.spec import parse_call

from .hollow import Step, hollow_encoding, hollow_model, hollow_step, table_names
from .laws import DatasetShape, Laws
from .memory import Engine, Moment, moments
from .readings import ItemTokens
from .times import Rates, Times, times

__all__ = ["MOST_BATCHES", "Configuration", "Needs", "Planned", "lazy_ids", "read_tokens", "with_dim", "with_lazy_ids"]

MOST_BATCHES = 16
"""Times the configured batch, beyond which no larger one is looked for."""


@dataclass(frozen=True)
class Configuration:
    """Say what is trained by how many processes, and how."""

    experiment: Experiment
    engine: Engine

    @property
    def lazy(self) -> bool:
        return lazy_ids(self.experiment)

    def __str__(self) -> str:
        told = f"{self.engine} x {self.engine.processes}" if self.engine.processes > 1 else "one GPU"
        return told + (", lazy ids" if self.lazy else "")


@dataclass(frozen=True)
class Needs:
    """Hold what a configuration needs: bytes at each moment, and what they were found from."""

    moments: list[Moment]
    model: ODMT
    step: Step
    encoding: Step

    @property
    def most(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.total)


def lazy_ids(experiment: Experiment) -> bool:
    """Say whether id tables take their steps row by row."""
    return experiment.train.id_updates == "lazy"


def with_lazy_ids(experiment: Experiment) -> Experiment | None:
    """Switch that on, or give nothing where it is on already, or there is no id."""
    if lazy_ids(experiment) or "id" not in experiment.model.streams:
        return None
    return replace(experiment, train=replace(experiment.train, id_updates="lazy"))


def with_dim(experiment: Experiment, dim: int) -> Experiment:
    """Train another width, from ids that are drawn: tables that start from content take its width."""
    return replace(experiment, model=replace(experiment.model, dim=dim, id_init="random"))


def read_tokens(experiment: Experiment, stored: Mapping[str, ItemTokens]) -> dict[str, ItemTokens]:
    """Cut what is stored to what is read (`--data.max-tokens`)."""
    limits = experiment.data.token_limits()
    return {
        name: replace(one, lengths=one.lengths.clip(max=limits.get(name, one.most))) for name, one in stored.items()
    }


@dataclass
class Planned:
    """Find what configurations need on a dataset; hollow models and steps are kept for the next that asks."""

    shape: DatasetShape
    laws: Laws
    stored: Mapping[str, ItemTokens]
    models: dict[object, tuple[ODMT, Step]] = field(default_factory=dict)
    steps: dict[object, Step] = field(default_factory=dict)

    def needs(self, asked: Configuration) -> Needs:
        """Give the bytes of a configuration; raises ConfigError for one that cannot be planned."""
        try:
            return self._needs(asked)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise ConfigError(
                f"a component decides by values what it computes ({error}), and a plan has none; plan another "
                "(--model.backbone, --model.fusion, --model.loss), or measure a small run of this one"
            ) from error

    def _needs(self, asked: Configuration) -> Needs:
        experiment, engine = asked.experiment, asked.engine
        tokens = read_tokens(experiment, self.stored)
        model, encoding = self._model(experiment, tokens)
        settings, world = experiment.train, engine.processes
        shared = settings.candidates == "global"
        key = experiment.model, experiment.data, experiment.distill, settings, world, asked.lazy
        if key not in self.steps:
            users = settings.batch_size if shared else math.ceil(settings.batch_size / world)
            loss = model.loss
            draws = {"draws": loss.draws, "draw_popularity": loss.draw_popularity}
            batch = self.laws.batch(users, experiment.data.length, **draws)
            how = {"bf16": settings.bf16, "lazy": asked.lazy, "shared": shared, "world": world}
            self.steps[key] = hollow_step(model, batch, tokens, **how)
        step = self.steps[key]
        engine = replace(engine, lazy=asked.lazy)
        return Needs(moments(engine, model, step, encoding, dim=experiment.model.dim), model, step, encoding)

    def _model(self, experiment: Experiment, tokens: Mapping[str, ItemTokens]) -> tuple[ODMT, Step]:
        key = experiment.model, experiment.data, experiment.distill
        if key not in self.models:
            if tokens and parse_call(experiment.model.loss, known=LOSSES, kind="loss").name == "full":
                raise ConfigError(
                    f"model.loss={experiment.model.loss} encodes all {self.shape.items:,} items' content at every "
                    "step, which is not planned; plan ids alone (--ablation id_only), or another loss"
                )
            model = hollow_model(experiment, self.shape.items, tokens)
            self.models[key] = model, hollow_encoding(model, tokens)
        return self.models[key]

    def times(self, asked: Configuration, needs: Needs, rates: Rates) -> Times:
        """Give the seconds of a configuration."""
        settings = asked.experiment.train
        tables = table_names(needs.model) if asked.lazy else set()
        return times(
            replace(asked.engine, lazy=asked.lazy),
            needs.model,
            needs.step,
            needs.encoding,
            rates,
            dim=asked.experiment.model.dim,
            users=self.shape.users,
            batch=settings.batch_size,
            asked=min(settings.eval_users or self.shape.users, self.shape.users),
            encoded=STORED_CHUNK,
            updated=sum(size for name, size in needs.step.parameters.items() if name not in tables),
        )

    def largest_batch(self, asked: Configuration, room: float) -> int:
        """Find the largest batch that leaves a configuration within `room` bytes, to a sixteenth of it; 0 for none."""
        configured = asked.experiment.train.batch_size
        sizes = [configured]
        while sizes[-1] < MOST_BATCHES * configured and self._fits(asked, sizes[-1], room):
            sizes.append(2 * sizes[-1])
        if self._fits(asked, sizes[-1], room):
            return sizes[-1]
        while len(sizes) == 1 or not self._fits(asked, sizes[0], room):
            if sizes[0] // 2 < asked.engine.processes:
                return 0
            sizes = [sizes[0] // 2, sizes[0]]
        low, high = sizes[-2:]
        while high - low > high // 16:
            middle = (low + high) // 2
            low, high = (middle, high) if self._fits(asked, middle, room) else (low, middle)
        return low

    def _fits(self, asked: Configuration, batch: int, room: float) -> bool:
        train = replace(asked.experiment.train, batch_size=batch)
        other = replace(asked, experiment=replace(asked.experiment, train=train))
        return self.needs(other).most.total <= room

    def ways_out(self, asked: list[Configuration], room: float) -> Iterator[tuple[str, Configuration, Needs]]:
        """Try what may fit where nothing of what was asked for does, the nearest first: words, and what it needs."""
        first = asked[0].experiment
        ddp = [one for one in asked if one.engine.name == "ddp"]
        lazy = with_lazy_ids(first)
        others = [("with --train.id-updates lazy", replace(one, experiment=lazy)) for one in ddp if lazy]
        for times_more in (2, 4):
            for one in asked:
                if one.engine.name != "ddp":
                    more = times_more * one.engine.processes
                    others.append((f"on {more} GPUs", replace(one, engine=replace(one.engine, processes=more))))
        heads = 8  # widths stay divisible by as many heads as anybody has
        for divisor in (2, 4, 8):
            dim = first.model.dim // divisor
            if dim and dim % heads == 0:
                words = f"with --model.dim {dim} --model.id-init random"
                others += [(words, replace(one, experiment=with_dim(one.experiment, dim))) for one in asked]
        for words, one in others:
            needs = self.needs(one)
            if needs.most.total <= room:
                yield words, one, needs

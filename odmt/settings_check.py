"""Whether settings can be meant: ranges, components against their constructors, names of streams, edges.

What types cannot say; `odmt.config` has read the settings by then, and nothing of data or models has been touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from odmt.components import (
    BACKBONES,
    CONTENT,
    CONTEXT,
    ENSEMBLES,
    FIXED,
    FUSIONS,
    JOINS,
    LOSSES,
    SIMILARITIES,
)
from odmt.content_settings import check_augmentations, check_encoders
from odmt.data.manifest import MODALITIES
from odmt.flags import ConfigError
from odmt.settings import Experiment, ModelConfig
from odmt.spec import did_you_mean, parse_call

__all__ = ["check", "heads_of", "leaves"]

AT_LEAST: Mapping[str, float] = {
    **dict.fromkeys(("data.length", "model.dim", "train.epochs", "train.batch_size", "train.log_every"), 1),
    **dict.fromkeys(("train.keep_checkpoints",), 1),
    **dict.fromkeys(("distill.temperature", "train.lr", "train.encoder_lr"), 1e-12),
    **dict.fromkeys(("seed", "data.workers", "model.id_min_count", "distill.weight", "distill.ramp_epochs"), 0),
    **dict.fromkeys(("train.weight_decay", "train.encoder_weight_decay", "train.warmup_steps", "train.clip"), 0),
    **dict.fromkeys(("train.patience", "train.eval_users", "train.encode_chunk", "data.store_gb"), 0),
    **dict.fromkeys(("train.checkpoint_minutes",), 0),
}
PLACES = ("item", "user")
"""Where streams are joined; a join that says nothing joins them at the first."""
NOTHING: Mapping[str, Path] = MappingProxyType({})


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Go through a tree of settings: dotted name and value of each."""
    for entry in fields(tree):
        value = getattr(tree, entry.name)
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name, value


def check(experiment: Experiment, files: Mapping[str, Path] = NOTHING) -> None:
    """Check what types cannot say: ranges, components against their constructors, edges against the streams.

    files: the YAML file that a setting comes from, of those that come from one. Raises ConfigError.
    """
    for name, value in leaves(experiment):
        low = AT_LEAST.get(name)
        if low is not None and not (isinstance(value, int | float) and low <= value < float("inf")):
            raise ConfigError(f"{name}={value} is out of range; it is finite and at least {low}")
    if experiment.name and (Path(experiment.name).name != experiment.name or experiment.name == ".."):
        raise ConfigError(f"name={experiment.name!r} is no name of a folder in {experiment.output}; leave out the '/'")
    if experiment.resume and experiment.overwrite:
        raise ConfigError("resume and overwrite exclude each other: one goes on with the run folder, one replaces it")
    model = experiment.model
    if not 0 <= model.dropout < 1:
        raise ConfigError(f"model.dropout={model.dropout} is out of range; it is at least 0 and below 1")
    if not model.streams or len(set(model.streams)) < len(model.streams):
        raise ConfigError(f"model.streams={list(model.streams)}: name at least one stream, and each once")
    if (words := re.findall(r"[\w-]+", " ".join(model.streams))) != list(model.streams):
        wrong = next(name for name in model.streams if not re.fullmatch(r"[\w-]+", name))
        way_out = f"; write names apart: --model.streams {' '.join(words)}" if words else ""
        raise ConfigError(f"model.streams: {wrong!r} is no name of a stream{way_out}")
    if model.id_init not in (starts := ["random", "mean", *(name for name in model.streams if name != "id")]):
        raise ConfigError(f"model.id_init={model.id_init!r} is unknown; {did_you_mean(model.id_init, starts)}")
    _check_features(experiment)
    check_encoders(model)
    check_augmentations(experiment.data, model)
    _check_component(model.backbone, BACKBONES, "backbone")
    _check_component(model.fusion, FUSIONS, "fusion")
    _check_component(model.similarity, SIMILARITIES, "similarity")
    _check_component(model.loss, LOSSES, "loss")
    _check_lazy_ids(experiment)
    _check_component(model.ensemble, ENSEMBLES, "ensemble")
    if model.join != "none":
        _check_component(model.join, JOINS, "join")
    for name, rate in model.hide_rates().items():
        if name not in model.streams:
            raise ConfigError(f"model.hide names {name!r}; {did_you_mean(name, model.streams)}")
        if not 0 <= rate < 1:
            raise ConfigError(f"model.hide: {name}={rate} is no rate from 0 to below 1; write {name}=0.2")
    if model.id_min_count == 1 and not model.hide_rates().get("id"):
        raise ConfigError(
            "model.id_min_count=1 hides ids of items without training events, and nothing would train what stands in "
            "for them; write --model.hide id=0.1, too"
        )
    _check_heads(model)
    _check_distillation(experiment, files.get("distill.graph"))


def _check_lazy_ids(experiment: Experiment) -> None:
    model, train = experiment.model, experiment.train
    if train.id_updates == "dense":
        return
    if "id" not in model.streams:
        raise ConfigError(
            f"train.id_updates=lazy, but 'id' is not among model.streams={list(model.streams)}; write "
            "--train.id-updates dense"
        )
    if _name(model.loss) == "full":
        raise ConfigError("model.loss=full reads every id at every step; write --train.id-updates dense")
    if not train.lr * train.weight_decay < 1:
        raise ConfigError(
            f"train.lr={train.lr} times train.weight_decay={train.weight_decay} is not below 1, and ids would change "
            "their sign at every step; lower --train.lr or --train.weight-decay"
        )


def _check_features(experiment: Experiment) -> None:
    """Check the names that settings of features begin with: a stream that an ablation leaves out may keep its own, a
    misspelt one may not.
    """
    data = experiment.data
    chosen = data.selected_features()
    further = [name for name, of in chosen.items() if of.partition(":")[0] in MODALITIES]
    known = dict.fromkeys((*(name for name in experiment.model.streams if name != "id"), *MODALITIES))
    for setting, names, there in (
        ("data.features", chosen, (*known, *(name for name in further if name != "id"))),
        ("data.max_tokens", data.token_limits(), (*known, *further)),
    ):
        for name in names:
            if name not in there:
                raise ConfigError(f"{setting} names {name!r}; {did_you_mean(name, known)}")


def _check_component(text: str, known: Mapping[str, str], kind: str) -> None:
    try:
        parse_call(text, known=known, kind=kind).check(CONTEXT, fixed=FIXED)
    except ValueError as error:
        raise ConfigError(f"model.{kind}: {error}") from error


def _check_heads(model: ModelConfig) -> None:
    """Check what reads single streams, and that these exist."""
    chosen, again = model.backbones_of_streams(), model.heads_beside()
    for call in chosen.values():
        _check_component(call, BACKBONES, "stream_backbones")
    for _, call in again.values():
        _check_component(call, BACKBONES, "further_heads")
    if _name(model.fusion) not in FUSIONS:
        return  # one of the user's own may have streams of its own, and the model checks them
    fused, at = _fused(model), _joined_at(model)
    if at is not None and len(fused) < 2:
        raise ConfigError(f"model.join={model.join} needs two streams, and there is {', '.join(fused)}; write none")
    read = (*_kept(model), at) if at == "item" else fused
    contents = (CONTENT,) if set(read) - {"id", "item"} else ()
    for setting, names, there in (
        ("join", _kept(model), fused),
        ("stream_backbones", chosen, (*read, *contents)),
        ("further_heads", [stream for stream, _ in again.values()], read),
    ):
        for name in names:
            if name not in there:
                raise ConfigError(f"model.{setting} names {name!r}; {did_you_mean(name, there)}")
    if model.own_items:
        _check_own_items(again, fused if at is None else (at,) if at == "item" else ())


def _check_own_items(again: Mapping[str, tuple[str, str]], made: tuple[str, ...]) -> None:
    """Check that further heads, {head: (stream, backbone)}, read all that is `made` of an item."""
    if not again:
        raise ConfigError("model.own_items is for further heads, and there is none; write --model.further-heads item")
    for head, (stream, _) in again.items():
        if made != (stream,):
            raise ConfigError(
                f"model.own_items: {head!r} reads {stream!r}, and would leave what it makes of other streams unread; "
                "write --model.join \"sum(at='item')\" and let it read item, or --model.no-own-items"
            )


def _check_distillation(experiment: Experiment, file: Path | None) -> None:
    """Check losses and edges, which come from `file` where they come from one."""
    from odmt.distill import DistillationGraph, parse_edges  # brings torch, which --help can do without

    model, distill = experiment.model, experiment.distill
    try:
        DistillationGraph(temperature=distill.temperature, loss=distill.loss, detach=distill.detach)
    except ValueError as error:
        raise ConfigError(f"distill.loss: {error}") from error
    if distill.graph and _name(model.loss) == "full":
        raise ConfigError("model.loss=full leaves no logits to distil; write --distill.graph with no edges")
    heads = (*heads_of(model), "ensemble")
    for text in distill.graph:
        try:
            edges = parse_edges(text)
        except ValueError as error:
            raise ConfigError(f"distill.graph: {error}") from error
        # which streams leave another fusion is known once it is built, and the model checks it then
        missing = {name for edge in edges for name in (edge.teacher, edge.student)}.difference(heads, "*")
        if missing and _name(model.fusion) in FUSIONS:
            edge = f"'{text}'" + (f", which {file} sets," if file else "")
            join = "" if model.join == "none" else f"with model.join={model.join} "
            raise ConfigError(
                f"distill.graph: {edge} names {' and '.join(sorted(missing))}, but {join}the streams are "
                f"{', '.join(heads)}; write --distill.graph with the edges you want, or bare, which is the empty list"
            )


def heads_of(model: ModelConfig) -> tuple[str, ...]:
    """Name the streams that score: those that enter, the joined one, or both; and those read once more."""
    at = _joined_at(model)
    first = _fused(model) if at is None else (*_kept(model), at)
    return (*first, *model.heads_beside())


def _fused(model: ModelConfig) -> tuple[str, ...]:
    """Name the streams that leave the fusion: those that enter, or the id and all content as one."""
    if _name(model.fusion) != "joint":
        return model.streams
    return (*(name for name in model.streams if name == "id"), CONTENT)


def _joined_at(model: ModelConfig) -> str | None:
    if model.join == "none":
        return None
    at = _join(model).get("at", PLACES[0])
    if at not in PLACES:
        raise ConfigError(f"model.join: at={at!r} is no place; {did_you_mean(str(at), PLACES)}")
    return at


def _kept(model: ModelConfig) -> tuple[str, ...]:
    """Name the streams that stay heads beside the joined one."""
    kept = False if model.join == "none" else _join(model).get("keep", False)
    if isinstance(kept, list | tuple):
        return tuple(kept)
    if not isinstance(kept, bool) and kept != CONTENT:
        raise ConfigError(f"model.join: keep={kept!r} is True, False, {CONTENT!r} or a list, as keep=['text']")
    return tuple(name for name in _fused(model) if kept is True or (kept == CONTENT and name != "id"))


def _name(call: str) -> str:
    return call.partition("(")[0].strip()


def _join(model: ModelConfig) -> Mapping[str, Any]:
    return parse_call(model.join, known=JOINS, kind="join").arguments

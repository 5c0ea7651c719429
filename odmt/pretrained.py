"""Open the features and build the model of a configuration, and keep it: safetensors for weights, YAML for the rest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from odmt.config import Experiment, parse, to_yaml
from odmt.data.features import ItemFeatures, open_features
from odmt.data.format import Dataset
from odmt.distill import DistillationGraph
from odmt.model import ODMT
from odmt.run_folder import write_whole
from odmt.types import Features

__all__ = ["build_model", "features_of", "from_pretrained", "load_weights", "save_pretrained", "save_weights"]


def features_of(experiment: Experiment, dataset: Dataset) -> ItemFeatures:
    """Open the features that an experiment reads; settings of modalities that it leaves out do not concern it."""
    modalities = [name for name in experiment.model.streams if name != "id"]
    select, limits = experiment.data.selected_features(), experiment.data.token_limits()
    return open_features(
        dataset,
        modalities,
        select={name: key for name, key in select.items() if name in modalities},
        max_tokens={name: limit for name, limit in limits.items() if name in modalities},
    )


def build_model(
    experiment: Experiment, features: Features, *, item_counts: np.ndarray | None = None, start: bool = True
) -> ODMT:
    """Build the model that `experiment` describes over `features`, with fresh parameters; `start` as of `ODMT`."""
    settings, distill = experiment.model, experiment.distill
    graph = DistillationGraph(*distill.graph, temperature=distill.temperature, loss=distill.loss, detach=distill.detach)
    return ODMT(
        features,
        streams=settings.streams,
        dim=settings.dim,
        fusion=settings.fusion,
        join=settings.join,
        backbone=settings.backbone,
        stream_backbones=settings.backbones_of_streams(),
        further_heads=settings.heads_beside(),
        own_items=settings.own_items,
        similarity=settings.similarity,
        loss=settings.loss,
        distill=graph,
        ensemble=settings.ensemble,
        item_counts=item_counts,
        length=experiment.data.length,
        dropout=settings.dropout,
        id_init=settings.id_init,
        hide=settings.hide_rates(),
        id_min_count=settings.id_min_count,
        start=start,
    )


def save_pretrained(model: ODMT, experiment: Experiment, folder: str | Path) -> None:
    """Write `model.safetensors` and `experiment.yaml` into `folder`, each whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder / "model.safetensors")
    write_whole(folder / "experiment.yaml", to_yaml(experiment))


def from_pretrained(folder: str | Path, features: Features) -> ODMT:
    """Build the model saved in `folder` over `features`, those of the catalogue and encoders it was trained on.

    Stored features are read as far as in training (`data.max_tokens`), whatever limits `features` has, and refused
    where another encoder made them.
    """
    folder = Path(folder)
    saved = folder / "experiment.yaml"
    experiment = parse(["--config", str(saved)], configs=folder)
    if isinstance(features, ItemFeatures):
        limits = {name: n for name, n in experiment.data.token_limits().items() if name in features.widths}
        features = features.limited(limits)
    # how often items occurred is saved with the weights, as far as it is still needed
    model = build_model(experiment, features, item_counts=np.ones(features.num_items + 1, dtype=np.int64), start=False)
    load_weights(model, folder / "model.safetensors")
    return model.eval()


def save_weights(model: ODMT, path: Path) -> None:
    """Write the parameters to `path`, which holds the old or the new ones at any moment, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        try:
            save_file(tensors, partial, metadata={"features": json.dumps(_keys(model.features))})
        except SafetensorError as error:  # raised on a full disk
            raise OSError(f"{partial} cannot be written: {error}") from error
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_weights(model: ODMT, path: Path) -> None:
    """Read parameters that `save_weights` wrote; refuse those of another model, naming what differs."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; name the folder that save_pretrained wrote, such as runs/NAME/model")
    try:
        saved = load_file(path)
        with safe_open(path, framework="pt") as file:
            trained_on = json.loads((file.metadata() or {}).get("features", "{}"))
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); train again or take another copy") from error
    for name, key in _keys(model.features).items():
        if trained_on.get(name, key) != key:
            raise ValueError(
                f"{path} was trained on {name} features {trained_on[name]}, and these are {key}; encode as then"
            )
    own = model.state_dict()
    for name in sorted(own.keys() | saved.keys()):
        theirs, ours = _shape(saved.get(name)), _shape(own.get(name))
        if theirs != ours:
            raise ValueError(
                f"{path}: parameter {name} is {theirs} in the file and {ours} in the model; load it with the "
                "configuration, the features and the catalogue it was trained with"
            )
    model.load_state_dict(saved)


def _keys(features: Features) -> dict[str, str]:
    """Name the stored features that `features` reads; arrays have no name."""
    keys = features.keys if isinstance(features, ItemFeatures) else {}
    return {name: key for name, key in keys.items() if key}


def _shape(tensor: torch.Tensor | None) -> str:
    return "absent" if tensor is None else str(list(tensor.shape))

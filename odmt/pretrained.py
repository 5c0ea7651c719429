"""Open the features and build the model of a configuration, and keep it: safetensors for weights, YAML for the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from odmt.config import Experiment, parse, to_yaml
from odmt.data.features import ItemFeatures
from odmt.data.format import Dataset
from odmt.distill import DistillationGraph
from odmt.encoders.contents import LiveFeatures
from odmt.encoders.policies import TrainedEncoder
from odmt.inputs import encoders_of, features_of
from odmt.model import ODMT
from odmt.run_folder import write_whole
from odmt.types import Contents, Features

__all__ = ["build_model", "from_pretrained", "load_weights", "save_pretrained", "save_weights"]


def build_model(
    experiment: Experiment,
    features: Contents,
    *,
    item_counts: np.ndarray | None = None,
    encoders: Mapping[str, nn.Module] | None = None,
    start: bool = True,
) -> ODMT:
    """Build the model that `experiment` describes over `features`, with fresh parameters.

    encoders: of `odmt.inputs.encoders_of`, where it trains any. start: as of `ODMT`.
    """
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
        encoders=encoders,
        chunk=experiment.train.encode_chunk,
        start=start,
    )


def save_pretrained(model: ODMT, experiment: Experiment, folder: str | Path) -> None:
    """Write `model.safetensors` and `experiment.yaml` into `folder`, each whole or not at all, and what describes the
    encoders.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, encoder in model.encoders.items():
        assert isinstance(encoder, TrainedEncoder)
        encoder.network.save(folder / "encoders" / name)
    save_weights(model, folder / "model.safetensors")
    write_whole(folder / "experiment.yaml", to_yaml(experiment))


def from_pretrained(folder: str | Path, features: Features | Dataset) -> ODMT:
    """Build the model saved in `folder` over `features`, those of the catalogue and encoders it was trained on, or over
    a dataset, of which it reads what it was trained to read.

    Stored features are read as far as in training (`data.max_tokens`), whatever limits `features` has, and refused
    where another encoder made them. A model with encoders of its own takes the dataset.
    """
    folder = Path(folder)
    saved = folder / "experiment.yaml"
    # augmentations are of training alone, and may be code that is not here
    experiment = parse(["--config", str(saved), "--data.augment"], configs=folder)
    encoders = encoders_of(experiment, saved=folder / "encoders")
    if encoders and not isinstance(features, Dataset):
        raise ValueError(
            f"the model in {folder} encodes {' and '.join(encoders)} by itself; pass the dataset, as "
            "odmt.data.format.open_dataset gives it, in place of features"
        )
    contents: Contents
    if isinstance(features, Dataset):
        contents = features_of(experiment, features, encoders)
    elif isinstance(features, ItemFeatures):
        limits = {name: n for name, n in experiment.data.token_limits().items() if name in features.widths}
        contents = features.limited(limits)
    else:
        contents = features
    # how often items occurred is saved with the weights, as far as it is still needed
    counts = np.ones(contents.num_items + 1, dtype=np.int64)
    model = build_model(experiment, contents, item_counts=counts, encoders=encoders, start=False)
    load_weights(model, folder / "model.safetensors")
    return model.eval()


def save_weights(model: ODMT, path: Path) -> None:
    """Write the parameters to `path`, which holds the old or the new ones at any moment, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        try:
            save_file(tensors, partial, metadata=_made_of(model))
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
            metadata = file.metadata() or {}
            told = json.loads(metadata["made_of"]) if "made_of" in metadata else {}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); train again or take another copy") from error
    trained_on, encoded_by = told.get("features", {}), told.get("encoders", {})
    for name, key in _keys(model.features).items():
        if trained_on.get(name, key) != key:
            raise ValueError(
                f"{path} was trained on {name} features {trained_on[name]}, and these are {key}; encode as then"
            )
    for name, method in _methods(model).items():
        if encoded_by.get(name, method) != method:
            raise ValueError(
                f"{path}: its encoder of {name} made tokens as {encoded_by[name]!r}, and this one makes them as "
                f"{method!r}; load it with the version of odmt that experiment.yaml beside it names, or train again"
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


def _made_of(model: ODMT) -> dict[str, str]:
    """Say what weights do not show: which features were read, and how encoders make tokens."""
    told = {"features": _keys(model.features), "encoders": _methods(model)}
    return {"made_of": json.dumps(told)}  # one entry: of several safetensors writes any first, and files would differ


def _methods(model: ODMT) -> dict[str, str]:
    made = {}
    for name, encoder in model.encoders.items():
        assert isinstance(encoder, TrainedEncoder)
        made[name] = encoder.network.method()
    return made


def _keys(features: Contents) -> dict[str, str]:
    """Name the stored features that `features` reads; arrays have no name."""
    keys = features.keys if isinstance(features, ItemFeatures | LiveFeatures) else {}
    return {name: key for name, key in keys.items() if key}


def _shape(tensor: torch.Tensor | None) -> str:
    return "absent" if tensor is None else str(list(tensor.shape))

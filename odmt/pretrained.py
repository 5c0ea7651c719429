"""Open the features and build the model of a configuration, and keep it: safetensors for weights, YAML for the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from odmt.config import Experiment, parse, to_yaml
from odmt.data.feature_folders import feature_key, feature_method, is_fitted, made_alike
from odmt.data.features import ItemFeatures
from odmt.data.format import Dataset, open_dataset
from odmt.distill import DistillationGraph
from odmt.encoders.contents import LiveFeatures
from odmt.encoders.policies import TrainedEncoder
from odmt.inputs import encoders_of, features_of
from odmt.model import ODMT
from odmt.newcomers import TrainedItems, carried_over, expect_ids
from odmt.run_folder import write_whole
from odmt.types import Contents, Features

__all__ = ["build_model", "from_pretrained", "load_weights", "model_folder", "save_pretrained", "save_weights"]


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


def save_pretrained(
    model: ODMT, experiment: Experiment, folder: str | Path, *, items: TrainedItems | None = None
) -> None:
    """Write `model.safetensors` and `experiment.yaml` into `folder`, each whole or not at all, and what describes the
    encoders.

    items: that it was trained on, for `items.parquet`; without them, it can be read over the same catalogue alone, with
        the same features.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, encoder in model.encoders.items():
        assert isinstance(encoder, TrainedEncoder)
        encoder.network.save(folder / "encoders" / name)
    (folder / "items.parquet").unlink(missing_ok=True)
    if items is not None:
        items.write(folder / "items.parquet")
    save_weights(model, folder / "model.safetensors", items=items)
    write_whole(folder / "experiment.yaml", to_yaml(experiment))


def from_pretrained(
    folder: str | Path, features: Features | Dataset | str | Path, *, device: str | torch.device = "cpu"
) -> ODMT:
    """Build the model saved in `folder`, a run's or one that `save_pretrained` wrote, over `features`, those of the
    catalogue and encoders it was trained on, or over a dataset (or its folder), of which it reads what it was trained
    to read.

    The dataset may be another one of the same vendor, with items that came or went since: they are found again by the
    vendor's ids, and new ones are read by their content (`odmt.newcomers`), from features that were made as those of
    training, which are found among those that the dataset has.

    Stored features are read as far as in training (`data.max_tokens`), whatever limits `features` has, and refused
    where another encoder made them. A model with encoders of its own takes the dataset.
    """
    folder = model_folder(folder)
    features = open_dataset(features) if isinstance(features, str | Path) else features
    saved = folder / "experiment.yaml"
    # augmentations are of training alone, and may be code that is not here
    experiment = parse(["--config", str(saved), "--data.augment"], configs=folder)
    then, told = TrainedItems.read(folder / "items.parquet"), _told(folder / "model.safetensors")
    if told.get("items") != (None if then is None else then.digest):
        raise ValueError(
            f"{folder / 'items.parquet'}{' is missing, or' if then is None else ''} does not list the items that "
            "model.safetensors beside it was trained on; take another copy of both, or train again"
        )
    if isinstance(features, Dataset) and then is not None:
        experiment = _reading_alike(experiment, features, told.get("made_as", {}))
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
    model = build_model(experiment, contents, item_counts=counts, encoders=encoders, start=False).to(device)
    if then is None or not isinstance(features, Dataset):
        load_weights(model, folder / "model.safetensors")
        return model.eval()
    rows = then.rows(features.ids())
    load_weights(model, folder / "model.safetensors", rows=rows)
    if not np.array_equal(rows, np.arange(len(then.ids) + 1)):  # else it is as it was tested
        expect_ids(model, then, rows)
    return model.eval()


def model_folder(path: str | Path) -> Path:
    """Give the folder of the model that `path` means: itself, or `model` in it, where it is a run's.

    Raises ValueError where there is neither.
    """
    for folder in (Path(path) / "model", Path(path)):
        if (folder / "model.safetensors").is_file():
            return folder
    unfinished = (Path(path) / "checkpoints").is_dir()
    raise ValueError(
        f"{path} holds no model; "
        + (
            "the run is not finished: go on with --resume, or see python -m odmt.consolidate --help"
            if unfinished
            else "name a run that is finished, such as runs/NAME, or a folder that save_pretrained wrote"
        )
    )


def save_weights(model: ODMT, path: Path, *, items: TrainedItems | None = None) -> None:
    """Write the parameters to `path`, which holds the old or the new ones at any moment, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        try:
            save_file(tensors, partial, metadata=_made_of(model, items))
        except SafetensorError as error:  # raised on a full disk
            raise OSError(f"{partial} cannot be written: {error}") from error
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_weights(model: ODMT, path: Path, *, rows: np.ndarray | None = None) -> None:
    """Read parameters that `save_weights` wrote; refuse those of another model, naming what differs.

    rows: [num_items + 1] which item each was in training (`odmt.newcomers.carried_over`); without it, the catalogue has
        to be the same, and so have features.
    """
    told = _told(path)
    try:
        saved = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); train again or take another copy") from error
    trained_on, encoded_by = told.get("features", {}), told.get("encoders", {})
    made_as = told.get("made_as", {})
    for name, recipe in _recipes(model.features).items():
        key = feature_key(recipe)
        alike = rows is not None and made_as.get(name, {}).get("method") == feature_method(recipe)
        if trained_on.get(name, key) != key and not alike:
            raise ValueError(
                f"{path} was trained on {name} features {trained_on[name]}, and these are {key}, of another catalogue "
                "or made otherwise; pass the dataset in place of its features, encoded as then"
            )
    for name, method in _methods(model).items():
        if encoded_by.get(name, method) != method:
            raise ValueError(
                f"{path}: its encoder of {name} made tokens as {encoded_by[name]!r}, and this one makes them as "
                f"{method!r}; load it with the version of odmt that experiment.yaml beside it names, or train again"
            )
    if rows is not None:
        saved = carried_over(saved, model, rows)
    own = model.state_dict()
    for name in sorted(own.keys() | saved.keys()):
        theirs, ours = _shape(saved.get(name)), _shape(own.get(name))
        if theirs != ours:
            raise ValueError(
                f"{path}: parameter {name} is {theirs} in the file and {ours} in the model; load it with the "
                "configuration, the features and the catalogue it was trained with"
            )
    model.load_state_dict(saved)


def _told(path: Path) -> dict[str, Any]:
    """Read what `_made_of` wrote; nothing of files without it."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; name the folder that save_pretrained wrote, such as runs/NAME/model")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); train again or take another copy") from error
    return json.loads(metadata["made_of"]) if "made_of" in metadata else {}


def _made_of(model: ODMT, items: TrainedItems | None) -> dict[str, str]:
    """Say what weights do not show: of which items they are, which features were read, and how encoders make tokens."""
    recipes = _recipes(model.features)
    told = {
        "features": {name: feature_key(recipe) for name, recipe in recipes.items()},
        "made_as": {
            name: {part: recipe[part] for part in ("modality", "encoder", "settings")}
            | {"method": feature_method(recipe), "fitted": is_fitted(recipe)}
            for name, recipe in recipes.items()
        },
        "encoders": _methods(model),
    }
    told |= {} if items is None else {"items": items.digest}
    return {"made_of": json.dumps(told)}  # one entry: of several safetensors writes any first, and files would differ


def _reading_alike(experiment: Experiment, dataset: Dataset, made_as: Mapping[str, Mapping[str, Any]]) -> Experiment:
    """Choose, among the features that a dataset has, those that were made as those of training."""
    chosen = experiment.data.selected_features()
    for name, made in made_as.items():
        modality, settings = made["modality"], ", ".join(f"{key}: {value}" for key, value in made["settings"].items())
        key = made_alike(dataset, modality, made["method"])
        if key is None:
            raise ValueError(
                f"{dataset.path} has no {modality} features that were made as in training, by {made['encoder']} "
                f"({settings})"
                + (
                    ", which was fitted to the catalogue of training and says nothing of another: train again, with an "
                    "encoder that is not (a model of a hub, a class of your own)"
                    if made["fitted"]
                    else f"; make them with python -m odmt.encoders {dataset.path} --modality {modality} --encoder ..."
                )
            )
        chosen[name] = key if modality == name else f"{modality}:{key}"
    features = tuple(f"{name}={choice}" for name, choice in chosen.items())
    return replace(experiment, data=replace(experiment.data, features=features))


def _methods(model: ODMT) -> dict[str, str]:
    made = {}
    for name, encoder in model.encoders.items():
        assert isinstance(encoder, TrainedEncoder)
        made[name] = encoder.network.method()
    return made


def _recipes(features: Contents) -> Mapping[str, Mapping[str, Any]]:
    """Say what made the stored features among `features`; arrays have no recipe."""
    return features.recipes if isinstance(features, ItemFeatures | LiveFeatures) else {}


def _shape(tensor: torch.Tensor | None) -> str:
    return "absent" if tensor is None else str(list(tensor.shape))

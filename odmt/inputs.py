"""What an experiment reads of its items: stored features, raw content, and the encoders that are trained."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from odmt.components import AUGMENTATIONS
from odmt.config import ConfigError, Experiment
from odmt.data.features import FeatureError, ItemFeatures, MissingFeaturesError, open_features
from odmt.data.format import Dataset
from odmt.encoders.contents import LiveContent, LiveFeatures, contents_of
from odmt.encoders.network import FilePreparation, Network
from odmt.encoders.pixel_store import PixelStore
from odmt.encoders.policies import TrainedEncoder
from odmt.model import ODMT
from odmt.spec import parse_call

__all__ = ["encoders_of", "features_of", "stored_features", "unreadable_files"]


def stored_features(experiment: Experiment, dataset: Dataset) -> ItemFeatures:
    """Open the stored features that an experiment reads; settings of modalities that it leaves out are left alone."""
    chosen = experiment.model.encoders_of_streams()
    frozen = {name: encoder for name, (encoder, policy) in chosen.items() if policy == "frozen"}
    stored = [name for name in experiment.model.streams if name != "id" and (name not in chosen or name in frozen)]
    select, limits = frozen | experiment.data.selected_features(), experiment.data.token_limits()
    try:
        return open_features(
            dataset,
            stored,
            select={name: key for name, key in select.items() if name in stored},
            max_tokens={name: limit for name, limit in limits.items() if name in stored},
        )
    except MissingFeaturesError as error:
        trainable = " ".join(f"{name}=ENCODER" for name in error.encodable if name not in chosen)
        if not trainable:
            raise
        raise FeatureError(
            f"{error}; or train through an encoder, with --model.encoders {trainable}, as the overlays sample-live and "
            "microlens-live do"
        ) from error


def features_of(
    experiment: Experiment,
    dataset: Dataset,
    encoders: Mapping[str, TrainedEncoder],
    *,
    counts: np.ndarray | None = None,
) -> ItemFeatures | LiveFeatures:
    """Open what an experiment reads of its items: raw content of the modalities that have `encoders`, of `encoders_of`,
    and stored features of the others.

    counts: [num_items + 1] how often items occur in training; those that occur most are kept decoded, where any are;
        without it, for a model that is loaded, none are.
    """
    stored = stored_features(experiment, dataset)
    if not encoders:
        return stored
    live, augmentations = {}, experiment.data.augmentations()
    for name, encoder in encoders.items():
        if name == "text":
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # threads that a forked worker would not have
        else:
            dataset.check_media(name)
        store = None
        if experiment.data.store_gb and name != "text" and counts is not None:
            store = _store(experiment, dataset, name, encoder, counts)
        preparation = encoder.network.preparation
        if name in augmentations:
            if not isinstance(preparation, FilePreparation):
                raise ConfigError(
                    f"data.augment: {encoder.name} prepares {name} by itself, as {type(preparation).__name__}; derive "
                    "that from odmt.encoders.network.FilePreparation, or leave the augmentation out"
                )
            augment = parse_call(augmentations[name], known=AUGMENTATIONS, kind="augmentation").build()
            preparation = preparation.augmented(augment)
        live[name] = LiveContent(contents_of(dataset, name), preparation, encoder.width, store)
    return LiveFeatures(stored, live, order=[name for name in experiment.model.streams if name != "id"])


def _store(
    experiment: Experiment, dataset: Dataset, name: str, encoder: TrainedEncoder, counts: np.ndarray
) -> PixelStore:
    identity = {"content": dataset.content_fingerprint(name), "reading": encoder.network.reading()}
    (example,) = encoder.network.example().values()
    return PixelStore(
        dataset.path / "decoded" / name,
        identity,
        example=example[0].numpy(),
        capacity=int(experiment.data.store_gb * 1e9),
        # every item is read at least once, when the catalogue is encoded
        counts=counts + 1,
    )


def encoders_of(experiment: Experiment, saved: Path | None = None) -> dict[str, TrainedEncoder]:
    """Load the encoders that an experiment trains, by stream.

    saved: a folder in which `odmt.pretrained.save_pretrained` has kept what they are; their weights are then drawn, and
    to be loaded with those of the model.
    """
    limits = experiment.data.token_limits()
    made = {}
    for name, (encoder, policy) in experiment.model.encoders_of_streams().items():
        if policy == "frozen" or name not in experiment.model.streams:
            continue
        network = Network.load(name, encoder, saved=None if saved is None else saved / name)
        how = {"bf16": experiment.train.bf16, "checkpointing": experiment.train.encoder_checkpointing}
        made[name] = TrainedEncoder(network, policy, limit=limits.get(name), **how)
    return made


def unreadable_files(model: ODMT) -> dict[str, dict[str, str]]:
    """Name the files that could not be read when the catalogue was encoded last, {modality: {file: reason}}."""
    features = model.features
    if not isinstance(features, LiveFeatures):
        return {}
    return {
        name: {str(features.live[name].contents[item - 1]): reason for item, reason in reasons.items()}
        for name, reasons in model.unreadable.items()
        if reasons
    }

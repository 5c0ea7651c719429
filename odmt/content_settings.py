"""Whether settings of what is trained from raw content can be meant: encoders, how far they are trained, augmentations.

That weights are to be had shows when they are loaded.
"""

from __future__ import annotations

from odmt.components import AUGMENTATIONS
from odmt.data.manifest import MODALITIES
from odmt.flags import ConfigError
from odmt.settings import DataConfig, ModelConfig
from odmt.spec import SpecError, did_you_mean, parse_call

__all__ = ["check_augmentations", "check_encoders"]


def check_encoders(model: ModelConfig) -> None:
    """Check encoders against their constructors, and how far they are trained; raises ConfigError."""
    from odmt.encoders import EncoderError, parse_encoder

    found = model.encoders_of_streams()
    if model.encoder_policy != "full" and all(" @ " in text for text in model.encoders):
        try:
            _check_policy(model.encoder_policy)
        except (EncoderError, SpecError) as error:
            raise ConfigError(f"model.encoder_policy={model.encoder_policy}: {error}") from error
        raise ConfigError(
            f"model.encoder_policy={model.encoder_policy} is for encoders of model.encoders without a policy of their "
            "own, and there are none"
        )
    for name, (encoder, policy) in found.items():
        if name not in MODALITIES:
            raise ConfigError(
                f"model.encoders names {name!r}, and only modalities have content; {did_you_mean(name, MODALITIES)}"
            )
        try:
            parse_encoder(name, encoder)
            _check_policy(policy)
        except (EncoderError, SpecError) as error:
            raise ConfigError(f"model.encoders: {name}={encoder} @ {policy}: {error}") from error


def _check_policy(policy: str) -> None:
    if policy == "frozen":
        return
    from odmt.encoders.policies import POLICIES, parse_policy  # brings torch, which --help can do without

    name = policy.partition("(")[0].strip()
    known = ("frozen", *POLICIES)
    if ":" not in name and name.replace("_", "-") not in known:
        raise SpecError(f"unknown policy {name!r}; {did_you_mean(name, known)}")
    parse_policy(policy)


def check_augmentations(data: DataConfig, model: ModelConfig) -> None:
    """Check what is done to pictures and clips in training, and that there is what reads them; raises ConfigError."""
    chosen = model.encoders_of_streams()
    for name, text in data.augmentations().items():
        if name == "text" or name not in MODALITIES:
            raise ConfigError(f"data.augment names {name!r}, and only pictures and clips are; write image or video")
        if name in model.streams and (name not in chosen or chosen[name][1] == "frozen"):
            raise ConfigError(
                f"data.augment: {name}={text}, but stored features of {name} are read; name what reads the files with "
                f'--model.encoders "{name}=ENCODER"'
            )
        try:
            made = parse_call(text, known=AUGMENTATIONS, kind="augmentation").build()
        except (ValueError, TypeError) as error:
            raise ConfigError(f"data.augment: {name}={text}: {error}") from error
        if not callable(made):
            raise ConfigError(f"data.augment: {name}={text} is no callable of frames and random numbers")

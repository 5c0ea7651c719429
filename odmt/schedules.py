"""What changes while a model trains: the learning rate, and how much distillation counts."""

from __future__ import annotations

import math

from odmt.distill import sigmoid_ramp
from odmt.settings import DistillConfig, TrainConfig

__all__ = ["distillation_weight", "learning_rate"]


def learning_rate(step: int, settings: TrainConfig, steps: int) -> float:
    """Scale the learning rate at `step` of `steps`: linear warm-up, then constant, cosine or linear down to 0."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = min(1.0, (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps))
    return {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[settings.schedule]


def distillation_weight(settings: DistillConfig, epochs: int | float) -> float:
    """Give the weight of the distillation loss after so many epochs, whole or not, of its ramp."""
    return settings.weight * sigmoid_ramp(epochs, settings.ramp_epochs)

"""Optimiser and learning rate."""

from __future__ import annotations

import math

from torch import nn, optim

from bcls_core.config import TrainSettings


def build_optimiser(model: nn.Module, objective: nn.Module, settings: TrainSettings) -> optim.AdamW:
    """AdamW over the trained parameters of a model and, in a group of their own, those of its losses.

    Matrices of the model decay; vectors and scalars (biases, norms) do not, and nor do a loss's temperatures, which
    decay would pull to 1.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        {"params": list(objective.parameters()), "weight_decay": 0.0},
    ]
    return optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate)


def learning_rate(step: int, total_steps: int, settings: TrainSettings) -> float:
    """Linear warm-up to `learning_rate`, then a cosine to `final_learning_rate` at the last step.

    Args:
        step: 0-based step about to be taken.
        total_steps: of the whole training.
    """
    warm = round(settings.warmup * total_steps)
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    progress = (step - warm) / max(1, total_steps - 1 - warm)
    span = settings.learning_rate - settings.final_learning_rate
    return settings.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

"""What changes with the step: the learning rate, and the γ that selects segments."""

from __future__ import annotations

import math

from aicl_fast.config import Config, TrainConfig


def learning_rate(step: int, settings: TrainConfig) -> float:
    """The learning rate of a step, counted from 1: constant, or a cosine from ``lr`` to 0."""
    if settings.lr_schedule == "constant":
        return settings.lr
    return settings.lr * (1 + math.cos(math.pi * (step - 1) / settings.steps)) / 2


def selection_gamma(step: int, config: Config) -> float | None:
    """γ of the scores that select the top-k segments in a step, counted from 1.

    1 in the warm-up: softmax(CAS) alone. Then a linear fall over ``ramp`` steps to ``selection_gamma``, and
    that to the end. None means by A_score itself, as in the authors' code.
    """
    settings = config.train
    final = settings.selection_gamma
    if step <= settings.warmup_steps:
        return 1.0
    done = step - settings.warmup_steps
    if done <= settings.ramp:
        end = config.model.fusion_gamma if final is None else final
        return 1.0 + (end - 1.0) * done / (settings.ramp + 1)
    return final

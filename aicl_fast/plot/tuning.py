"""The picture of a tuning: which settings mattered, and how the mAP depends on each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from aicl_fast.plot.canvas import FAINT, PALETTE, load_matplotlib, picture_path, save, style
from aicl_fast.tune.search import Tuned

_SHOWN = 6
"""Settings that get axes of their own."""


def plot_tuning(tuned: Tuned, path: str | os.PathLike[str]) -> Path:
    """Draw the importance of each setting, and the trials' mAP against the most important ones.

    Raises:
        DataError: another suffix, or a place that cannot be written to.
        UnavailableError: matplotlib is not installed.
    """
    target = picture_path(path)
    matplotlib = load_matplotlib()
    shown = [choice for choice in tuned.choices if choice.importance > 0][:_SHOWN]
    figure = matplotlib.figure.Figure(figsize=(10, 7.5), layout="constrained")
    axes = figure.subplots(3, 3)
    for unused in axes.flat[1 + len(shown) : -1]:
        unused.remove()
    for axis in (axes.flat[0], *axes.flat[1 : 1 + len(shown)], axes.flat[-1]):
        style(axis)
    bars = axes.flat[0]
    bars.barh([choice.name for choice in reversed(shown)], [c.importance for c in reversed(shown)])
    bars.set_title("importance")
    for axis, choice in zip(axes.flat[1:], shown, strict=False):
        _trials(axis, tuned, choice.name, choice.after)
    folds = axes.flat[-1]
    numbers = np.arange(1, len(tuned.before) + 1)
    folds.plot(numbers, 100 * np.array(tuned.before), "o", color=FAINT, label="as it was")
    folds.plot(
        numbers, 100 * np.array(tuned.held_out), "o", color=PALETTE[0], label="chosen without the fold"
    )
    folds.set_xticks(numbers)
    folds.set_title("average mAP of each fold, %")
    folds.legend(frameon=False)
    save(figure, target)
    return target


def _trials(axis: Any, tuned: Tuned, name: str, chosen: Any) -> None:
    points = [(values[name], 100 * value) for values, value in tuned.trials if name in values]
    points = [(place, value) for place, value in points if not (isinstance(place, str) and place == "auto")]
    axis.plot(*zip(*points, strict=True), ".", color=PALETTE[0])
    if chosen != "auto":
        axis.axvline(chosen, color=PALETTE[1])
    axis.set_title(name)
    axis.set_ylabel("average mAP, %")

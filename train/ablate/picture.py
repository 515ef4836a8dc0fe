"""The picture of an experiment: each arm's mean, every seed's dot, and what happened over training."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from aicl_fast.plot.canvas import FAINT, GRID, PALETTE, TEXT, load_matplotlib, picture_path, save, style
from aicl_fast.train.ablate.run import Ablation, mean_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {
    "average_mAP": "average mAP (%)",
    "accuracy_A_bin": "A_bin accuracy (%)",
    "accuracy_A_ca_bin": "A_ca_bin accuracy (%)",
    "consistent": "consistent segments (%)",
}
"""What a measure is called, in percent."""
_CURVES = {
    "average_mAP": ("average mAP (%)", 100.0),
    "consistent": ("consistent segments a video", 1.0),
}
PAPER_COLOUR = "#D55E00"
_CHARACTER = 0.07
"""Inches that a character of the line under the title takes."""


def plot_ablation(ablation: Ablation, path: str | os.PathLike[str]) -> None:
    """Draw an experiment to a PNG, SVG or PDF file, whole or not at all.

    Bars are means over the seeds and dots are seeds; a curve is the mean, its band from the lowest seed to
    the highest, in the colour of its bar; hollow diamonds are the paper's numbers, where they belong beside.

    Raises:
        DataError: another suffix, or a folder that cannot be written to.
        UnavailableError: matplotlib is not installed.
    """
    target = picture_path(path)
    matplotlib = load_matplotlib()
    experiment = ablation.experiment
    bars = len(experiment.measures)
    names = 0.4 + 0.075 * max(len(arm.name) for arm in ablation.arms)
    width = names + 2.5 * bars + (4.2 if experiment.curve else 0.2)
    seeds = ablation.seeds
    note = f"{ablation.data}; {ablation.config.train.steps} steps; {len(seeds)} seed{'s' * (len(seeds) > 1)}"
    if ablation.with_paper:
        note += "; diamonds: the paper's numbers"
    lines = textwrap.wrap(note, int(width / _CHARACTER))
    head = 0.61 + 0.17 * len(lines)
    height = max(2.9, 0.72 + head + 0.42 * len(ablation.arms))
    figure = matplotlib.figure.Figure(figsize=(width, height), facecolor="white")
    figure.text(0.012, 0.985, ablation.title, size=12, weight="bold", color=TEXT, va="top")
    figure.text(0.012, 1 - 0.36 / height, "\n".join(lines), size=9, color=FAINT, va="top")
    low, high = 0.58 / height, 1 - head / height
    for index, measure in enumerate(experiment.measures):
        place = (names + 2.5 * index) / width, low, 2.25 / width, high - low
        _draw_bars(figure.add_axes(place), ablation, measure, with_names=index == 0)
    if experiment.curve:
        place = (names + 2.5 * bars + 0.6) / width, low, 3.45 / width, high - low
        _draw_curves(figure.add_axes(place), ablation)
    save(figure, target)


def _draw_bars(chart: Axes, ablation: Ablation, measure: str, *, with_names: bool) -> None:
    style(chart)
    places = np.arange(len(ablation.arms))[::-1]
    top = 0.0
    for number, (place, arm) in enumerate(zip(places, ablation.arms, strict=True)):
        values = [100 * run.measured[measure] for run in ablation.of(arm)]
        mean = float(np.mean(values))
        spread = f" ± {100 * ablation.spread(arm, measure):.1f}" if len(values) > 1 else ""
        chart.barh(place, mean, color=PALETTE[number % len(PALETTE)], alpha=0.75, height=0.62)
        chart.plot(values, [place] * len(values), "o", color=TEXT, markersize=3.5)
        right = max(values)
        if ablation.with_paper and measure in arm.paper:
            paper = 100 * arm.paper[measure]
            chart.plot([paper], [place], "D", color=PAPER_COLOUR, markersize=6, fillstyle="none")
            right = max(right, paper)
        chart.annotate(
            f"{mean:.1f}{spread}", (right, place), (6, 0), textcoords="offset points", va="center", size=8.5,
            color=TEXT,
        )  # fmt: skip
        top = max(top, right)
    chart.set_yticks(places, [arm.name for arm in ablation.arms] if with_names else [""] * len(places))
    chart.set_xlim(0, max(1.0, 1.42 * top))
    # The room for the figures is no part of the scale.
    chart.set_xticks([tick for tick in chart.get_xticks() if tick <= min(100, 1.2 * top)])
    chart.set_xlabel(NAMES[measure], size=9, color=TEXT)
    chart.grid(True, axis="x", color=GRID, linewidth=0.7)


def _draw_curves(chart: Axes, ablation: Ablation) -> None:
    style(chart)
    label, scale = _CURVES[ablation.experiment.curve]
    for number, arm in enumerate(ablation.arms):
        steps, mean, low, high = (np.asarray(part) for part in mean_curve(ablation.of(arm)))
        if not len(steps):
            continue
        colour = PALETTE[number % len(PALETTE)]
        chart.fill_between(steps, scale * low, scale * high, color=colour, alpha=0.1, linewidth=0)
        chart.plot(steps, scale * mean, color=colour, linewidth=1.6)
    chart.set_xlabel("step", size=9, color=TEXT)
    chart.set_ylabel(label, size=9, color=TEXT)
    chart.grid(True, color=GRID, linewidth=0.7)

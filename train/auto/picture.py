"""The picture of a contest: every training's result on the recordings that were held out."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from aicl_fast.plot.canvas import FAINT, GRID, PALETTE, TEXT, load_matplotlib, picture_path, save, style
from aicl_fast.train.auto.contest import Contest

_COLOURS = {
    "half": FAINT,
    "whole": PALETTE[0],
    "double": PALETTE[3],
    "seeds": PALETTE[5],
    "ensemble": PALETTE[2],
}
_WORDS = {
    "half": "half the steps",
    "whole": "all steps",
    "double": "double the steps",
    "seeds": "another seed",
    "ensemble": "ensemble",
}


def plot_contest(found: Contest, path: str | os.PathLike[str]) -> Path:
    """Draw each training as a dot with its standard error, by round.

    Raises:
        DataError: another suffix, or a place that cannot be written to.
        UnavailableError: matplotlib is not installed.
    """
    target = picture_path(path)
    matplotlib = load_matplotlib()
    names = list(dict.fromkeys(entry.candidate.name for entry in found.ranked()))
    figure = matplotlib.figure.Figure(figsize=(8, 1.6 + 0.4 * len(names)), layout="constrained")
    chart = figure.subplots()
    style(chart)
    shown = set()
    for entry in found.entries:
        value, error = 100 * entry.judgement.value, 100 * entry.judgement.error()
        rounds = list(_COLOURS)
        place = -names.index(entry.candidate.name) + 0.12 * (1.5 - rounds.index(entry.round))
        label = None if entry.round in shown else _WORDS[entry.round]
        shown.add(entry.round)
        chart.errorbar(
            value, place, xerr=error, fmt="o", color=_COLOURS[entry.round], label=label, ms=5, lw=1
        )
    chart.set_yticks(-np.arange(len(names)), names)
    chart.grid(axis="x", color=GRID)
    unit = "average mAP" if found.held.timed else "agreement with the other trainings"
    chart.set_xlabel(
        f"{unit} on {len(found.held.videos)} recordings held out (%), ± standard error", color=TEXT
    )
    figure.legend(loc="outside upper right", frameon=False, ncols=5, fontsize=8)
    save(figure, target)
    return target

"""DETAD's two figures in one picture: false positives (profile and cost) and missed instances."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from aicl_fast.evaluate.detad import ERRORS, Diagnosis
from aicl_fast.plot.canvas import FAINT, GRID, TEXT, load_matplotlib, picture_path, save, style
from aicl_fast.text import short_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#009E73", "#56B4E9", "#CC79A7", "#B8860B", "#882255", "#9AA5B1")
"""One a kind of detection, in the order of ``ERRORS``; the true positives green."""

_TITLES = {
    "length": "length (s)",
    "coverage": "share of the video",
    "instances": "instances in the video",
}


def plot_diagnosis(diagnosis: Diagnosis, path: str | os.PathLike[str], *, title: str | None = None) -> None:
    """Draw a diagnosis to a PNG, SVG or PDF file, whole or not at all.

    Left: what each class's best G detections are, the next best G, and so on. Middle: average mAP gained
    without each kind of false positive. Right: share of missed instances by group.

    Raises:
        DataError: another suffix, or a folder that cannot be written to.
        UnavailableError: matplotlib is not installed.
    """
    target = picture_path(path)
    matplotlib = load_matplotlib()
    figure = matplotlib.figure.Figure(figsize=(15.0, 4.6), facecolor="white")
    if title is not None:
        figure.text(0.012, 0.975, short_text(title, 100), size=13, weight="bold", color=TEXT, va="top")
    profile, gains, missed = (
        figure.add_axes((left, 0.20, width, 0.62))
        for left, width in ((0.045, 0.28), (0.425, 0.14), (0.615, 0.35))
    )

    _draw_profile(profile, diagnosis)
    _draw_gains(gains, diagnosis)
    _draw_missed(missed, diagnosis)
    for chart in (profile, gains, missed):
        style(chart)
    missed.tick_params(axis="x", labelsize=7.5)
    for chart in (profile, missed):
        chart.grid(True, axis="y", color=GRID, linewidth=0.7)
    gains.grid(True, axis="x", color=GRID, linewidth=0.7)
    handles, names_ = profile.get_legend_handles_labels()
    figure.legend(
        handles, names_, loc="lower left", bbox_to_anchor=(0.035, 0.005), ncol=6, frameon=False, fontsize=8.5,
        labelcolor=TEXT, handlelength=1.0, columnspacing=1.2, handletextpad=0.5,
    )  # fmt: skip
    save(figure, target)


def _draw_profile(profile: Axes, diagnosis: Diagnosis) -> None:
    counts = diagnosis.profile.astype(np.float64)
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows, bottom = np.arange(len(share)), np.zeros(len(share))
    for index, name in enumerate(ERRORS):
        profile.bar(rows, share[:, index], bottom=bottom, color=COLOURS[index], width=0.82, label=name)
        bottom += share[:, index]
    profile.set_xticks(rows, [f"{row + 1}G" for row in rows])
    profile.set_ylim(0, 100)
    profile.set_xlabel("each class's best G detections, the next G, …", size=9, color=TEXT)
    profile.set_ylabel("% of these detections", size=9, color=TEXT)
    profile.set_title(f"What detections are (tIoU {diagnosis.tiou:g})", size=10.5, color=TEXT, loc="left")


def _draw_gains(gains: Axes, diagnosis: Diagnosis) -> None:
    names = ERRORS[1:]
    values = [100 * diagnosis.gains[name] for name in names]
    rows = np.arange(len(names))[::-1]
    gains.barh(rows, values, color=COLOURS[1:], height=0.66)
    for row, value in zip(rows, values, strict=True):
        gains.annotate(
            f"{value:+.1f}", (value, row), (4, 0), textcoords="offset points", va="center", size=9, color=TEXT
        )
    gains.set_yticks(rows, names)
    gains.set_xlim(0, max(max(values) * 1.25, 1.0))
    gains.set_xlabel("points of average mAP", size=9, color=TEXT)
    gains.set_title("Gained without them", size=10.5, color=TEXT, loc="left")


def _draw_missed(missed: Axes, diagnosis: Diagnosis) -> None:
    place = 0.0
    ticks: list[float] = []
    labels: list[str] = []
    overall = 100 * sum(g.missed for g in diagnosis.missed["length"]) / max(diagnosis.instances, 1)
    for name, groups in diagnosis.missed.items():
        begin = place
        for group in groups:
            height = 100 * group.share
            missed.bar(place, height, color="#D55E00" if group.instances else GRID, width=0.78)
            missed.annotate(
                f"{height:.0f}" if group.instances else "–", (place, height), (0, 2),
                textcoords="offset points", ha="center", size=8, color=TEXT,
            )  # fmt: skip
            ticks.append(place)
            labels.append(f"{group.name}\n{group.instances}")
            place += 1
        missed.annotate(
            _TITLES[name], ((begin + place - 1) / 2, 0), (0, -34), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", va="top", size=9, color=TEXT,
        )  # fmt: skip
        place += 0.7
    missed.axhline(overall, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
    missed.annotate(
        f"all {overall:.0f}", (1, overall), (4, 0), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="left", va="center", size=8, color=FAINT,
    )  # fmt: skip
    missed.set_xticks(ticks, labels)
    missed.set_ylim(0, 108)
    missed.set_ylabel("% missed", size=9, color=TEXT)
    missed.set_title(
        f"Missed instances (tIoU {diagnosis.tiou:g}; number of instances below)", size=10.5, color=TEXT,
        loc="left",
    )  # fmt: skip

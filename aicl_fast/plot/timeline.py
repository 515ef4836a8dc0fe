"""Timelines: both branches' actionness, the fused score, detections and ground truth along time.

Drawn as the paper's Fig. 4, for one video, for a sheet of many, or for several runs on one video above each
other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from aicl_fast.data.annotations import VideoAnnotation
from aicl_fast.data.detections import Detections
from aicl_fast.data.scores import Scores
from aicl_fast.errors import ConfigError, DataError
from aicl_fast.plot.canvas import (
    FAINT,
    GRID,
    LINE,
    MAX_PIXELS,
    MIN_DPI,
    PALETTE,
    TEXT,
    load_matplotlib,
    picture_path,
    save,
    style,
)
from aicl_fast.plot.layout import Layout, Panel, lay_out
from aicl_fast.text import short_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AWARE_COLOUR = "#1F2933"
AGNOSTIC_COLOUR = "#8A97A6"

MAX_TITLE, MAX_LABEL = 100, 24
"""Characters."""


def plot_timeline(
    scores: Scores,
    detections: Detections,
    ground_truth: VideoAnnotation | None,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    min_score: float | None = None,
    thresholds: Iterable[float] | None = None,
) -> None:
    """Draw one video to a PNG, SVG or PDF file, whole or not at all.

    Args:
        scores: the curves, T segments.
        detections: what was decoded from them.
        ground_truth: the annotation, or None where there is none.
        path: ends in .png, .svg or .pdf.
        title: None takes the video's name.
        min_score: detections below it are not drawn. None leaves out those below a quarter of the best.
        thresholds: θ to mark on the fused score.
    Raises:
        DataError: another suffix, or a folder that cannot be written to.
        ConfigError: ``min_score`` or a threshold that is not a finite number.
        UnavailableError: matplotlib is not installed.
    """
    _draw([Panel(scores, detections, ground_truth, title)], path, min_score=min_score, thresholds=thresholds)


def plot_sheet(
    panels: Sequence[Panel],
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    min_score: float | None = None,
    thresholds: Iterable[float] | None = None,
) -> None:
    """Draw many videos below each other; a class has one colour on the whole sheet.

    Args and errors as :func:`plot_timeline`.

    Raises:
        DataError: no panels, or too many for one PNG.
    """
    _draw(panels, path, title=title, min_score=min_score, thresholds=thresholds, compact=True)


def plot_comparison(
    runs: Mapping[str, tuple[Scores, Detections]],
    ground_truth: VideoAnnotation | None,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    min_score: float | None = None,
    thresholds: Iterable[float] | None = None,
) -> None:
    """Draw several runs on one video above each other on one time axis, as baseline and AICL in Fig. 4.

    Args:
        runs: by name, in the order in which they are drawn.

    The others, and errors, as :func:`plot_timeline`.
    """
    panels = [Panel(scores, detections, ground_truth, name) for name, (scores, detections) in runs.items()]
    if title is None and panels:
        title = panels[0].scores.name
    _draw(panels, path, title=title, min_score=min_score, thresholds=thresholds, one_axis=True)


def _draw(
    panels: Sequence[Panel],
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    min_score: float | None,
    thresholds: Iterable[float] | None,
    compact: bool = False,
    one_axis: bool = False,
) -> None:
    target = picture_path(path)
    if not panels:
        raise DataError("panels: nothing to draw; expected at least one video.")
    marks = tuple(float(value) for value in thresholds or ())
    if not np.isfinite([*marks, 0.0 if min_score is None else min_score]).all():
        raise ConfigError(f"min_score and thresholds: expected finite numbers, got {min_score}, {marks}.")
    matplotlib = load_matplotlib()
    layouts = [lay_out(panel, min_score) for panel in panels]
    names = dict.fromkeys(name for layout in layouts for name in layout.classes)
    colours = {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(names)}
    duration = max(layout.duration for layout in layouts) if one_axis else None

    curve = 0.75 if compact else 1.25
    heights = [_height(layout, panel, curve) for layout, panel in zip(layouts, panels, strict=True)]
    head = 0.42 if title is not None and (compact or len(panels) > 1) else 0.0
    total = sum(heights) + head
    if target.suffix.lower() == ".png" and total * MIN_DPI > MAX_PIXELS:
        raise DataError(
            f"{target}: {len(panels)} videos are too many for one PNG ({MAX_PIXELS} pixels high). Draw "
            "fewer, or write .svg or .pdf."
        )
    figure = matplotlib.figure.Figure(figsize=(12.0, total), facecolor="white")
    if title is not None and head:
        text = short_text(title, MAX_TITLE)
        figure.text(0.012, 1 - 0.16 / total, text, size=14, weight="bold", color=TEXT, va="top")
    best = max((float(p.detections.scores.max()) for p in panels if len(p.detections)), default=1.0)
    sheet = _Sheet(figure, total, colours, marks, curve, best if one_axis else None)
    top = total - head
    for number, (panel, layout, height) in enumerate(zip(panels, layouts, heights, strict=True)):
        actionness, rows = _panel(sheet, panel, layout, top - height, top, duration or layout.duration)
        if number == 0:
            _legend(actionness, panel)
        _rows(rows, panel, layout, sheet)
        if not one_axis or number == len(panels) - 1:
            rows.set_xlabel("seconds", size=9, color=TEXT, loc="right", labelpad=1)
        if layout.hidden:
            rows.annotate(
                f"{layout.hidden} weaker detections not drawn", (0, 0), (0, -20), xycoords="axes fraction",
                textcoords="offset points", size=8, color=FAINT, va="top",
            )  # fmt: skip
        top -= height
    save(figure, target)


# Inches. Rows are laid out by hand: matplotlib's own layout engines measure text, which is slow on a sheet
# of hundreds of videos, and let panels of different content jump in size.
_TITLE, _GAP, _FOOT, _ROW, _CLASS_GAP, _PAD = 0.40, 0.14, 0.50, 0.17, 0.12, 0.06


class _Sheet(NamedTuple):
    """What all panels of a picture share."""

    figure: Figure
    total: float
    """Inches that the figure is high."""
    colours: Mapping[str, str]
    marks: tuple[float, ...]
    curve: float
    """Inches that a chart of curves is high."""
    best: float | None
    """The score that is drawn darkest; None takes each panel's own best."""


def _height(layout: Layout, panel: Panel, curve: float) -> float:
    rows = sum(layout.lanes(name) + (panel.ground_truth is not None) for name in layout.classes)
    rows_height = max(rows * _ROW + len(layout.classes) * _CLASS_GAP, 0.35) + _PAD
    return _TITLE + 2 * (curve + _GAP) + rows_height + _FOOT


def _panel(
    sheet: _Sheet, panel: Panel, layout: Layout, bottom: float, top: float, duration: float
) -> tuple[Axes, Axes]:
    """Draw the title and curves of one block between two heights (inches from the figure's bottom).

    Returns:
        The axes of the actionness, and empty ones for :func:`_rows`.
    """
    left, width = 0.135, 0.85
    scores, colours = panel.scores, sheet.colours

    def axes(upper: float, height: float) -> Axes:
        place = (left, (upper - height) / sheet.total, width, height / sheet.total)
        return sheet.figure.add_axes(place)

    upper = top - _TITLE
    step = sheet.curve + _GAP
    actionness, fused = axes(upper, sheet.curve), axes(upper - step, sheet.curve)
    upper = upper - step - step
    rows = axes(upper, upper - bottom - _FOOT)
    name = short_text(scores.name if panel.title is None else panel.title, MAX_TITLE)
    height = (top - _TITLE + 0.10) / sheet.total
    sheet.figure.text(left, height, name, size=11.5, weight="bold", color=TEXT, va="bottom")
    for chart, label in ((actionness, "actionness"), (fused, "fused score")):
        chart.set_ylim(0, 1.02)
        chart.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
        chart.set_ylabel(label, size=9, color=TEXT, rotation=0, ha="right", va="center", labelpad=20)
        chart.grid(True, color=GRID, linewidth=0.7)
        for class_name, spans in layout.annotated.items():
            for start, end in spans:
                chart.axvspan(start, end, color=colours[class_name], alpha=0.10, linewidth=0)
    for chart in (actionness, fused, rows):
        chart.set_xlim(0, duration)
        style(chart)
    for chart in (actionness, fused):
        chart.tick_params(labelbottom=False, length=0)

    times, agnostic = scores.times, scores.actionness_agnostic
    actionness.fill_between(times, agnostic, color=AGNOSTIC_COLOUR, alpha=0.25, linewidth=0)
    actionness.plot(times, agnostic, color=AGNOSTIC_COLOUR, linewidth=1.3, label="class-agnostic")
    actionness.plot(times, scores.actionness, color=AWARE_COLOUR, linewidth=1.2, label="class-aware")
    # Actionness is most of every class's score, so two classes' curves often coincide: the first is drawn
    # broad and the later ones thinner on it, and each stays visible.
    known = [class_name for class_name in layout.classes if class_name in scores.classes]
    for later, class_name in zip(range(len(known) - 1, -1, -1), known, strict=True):
        broad = 1.3 + 1.5 * later / max(len(known) - 1, 1)
        values = scores.fused[:, scores.classes.index(class_name)]
        fused.plot(times, values, color=colours[class_name], linewidth=broad, zorder=3)
    for mark in sheet.marks:
        fused.axhline(mark, color=LINE, linewidth=0.6, linestyle=(0, (2, 3)))
    return actionness, rows


def _legend(actionness: Axes, panel: Panel) -> None:
    from matplotlib.patches import Patch

    handles, labels = actionness.get_legend_handles_labels()
    if panel.ground_truth is not None:
        handles.append(Patch(facecolor="white", edgecolor=TEXT, linewidth=1.2))
        labels.append("ground truth")
    handles.append(Patch(facecolor=TEXT))
    labels.append("detected (paler: lower score)")
    actionness.legend(
        handles, labels, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncol=4, frameon=False,
        fontsize=9, labelcolor=TEXT, borderaxespad=0.2, handlelength=1.6, columnspacing=1.6,
    )  # fmt: skip


def _rows(chart: Axes, panel: Panel, layout: Layout, sheet: _Sheet) -> None:
    """Bars of every class: ground truth above, detections below it, paler with a lower score."""
    colours, best = sheet.colours, sheet.best
    if best is None:
        best = max((bar.detection.score for bars in layout.bars.values() for bar in bars), default=1.0)
    y = -_PAD / 2
    ticks: list[float] = []
    for name in layout.classes:
        y -= _CLASS_GAP / 2
        begin = y
        if panel.ground_truth is not None:
            chart.broken_barh(
                [(start, end - start) for start, end in layout.annotated[name]],
                (y - _ROW * 0.80, _ROW * 0.66),
                facecolors="white",
                edgecolors=colours[name],
                linewidth=1.3,
            )
            y -= _ROW
        for bar in layout.bars[name]:
            share = max(bar.detection.score, 0.0) / best if best > 0 else 0.0
            chart.broken_barh(
                [(bar.detection.start, bar.detection.end - bar.detection.start)],
                (y - bar.lane * _ROW - _ROW * 0.82, _ROW * 0.74),
                facecolors=colours[name],
                alpha=0.18 + 0.82 * min(share, 1.0),
                linewidth=0,
            )
        y -= layout.lanes(name) * _ROW
        ticks.append((begin + y) / 2)
        y -= _CLASS_GAP / 2
        chart.axhline(y, color=GRID, linewidth=0.8)
    chart.set_ylim(min(y, -0.3) - _PAD / 2, 0)
    chart.set_yticks(ticks, [short_text(name, MAX_LABEL) for name in layout.classes])
    for text, name in zip(chart.get_yticklabels(), layout.classes, strict=True):
        text.set_color(colours[name])
        text.set_fontweight("bold")
        text.set_fontsize(9)
    chart.tick_params(axis="y", length=0)
    chart.spines["left"].set_visible(False)
    chart.grid(True, axis="x", color=GRID, linewidth=0.7)
    if not layout.classes:
        chart.text(0.5, 0.5, "nothing detected", transform=chart.transAxes, ha="center", color=FAINT)

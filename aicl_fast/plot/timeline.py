"""Timelines: both branches' actionness, the fused score, detections and ground truth along time.

Drawn as the paper's Fig. 4, for one video, for a sheet of many, or for several runs on one video above each
other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from aicl_fast.data.annotations import VideoAnnotation
from aicl_fast.data.detections import Detection, Detections
from aicl_fast.data.scores import Scores
from aicl_fast.errors import ConfigError, DataError
from aicl_fast.plot.canvas import (
    GRID,
    MAX_PIXELS,
    MIN_DPI,
    PALETTE,
    TEXT,
    load_matplotlib,
    picture_path,
    save,
    style,
)
from aicl_fast.text import short_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AWARE_COLOUR = "#1F2933"
AGNOSTIC_COLOUR = "#8A97A6"

MAX_CLASSES = len(PALETTE)
"""Classes drawn for one video: those annotated, then the best detected."""
LANES = 3
"""Rows of detections a class. What overlaps that many better ones is not drawn; a note says how many."""
_LONGEST_TITLE, _LONGEST_LABEL = 100, 24
"""Characters."""
RELATIVE_SCORE = 0.25
"""Without ``min_score``, detections below this share of the video's best score are not drawn."""


class Panel(NamedTuple):
    """One run on one video: what one block of a sheet shows."""

    scores: Scores
    detections: Detections
    ground_truth: VideoAnnotation | None = None
    title: str | None = None


class Bar(NamedTuple):
    """A detection in its lane, 0 the first."""

    detection: Detection
    lane: int


@dataclass(frozen=True)
class Layout:
    """What of a panel is drawn, decided before any drawing.

    Attributes:
        classes: class names, annotated ones first, then by best score.
        bars: the detections drawn of each class.
        annotated: (start, end) seconds of each class.
        hidden: detections that are not drawn.
        duration: seconds on the time axis.
    """

    classes: tuple[str, ...]
    bars: Mapping[str, tuple[Bar, ...]]
    annotated: Mapping[str, tuple[tuple[float, float], ...]]
    hidden: int
    duration: float

    def lanes(self, name: str) -> int:
        """Rows of detections that this class needs."""
        return 1 + max((bar.lane for bar in self.bars[name]), default=0)


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
    panels = [Panel(scores, found, ground_truth, name) for name, (scores, found) in runs.items()]
    if title is None and panels:
        title = panels[0].scores.name
    _draw(panels, path, title=title, min_score=min_score, thresholds=thresholds, one_axis=True)


def lay_out(panel: Panel, min_score: float | None = None) -> Layout:
    """Choose the classes and detections of a panel that are drawn, so that no two bars overlap.

    By falling score, each detection takes the first lane of its class in which it has room.
    """
    found = panel.detections
    truth = panel.ground_truth
    annotated: dict[str, list[tuple[float, float]]] = {}
    if truth is not None:
        for label, (start, end) in zip(truth.labels, truth.segments.tolist(), strict=True):
            annotated.setdefault(label, []).append((start, end))
    best = float(found.scores.max()) if len(found) else 0.0
    floor = RELATIVE_SCORE * best if min_score is None and best > 0 else min_score
    order = np.argsort(-found.scores, kind="stable")
    kept = [found[int(i)] for i in order if floor is None or found.scores[i] >= floor]
    names = list(dict.fromkeys([*annotated, *(item.label for item in kept)]))[:MAX_CLASSES]
    lanes: dict[str, list[list[tuple[float, float]]]] = {name: [[] for _ in range(LANES)] for name in names}
    bars: dict[str, list[Bar]] = {name: [] for name in names}
    for item in kept:
        for number, lane in enumerate(lanes.get(item.label, [])):
            if all(item.end <= start or item.start >= end for start, end in lane):
                lane.append((item.start, item.end))
                bars[item.label].append(Bar(item, number))
                break
    drawn = sum(map(len, bars.values()))
    ends = [panel.scores.duration, *(bar.detection.end for items in bars.values() for bar in items)]
    ends += [end for spans in annotated.values() for _, end in spans]
    return Layout(
        classes=tuple(names),
        bars={name: tuple(items) for name, items in bars.items()},
        annotated={name: tuple(annotated.get(name, ())) for name in names},
        hidden=len(found) - drawn,
        duration=max(ends),
    )


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
    figure: Figure = matplotlib.figure.Figure(figsize=(12.0, sum(heights) + head), facecolor="white")
    total = sum(heights) + head
    top = total - head
    if target.suffix.lower() == ".png" and total * MIN_DPI > MAX_PIXELS:
        raise DataError(
            f"{target}: {len(panels)} videos are too many for one PNG ({MAX_PIXELS} pixels high). Draw "
            "fewer, or write .svg or .pdf."
        )
    if title is not None and head:
        figure.text(
            0.012,
            1 - 0.16 / total,
            short_text(title, _LONGEST_TITLE),
            size=14,
            weight="bold",
            color=TEXT,
            va="top",
        )
    best = max((float(p.detections.scores.max()) for p in panels if len(p.detections)), default=1.0)
    for number, (panel, layout, height) in enumerate(zip(panels, layouts, heights, strict=True)):
        _panel(
            figure,
            panel,
            layout,
            colours,
            (top - height, top, total),
            marks,
            best if one_axis else None,
            duration or layout.duration,
            legend=number == 0,
            time_label=not (one_axis and number < len(panels) - 1),
            curve=curve,
        )
        top -= height
    save(figure, target)


# Inches. Rows are laid out by hand: matplotlib's own layout engines measure text, which is slow on a sheet
# of hundreds of videos, and let panels of different content jump in size.
_TITLE, _GAP, _FOOT, _ROW, _CLASS_GAP, _PAD = 0.40, 0.14, 0.50, 0.17, 0.12, 0.06


def _rows_height(layout: Layout, panel: Panel) -> float:
    truth = panel.ground_truth is not None
    rows = sum(layout.lanes(name) + truth for name in layout.classes)
    return max(rows * _ROW + len(layout.classes) * _CLASS_GAP, 0.35) + _PAD


def _height(layout: Layout, panel: Panel, curve: float) -> float:
    return _TITLE + 2 * (curve + _GAP) + _rows_height(layout, panel) + _FOOT


def _panel(
    figure: Figure,
    panel: Panel,
    layout: Layout,
    colours: Mapping[str, str],
    place: tuple[float, float, float],
    marks: tuple[float, ...],
    best: float | None,
    duration: float,
    *,
    legend: bool,
    time_label: bool,
    curve: float,
) -> None:
    """Draw one block between two heights (inches from the bottom) of a figure of a total height."""
    bottom, top, total = place
    from matplotlib.patches import Patch

    left, width = 0.135, 0.85
    scores = panel.scores
    times = scores.times

    def axes(upper: float, height: float) -> Axes:
        return figure.add_axes((left, (upper - height) / total, width, height / total))

    upper = top - _TITLE
    actionness = axes(upper, curve)
    upper -= curve + _GAP
    fused = axes(upper, curve)
    upper -= curve + _GAP
    rows = axes(upper, upper - bottom - _FOOT)

    name = short_text(scores.name if panel.title is None else panel.title, _LONGEST_TITLE)
    figure.text(left, (top - _TITLE + 0.10) / total, name, size=11.5, weight="bold", color=TEXT, va="bottom")

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

    actionness.fill_between(times, scores.actionness_agnostic, color=AGNOSTIC_COLOUR, alpha=0.25, linewidth=0)
    actionness.plot(
        times, scores.actionness_agnostic, color=AGNOSTIC_COLOUR, linewidth=1.3, label="class-agnostic"
    )
    actionness.plot(times, scores.actionness, color=AWARE_COLOUR, linewidth=1.2, label="class-aware")
    index = {class_name: number for number, class_name in enumerate(scores.classes)}
    # Actionness is most of every class's score, so two classes' curves often coincide: the first is drawn
    # broad and the later ones thinner on it, and each stays visible.
    known = [class_name for class_name in layout.classes if class_name in index]
    for place_in_stack, class_name in enumerate(known):
        fused.plot(
            times,
            scores.fused[:, index[class_name]],
            color=colours[class_name],
            linewidth=1.3
            + 1.5 * (len(known) - 1 - place_in_stack) / max(len(known) - 1, 1) * (len(known) > 1),
            zorder=3,
        )
    for mark in marks:
        fused.axhline(mark, color="#9AA5B1", linewidth=0.6, linestyle=(0, (2, 3)))
    if legend:
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
    _rows(rows, panel, layout, colours, best)
    if time_label:
        rows.set_xlabel("seconds", size=9, color=TEXT, loc="right", labelpad=1)
    if layout.hidden:
        rows.annotate(
            f"{layout.hidden} weaker detections not drawn", (0, 0), (0, -20), xycoords="axes fraction",
            textcoords="offset points", size=8, color="#7B8794", va="top",
        )  # fmt: skip


def _rows(chart: Axes, panel: Panel, layout: Layout, colours: Mapping[str, str], best: float | None) -> None:
    """Bars of every class: ground truth above, detections below it, paler with a lower score."""
    if best is None:
        best = max((bar.detection.score for bars in layout.bars.values() for bar in bars), default=1.0)
    truth = panel.ground_truth is not None
    y = -_PAD / 2
    ticks: list[tuple[float, str, str, bool]] = []
    for name in layout.classes:
        y -= _CLASS_GAP / 2
        begin = y
        if truth:
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
        ticks.append(((begin + y) / 2, short_text(name, _LONGEST_LABEL), colours[name], True))
        y -= _CLASS_GAP / 2
        chart.axhline(y, color=GRID, linewidth=0.8)
    chart.set_ylim(min(y, -0.3) - _PAD / 2, 0)
    chart.set_yticks([tick[0] for tick in ticks], [tick[1] for tick in ticks])
    for text, tick in zip(chart.get_yticklabels(), ticks, strict=True):
        text.set_color(tick[2])
        text.set_fontweight("bold")
        text.set_fontsize(9)
    chart.tick_params(axis="y", length=0)
    chart.spines["left"].set_visible(False)
    chart.grid(True, axis="x", color=GRID, linewidth=0.7)
    if not layout.classes:
        chart.text(0.5, 0.5, "nothing detected", transform=chart.transAxes, ha="center", color="#7B8794")

"""Timelines straight from a run's folder: one video, a sheet of many, two runs above each other."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from typing import Any

from aicl_fast.data.annotations import GroundTruth
from aicl_fast.data.detections import Detections
from aicl_fast.errors import ConfigError, DataError
from aicl_fast.evaluate import precision_by_video
from aicl_fast.plot import Panel, plot_comparison, plot_sheet, plot_timeline
from aicl_fast.report.run import Run, RunLike, open_runs


def plot_run(
    run: RunLike,
    path: str | os.PathLike[str],
    *,
    videos: Iterable[str] = (),
    worst: int | None = None,
    baseline: RunLike | None = None,
    ground_truth: str | os.PathLike[str] | GroundTruth | None = None,
    title: str | None = None,
    min_score: float | None = None,
    thresholds: Iterable[float] | None = None,
) -> tuple[str, ...]:
    """Draw videos of a run: one as a timeline, several as a sheet, with a baseline above where there is one.

    Args:
        run: a folder with ``detections.json``, ``scores.npz`` and, where there is one, ``gt.json``.
        path: ends in .png, .svg or .pdf.
        videos: names, in the order drawn; none and no ``worst`` draws every video that has curves.
        worst: so many videos of the lowest AP of their own instead.
        baseline: a second run on the same videos.
        ground_truth: None takes the run's own; without any, none is drawn.
        title, min_score, thresholds: as for ``plot_timeline``.
    Returns:
        The names of the videos drawn.
    Raises:
        DataError: no curves, a video that the run does not have, or ``worst`` without ground truth.
        ConfigError: both ``videos`` and ``worst``, or ``worst`` below 1.
        UnavailableError: matplotlib is not installed.
    """
    runs, truth = open_runs(run, baseline, ground_truth)
    names = _video_names(runs, truth, tuple(videos), worst)
    options: dict[str, Any] = {"title": title, "min_score": min_score, "thresholds": thresholds}

    def panel(item: Run, name: str, title: str | None = None) -> Panel:
        annotation = truth.videos.get(name) if truth is not None else None
        return Panel(item.scores[name], item.detections.get(name, Detections.empty(name)), annotation, title)

    if len(names) > 1:
        panels = [
            panel(item, name, name if len(runs) == 1 else f"{name} · {item.name}")
            for name in names
            for item in runs
        ]
        plot_sheet(panels, path, **options)
        return names
    first, *second = (panel(item, names[0]) for item in runs)
    if second:
        labels = [item.name for item in runs]
        if labels[0] == labels[1]:
            labels[0] += " (baseline)"
        both = {label: item[:2] for label, item in zip(labels, (first, *second), strict=True)}
        plot_comparison(both, first.ground_truth, path, **options)
    else:
        plot_timeline(*first[:3], path, **options)
    return names


def _video_names(
    runs: list[Run], truth: GroundTruth | None, names: tuple[str, ...], worst: int | None
) -> tuple[str, ...]:
    """The videos to draw, of which every run has curves."""
    current = runs[-1]
    for item in runs:
        if not item.scores:
            raise DataError(
                f"{item.name}: the run's folder has no scores.npz, so there are no curves to draw. Write it "
                "with `aicl-fast detect --scores`, or aicl_fast.report.save_scores."
            )
    if worst is not None:
        if worst < 1:
            raise ConfigError(f"worst: expected a number of at least 1, got {worst}.")
        if names:
            raise ConfigError(
                f"worst: {worst} videos are asked for and {len(names)} named. Give one of the two."
            )
        if truth is None:
            raise DataError(f"{current.name}: the worst videos cannot be told without a gt.json.")
        ranked = precision_by_video(truth, current.detections)
        names = tuple(name for name in ranked if name in current.scores)[:worst]
    names = names or tuple(current.scores)
    for name in names:
        for item in runs:
            if name not in item.scores:
                near = difflib.get_close_matches(name, item.scores, n=3, cutoff=0.6)
                raise DataError(
                    f"{item.name}: has no curves of '{name}'. "
                    + (f"Did you mean {' or '.join(near)}?" if near else f"It has {len(item.scores)} others.")
                )
    return names

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
from aicl_fast.report.run import Run, load_run


def plot_run(
    run: str | os.PathLike[str] | Run,
    path: str | os.PathLike[str],
    *,
    videos: Iterable[str] = (),
    worst: int | None = None,
    baseline: str | os.PathLike[str] | Run | None = None,
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
    current = run if isinstance(run, Run) else load_run(run)
    other = baseline if isinstance(baseline, Run) or baseline is None else load_run(baseline)
    if ground_truth is None:
        truth = current.ground_truth or (other.ground_truth if other is not None else None)
    else:
        truth = ground_truth if isinstance(ground_truth, GroundTruth) else GroundTruth.load(ground_truth)
    runs = [current] if other is None else [other, current]
    for item in runs:
        if not item.scores:
            raise DataError(
                f"{item.name}: the run's folder has no scores.npz, so there are no curves to draw. Write it "
                "with aicl_fast.report.save_scores."
            )
    names = tuple(videos)
    if worst is not None:
        if names or worst < 1:
            raise ConfigError(
                f"worst: expected a number of at least 1 and no videos, got {worst} and {names}."
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
    shown: dict[str, Any] = {
        "min_score": min_score,
        "thresholds": None if thresholds is None else tuple(thresholds),
    }

    def found(item: Run, name: str) -> Detections:
        return item.detections.get(name, Detections.empty(name))

    annotations = {name: truth.videos.get(name) if truth is not None else None for name in names}
    if len(names) == 1 and other is None:
        name = names[0]
        plot_timeline(
            current.scores[name], found(current, name), annotations[name], path, title=title, **shown
        )
    elif len(names) == 1:
        name = names[0]
        labels = [item.name for item in runs]
        if labels[0] == labels[1]:
            labels = [f"{labels[0]} (baseline)", labels[1]]
        both = {
            label: (item.scores[name], found(item, name)) for label, item in zip(labels, runs, strict=True)
        }
        plot_comparison(both, annotations[name], path, title=title, **shown)
    else:
        panels = [
            Panel(
                item.scores[name],
                found(item, name),
                annotations[name],
                name if other is None else f"{name} · {item.name}",
            )
            for name in names
            for item in runs
        ]
        plot_sheet(panels, path, title=title, **shown)
    return names

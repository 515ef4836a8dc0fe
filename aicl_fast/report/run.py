"""What a run's folder holds, read once for reports and pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aicl_fast.data.annotations import GroundTruth
from aicl_fast.data.detections import Detections, load_detections
from aicl_fast.data.scores import Scores
from aicl_fast.data.scores_file import load_scores
from aicl_fast.errors import DataError


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        name: for the page.
        detections: by video.
        scores: by video; empty where the run kept none.
        ground_truth: of the run's data, or None.
    """

    name: str
    detections: Mapping[str, Detections]
    scores: Mapping[str, Scores]
    ground_truth: GroundTruth | None


RunLike = Run | str | os.PathLike[str]


def open_runs(
    run: RunLike, baseline: RunLike | None, ground_truth: GroundTruth | str | os.PathLike[str] | None
) -> tuple[list[Run], GroundTruth | None]:
    """The runs to show, the baseline first, and what to measure them against: by default their own."""
    runs = [item if isinstance(item, Run) else load_run(item) for item in (baseline, run) if item is not None]
    if ground_truth is None:
        return runs, next(
            (item.ground_truth for item in reversed(runs) if item.ground_truth is not None), None
        )
    return runs, ground_truth if isinstance(ground_truth, GroundTruth) else GroundTruth.load(ground_truth)


def load_run(folder: str | os.PathLike[str], *, name: str | None = None) -> Run:
    """Read ``detections.json``, and where there are any ``scores.npz`` and ``gt.json`` (or ``data/gt.json``).

    Raises:
        DataError: no such folder, no detections in it, or a file that cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(
            f"{root}: expected a run's folder, which holds detections.json; `aicl-fast demo` writes one, "
            "runs/demo."
        )
    scores = root / "scores.npz"
    annotations = [path for path in (root / "gt.json", root / "data" / "gt.json") if path.is_file()]
    return Run(
        name=name or root.resolve().name,
        detections=load_detections(root / "detections.json"),
        scores=load_scores(scores) if scores.is_file() else {},
        ground_truth=GroundTruth.load(annotations[0]) if annotations else None,
    )

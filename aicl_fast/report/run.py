"""What a run's folder holds, read once for reports and pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aicl_fast.config import Config
from aicl_fast.data.annotations import GroundTruth
from aicl_fast.data.detections import Detections, load_detections
from aicl_fast.data.scores import Scores
from aicl_fast.data.scores_file import load_scores, save_scores
from aicl_fast.data.writers import save_detections
from aicl_fast.errors import DataError
from aicl_fast.files import read_json, write_json

DETECTIONS, SCORES, TRUTH, METRICS = "detections.json", "scores.npz", "gt.json", "metrics.json"


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        name: for the page.
        detections: by video.
        scores: by video; empty where the run kept none.
        ground_truth: of the run's data, or None.
        config: the settings that it was trained with, or None.
    """

    name: str
    detections: Mapping[str, Detections]
    scores: Mapping[str, Scores]
    ground_truth: GroundTruth | None
    config: Config | None = None


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
    """Read ``detections.json``, and what there is of ``scores.npz``, ``metrics.json`` and ``gt.json`` (or
    ``data/gt.json``).

    Raises:
        DataError: no such folder, no detections in it, or a file that cannot be read.
    """
    root = Path(folder)
    if not (root / DETECTIONS).exists():
        what = f"holds no {DETECTIONS}" if root.is_dir() else "there is no such folder"
        raise DataError(
            f"{root}: {what}; expected a run's folder. `aicl-fast train`, `auto` and `demo` write one, where "
            f"there are test videos. `aicl-fast detect MODEL FEATURES -o {root / DETECTIONS} --scores "
            f"{root / SCORES}` writes the files of other videos."
        )
    scores = root / SCORES
    annotations = [path for path in (root / TRUTH, root / "data" / TRUTH) if path.is_file()]
    return Run(
        name=name or root.resolve().name,
        detections=load_detections(root / DETECTIONS),
        scores=load_scores(scores) if scores.is_file() else {},
        ground_truth=GroundTruth.load(annotations[0]) if annotations else None,
        config=_trained_with(root / METRICS),
    )


def _trained_with(metrics: Path) -> Config | None:
    if not metrics.is_file():
        return None
    document = read_json(metrics, "file of metrics")
    settings = document.get("config") if isinstance(document, dict) else None
    return Config.from_dict(settings, source=str(metrics)) if isinstance(settings, dict) else None


def write_run(
    folder: str | os.PathLike[str],
    truth: GroundTruth,
    scores: Mapping[str, Scores],
    detections: Mapping[str, Detections],
) -> None:
    """Write what :func:`load_run` reads: ``detections.json``, ``scores.npz`` and ``gt.json``.

    Args:
        folder: the run's; it is there.
        truth: annotations of these recordings.
        scores, detections: by recording.
    Raises:
        DataError: nothing to write, or a place that cannot be written to.
    """
    root = Path(folder)
    write_json(root / TRUTH, truth.to_dict())
    save_scores(root / SCORES, scores)
    save_detections(root / DETECTIONS, detections)

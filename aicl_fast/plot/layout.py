"""What of a video's detections and annotations a timeline shows, and in which row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from aicl_fast.data.annotations import VideoAnnotation
from aicl_fast.data.detections import Detection, Detections
from aicl_fast.data.scores import Scores
from aicl_fast.plot.canvas import PALETTE

MAX_CLASSES = len(PALETTE)
"""Classes drawn for one video: those annotated, then the best detected."""
LANES = 3
"""Rows of detections a class. What overlaps that many better ones is not drawn; a note says how many."""
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


def lay_out(panel: Panel, min_score: float | None = None) -> Layout:
    """Choose the classes and detections of a panel that are drawn, so that no two bars overlap.

    By falling score, each detection takes the first lane of its class in which it has room.
    """
    detections = panel.detections
    truth = panel.ground_truth
    annotated: dict[str, list[tuple[float, float]]] = {}
    if truth is not None:
        for label, (start, end) in zip(truth.labels, truth.segments.tolist(), strict=True):
            annotated.setdefault(label, []).append((start, end))
    best = float(detections.scores.max()) if len(detections) else 0.0
    floor = RELATIVE_SCORE * best if min_score is None and best > 0 else min_score
    order = np.argsort(-detections.scores, kind="stable")
    kept = [detections[int(i)] for i in order if floor is None or detections.scores[i] >= floor]
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
        hidden=len(detections) - drawn,
        duration=max(ends),
    )

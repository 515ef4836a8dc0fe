"""What is taken to be true of single segments: of annotated times, of points, or of a teacher's detections.

All give :class:`SegmentLabels`, from which the targets of L_sc and L_sa are taken for the segments of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aicl_fast.data.annotations import VideoAnnotation
from aicl_fast.data.detections import Detections
from aicl_fast.data.features import Floats
from aicl_fast.data.scores import Scores

Integers = npt.NDArray[np.int64]

GROWN = 0.8
"""A point's span grows over segments whose score is at least this share of the score at the point."""
BACKGROUND = 0.35
"""Around points, segments whose score is below this share of the score at the points are background."""
KEPT = 0.5
"""A teacher's detections become spans from this share of the score of the best one of their class."""
SEEN = 0.1
"""Segments in no detection from this share on are background."""


@dataclass(frozen=True, eq=False)
class SegmentLabels:
    """What is taken to be true of a video's n segments; the rest is unknown.

    Attributes:
        classes: (S,) class of each span of action.
        spans: (S, 2) its first and its last segment.
        weights: (S,) float32, above 0.
        background: (n,) float32, the weights of segments as background. A span goes before it.
    """

    classes: Integers
    spans: Integers
    weights: Floats
    background: Floats

    def at(self, sample: Integers, num_classes: int) -> tuple[Floats, Floats]:
        """The targets (T, C) and weights (T,) of the segments that are drawn.

        A span none of whose segments is drawn takes the nearest one that is.
        """
        target = np.zeros((len(sample), num_classes), np.float32)
        weight = np.zeros(len(sample), np.float32)
        for number, (first, last), span_weight in zip(self.classes, self.spans, self.weights, strict=True):
            inside = (sample >= first) & (sample <= last)
            if not inside.any():
                inside[np.abs(sample - (first + last) / 2).argmin()] = True
            target[inside, number] = 1
            weight[inside] = np.maximum(weight[inside], span_weight)
        return target, np.where(weight > 0, weight, self.background[sample])


def of_times(
    annotation: VideoAnnotation, classes: Sequence[str], count: int, seconds: float
) -> SegmentLabels:
    """Labels by the times of a video that is annotated throughout.

    Args:
        annotation: its instances. What is Ambiguous, or of a class that is not the model's, is unknown.
        classes: of the model.
        count: n.
        seconds: of a segment.
    """
    # The shortest instances have one segment.
    spans = _segments_in(annotation.segments, count, seconds)
    spans[:, 1] = np.maximum(spans[:, 1] - 1, spans[:, 0])
    there = spans[:, 0] < count
    rows = [row for row, label in enumerate(annotation.labels) if there[row] and label in classes]
    background = np.ones(count, np.float32)
    for first, last in spans:
        background[first : last + 1] = 0
    numbers = np.array([classes.index(annotation.labels[row]) for row in rows], np.int64)
    return SegmentLabels(numbers, spans[rows], np.ones(len(rows), np.float32), background)


@dataclass(frozen=True, eq=False)
class Points:
    """A video's points in the order of time.

    Attributes:
        places: (P,) the segments that they are in.
        classes: (P,).
        count: n, the video's segments.
        complete: whether every label of the video has points, so that what is far from all is background.
    """

    places: Integers
    classes: Integers
    count: int
    complete: bool


def points_of(annotation: VideoAnnotation, classes: Sequence[str], count: int, seconds: float) -> Points:
    """The points of a video's annotation; those of classes that are not the model's are left out."""
    rows = [row for row in np.flatnonzero(annotation.points).tolist() if annotation.labels[row] in classes]
    places = (annotation.segments[rows, 0] / seconds).astype(np.int64).clip(0, count - 1)
    numbers = np.array([classes.index(annotation.labels[row]) for row in rows], np.int64)
    order = np.argsort(places, kind="stable")
    pointed = {annotation.labels[row] for row in rows}
    return Points(places[order], numbers[order], count, pointed == set(annotation.classes))


def of_points(points: Points, scores: Floats | None) -> SegmentLabels:
    """Labels by points: a span around each, and background between them.

    Args:
        points: one or more.
        scores: (n, C) a teacher's fused scores; without them a span is its point alone.
    """
    places, classes = points.places, points.classes
    spans = np.stack([places, places], axis=1)
    background = np.zeros(points.count, np.float32)
    if scores is not None:
        # A span goes no further than half way to the next point.
        between = (places[:-1] + places[1:]) // 2
        lowest = np.concatenate([[0], np.minimum(between + 1, places[1:])])
        highest = np.concatenate([between, [points.count - 1]])
        for row, (place, number) in enumerate(zip(places.tolist(), classes.tolist(), strict=True)):
            low = scores[:, number] < GROWN * scores[place, number]
            before, after = low[lowest[row] : place][::-1], low[place + 1 : highest[row] + 1]
            spans[row, 0] -= before.argmax() if before.any() else len(before)
            spans[row, 1] += after.argmax() if after.any() else len(after)
        if points.complete:
            background = _between_points(places, classes, scores)
    return SegmentLabels(classes, spans, np.ones(len(places), np.float32), background)


def _between_points(places: Integers, classes: Integers, scores: Floats) -> Floats:
    """(n,) 1 where the scores of all classes that have points are low, at least once between two points."""
    best = scores[:, np.unique(classes)].max(axis=1)
    at_points = np.interp(np.arange(len(scores)), places, scores[places, classes])
    background: Floats = (best < BACKGROUND * at_points).astype(np.float32)
    for first, second in zip(places[:-1].tolist(), places[1:].tolist(), strict=True):
        if second - first > 1:
            background[first + 1 + best[first + 1 : second].argmin()] = 1
    return background


def of_detections(
    found: Detections, present: Sequence[str], classes: Sequence[str], count: int, seconds: float
) -> SegmentLabels:
    """Labels by a teacher's detections of the classes that a video contains.

    Args:
        found: of one video.
        present: the classes that it is labelled with; others are left out.
        classes: of the model.
        count: n.
        seconds: of a segment.
    """
    numbers: list[int] = []
    spans: list[tuple[int, int]] = []
    weights: list[float] = []
    background = np.ones(count, np.float32)
    places = _segments_in(found.segments, count, seconds)
    for name in present:
        rows = np.flatnonzero((found.labels == name) & (places[:, 0] < places[:, 1]))
        best = found.scores[rows].max(initial=0.0)
        if best <= 0:
            # It is somewhere in the video, and the teacher does not see where.
            background[:] = 0
            continue
        for (first, end), score in zip(places[rows].tolist(), found.scores[rows].tolist(), strict=True):
            if score >= SEEN * best:
                background[first:end] = 0
            if score >= KEPT * best:
                numbers.append(classes.index(name))
                spans.append((first, end - 1))
                weights.append(score / best)
    return SegmentLabels(
        np.array(numbers, np.int64),
        np.array(spans, np.int64).reshape(-1, 2),
        np.array(weights, np.float32),
        background,
    )


def _segments_in(times: npt.NDArray[np.float64], count: int, seconds: float) -> Integers:
    """(N, 2) the first segment whose middle is in each of these times, and the one after the last."""
    places: Integers = np.ceil(times / seconds - 0.5).astype(np.int64).clip(0, count)
    return places


def at_segments(scores: Scores) -> Floats:
    """(n, C) the fused scores at a video's own segments, interpolated where T of them were scored."""
    length, count = len(scores.fused), scores.num_segments
    if length == count:
        return scores.fused
    at = np.arange(count) * (length / count)
    return np.stack([np.interp(at, np.arange(length), column) for column in scores.fused.T], axis=1)

"""How well each branch tells action from background segments (the paper's Table 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aicl_fast.data.annotations import AMBIGUOUS, VideoAnnotation
from aicl_fast.data.scores import Scores
from aicl_fast.errors import DataError
from aicl_fast.evaluate.inputs import GroundTruthLike, as_ground_truth
from aicl_fast.evaluate.names import clean_names, likely_cause
from aicl_fast.evaluate.result import Result


@dataclass(frozen=True)
class SegmentAccuracy(Result):
    """What :func:`segment_accuracy` measures, over all segments of all videos. Fractions.

    Attributes:
        aware: accuracy of A_bin, the class-aware actionness above its median.
        agnostic: accuracy of A_ca_bin, the class-agnostic one.
        ceiling: the best that any division at the median can reach: half of a video's segments are called
            action, however many are.
        consistent: share of segments on which the two branches agree.
        action: share of segments that are annotated.
        videos, segments: how many were measured.
        by_video: (aware, agnostic) of each video.
    """

    aware: float
    agnostic: float
    ceiling: float
    consistent: float
    action: float
    videos: int
    segments: int
    by_video: Mapping[str, tuple[float, float]]


def segment_accuracy(scores: Mapping[str, Scores], ground_truth: GroundTruthLike) -> SegmentAccuracy:
    """Accuracy of ``A > median(A)`` and ``A_ca > median(A_ca)`` against the annotation.

    A sampled segment is action where its middle lies in an annotated instance of any class (Ambiguous is
    none). The median is over the T sampled segments of the video.

    Raises:
        DataError: no video of ``scores`` is annotated.
    """
    truth = as_ground_truth(ground_truth)
    right = np.zeros(2)
    ceiling = agree = action = total = 0.0
    by_video: dict[str, tuple[float, float]] = {}
    for name, item in clean_names(scores, "scores").items():
        if name not in truth.videos:
            continue
        label = segment_labels(item, truth.videos[name])
        called = [curve > np.median(curve) for curve in (item.actionness, item.actionness_agnostic)]
        hits = [int((division == label).sum()) for division in called]
        size = len(label)
        by_video[name] = (hits[0] / size, hits[1] / size)
        right += hits
        ceiling += size - abs(int(label.sum()) - size // 2)
        agree += int((called[0] == called[1]).sum())
        action += int(label.sum())
        total += size
    if not total:
        raise DataError(
            f"{truth.source}: annotates none of the {len(scores)} videos that have scores. "
            f"{likely_cause(scores, truth.videos) or 'Check that both are of the same data set.'}"
        )
    return SegmentAccuracy(
        aware=float(right[0] / total),
        agnostic=float(right[1] / total),
        ceiling=ceiling / total,
        consistent=agree / total,
        action=action / total,
        videos=len(by_video),
        segments=int(total),
        by_video=by_video,
    )


def segment_labels(scores: Scores, annotation: VideoAnnotation) -> npt.NDArray[np.bool_]:
    """(T,) true where the middle of the sampled segment lies in an instance."""
    length = len(scores.actionness)
    source = np.arange(length) * scores.num_segments // length
    middle = (source + 0.5) * scores.frames_per_segment / scores.fps
    action = np.zeros(length, dtype=np.bool_)
    for label, (start, end) in zip(annotation.labels, annotation.segments, strict=True):
        if label != AMBIGUOUS:
            action |= (middle >= start) & (middle < end)
    return action

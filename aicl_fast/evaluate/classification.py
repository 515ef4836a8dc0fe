"""How well video scores tell which classes a video contains: what labels without times can measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aicl_fast.data.scores import Scores
from aicl_fast.errors import DataError
from aicl_fast.evaluate.inputs import GroundTruthLike, as_ground_truth
from aicl_fast.evaluate.names import clean_names, likely_cause
from aicl_fast.evaluate.result import Result


@dataclass(frozen=True)
class Classification(Result):
    """What :func:`video_classification` measures. Fractions.

    Attributes:
        mAP: mean of the classes' average precision over the videos.
        accuracy: share of the videos whose best class is one of their labels.
        per_class: average precision of each class that a video has.
        videos: how many were measured.
    """

    mAP: float
    accuracy: float
    per_class: Mapping[str, float]
    videos: int


def video_classification(scores: Mapping[str, Scores], ground_truth: GroundTruthLike) -> Classification:
    """Average precision and accuracy of the video scores against the videos' labels.

    Per class, videos are ranked by their score of it. The average precision is the mean, over the videos that
    contain it, of the share of such videos among all that score at least as high.

    Args:
        scores: of models with the same classes.
        ground_truth: annotations, whose labels alone are used. Videos without a label are left out.
    Raises:
        DataError: no video of ``scores`` has a label.
    """
    truth = as_ground_truth(ground_truth)
    named = clean_names(scores, "scores")
    names = [name for name in named if name in truth.videos and truth.videos[name].classes]
    if not names:
        raise DataError(
            f"{truth.source}: has no label of the {len(scores)} videos that have scores. "
            f"{likely_cause(scores, truth.videos) or 'Check that both are of the same data set.'}"
        )
    classes = named[names[0]].classes
    values = np.stack([named[name].video_scores for name in names])
    labels = [truth.videos[name].classes for name in names]
    present = np.array([[each in found for each in classes] for found in labels], bool)
    per_class = {
        each: _average_precision(values[:, number], present[:, number])
        for number, each in enumerate(classes)
        if present[:, number].any()
    }
    best = present[np.arange(len(names)), values.argmax(axis=1)]
    return Classification(
        mAP=float(np.mean([*per_class.values()])) if per_class else 0.0,
        accuracy=float(best.mean()),
        per_class=per_class,
        videos=len(names),
    )


def _average_precision(values: npt.NDArray[np.float32], present: npt.NDArray[np.bool_]) -> float:
    above = values[None, :] >= values[present, None]
    return float(((above & present).sum(axis=1) / above.sum(axis=1)).mean())

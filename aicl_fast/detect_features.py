"""Detecting in features that say how they were made: their frame rate and stride, their video's end.

Imports neither PyAV nor OpenCV.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from aicl_fast.data.detections import Detections

if TYPE_CHECKING:
    from aicl_fast.data.feature_file import VideoFeatures
    from aicl_fast.data.scores import Scores
    from aicl_fast.detector import Detector


def detect_features(detector: Detector, features: VideoFeatures) -> Detections:
    """The detections in one video's features, in seconds of the video and none beyond its end.

    Args:
        detector: its model takes the streams that it reads, and leaves the other one aside.
        features: from :func:`aicl_fast.video.extract_features` or a file of ``aicl-fast features``.
    Raises:
        DataError: a stream is absent, or the features were made otherwise than the model's training features.
    """
    streams = features.streams(detector.config.data)
    recording = (streams[0], streams[1]) if len(streams) == 2 else streams[0]
    (scores,) = detector.batch_scores([recording], videos=[features.video])
    return decode_features(detector, scores, features)[1]


def decode_features(detector: Detector, scores: Scores, features: VideoFeatures) -> tuple[Scores, Detections]:
    """The curves of such features with their own frame rate and stride, and the detections in them.

    The last segment may be filled up: what is found in it ends with the video.

    Args:
        scores: what the detector's network gave for these features.
    """
    recipe = features.recipe
    timed = replace(scores, fps=recipe.fps, frames_per_segment=recipe.stride)
    found = detector.decode(timed)
    keep = found.segments[:, 0] < features.duration
    segments = np.minimum(found.segments[keep], features.duration)
    return timed, Detections(found.labels[keep], found.scores[keep], segments, found.video)

"""How good detections are, and what is wrong with those that are not.

Needs numpy only.

    from aicl_fast.evaluate import mean_average_precision
    result = mean_average_precision("gt.json", "detections.json", subset="test")
    print(result.average, result.mAP)
"""

from __future__ import annotations

from aicl_fast.data.annotations import AMBIGUOUS
from aicl_fast.evaluate.average_precision import (
    MapResult,
    evaluate_protocol,
    mean_average_precision,
    precision_by_video,
)
from aicl_fast.evaluate.bootstrap import Comparison, Difference, compare
from aicl_fast.evaluate.classification import Classification, video_classification
from aicl_fast.evaluate.detad import BUCKETS, ERRORS, Buckets, Diagnosis, Missed, diagnose
from aicl_fast.evaluate.names import EXCLUSIONS
from aicl_fast.evaluate.protocol import PROTOCOLS, TIOUS, Protocol
from aicl_fast.evaluate.recall import RecallResult, average_recall
from aicl_fast.evaluate.segments import SegmentAccuracy, segment_accuracy

__all__ = [
    "AMBIGUOUS",
    "BUCKETS",
    "ERRORS",
    "EXCLUSIONS",
    "PROTOCOLS",
    "TIOUS",
    "Buckets",
    "Classification",
    "Comparison",
    "Diagnosis",
    "Difference",
    "MapResult",
    "Missed",
    "Protocol",
    "RecallResult",
    "SegmentAccuracy",
    "average_recall",
    "compare",
    "diagnose",
    "evaluate_protocol",
    "mean_average_precision",
    "precision_by_video",
    "segment_accuracy",
    "video_classification",
]

"""How good detections are, and what is wrong with those that are not.

Needs numpy only.

    from aicl_fast.evaluate import mean_average_precision
    result = mean_average_precision("gt.json", "detections.json", subset="test")
    print(result.average, result.mAP)
"""

from __future__ import annotations

from aicl_fast.evaluate.average_precision import (
    PROTOCOLS,
    TIOUS,
    MapResult,
    Protocol,
    evaluate_protocol,
    mean_average_precision,
)
from aicl_fast.evaluate.table import AMBIGUOUS, EXCLUSIONS

__all__ = [
    "AMBIGUOUS",
    "EXCLUSIONS",
    "PROTOCOLS",
    "TIOUS",
    "MapResult",
    "Protocol",
    "evaluate_protocol",
    "mean_average_precision",
]

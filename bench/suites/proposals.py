"""Raw proposals of another model: mAP by NMS mode, weight of the density, and shortest proposal.

    python -m aicl_fast.bench proposals --data FOLDER --json bench/results/proposals-thumos14.json

The folder has ``proposals_train.json``, detections before NMS, and ``gt.json``, their annotations. There are
no curves, so the decoder cannot make these proposals, and they are not nested as its own are: densities are
computed here, and NMS is that of ``baselines/decode.py``. The videos are those that the other model was
trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aicl_fast.bench.baselines.decode import suppress
from aicl_fast.bench.harness.suite import parser, record, show
from aicl_fast.config import PRESETS, DecodeConfig
from aicl_fast.data.detections import Detections, load_detections
from aicl_fast.decode.nms import NMS_MODES
from aicl_fast.evaluate import mean_average_precision

WEIGHTS = (0.0, 0.5, 1.0, 2.0)
SHORTEST = (0.0, 1.0)
_NEAREST = 10

Floats = npt.NDArray[np.float64]


def densities(boxes: Floats) -> Floats:
    """(N,) mean of each one's ten highest plain tIoUs with the others, of (N, 3) start, end and score."""
    start, end = boxes[:, 0], boxes[:, 1]
    shared = np.minimum.outer(end, end) - np.maximum.outer(start, start)
    shared = np.maximum(shared, 0.0)
    overlap = shared / (np.add.outer(end - start, end - start) - shared)
    np.fill_diagonal(overlap, -1.0)
    nearest = min(_NEAREST, len(boxes) - 1)
    if not nearest:
        return np.zeros(len(boxes))
    means: Floats = -np.sort(-overlap, axis=1)[:, :nearest].mean(axis=1)
    return means


def decoded(found: Detections, config: DecodeConfig) -> Detections:
    """One video's proposals, class by class: the short ones dropped, the density added, NMS."""
    labels, kept = [], []
    for label in sorted(set(found.labels.tolist())):
        boxes = np.column_stack((found.segments, found.scores))[found.labels == label]
        boxes = boxes[boxes[:, 1] - boxes[:, 0] >= config.min_seconds]
        boxes[:, 2] += config.density_weight * densities(boxes)
        kept.append(suppress(boxes, config))
        labels += [label] * len(kept[-1])
    rows = np.concatenate([np.empty((0, 3)), *kept])
    order = np.argsort(-rows[:, 2], kind="stable")
    return Detections(np.array(labels, np.str_)[order], rows[order, 2], rows[order, :2], found.video)


def main(arguments: Sequence[str] | None = None) -> None:
    """Decode in every way, and record the rows."""
    options = parser(__doc__, data=Path("../shared/data/thumos14")).parse_args(arguments)
    proposals = load_detections(options.data / "proposals_train.json")
    tious = PRESETS["thumos14"].evaluate.tious
    plain = replace(PRESETS["thumos14"].decode, nms_added_seconds=0.0)
    rows: list[dict[str, Any]] = []
    for nms in NMS_MODES:
        for shortest in SHORTEST:
            for weight in WEIGHTS:
                config = replace(plain, nms=nms, density_weight=weight, min_seconds=shortest)
                found = {video: decoded(each, config) for video, each in proposals.items()}
                result = mean_average_precision(options.data / "gt.json", found, tious, subset="train")
                rows.append({
                    "nms": nms, "min_seconds": shortest, "density_weight": weight,
                    "mAP": result.mAP.tolist(), "average_mAP": result.average,
                    "detections": sum(map(len, found.values())),
                })  # fmt: skip
    more = {"tious": tious, "proposals": sum(map(len, proposals.values()))}
    show("proposals", rows, **more)
    record(options.json, "proposals", rows, data=options.data.name, **more)

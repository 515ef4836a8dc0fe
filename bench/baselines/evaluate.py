"""mAP as one writes it from the definition: the baselines that `bench/suites/evaluate.py` times.

`pandas_map` is the shape in which the field's evaluators are written: a data frame of annotations and one of
detections, class by class, row by row. `loop_map` is the same without pandas: one pass over a class's
detections in score order, tIoU with the video's annotations in NumPy. Nothing is done slowly on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aicl_fast.data.annotations import GroundTruth
from aicl_fast.data.detections import Detections

Floats = npt.NDArray[np.float64]


def tious_with(start: float, end: float, segments: Floats) -> Floats:
    """(N,) tIoU of one segment with N others."""
    inner = np.minimum(end, segments[:, 1]) - np.maximum(start, segments[:, 0])
    inner = inner.clip(0)
    union = (segments[:, 1] - segments[:, 0]) + (end - start) - inner
    result: Floats = inner / union
    return result


def interpolated(hits: Floats, instances: int) -> float:
    """AP from hits in score order."""
    found = np.cumsum(hits)
    precision = np.concatenate([[0], found / np.arange(1, len(hits) + 1), [0]])
    recall = np.concatenate([[0], found / instances, [1]])
    for index in range(len(precision) - 2, -1, -1):
        precision[index] = max(precision[index], precision[index + 1])
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(((recall[steps] - recall[steps - 1]) * precision[steps]).sum())


def loop_map(
    truth: GroundTruth, detections: Mapping[str, Detections], subset: str, tious: Sequence[float]
) -> Floats:
    """(C, K) AP of every class, in the order of the sorted names."""
    videos = {name: video for name, video in truth.videos.items() if video.subset == subset}
    labels = sorted({label for video in videos.values() for label in video.labels})
    result = np.zeros((len(labels), len(tious)))
    for row, label in enumerate(labels):
        segments = {
            name: video.segments[[item == label for item in video.labels]]
            for name, video in videos.items()
            if label in video.labels
        }
        instances = sum(map(len, segments.values()))
        ranked = [
            (item.score, name, item.start, item.end)
            for name, found in detections.items()
            for item in found
            if item.label == label
        ]
        ranked.sort(key=lambda item: -item[0])
        hits = np.zeros((len(tious), len(ranked)))
        taken = {name: np.zeros((len(tious), len(spans)), bool) for name, spans in segments.items()}
        for column, (_, name, start, end) in enumerate(ranked):
            if name not in segments:
                continue
            overlaps = tious_with(start, end, segments[name])
            order = overlaps.argsort()[::-1]
            for k, threshold in enumerate(tious):
                for index in order:
                    if overlaps[index] < threshold:
                        break
                    if not taken[name][k, index]:
                        taken[name][k, index] = True
                        hits[k, column] = 1
                        break
        result[row] = [interpolated(line, instances) for line in hits]
    return result


def pandas_map(
    truth: GroundTruth, detections: Mapping[str, Detections], subset: str, tious: Sequence[float]
) -> Floats:
    """(C, K) AP of every class, in the order of the sorted names."""
    import pandas as pd

    annotated = pd.DataFrame(
        [
            (name, label, start, end)
            for name, video in truth.videos.items()
            if video.subset == subset
            for label, (start, end) in zip(video.labels, video.segments.tolist(), strict=True)
        ],
        columns=["video", "label", "start", "end"],
    )
    detected = pd.DataFrame(
        [(name, *item) for name, found in detections.items() for item in found],
        columns=["video", "label", "score", "start", "end"],
    )
    labels = sorted(annotated["label"].unique())
    result = np.zeros((len(labels), len(tious)))
    for row, label in enumerate(labels):
        own = annotated[annotated["label"] == label].reset_index(drop=True)
        ranked = detected[detected["label"] == label].sort_values("score", ascending=False)
        by_video: Any = own.groupby("video")
        names = set(own["video"])
        taken = np.zeros((len(tious), len(own)), bool)
        hits = np.zeros((len(tious), len(ranked)))
        for column, (_, item) in enumerate(ranked.iterrows()):
            if item["video"] not in names:
                continue
            spans = by_video.get_group(item["video"])
            overlaps = tious_with(item["start"], item["end"], spans[["start", "end"]].to_numpy())
            order = overlaps.argsort()[::-1]
            for k, threshold in enumerate(tious):
                for index in order:
                    if overlaps[index] < threshold:
                        break
                    place = spans.index[index]
                    if not taken[k, place]:
                        taken[k, place] = True
                        hits[k, column] = 1
                        break
        result[row] = [interpolated(line, len(own)) for line in hits]
    return result

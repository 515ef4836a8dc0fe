"""Decoding as one writes it in NumPy from the method's text: what `suites/decode.py` compares with.

The curve is upsampled to the grid, each threshold's runs are found on it, each run is scored by slicing,
and NMS compares the best box with all that are left, vectorised. Nothing is done slowly on purpose.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aicl_fast.config import DataConfig, DecodeConfig

Floats = npt.NDArray[np.float64]


def upsample(curve: Floats, upscale: int) -> Floats:
    """(upscale·T,) the curve at j/upscale; the last slope is kept beyond T-1."""
    length = len(curve)
    x = np.arange(upscale * length) / upscale
    dense = np.interp(x, np.arange(length), curve)
    if length > 1:
        beyond = x > length - 1
        dense[beyond] = curve[-1] + (curve[-1] - curve[-2]) * (x[beyond] - (length - 1))
    return dense


def proposals(dense: Floats, bonus: float, seconds: float, config: DecodeConfig) -> Floats:
    """(N, 3) start, end and score of every run above every threshold."""
    last = len(dense) - 1
    rows = []
    for threshold in config.thresholds:
        inside = np.flatnonzero(dense >= threshold)
        if not len(inside):
            continue
        for run in np.split(inside, np.flatnonzero(np.diff(inside) != 1) + 1):
            a, b = int(run[0]), int(run[-1])
            reach = config.outer_ratio * (b - a + 1)
            low, high = max(0, int(a - reach)), min(last, int(b + reach))
            outer = np.concatenate((dense[low:a], dense[b + 1 : high + 1]))
            contrast = dense[a : b + 1].mean() - (outer.mean() if len(outer) else 0.0)
            rows.append((a * seconds, (b + 1) * seconds, contrast + bonus))
    return np.array(rows).reshape(-1, 3)


def suppress(boxes: Floats, config: DecodeConfig) -> Floats:
    """NMS of one class: greedy, the best box against all that are left."""
    added = config.nms_added_seconds
    boxes = boxes[np.argsort(-boxes[:, 2], kind="stable")]
    kept = []
    while len(boxes):
        if config.nms == "gaussian":
            boxes = boxes[boxes[:, 2] >= config.min_score]
            if not len(boxes):
                break
            best = int(np.argmax(boxes[:, 2]))
            boxes[[0, best]] = boxes[[best, 0]]
        top, rest = boxes[0], boxes[1:]
        kept.append(top)
        overlap = np.minimum(top[1], rest[:, 1]) - np.maximum(top[0], rest[:, 0]) + added
        overlap = np.maximum(overlap, 0.0)
        tiou = overlap / ((top[1] - top[0] + added) + (rest[:, 1] - rest[:, 0] + added) - overlap)
        if config.nms == "gaussian":
            rest[:, 2] *= np.exp(-(tiou**2) / config.nms_sigma)
            boxes = rest
            continue
        hit = tiou >= config.nms_tiou
        if config.nms == "decay_once":
            decayed = rest[hit]
            decayed[:, 2] *= np.exp(-(tiou[hit] ** 2) / config.nms_sigma)
            kept.extend(decayed)
        boxes = rest[~hit]
    return np.array(kept).reshape(-1, 3)


def decode(
    scores: npt.NDArray[np.floating],
    video_scores: npt.NDArray[np.floating],
    num_segments: int,
    config: DecodeConfig,
    data: DataConfig,
) -> tuple[npt.NDArray[np.intp], Floats]:
    """(N,) classes and (N, 3) start, end and score in seconds, best first."""
    length = len(scores)
    seconds = data.frames_per_segment * num_segments / (config.upscale * length * data.fps)
    chosen = np.flatnonzero(video_scores >= config.class_threshold)
    if not len(chosen):
        chosen = np.array([np.argmax(video_scores)])
    labels, boxes = [], []
    for c in chosen:
        dense = upsample(scores[:, c].astype(np.float64), config.upscale)
        bonus = config.video_score_weight * float(video_scores[c])
        kept = suppress(proposals(dense, bonus, seconds, config), config)
        labels.append(np.full(len(kept), c))
        boxes.append(kept)
    label, box = np.concatenate(labels), np.concatenate(boxes)
    order = np.argsort(-box[:, 2], kind="stable")
    return label[order], box[order]

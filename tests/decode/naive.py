"""Decoding as docs/method.md, section 8, says: every grid point is evaluated, every pair of boxes compared.

Slow on purpose. Where the text leaves an order open it is fixed here: proposals are listed by class, then
threshold (ascending), then start, and equal scores keep that order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aicl_fast.config import DataConfig, DecodeConfig

Floats = npt.NDArray[np.float64]
SLACK = 1e-6
"""Of a grid point."""


@dataclass
class Proposal:
    label: int
    first: int
    last: int
    score: float
    start: float
    end: float


def grid(curve: npt.ArrayLike, upscale: int) -> Floats:
    """(upscale·T,) the curve at j/upscale: linear in between, the last slope beyond T-1."""
    s = np.asarray(curve, dtype=np.float64)
    points = np.arange(upscale * len(s))
    cell, step = points // upscale, points % upscale
    slope = np.zeros(len(s))
    if len(s) > 1:
        slope[:-1] = s[1:] - s[:-1]
        slope[-1] = slope[-2]
    return s[cell] + slope[cell] * (step / upscale)


def runs(inside: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Maximal runs of true points, ends inclusive."""
    padded = np.concatenate(([False], inside, [False]))
    change = np.flatnonzero(padded[1:] != padded[:-1])
    return [(int(a), int(b) - 1) for a, b in zip(change[::2], change[1::2], strict=True)]


def joined(found: list[tuple[int, int]], gap: float, shortest: float) -> list[tuple[int, int]]:
    """Runs at most ``gap`` grid points apart as one, and of these the ones of at least ``shortest``."""
    joined: list[tuple[int, int]] = []
    for a, b in found:
        if joined and a - joined[-1][1] - 1 <= gap + SLACK:
            joined[-1] = (joined[-1][0], b)
        else:
            joined.append((a, b))
    return [(a, b) for a, b in joined if b - a + 1 >= shortest - SLACK]


def predicted(video_scores: npt.ArrayLike, threshold: float) -> list[int]:
    """Classes at or above the threshold, or the best one."""
    v = np.asarray(video_scores, dtype=np.float64)
    if len(v) == 0:
        return []
    found = np.flatnonzero(v >= threshold)
    return found.tolist() if len(found) else [int(np.argmax(v))]


def proposals(
    scores: npt.ArrayLike,
    video_scores: npt.ArrayLike,
    num_segments: int,
    config: DecodeConfig,
    data: DataConfig,
) -> list[Proposal]:
    """Steps 1 to 6."""
    a_score = np.asarray(scores, dtype=np.float64)
    v = np.asarray(video_scores, dtype=np.float64)
    seconds = data.frames_per_segment * num_segments / (config.upscale * len(a_score) * data.fps)
    found = []
    for label in predicted(v, config.class_threshold):
        s = grid(a_score[:, label], config.upscale)
        own = []
        gap, shortest = config.merge_gap / seconds, config.min_seconds / seconds
        for threshold in sorted(set(config.thresholds)):
            for a, b in joined(runs(s >= threshold), gap, shortest):
                length = b - a + 1
                low = int(max(0.0, a - config.outer_ratio * length))
                high = int(min(len(s) - 1.0, b + config.outer_ratio * length))
                outer = np.concatenate((s[low:a], s[b + 1 : high + 1]))
                score = s[a : b + 1].mean() - (outer.mean() if len(outer) else 0.0)
                score += config.video_score_weight * v[label]
                own.append(Proposal(label, a, b, float(score), a * seconds, (b + 1) * seconds))
        if config.density_weight:
            for box, density in zip(own, densities(own), strict=True):
                box.score += config.density_weight * density
        found += own
    return found


def densities(pool: list[Proposal]) -> list[float]:
    """Of each proposal, the mean of its ten highest tIoUs with the others, in grid points."""
    first, last = (np.array([getattr(box, name) for box in pool], np.int64) for name in ("first", "last"))
    found = []
    for i, box in enumerate(pool):
        shared = np.maximum(0, np.minimum(last, box.last) - np.maximum(first, box.first) + 1)
        total = (last - first + 1) + (box.last - box.first + 1) - shared
        nearest = sorted(np.delete(shared / total, i).tolist(), reverse=True)[:10]
        mean = 0.0
        for overlap in nearest:
            mean += overlap
        found.append(mean / len(nearest) if nearest else 0.0)
    return found


def tiou(one: Proposal, other: Proposal, added: float) -> float:
    """tIoU with ``added`` seconds on every length and on the intersection."""
    intersection = max(0.0, min(one.end, other.end) - max(one.start, other.start) + added)
    union = (one.end - one.start + added) + (other.end - other.start + added) - intersection
    return intersection / union


def suppress(pool: list[Proposal], config: DecodeConfig) -> list[tuple[Proposal, float]]:
    """Step 7 on one pool: the survivors with their final scores, in the pool's order."""
    score = {index: box.score for index, box in enumerate(pool)}
    final: dict[int, float] = {}
    left = list(range(len(pool)))
    if config.nms == "gaussian":
        left = [i for i in left if not score[i] < config.min_score]
    while left:
        best = max(left, key=lambda i: (score[i], -i))
        final[best] = score[best]
        left.remove(best)
        for i in list(left):
            overlap = tiou(pool[best], pool[i], config.nms_added_seconds)
            decay = math.exp(-overlap * overlap / config.nms_sigma)
            if config.nms == "gaussian":
                # A negative score would rise by decaying.
                if score[i] > 0:
                    score[i] *= decay
                if score[i] < config.min_score:
                    left.remove(i)
            elif overlap >= config.nms_tiou:
                left.remove(i)
                if config.nms == "decay_once":
                    final[i] = score[i] * decay
    return [(pool[i], final[i]) for i in sorted(final)]


def decode(
    scores: npt.ArrayLike,
    video_scores: npt.ArrayLike,
    num_segments: int,
    config: DecodeConfig,
    data: DataConfig,
) -> list[tuple[int, float, float, float]]:
    """(label, score, start, end), best first."""
    found = proposals(scores, video_scores, num_segments, config, data)
    if config.nms_across_classes:
        pools = [found]
    else:
        pools = [
            [box for box in found if box.label == label] for label in sorted({box.label for box in found})
        ]
    kept = [pair for pool in pools for pair in suppress(pool, config)]
    kept.sort(key=lambda pair: -pair[1])
    if config.max_detections:
        kept = kept[: config.max_detections]
    return [(box.label, score, box.start, box.end) for box, score in kept]

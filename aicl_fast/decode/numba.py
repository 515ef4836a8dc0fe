"""Decoding in numba, which is compiled on the first call and cached on disk."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from aicl_fast.config import DecodeConfig
from aicl_fast.data.detections import Detections
from aicl_fast.decode.inputs import LARGEST, Array, Input
from aicl_fast.decode.nms import NMS_MODES


class NumbaBackend:
    """Fixed settings and class names."""

    checks_input = False

    def __init__(self, config: DecodeConfig, names: Array) -> None:
        from aicl_fast.kernels import decode_numba  # which imports numba

        self._kernels = decode_numba
        self._config, self._names = config, names
        self._thresholds = np.unique(np.asarray(config.thresholds, dtype=np.float64))

    def run(
        self, fused: Array, v: Array, num_segments: int, fps: float, frames_per_segment: int, video: str
    ) -> Detections | None:
        """Detections of one checked Input; None where a score is not finite."""
        config = self._config
        length = fused.shape[0]
        if not len(v):
            return Detections.empty(video)
        # float32 would round the threshold too.
        v = v.astype(np.float64)
        if not (np.abs(v) <= LARGEST).all():
            return None
        columns = np.flatnonzero(v >= config.class_threshold)
        if not len(columns):
            columns = np.array([np.argmax(v)])
        curves = np.empty((len(columns), length))
        if not self._kernels.gather(fused, columns, LARGEST, curves):
            return None
        seconds = frames_per_segment * num_segments / (config.upscale * length * fps)
        bonus = config.video_score_weight * v[columns]
        rows, scores, segments = self._decode(curves, bonus, seconds)
        return Detections(self._names[columns[rows]], scores, segments, video)

    def _decode(self, curves: Array, bonus: Array, seconds: float) -> tuple[Array, Array, Array]:
        """Rows of ``curves``, scores and segments of the detections."""
        config, mode = self._config, NMS_MODES[self._config.nms]
        outer_ratio = float(config.outer_ratio)
        options = float(config.merge_gap), float(config.min_seconds), float(config.density_weight)
        if isinstance(mode, int):
            found: tuple[Array, Array, Array] = self._kernels.decode(
                curves,
                bonus,
                self._thresholds,
                config.upscale,
                outer_ratio,
                seconds,
                *options,
                mode,
                float(config.nms_tiou),
                float(config.nms_sigma),
                float(config.nms_added_seconds),
                float(config.min_score),
                bool(config.nms_across_classes),
                config.max_detections,
            )
            return found
        layer, start, end, score, *_ = self._kernels.propose(
            curves, bonus, self._thresholds, config.upscale, outer_ratio, seconds, *options
        )
        keep = np.zeros(len(score), np.bool_)
        ends = layer[[0, -1]] if config.nms_across_classes else layer[:: len(self._thresholds)]
        for low, high in itertools.pairwise(ends):
            pool = slice(low, high)
            keep[pool] = mode(start[pool], end[pool], score[pool], config)
        found = self._kernels.best(
            layer, start, end, score, keep, len(self._thresholds), config.max_detections
        )
        return found

    def run_batch(self, inputs: Sequence[Input], threads: int) -> list[Detections | None]:
        """The same of many, on so many threads."""
        found: list[Detections | None] = [None] * len(inputs)

        def work(first: int) -> None:
            for b in range(first, len(inputs), threads):
                found[b] = self.run(*inputs[b])

        if threads == 1:
            work(0)
        else:
            # One task per thread, not one per video: handing out a task takes as long as a small video.
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(work, range(threads)))
        return found

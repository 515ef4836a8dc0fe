"""Decoder: settings and classes, then scores to detections in one call."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aicl_fast.config import DecodeConfig
from aicl_fast.data.detections import Detections
from aicl_fast.data.scores import Scores
from aicl_fast.decode.inputs import Array, Input, check_input, not_finite
from aicl_fast.decode.native import NativeBackend, native_module
from aicl_fast.decode.nms import compiled_mode
from aicl_fast.decode.numba import NumbaBackend
from aicl_fast.errors import ConfigError, DataError, UnavailableError
from aicl_fast.processors import processor_count

Backend = Literal["auto", "native", "numba"]


def available_backends() -> tuple[str, ...]:
    """The backends that this installation has, the default first."""
    found = ["native"] if native_module() is not None else []
    if importlib.util.find_spec("numba") is not None:
        found.append("numba")
    return tuple(found)


def default_backend() -> str:
    """The backend that ``auto`` means here: ``native`` when it was built, else ``numba``.

    Raises:
        UnavailableError: neither is installed.
    """
    return _choose("auto")


class Decoder:
    """Turns scores into detections, by fixed settings. Several threads may use one at once.

        >>> decoder = Decoder(config.decode, config.classes)
        >>> found = decoder(detector.scores(rgb, flow))

    Args:
        config: thresholds, λ, NMS. Equal thresholds count once; their order does not matter.
        classes: C names.
        backend: ``auto`` takes ``native`` when it was built, else ``numba``. An NMS mode that is not
            compiled (see :mod:`aicl_fast.decode.nms`) runs in numba.
    Raises:
        UnavailableError: the backend is not installed.
        ConfigError: a backend or setting that does not exist or has no meaning.
    """

    def __init__(self, config: DecodeConfig, classes: Sequence[str], backend: Backend = "auto") -> None:
        kind = _choose(backend) if compiled_mode(config.nms) is not None else _choose("numba")
        self.config, self.classes = config, tuple(classes)
        names = np.array(self.classes, dtype=np.str_)
        compiled = (NativeBackend if kind == "native" else NumbaBackend)(config, names)
        self._checks_input = compiled.checks_input
        self._run: Callable[..., Detections | None] = compiled.run
        self._run_batch: Callable[[list[Input], int], list[Detections | None]] = compiled.run_batch

    def __call__(self, scores: Scores) -> Detections:
        """Detections of one recording, by descending score; equal scores by class, threshold and start.

        Raises:
            DataError: the scores are of other classes, or as :meth:`decode`.
        """
        self._check_classes(scores)
        return self.decode(*_fields(scores))

    def batch(self, scores: Sequence[Scores], threads: int | None = None) -> list[Detections]:
        """Detections of many recordings, of any lengths, on several threads without the interpreter lock.

        Args:
            scores: as :meth:`__call__` takes them.
            threads: at most this many; None means the processors that this process may use.
        Raises:
            DataError: as :meth:`__call__`, naming the recording.
            ConfigError: ``threads`` is no whole number from 1 on.
        """
        counted = isinstance(threads, (int, np.integer)) and not isinstance(threads, bool)
        if threads is not None and not (counted and threads >= 1):
            raise ConfigError(
                f"threads: expected at least 1, a whole number, or None for all processors, got {threads!r}."
            )
        for item in scores:
            self._check_classes(item)
        inputs = [self._check(*_fields(item)) for item in scores]
        found = self._run_batch(inputs, max(1, min(threads or processor_count(), len(inputs))))
        return [self._finite(given, one) for given, one in zip(inputs, found, strict=True)]

    def decode(
        self,
        fused: npt.ArrayLike,
        video_scores: npt.ArrayLike,
        num_segments: int,
        fps: float,
        frames_per_segment: int,
        video: str = "video",
    ) -> Detections:
        """The same from arrays.

        Args:
            fused: (T, C) A_score, finite; any real type. A C-contiguous float32 or float64 array
                is not copied.
            video_scores: (C,) softmax of the video logits. Classes at or above ``config.class_threshold`` are
                localised; the best one if none is.
            num_segments: n, the video's own number of segments before it was sampled to T.
            fps, frames_per_segment: turn grid points into seconds.
            video: the name that the detections carry.
        Raises:
            DataError: shapes that do not fit each other, a NaN or an infinity, no segments.
            ConfigError: a frame rate or segment length far from any use.
        """
        if self._checks_input:
            found = self._run(fused, video_scores, num_segments, fps, frames_per_segment, video)
            if found is not None:
                return found
        given = self._check(fused, video_scores, num_segments, fps, frames_per_segment, video)
        return self._finite(given, self._run(*given))

    def _check(self, *given: Any) -> Input:
        return check_input(len(self.classes), self.config.upscale, *given)

    def _check_classes(self, scores: Scores) -> None:
        if scores.classes is not self.classes and scores.classes != self.classes:
            raise DataError(
                f"{scores.name}: expected scores of this decoder's {len(self.classes)} classes, got those of "
                f"{len(scores.classes)} others. Make a Decoder with the scores' own classes."
            )

    @staticmethod
    def _finite(given: Input, found: Detections | None) -> Detections:
        if found is None:
            raise not_finite(given)
        return found


def _fields(scores: Scores) -> tuple[Array, Array, int, float, int, str]:
    """Of one recording what :meth:`Decoder.decode` takes."""
    return (
        scores.fused,
        scores.video_scores,
        scores.num_segments,
        scores.fps,
        scores.frames_per_segment,
        scores.name,
    )


def _choose(backend: str) -> str:
    if backend not in ("auto", "native", "numba"):
        raise ConfigError(f"backend: expected auto, native or numba, got {backend!r}.")
    if backend == "numba" or (backend == "auto" and native_module() is None):
        if importlib.util.find_spec("numba") is None:
            raise UnavailableError("backend 'numba': numba is not installed. `pip install numba` adds it.")
        return "numba"
    if native_module() is None:
        raise UnavailableError(
            "backend 'native': the C++ part was not built when aicl-fast was installed. Reinstall where "
            "there is a C++17 compiler, without AICL_FAST_NO_NATIVE, or use backend='numba'."
        )
    return "native"

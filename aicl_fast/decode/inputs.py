"""Checks of what comes to be decoded: arrays that fit each other, and numbers that can be used."""

from __future__ import annotations

import numbers
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from aicl_fast.errors import ConfigError, DataError

Array = npt.NDArray[Any]

LARGEST = 1e38
"""Far above any score, and low enough that no sum over a grid of 2³¹ points overflows."""
_MAX_SEGMENTS = 2**40
_MAX_POINTS = 2**31 - 2
_MAX_FRAMES = 2**31 - 1


class Input(NamedTuple):
    """One recording, checked by :func:`check_input`; in the order that the native module takes."""

    fused: Array
    video_scores: Array
    num_segments: int
    fps: float
    frames_per_segment: int
    video: str


def check_input(
    num_classes: int,
    upscale: int,
    fused: npt.ArrayLike,
    video_scores: npt.ArrayLike,
    num_segments: int,
    fps: float,
    frames_per_segment: int,
    video: str,
) -> Input:
    """C-contiguous arrays of one float type that fit each other, and numbers within their limits.

    Raises:
        DataError: shapes, types or a number of segments that cannot be decoded.
        ConfigError: a frame rate or segment length far from any use.
    """
    a_score, v = real_array(fused, "scores", video), real_array(video_scores, "video_scores", video)
    if a_score.ndim != 2 or v.ndim != 1 or not a_score.shape[1] == len(v) == num_classes:
        raise DataError(
            f"{video}: expected scores (T, {num_classes}) and video_scores ({num_classes},) for "
            f"{num_classes} classes, got {a_score.shape} and {v.shape}. Are scores transposed, or the "
            "classes another model's?"
        )
    if a_score.shape[0] == 0:
        raise DataError(f"{video}: scores has no segments; expected at least one row.")
    if a_score.shape[0] * upscale > _MAX_POINTS:
        raise DataError(
            f"{video}: {a_score.shape[0]} segments of {upscale} grid points each are more than 2**31; "
            "expected a shorter recording, or a smaller upscale."
        )
    check_count(num_segments, 1, video)
    if not (_is_real(fps) and 1e-30 <= fps <= 1e30):
        raise ConfigError(f"fps: expected 1e-30 to 1e+30, got {fps!r}.")
    frames = frames_per_segment
    if not (_is_real(frames) and 1 <= frames <= _MAX_FRAMES and frames == int(frames)):
        raise ConfigError(f"frames_per_segment: expected a whole number from 1 to 2**31 - 1, got {frames!r}.")
    if v.dtype != a_score.dtype:
        # The larger of the two: what was given in float64 is not rounded.
        a_score, v = a_score.astype(np.float64), v.astype(np.float64)
    return Input(a_score, v, int(num_segments), float(fps), int(frames), video)


def _is_real(value: object) -> bool:
    # The common types first: to ask for any real number takes as long as the rest of a check.
    return isinstance(value, (float, int, numbers.Real))


def check_count(num_segments: int, low: int, video: str) -> None:
    """Refuse what is no number of segments from ``low`` on."""
    whole = isinstance(num_segments, (int, np.integer))
    if not (whole and low <= num_segments <= _MAX_SEGMENTS):
        raise DataError(
            f"{video}: num_segments is {num_segments!r}; expected the video's own number of segments, "
            f"a whole number from {low} to 2**40."
        )


def real_array(values: npt.ArrayLike, name: str, video: str) -> Array:
    """``values`` as an aligned C-contiguous float32 or float64 array."""
    if type(values) is np.ndarray and values.dtype.char in "fd" and values.dtype.isnative:
        flags = values.flags
        if flags.c_contiguous and flags.aligned:
            return values
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{video}: {name} cannot be read as an array: {error}") from error
    if array.dtype.kind not in "fiub":
        raise DataError(f"{video}: expected real numbers in {name}, got an array of {array.dtype}.")
    kind = np.float32 if array.dtype == np.float32 else np.float64
    return np.require(array, kind, ["C", "A"])


def not_finite(given: Input) -> DataError:
    """What is wrong where a backend met a score that it cannot use."""
    for name, array in (("scores", given.fused), ("video_scores", given.video_scores)):
        bad = np.argwhere(~(np.abs(array) <= LARGEST))
        if len(bad):
            where = tuple(int(i) for i in bad[0])
            index = where if len(where) > 1 else where[0]
            return DataError(
                f"{given.video}: {name}[{', '.join(map(str, where))}] is {array[index]}; expected finite "
                f"numbers. {len(bad)} of {array.size} are not: check the features that the network was given."
            )
    return DataError(f"{given.video}: scores too large to decode; expected numbers of at most {LARGEST:g}.")

"""From the outputs of any AICL network to detections: score fusion, top-k pooling, decoding.

>>> found = postprocess(cas, a_rgb, a_flow, num_segments=900, fps=25.0, preset="thumos14")
>>> for detection in found:
...     print(detection.label, detection.score, detection.start, detection.end)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt

from aicl_fast.config import PRESETS, Config, DecodeConfig, class_names
from aicl_fast.data.detections import Detections
from aicl_fast.decode.decoder import Backend, Decoder
from aicl_fast.decode.inputs import check_count, real_array
from aicl_fast.errors import ConfigError, DataError

# How far above 1 half precision may round a probability.
_ROUNDING = 1e-3


def postprocess(
    cas: npt.ArrayLike,
    actionness_rgb: npt.ArrayLike,
    actionness_flow: npt.ArrayLike,
    *,
    num_segments: int,
    fps: float | None = None,
    preset: str | Config = "thumos14",
    nms: str | None = None,
    classes: Sequence[str] | None = None,
    backend: Backend = "auto",
    video: str = "video",
) -> Detections:
    """Detections from the outputs of any AICL network: score fusion, top-k pooling, decoding.

    A_score = γ·softmax(CAS) + (1-γ)·(A_rgb + A_flow)/2; a class's video logit is the mean CAS of the
    k = max(1, T // topk_divisor) segments where its A_score is highest.

    Args:
        cas: (T, C) class activation sequence, logits.
        actionness_rgb: (T,) probabilities of the RGB branch.
        actionness_flow: (T,) probabilities of the flow branch.
        num_segments: n >= 2, the video's own number of segments before it was sampled to T.
        fps: frames per second; the preset's if None.
        preset: a preset's name or a :class:`~aicl_fast.config.Config`: γ, thresholds, NMS, frame rate and
            frames per segment, and the classes where it has them.
        nms: the preset's if None.
        classes: C names; the preset's own if None.
        backend: as of :class:`~aicl_fast.decode.decoder.Decoder`.
        video: the name that the detections carry.
    Raises:
        DataError: shapes that do not fit each other, a NaN or an infinity, actionness that is no
            probability, fewer than two segments.
        UnavailableError: the backend is not installed.
        ConfigError: an unknown preset or NMS, a preset without class names when none are given, a class
            that is no text, empty, or there twice.
    """
    if not isinstance(preset, Config):
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ConfigError(
                f"preset: there is no {preset!r}. Choose from {', '.join(PRESETS)}, or give a Config."
            )
        preset = PRESETS[preset]
    check_count(num_segments, 2, video)
    names = preset.classes if classes is None else classes
    class_names(names if isinstance(names, str) else tuple(names))
    logits = real_array(cas, "cas", video)
    streams = [real_array(a, name, video) for a, name in (
        (actionness_rgb, "actionness_rgb"), (actionness_flow, "actionness_flow"))]  # fmt: skip
    if logits.ndim != 2 or any(a.shape != logits.shape[:1] for a in streams):
        raise DataError(
            f"{video}: expected cas (T, C) and actionness (T,) of the same T, got {logits.shape}, "
            f"{streams[0].shape} and {streams[1].shape}."
        )
    if classes is None and not names and logits.shape[1]:
        raise ConfigError(
            f"preset '{preset.preset}' has no class names of its own: pass classes=, one name for each of "
            f"the {logits.shape[1]} columns of cas."
        )
    logits = logits.astype(np.float64)
    if not np.isfinite(logits).all():
        raise DataError(f"{video}: cas has a NaN or an infinity; expected finite logits.")
    for name, stream in zip(("actionness_rgb", "actionness_flow"), streams, strict=True):
        if not (np.abs(stream - 0.5) <= 0.5 + _ROUNDING).all():
            raise DataError(
                f"{video}: {name} goes from {stream.min():g} to {stream.max():g}; expected probabilities, "
                "from 0 to 1. If these are logits, apply the sigmoid first."
            )
    gamma = preset.model.fusion_gamma
    agnostic = (streams[0].astype(np.float64) + streams[1]) / 2
    a_score = gamma * _softmax(logits) + (1 - gamma) * agnostic[:, None]
    k = preset.model.topk(len(logits))
    if a_score.size:
        top = np.argpartition(-a_score, min(k, len(logits)) - 1, axis=0)[:k]
        v = _softmax(np.take_along_axis(logits, top, axis=0).mean(axis=0))
    else:
        v = np.zeros(logits.shape[1])
    config = preset.decode if nms is None else replace(preset.decode, nms=nms)
    data = preset.data if fps is None else replace(preset.data, fps=fps)
    decoder = _decoder(config, tuple(names), backend)
    return decoder.decode(a_score, v, num_segments, data.fps, data.frames_per_segment, video)


@functools.lru_cache(maxsize=8)
def _decoder(config: DecodeConfig, classes: tuple[str, ...], backend: Backend) -> Decoder:
    """One for each settings in use: making one takes as long as decoding a video."""
    return Decoder(config, classes, backend)


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if logits.shape[-1] == 0:
        return logits
    exps = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return cast("npt.NDArray[np.float64]", exps / exps.sum(axis=-1, keepdims=True))

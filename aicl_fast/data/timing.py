"""Whether features and detections last as long as the annotations say that their videos do."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

import numpy as np

from aicl_fast.config import DataConfig
from aicl_fast.data.annotations import LATE_SECONDS, GroundTruth, VideoAnnotation
from aicl_fast.data.detections import Detections
from aicl_fast.errors import AiclWarning

_SEGMENTS = 1.5
"""Segments that features may be shorter or longer than their video."""
_SHARE = 0.03
"""Or this share of it: 24 frames a second for 25 is more."""
_LATE_SHARE = 0.05
"""Detections may end this share after their video's end, and a second more."""
_USUAL_RATES = (5, 10, 12, 12.5, 15, 20, 23.976, 24, 25, 29.97, 30, 48, 50, 59.94, 60, 100, 120)


def check_durations(
    truth: GroundTruth, seconds: Mapping[str, float], data: DataConfig, option: str, *, known: bool = False
) -> None:
    """Warn of features whose length contradicts the annotations' ``duration`` or, without one, ``fps``.

    Args:
        truth: the annotations.
        seconds: what each video's features cover.
        data: the frame rate and the frames per segment that this was computed with.
        option: how another frame rate is given, for the message.
        known: the features record their frame rate themselves.
    """
    slack = _SEGMENTS * data.frames_per_segment / data.fps
    longer: dict[str, float] = {}
    others: dict[str, float] = {}
    for video, lasts in seconds.items():
        entry = truth.videos.get(video)
        if entry is None:
            continue
        if entry.duration:
            if abs(lasts - entry.duration) > max(slack, _SHARE * entry.duration):
                longer[video] = lasts / entry.duration
        elif entry.fps and not known and abs(entry.fps / data.fps - 1) > _SHARE:
            others[video] = entry.fps
    if longer:
        video = next(iter(longer))
        duration = truth.videos[video].duration
        warnings.warn(
            f"{truth.source}: says that {video!r} lasts {duration:g} s; its features cover "
            f"{seconds[video]:.1f} s, with {data.frames_per_segment} frames per segment at {data.fps:g} "
            f"frames a second{_more(longer)}. {_cause(truth, longer, data, option, known=known)}",
            AiclWarning,
            stacklevel=2,
        )
    if others:
        video, rate = next(iter(others.items()))
        warnings.warn(
            f"{truth.source}: says that {video!r} has {rate:g} frames a second; its features are read as of "
            f"{data.fps:g}{_more(others)}. Unless the videos were brought to {data.fps:g} before features "
            f"were extracted, all times are wrong: {option}{rate:g}.",
            AiclWarning,
            stacklevel=2,
        )


def late_detections(videos: Mapping[str, VideoAnnotation], found: Mapping[str, Detections]) -> Iterator[str]:
    """A sentence on videos with detections that end after the video does by far."""
    late = {}
    for name, items in found.items():
        duration = videos[name].duration if name in videos else None
        last = items.segments[:, 1].max(initial=0.0)
        if duration and last > (1 + _LATE_SHARE) * duration + LATE_SECONDS:
            late[name] = f"until {last:g} s in {name!r} of {duration:g} s"
    if late:
        yield (
            f"{len(late)} of {len(found)} videos have detections after their end "
            f"({next(iter(late.values()))}). Check the frame rate that the detections were made with, "
            "and the durations."
        )


def _more(videos: Mapping[str, float]) -> str:
    return f", and {len(videos) - 1} more videos like it" if len(videos) > 1 else ""


def _cause(
    truth: GroundTruth, ratios: Mapping[str, float], data: DataConfig, option: str, *, known: bool
) -> str:
    if known:
        return (
            "The features record their frame rate, so the annotations or the video files are likely of "
            "another version."
        )
    spread = max(ratios.values()) / min(ratios.values())
    rate = data.fps * float(np.median(list(ratios.values())))
    stated = [fps for video in ratios if (fps := truth.videos[video].fps)]
    others = [fps for fps in (*stated, *_USUAL_RATES) if fps != data.fps]
    near = min(others, key=lambda fps: abs(fps / rate - 1))
    if spread > 1 + 2 * _SHARE or abs(near / rate - 1) > 2 * _SHARE:
        return (
            f"Times will be wrong by as much, if the features have another frame rate ({option}…) or other "
            "frames per segment."
        )
    return (
        f"Likely cause: the features are of {near:g} frames a second, not {data.fps:g}; then all times are "
        f"wrong by a factor of {rate / data.fps:.2f}: "
        f"{option}{near:g}."
    )

"""Ground truth: which actions a recording contains and, for testing, when."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aicl_fast.errors import DataError
from aicl_fast.files import read_json
from aicl_fast.text import as_number, as_segment, listed, loose_form, named_videos, require_label

AMBIGUOUS = "Ambiguous"
"""THUMOS14's label for "something like an action": never a class of its own."""

LATE_SECONDS = 1.0
"""An annotation may end this long after its video's end: durations are rounded."""
FIRST_POINT = 0.001
"""Seconds: where a point at the very start is written, since 0 to 0 is a label without times."""
_END = 0.01
"""A label without times is annotated from 0 to the video's end; so many seconds may lack."""
_SHOWN = 3
_LONGEST = 1e9
"""Seconds: times beyond are no times in a video, and differences of a millisecond are lost in them."""


@dataclass(frozen=True)
class VideoAnnotation:
    """One recording's instances.

    Attributes:
        subset: the subset's name in the file (``validation``, ``test``, ``training`` …).
        labels: N class names, in the file's order; ``Ambiguous`` is none.
        segments: (N, 2) float64 start and end in seconds. A point, one time in an instance, starts and ends
            there. A label without times goes from 0 to the video's end, or to 0.
        duration: seconds, or None where the file does not say.
        fps: frames a second of the video, the same.
    """

    subset: str
    labels: tuple[str, ...]
    segments: npt.NDArray[np.float64]
    duration: float | None = None
    fps: float | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that it contains, each once."""
        return tuple(dict.fromkeys(label for label in self.labels if label != AMBIGUOUS))

    @property
    def points(self) -> npt.NDArray[np.bool_]:
        """(N,) which annotations are points."""
        starts, ends = self.segments[:, 0], self.segments[:, 1]
        found: npt.NDArray[np.bool_] = (starts == ends) & (ends > 0)
        return found

    @property
    def timed(self) -> npt.NDArray[np.bool_]:
        """(N,) which annotations have a start and an end. One that covers the whole video counts as none."""
        starts, ends = self.segments[:, 0], self.segments[:, 1]
        whole = np.inf if self.duration is None else self.duration
        found: npt.NDArray[np.bool_] = (starts < ends) & ~((starts == 0) & (ends >= whole - _END))
        return found

    def without_times(self) -> VideoAnnotation:
        """The same with its labels alone, each once."""
        return replace(self, labels=self.classes, segments=np.zeros((len(self.classes), 2)))


@dataclass(frozen=True)
class GroundTruth:
    """An annotation file: ``videos`` by name, in the file's order."""

    videos: Mapping[str, VideoAnnotation]
    source: str = "ground truth"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GroundTruth:
        """Read an ActivityNet annotation file; segments may be numbers or strings.

        Names and labels are clean: in one Unicode form, without space around them; in labels, several spaces
        are one.

        Raises:
            DataError: no such file, not JSON, no ``database``, a name that cannot name a file, an annotation
                without label or segment, a time that is not a finite number, a segment that ends before it
                starts, or a duration that is no number of seconds. The recording and annotation are named.
        """
        return cls.parse(read_json(path, "annotation file"), str(Path(path)))

    @classmethod
    def parse(cls, document: Any, source: str) -> GroundTruth:
        """The same of what was read from a file already; ``source`` is its name, for messages."""
        database = document.get("database") if isinstance(document, dict) else None
        if not isinstance(database, dict):
            raise DataError(
                f"{source}: expected an ActivityNet annotation document with a 'database' object; "
                "detection files have 'results' instead. Check which file was given."
            )
        named = named_videos(database, source)
        return cls({video: _parse_video(video, entry, source) for video, entry in named}, source)

    def to_dict(self) -> dict[str, Any]:
        """The annotation document, as :meth:`parse` reads it."""
        return {"database": {name: _entry(video) for name, video in self.videos.items()}}

    @property
    def classes(self) -> tuple[str, ...]:
        """Every label but ``Ambiguous``, sorted: the class order of a model trained on this file."""
        return tuple(sorted({label for video in self.videos.values() for label in video.classes}))

    def remarks(self) -> tuple[str, ...]:
        """What is odd about the annotations and can be right, as sentences."""
        return (*remarks_on_classes(self.classes), *_remarks_on_times(self.videos))

    def subset(self, names: str | Iterable[str]) -> GroundTruth:
        """The recordings of one or several subsets.

        Raises:
            DataError: there is none; the subsets that exist are listed.
        """
        wanted = {names} if isinstance(names, str) else set(names)
        kept = {name: video for name, video in self.videos.items() if video.subset in wanted}
        if not kept:
            there = sorted({video.subset for video in self.videos.values()})
            raise DataError(
                f"{self.source}: has no recording of subset {' or '.join(sorted(wanted))!r}; "
                f"its subsets are {', '.join(map(repr, there))}."
            )
        return GroundTruth(kept, self.source)


def require_class(label: object, source: object) -> str:
    """A label of an annotation, clean; ``Ambiguous`` in any case is that one. Raises as ``require_label``."""
    name = require_label(label, source)
    return AMBIGUOUS if name.casefold() == AMBIGUOUS.casefold() else name


def remarks_on_classes(classes: Iterable[str]) -> Iterator[str]:
    """A sentence on each group of classes whose names can be one name, mistyped."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(loose_form(name), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            yield (
                f"the labels {' and '.join(map(repr, names))} differ in case, spaces, underscores or hyphens "
                "alone and are different classes. If one class is meant, write it in one way."
            )


def _remarks_on_times(videos: Mapping[str, VideoAnnotation]) -> Iterator[str]:
    late: list[str] = []
    early: list[str] = []
    for name, video in videos.items():
        for start, end in video.segments.tolist():
            span = f"{start:g} to {end:g} s in {name!r}"
            if start < 0:
                early.append(span)
            if video.duration is not None and end > video.duration + LATE_SECONDS:
                late.append(f"{span} of {video.duration:g} s")
    for found, what, check in (
        (late, "end after their video does", "Check the times, the duration and the frame rate behind both."),
        (early, "start before their video does", "Check the times."),
    ):
        if found:
            yield f"{len(found)} annotations {what} ({listed(found, _SHOWN, '; ')}). {check}"


def _entry(video: VideoAnnotation) -> dict[str, Any]:
    known = {"duration": video.duration, "fps": video.fps}
    pairs = zip(video.labels, video.segments.tolist(), strict=True)
    return {
        "subset": video.subset,
        **{name: value for name, value in known.items() if value is not None},
        "annotations": [{"label": label, "segment": segment} for label, segment in pairs],
    }


def _parse_video(video: str, entry: Any, source: str) -> VideoAnnotation:
    if not isinstance(entry, dict) or not isinstance(entry.get("annotations", []), list):
        raise DataError(f"{source}: '{video}' is not an object with a list of 'annotations'.")
    labels: list[str] = []
    segments: list[tuple[float, float]] = []
    for number, item in enumerate(entry.get("annotations", [])):
        try:
            start, end = as_segment(item["segment"])
            label = item["label"]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{source}: annotation {number} of '{video}' is not an object with 'label' and "
                f"'segment': [start, end] in seconds ({type(error).__name__}: {error})."
            ) from error
        if not (np.isfinite(start) and np.isfinite(end)):
            raise DataError(f"{source}: annotation {number} of '{video}' has a time that is not finite.")
        if max(abs(start), abs(end)) > _LONGEST:
            raise DataError(
                f"{source}: annotation {number} of '{video}' goes from {start:g} to {end:g}; expected "
                "seconds from the video's start."
            )
        if end < start:
            raise DataError(
                f"{source}: annotation {number} of '{video}' ends before it starts ({start} to {end} s). "
                "Swap the two times, or remove the annotation."
            )
        labels.append(require_class(label, f"{source}: annotation {number} of '{video}'"))
        segments.append((start, end))
    return VideoAnnotation(
        subset=str(entry.get("subset", "")),
        labels=tuple(labels),
        segments=np.array(segments, dtype=np.float64).reshape(-1, 2),
        duration=_duration(video, entry.get("duration"), source),
        fps=_fps(entry.get("fps")),
    )


def _duration(video: str, value: Any, source: str) -> float | None:
    if value is None:
        return None
    try:
        seconds = as_number(value)
    except (TypeError, ValueError, OverflowError):
        seconds = np.nan
    if not 0 <= seconds <= _LONGEST:  # nor NaN
        raise DataError(
            f"{source}: '{video}' has the duration {value!r}; expected a number of seconds. Put it right, or "
            "leave it out."
        )
    return seconds


def _fps(value: Any) -> float | None:
    """A frame rate, which is compared and no more; None for what is no number."""
    try:
        rate = as_number(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return rate if np.isfinite(rate) and rate > 0 else None

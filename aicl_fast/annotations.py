"""Ground truth: which actions a recording contains and, for testing, when."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aicl_fast.errors import DataError
from aicl_fast.files import read_json


@dataclass(frozen=True)
class VideoAnnotation:
    """One recording's instances.

    Attributes:
        subset: the subset's name in the file (``validation``, ``test``, ``training`` …).
        labels: N class names, in the file's order.
        segments: (N, 2) float64 start and end in seconds.
        duration: seconds, or None where the file does not say.
    """

    subset: str
    labels: tuple[str, ...]
    segments: npt.NDArray[np.float64]
    duration: float | None = None


@dataclass(frozen=True)
class GroundTruth:
    """An annotation file: ``videos`` by name, in the file's order."""

    videos: Mapping[str, VideoAnnotation]
    source: str = "ground truth"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GroundTruth:
        """Read an ActivityNet annotation file; segments may be numbers or strings.

        Raises:
            DataError: no such file, not JSON, no ``database``, an annotation without label or segment, a
                time that is not a finite number, a segment that ends before it starts, or a duration that
                is no number of seconds. The recording and annotation are named.
        """
        source = str(Path(path))
        document = read_json(path, "annotation file")
        database = document.get("database") if isinstance(document, dict) else None
        if not isinstance(database, dict):
            raise DataError(
                f"{source}: expected an ActivityNet annotation document with a 'database' object; "
                "detection files have 'results' instead. Check which file was given."
            )
        return cls({video: _parse_video(video, entry, source) for video, entry in database.items()}, source)

    @property
    def classes(self) -> tuple[str, ...]:
        """Every label, sorted: the class order of a model trained on this file."""
        return tuple(sorted({label for video in self.videos.values() for label in video.labels}))

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


def _parse_video(video: str, entry: Any, source: str) -> VideoAnnotation:
    if not isinstance(entry, dict) or not isinstance(entry.get("annotations", []), list):
        raise DataError(f"{source}: '{video}' is not an object with a list of 'annotations'.")
    labels: list[str] = []
    segments: list[tuple[float, float]] = []
    for number, item in enumerate(entry.get("annotations", [])):
        try:
            start, end = (float(time) for time in item["segment"])
            label = str(item["label"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{source}: annotation {number} of '{video}' is not an object with 'label' and "
                f"'segment': [start, end] in seconds ({type(error).__name__}: {error})."
            ) from error
        if not (np.isfinite(start) and np.isfinite(end)):
            raise DataError(f"{source}: annotation {number} of '{video}' has a time that is not finite.")
        if end < start:
            raise DataError(
                f"{source}: annotation {number} of '{video}' ends before it starts ({start} to {end} s). "
                "Swap the two times, or remove the annotation."
            )
        labels.append(label)
        segments.append((start, end))
    return VideoAnnotation(
        subset=str(entry.get("subset", "")),
        labels=tuple(labels),
        segments=np.array(segments, dtype=np.float64).reshape(-1, 2),
        duration=_duration(video, entry.get("duration"), source),
    )


def _duration(video: str, value: Any, source: str) -> float | None:
    if value is None:
        return None
    try:
        seconds = np.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = np.nan
    if not (np.isfinite(seconds) and seconds >= 0):
        raise DataError(
            f"{source}: '{video}' has the duration {value!r}; expected a number of seconds. Put it right, or "
            "leave it out."
        )
    return seconds

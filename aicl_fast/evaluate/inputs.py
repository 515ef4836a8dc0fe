"""Annotations and detections as a measure takes them: a file, or what was read from one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace

from aicl_fast.data.annotations import GroundTruth, require_class
from aicl_fast.data.detections import Detections, LoadedDetections, load_detections
from aicl_fast.errors import DataError
from aicl_fast.evaluate.names import clean_names

GroundTruthLike = GroundTruth | str | os.PathLike[str]
DetectionsLike = Mapping[str, Detections] | str | os.PathLike[str]


def as_ground_truth(source: GroundTruthLike) -> GroundTruth:
    """The annotations in a file, or those given, with clean names and labels."""
    if not isinstance(source, GroundTruth):
        return GroundTruth.load(source)
    labels = {label for video in source.videos.values() for label in video.labels}
    clean = {label: require_class(label, source.source) for label in labels}
    videos = clean_names(source.videos, source.source)
    if any(label != name for label, name in clean.items()):
        videos = {
            name: replace(video, labels=tuple(clean[label] for label in video.labels))
            for name, video in videos.items()
        }
    return replace(source, videos=videos)


def as_detections(source: DetectionsLike) -> LoadedDetections:
    """The detections in a file, or those given, by clean names; in messages they are called by their file.

    Raises:
        DataError: neither a path nor a mapping from video names to detections.
    """
    if isinstance(source, (str, os.PathLike)):
        return load_detections(source)
    if not isinstance(source, Mapping) or not all(isinstance(item, Detections) for item in source.values()):
        raise DataError(
            "detections: expected a path or a mapping from video names to Detections, got "
            f"{type(source).__name__}. For one recording give {{name: detections}}."
        )
    name = source.source if isinstance(source, LoadedDetections) else "detections"
    return LoadedDetections(clean_names(source, name), name)


def touched_subsets(truth: GroundTruth, *runs: Iterable[str]) -> tuple[str, ...]:
    """The subsets that the annotated ones of the videos are of."""
    return tuple(sorted({truth.videos[name].subset for run in runs for name in run if name in truth.videos}))

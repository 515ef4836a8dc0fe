"""Data sets whose training annotations know less than they do: simulated points instead of times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from aicl_fast.data.annotations import AMBIGUOUS, FIRST_POINT, GroundTruth, VideoAnnotation
from aicl_fast.data.dataset import Dataset
from aicl_fast.errors import DataError

Annotate = Callable[[Dataset, int], Dataset]
"""(data set, seed) -> the same with other annotations of its training videos."""


def with_points(share: float) -> Annotate:
    """Points of every instance in a share of the training videos, and only labels of the others.

    A point is a time drawn uniformly between the instance's start and end.

    Raises:
        DataError: there is no training video whose annotations all have times.
    """

    def annotate(dataset: Dataset, seed: int) -> Dataset:
        rng = np.random.default_rng(seed)
        videos = dict(dataset.ground_truth.videos)
        names = [name for name in dataset.videos["train"] if videos[name].timed.all()]
        if not names:
            raise DataError(
                f"{dataset.root}: no training video has start and end in all its annotations, so there is "
                "nothing to simulate points from."
            )
        order = rng.permutation(len(names)).tolist()
        chosen = {names[index] for index in order[: max(1, round(share * len(names)))]}
        for name in dataset.videos["train"]:
            videos[name] = _pointed(videos[name], rng) if name in chosen else videos[name].without_times()
        return replace(dataset, ground_truth=GroundTruth(videos, dataset.ground_truth.source))

    return annotate


def _pointed(video: VideoAnnotation, rng: np.random.Generator) -> VideoAnnotation:
    kept = [row for row, label in enumerate(video.labels) if label != AMBIGUOUS]
    times = np.maximum(rng.uniform(*video.segments[kept].T), FIRST_POINT)
    labels = tuple(video.labels[row] for row in kept)
    return replace(video, labels=labels, segments=np.stack([times, times], axis=1))

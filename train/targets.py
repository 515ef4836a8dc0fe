"""The targets of L_sc and L_sa in training: of annotated points or times, and of a teacher."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from aicl_fast.extras import needs

with needs("train"):
    import torch

from aicl_fast.data.annotations import AMBIGUOUS, LATE_SECONDS
from aicl_fast.data.dataset import Dataset
from aicl_fast.decode.decoder import Decoder
from aicl_fast.errors import AiclWarning, DataError
from aicl_fast.model import TwoBranchNet
from aicl_fast.text import listed
from aicl_fast.train.localize import score_videos
from aicl_fast.train.losses import SegmentTargets
from aicl_fast.train.sampling import Videos, send
from aicl_fast.train.segment_labels import (
    Integers,
    Points,
    SegmentLabels,
    at_segments,
    of_detections,
    of_points,
    of_times,
    points_of,
)

TRUSTED = 0.5
"""The share of the steps after which the teacher also labels videos without points. Before, what it takes for
action may be background, and training would not recover."""


class Targets:
    """What is known of the segments of the training videos, and what a teacher says of the rest.

    ``train.supervision`` says which annotations are used, and ``train.self_training`` whether the teacher
    labels the videos that have none.

    Attributes:
        needs_teacher: whether there is anything for a teacher to label.
    """

    def __init__(self, dataset: Dataset, videos: Videos) -> None:
        """Raises:
        DataError: the supervision is by times, and no training video has any; or a point is after the end of
            its video's features.
        Warns:
            AiclWarning: two points of different classes in one segment.
        """
        self.config, self.videos = dataset.config, videos
        self.seconds = self.config.data.frames_per_segment / self.config.data.fps
        self._classes = dataset.config.classes
        self._annotations = [dataset.ground_truth.videos[name] for name in videos.names]
        self._labels: dict[int, SegmentLabels] = {}
        self._points: dict[int, Points] = {}
        supervision = self.config.train.supervision
        if supervision != "videos":
            self._points = dict(self._find_points(dataset.ground_truth.source))
            for index, points in self._points.items():
                self._labels[index] = of_points(points, None)
        if supervision == "times":
            self._read_times(dataset)
        unknown = {*range(len(videos))} - self._labels.keys()
        self._guessed = unknown if self.config.train.self_training else set()
        self.needs_teacher = bool(self._points or self._guessed)
        start = self.config.train.teacher_start
        self._start = start if self._points else max(start, TRUSTED)

    def due(self, step: int) -> bool:
        """Whether the teacher labels the videos before this step, counted from 1."""
        settings = self.config.train
        waited = step - 1 - round(self._start * settings.steps)
        return self.needs_teacher and waited >= 0 and waited % settings.teacher_every == 0

    def label(self, teacher: TwoBranchNet, step: int) -> None:
        """Let a network label what the annotations leave open, as it does before this step."""
        trusted = step > TRUSTED * self.config.train.steps
        scores = score_videos(teacher, self.videos, self.config)
        decoder = Decoder(self.config.decode, self._classes)
        for index, name in enumerate(self.videos.names):
            if index in self._points:
                self._labels[index] = of_points(self._points[index], at_segments(scores[name]))
            elif trusted and index in self._guessed:
                self._labels[index] = of_detections(
                    decoder.batch([scores[name]])[0],
                    self._annotations[index].classes,
                    self._classes,
                    int(self.videos.counts[index]),
                    self.seconds,
                )

    def of(self, indices: Sequence[int], samples: Sequence[Integers]) -> SegmentTargets | None:
        """Targets and weights of these segments of these videos, on the device; None before there are any."""
        if not self._labels:
            return None
        classes = len(self._classes)
        target = np.zeros((len(indices), self.videos.length, classes), np.float32)
        weight = np.zeros(target.shape[:2], np.float32)
        for row, (index, sample) in enumerate(zip(indices, samples, strict=True)):
            if index in self._labels:
                target[row], weight[row] = self._labels[index].at(sample, classes)
        device = self.videos.device
        return send(torch.from_numpy(target), device), send(torch.from_numpy(weight), device)

    def _find_points(self, source: str) -> Iterator[tuple[int, Points]]:
        mixed = []
        for index, (name, annotation) in enumerate(zip(self.videos.names, self._annotations, strict=True)):
            end = int(self.videos.counts[index]) * self.seconds
            latest = annotation.segments[annotation.points, 0].max(initial=0.0)
            if latest > end + LATE_SECONDS:
                raise DataError(
                    f"{source}: '{name}' has a point at {latest:g} s, and its features end at {end:g} s. "
                    "Check the time, and the frame rate of the features (--set fps=)."
                )
            points = points_of(annotation, self._classes, int(self.videos.counts[index]), self.seconds)
            if len(points.places):
                yield index, points
            if len(np.unique(points.places)) < len(
                {*zip(points.places.tolist(), points.classes.tolist(), strict=True)}
            ):
                mixed.append(name)
        if mixed:
            warnings.warn(
                f"points of different classes lie in one segment, {self.seconds:g} s, in {listed(mixed)}: "
                "both count. Move them apart if the classes do not happen together.",
                AiclWarning,
                stacklevel=4,
            )

    def _read_times(self, dataset: Dataset) -> None:
        found = False
        for index, annotation in enumerate(self._annotations):
            own = np.array([label != AMBIGUOUS for label in annotation.labels], bool)
            if own.any() and annotation.timed[own].all():
                count = int(self.videos.counts[index])
                self._labels[index] = of_times(annotation, self._classes, count, self.seconds)
                found = True
        if not found:
            raise DataError(
                f"{dataset.ground_truth.source}: train.supervision is times, and there is no training video "
                "whose annotations all have times. Annotate some, or set supervision to points or videos."
            )

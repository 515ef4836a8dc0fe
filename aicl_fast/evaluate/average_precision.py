"""Mean average precision over tIoU thresholds (docs/method.md, section 9)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from aicl_fast.errors import ConfigError
from aicl_fast.evaluate.matching import match, overlapping_pairs, true_positives
from aicl_fast.evaluate.table import (
    Ambiguous,
    DetectionsLike,
    Duplicates,
    Floats,
    GroundTruthLike,
    Integers,
    Table,
    Ties,
    build_table,
    check_tious,
)

TIOUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
"""THUMOS14's thresholds."""


@dataclass(frozen=True, eq=False)
class MapResult:
    """What :func:`mean_average_precision` measures. Fractions, not per cent.

    Attributes:
        mAP: (K,) mean over the classes that have an annotated instance.
        average: mean of ``mAP`` over the thresholds.
        per_class: AP of each class, (K,); NaN for a class without an annotated instance.
        tious: (K,) the thresholds.
        counts: ``videos``, ``instances``, ``detections``, ``ignored_detections`` (unknown label or other
            subset), ``videos_not_detected``, ``videos_only_detected``, ``excluded_videos``,
            ``duplicate_annotations``.
        warnings: what was odd about the input, as sentences.
        subset: the subset that was measured.
        instances: annotated instances of each class.
    """

    mAP: Floats
    average: float
    per_class: Mapping[str, Floats]
    tious: Floats
    counts: Mapping[str, int]
    warnings: tuple[str, ...] = ()
    subset: str = "all"
    instances: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a class without instances has None for its AP."""
        return {
            "average_mAP": self.average,
            "tious": self.tious.tolist(),
            "mAP": self.mAP.tolist(),
            "per_class": {
                name: [None if np.isnan(value) else float(value) for value in values]
                for name, values in self.per_class.items()
            },
            "instances": dict(self.instances),
            "subset": self.subset,
            "counts": dict(self.counts),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Protocol:
    """A benchmark's own way of measuring: arguments of :func:`mean_average_precision`."""

    tiou_thresholds: tuple[float, ...]
    subset: str
    duplicates: Duplicates = "keep"
    ambiguous: Ambiguous = "drop"
    exclude: tuple[str, ...] = ()


_ACTIVITYNET = Protocol((0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95), "validation")
PROTOCOLS: Mapping[str, Protocol] = {
    "thumos14": Protocol(TIOUS, "test"),
    "activitynet12": _ACTIVITYNET,
    "activitynet13": _ACTIVITYNET,
}


def mean_average_precision(
    ground_truth: GroundTruthLike,
    detections: DetectionsLike,
    tiou_thresholds: Iterable[float] = TIOUS,
    *,
    subset: str | Iterable[str] | None = None,
    classes: Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    duplicates: Duplicates = "keep",
    ambiguous: Ambiguous = "drop",
    ties: Ties = "activitynet",
) -> MapResult:
    """How well detections agree with annotations.

    Per class and threshold: detections of all videos by falling score; each takes the free annotation of its
    video with the highest tIoU if that reaches the threshold, else it is a false positive. AP is the area
    under the precision made non-increasing from the right.

    Args:
        ground_truth: an ActivityNet annotation file, or what was read from one.
        detections: an ActivityNet detection file, or detections by video name.
        tiou_thresholds: K numbers above 0, at most 1.
        subset: names of subsets to measure on. None takes those that the detections touch, and warns where
            the file has others.
        classes: names to measure; None takes every label of the subset. A class without an annotated
            instance has no AP and is not part of the mean; one without detections has AP 0.
        exclude: videos left out on both sides, the name of a list in ``EXCLUSIONS`` (``"thumos14"``), or
            files that list videos: a JSON list, or one name per line.
        duplicates: annotations of one video and class that have the same two times (within a millisecond):
            ``keep`` wants a detection for each, ``drop`` counts them once.
        ambiguous: what THUMOS14's Ambiguous segments do. They are never a class. ``drop``: nothing.
            ``forgive``: a false positive that overlaps one is not counted, as in THUMOS14's own evaluator.
        ties: the order of equal scores and of equal tIoUs. ``activitynet``: of equal scores the later in the
            file first, of equal tIoUs as ``network_order`` says; these give what ActivityNet's evaluator
            prints on a processor with AVX2 or later. ``file``: the earlier in the file first, in both.
            Neither depends on the machine.
    Returns:
        mAP at each threshold, its average, each class's AP, counts, and warnings for: detections with
        unknown labels (ignored), videos without detections (missed), videos without annotations (their
        detections are false positives), detections in other subsets (ignored), annotations beyond their
        video's end, and labels that differ in case or spaces alone.
    Raises:
        DataError: a file that cannot be used, no such subset, nothing annotated, NaN, not one detected video
            among the annotated ones, or not one label among the classes for a reason that can be seen.
        ConfigError: an option or threshold without meaning, or ``exclude`` names a video that there is not.
    """
    tious = check_tious(tiou_thresholds)
    table = build_table(
        ground_truth,
        detections,
        subset=subset,
        classes=classes,
        exclude=exclude,
        duplicates=duplicates,
        ambiguous=ambiguous,
        ties=ties,
    )
    return Judged.of(table, tious).result()


def precision_by_video(
    ground_truth: GroundTruthLike,
    detections: DetectionsLike,
    tiou_thresholds: Iterable[float] = TIOUS,
    *,
    subset: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
) -> dict[str, float]:
    """Average mAP of each annotated video by itself, the worst first.

    It says where to look and is no benchmark's number. Videos without an annotated instance are left out.
    Arguments and errors as :func:`mean_average_precision`.
    """
    table = build_table(ground_truth, detections, subset=subset, exclude=exclude)
    judged = Judged.of(table, check_tious(tiou_thresholds))
    found = {name: judged.of_video(index) for index, name in enumerate(table.videos)}
    known = {name: value for name, value in found.items() if value is not None}
    return dict(sorted(known.items(), key=lambda item: item[1]))


def evaluate_protocol(
    ground_truth: GroundTruthLike, detections: DetectionsLike, protocol: str = "thumos14"
) -> MapResult:
    """:func:`mean_average_precision` with a benchmark's own settings.

    Raises:
        ConfigError: no protocol of this name; those there are are listed.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol: there is no {protocol!r}; there are {', '.join(PROTOCOLS)}.")
    chosen = PROTOCOLS[protocol]
    return mean_average_precision(
        ground_truth,
        detections,
        chosen.tiou_thresholds,
        subset=chosen.subset,
        exclude=chosen.exclude,
        duplicates=chosen.duplicates,
        ambiguous=chosen.ambiguous,
    )


@dataclass(frozen=True, eq=False)
class Judged:
    """A table with every detection judged at every threshold.

    Judging depends on nothing outside a video, so a resampling of videos only needs new sums: see
    ``weights`` of :meth:`class_precisions`.
    """

    table: Table
    tious: Floats
    rank: Integers
    """(D,) detections by class, then falling score."""
    bounds: Integers
    """(C + 1,) where each class begins in ``rank``."""
    hit: npt.NDArray[np.bool_]
    """(K, D) true positives, in the order of ``rank``."""
    counted: npt.NDArray[np.bool_] | None
    """(K, D) false for a false positive that is forgiven; None where none is."""

    @classmethod
    def of(cls, table: Table, tious: Floats) -> Judged:
        """Match the table's detections class by class at all thresholds."""
        size, many = len(table.scores), len(table.classes)
        pairs = overlapping_pairs(
            table.video * many + table.label,
            table.segments,
            table.gt_video * many + table.gt_class,
            table.gt_segments,
            float(tious.min()),
            table.ties,
        )
        hit = true_positives(match(pairs, tious, size, len(table.gt_video)), size)
        rank = np.argsort(table.label, kind="stable")
        hit = hit[:, rank]
        counted = None
        if table.forgiven.any():
            counted = hit | ~table.forgiven[rank]
        bounds = np.searchsorted(table.label[rank], np.arange(many + 1))
        return cls(table, tious, rank, bounds, hit, counted)

    def class_precisions(self, weights: Floats | None = None) -> Floats:
        """(C, K) AP of every class; NaN for one without instances.

        Args:
            weights: (V,) how often each video counts. Repeating a video this often gives the same AP.
        """
        table = self.table
        each = None if weights is None else weights[table.gt_video]
        instances = np.bincount(table.gt_class, each, minlength=len(table.classes)).astype(np.float64)
        result = np.full((len(table.classes), len(self.tious)), np.nan)
        weight = None if weights is None else weights[table.video[self.rank]]
        for index in np.nonzero(instances > 0)[0]:
            inside = slice(self.bounds[index], self.bounds[index + 1])
            area = _area(
                self.hit[:, inside],
                None if self.counted is None else self.counted[:, inside],
                None if weight is None else weight[inside],
            )
            result[index] = area / instances[index]
        return result

    def of_video(self, index: int) -> float | None:
        """Average over thresholds of the mAP of one video alone; None where it has no instance."""
        if not (self.table.gt_video == index).any():
            return None
        weights = np.zeros(len(self.table.videos))
        weights[index] = 1.0
        return float(np.nanmean(self.class_precisions(weights)))

    def without(self, dropped: npt.NDArray[np.bool_]) -> Judged:
        """The same with some false positives not counted: (K, D), in the order of ``rank``."""
        counted = np.ones_like(self.hit) if self.counted is None else self.counted
        return replace(self, counted=counted & (self.hit | ~dropped))

    def result(self) -> MapResult:
        """The measures of all videos, each counted once."""
        table = self.table
        precisions = self.class_precisions()
        mean = np.nanmean(precisions, axis=0)
        instances = table.instances
        return MapResult(
            mAP=mean,
            average=float(mean.mean()),
            per_class=dict(zip(table.classes, precisions, strict=True)),
            tious=self.tious,
            counts=dict(table.counts),
            warnings=table.warnings,
            subset=table.subset,
            instances=dict(zip(table.classes, instances.tolist(), strict=True)),
        )


def _area(hit: npt.NDArray[np.bool_], counted: npt.NDArray[np.bool_] | None, weight: Floats | None) -> Floats:
    """(K,) sum over true positives of the best precision from there on.

    This is AP times the number of instances: recall steps by one instance at each true positive.
    """
    gain = hit.astype(np.float64) if weight is None else hit * weight
    found = np.cumsum(gain, axis=1)
    if counted is None:
        tried = np.cumsum(np.ones(hit.shape[1]) if weight is None else weight)
    else:
        tried = np.cumsum(counted.astype(np.float64) if weight is None else counted * weight, axis=1)
    precision = found / np.maximum(tried, 1e-300)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    area: Floats = (best * gain).sum(axis=1)
    return area

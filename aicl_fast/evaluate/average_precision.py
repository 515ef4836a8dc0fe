"""Mean average precision over tIoU thresholds (docs/method.md, section 9)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Unpack

import numpy as np
import numpy.typing as npt

from aicl_fast.evaluate.inputs import DetectionsLike, GroundTruthLike
from aicl_fast.evaluate.matching import Floats, Integers, true_positives
from aicl_fast.evaluate.protocol import Options, Protocol
from aicl_fast.evaluate.result import Result
from aicl_fast.evaluate.table import Table, build_table


@dataclass(frozen=True, eq=False)
class MapResult(Result):
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

    average: float = field(metadata={"json": "average_mAP"})
    tious: Floats
    mAP: Floats
    per_class: Mapping[str, Floats]
    instances: Mapping[str, int]
    subset: str
    counts: Mapping[str, int]
    warnings: tuple[str, ...]


def mean_average_precision(
    ground_truth: GroundTruthLike,
    detections: DetectionsLike,
    tiou_thresholds: Iterable[float] | None = None,
    *,
    protocol: Protocol | str | None = None,
    **options: Unpack[Options],
) -> MapResult:
    """How well detections agree with annotations.

    Per class and threshold: detections of all videos by falling score; each takes the free annotation of its
    video with the highest tIoU if that reaches the threshold, else it is a false positive. AP is the area
    under the precision made non-increasing from the right.

    Args:
        ground_truth: an ActivityNet annotation file, or what was read from one.
        detections: an ActivityNet detection file, or detections by video name.
        tiou_thresholds: K numbers above 0, at most 1; None takes the protocol's.
        protocol: the options as one, or the name of a benchmark's in ``PROTOCOLS``; by default THUMOS14's
            thresholds and the detections' subset.
        options: ``subset``, ``classes``, ``exclude``, ``duplicates``, ``ambiguous`` and ``ties``, each in
            place of the protocol's; :class:`Protocol` says what they are.
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
    protocol = Protocol.of(protocol, options, tiou_thresholds, "tiou_thresholds")
    return Judged.of(build_table(ground_truth, detections, protocol)).result()


def precision_by_video(
    ground_truth: GroundTruthLike,
    detections: DetectionsLike,
    tiou_thresholds: Iterable[float] | None = None,
    *,
    protocol: Protocol | str | None = None,
    **options: Unpack[Options],
) -> dict[str, float]:
    """Average mAP of each annotated video by itself, the worst first.

    It says where to look and is no benchmark's number. Videos without an annotated instance are skipped.
    Arguments and errors as :func:`mean_average_precision`.
    """
    protocol = Protocol.of(protocol, options, tiou_thresholds, "tiou_thresholds")
    judged = Judged.of(build_table(ground_truth, detections, protocol))
    precisions = {name: judged.of_video(index) for index, name in enumerate(judged.table.videos)}
    known = {name: value for name, value in precisions.items() if value is not None}
    return dict(sorted(known.items(), key=lambda item: item[1]))


def evaluate_protocol(
    ground_truth: GroundTruthLike, detections: DetectionsLike, protocol: str = "thumos14"
) -> MapResult:
    """:func:`mean_average_precision` with a benchmark's own settings.

    Raises:
        ConfigError: no protocol of this name; those there are are listed.
    """
    return mean_average_precision(ground_truth, detections, protocol=protocol)


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
    def of(cls, table: Table) -> Judged:
        """Match the table's detections class by class at its protocol's thresholds."""
        tious = table.protocol.thresholds
        hit = true_positives(table.match(tious), len(table.scores))
        rank = np.argsort(table.label, kind="stable")
        hit = hit[:, rank]
        counted = None
        if table.forgiven.any():
            counted = hit | ~table.forgiven[rank]
        bounds = np.searchsorted(table.label[rank], np.arange(len(table.classes) + 1))
        return cls(table, tious, rank, bounds, hit, counted)

    def class_precisions(self, weights: Floats | None = None) -> Floats:
        """(C, K) AP of every class; NaN for one without instances.

        Args:
            weights: (V,) how often each video counts. Repeating a video this often gives the same AP.
        """
        table = self.table
        gt_weights = None if weights is None else weights[table.gt_video]
        instances = np.bincount(table.gt_class, gt_weights, minlength=len(table.classes)).astype(np.float64)
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
        return MapResult(
            average=float(mean.mean()),
            tious=self.tious,
            mAP=mean,
            per_class=dict(zip(table.classes, precisions, strict=True)),
            instances=dict(zip(table.classes, table.instances.tolist(), strict=True)),
            subset=table.subset,
            counts=table.counts,
            warnings=table.warnings,
        )


def _area(hit: npt.NDArray[np.bool_], counted: npt.NDArray[np.bool_] | None, weight: Floats | None) -> Floats:
    """(K,) sum over true positives of the best precision from there on.

    This is AP times the number of instances: recall steps by one instance at each true positive.
    """
    gain = hit.astype(np.float64) if weight is None else hit * weight
    hits = np.cumsum(gain, axis=1)
    if counted is None:
        tried = np.cumsum(np.ones(hit.shape[1]) if weight is None else weight)
    else:
        tried = np.cumsum(counted.astype(np.float64) if weight is None else counted * weight, axis=1)
    precision = hits / np.maximum(tried, 1e-300)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    area: Floats = (best * gain).sum(axis=1)
    return area

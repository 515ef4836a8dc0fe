"""What is wrong with detections: the diagnosis of Alwassel et al., "Diagnosing Error in Temporal Action
Detectors" (DETAD), ECCV 2018.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from aicl_fast.errors import ConfigError
from aicl_fast.evaluate.average_precision import Judged
from aicl_fast.evaluate.inputs import DetectionsLike, GroundTruthLike
from aicl_fast.evaluate.matching import Floats, Integers, true_positives
from aicl_fast.evaluate.protocol import Options, Protocol, check_tious
from aicl_fast.evaluate.result import Result
from aicl_fast.evaluate.table import Table, build_table

ERRORS = (
    "true positive",
    "double detection",
    "wrong label",
    "localisation",
    "confusion",
    "background",
)
"""Kinds of detections; every one but the first is a kind of false positive."""

MIN_TIOU = 0.1
"""A detection that reaches this tIoU with no annotation is on background."""


@dataclass(frozen=True)
class Buckets:
    """Groups of instances: name and upper bound (inclusive) of each, from small to large."""

    length: tuple[tuple[str, float], ...]
    """Seconds."""
    coverage: tuple[tuple[str, float], ...]
    """Share of the video's duration."""
    instances: tuple[tuple[str, float], ...]
    """Instances of the class in the video."""


_INF = float("inf")
BUCKETS: Mapping[str, Buckets] = {
    # The bounds of DETAD's program for the two data sets.
    "thumos14": Buckets(
        length=(("XS", 3), ("S", 6), ("M", 12), ("L", 18), ("XL", _INF)),
        coverage=(("XS", 0.02), ("S", 0.04), ("M", 0.06), ("L", 0.08), ("XL", _INF)),
        instances=(("XS", 1), ("S", 40), ("M", 80), ("L", _INF)),
    ),
    "activitynet": Buckets(
        length=(("XS", 30), ("S", 60), ("M", 120), ("L", 180), ("XL", _INF)),
        coverage=(("XS", 0.2), ("S", 0.4), ("M", 0.6), ("L", 0.8), ("XL", _INF)),
        instances=(("XS", 1), ("S", 4), ("M", 8), ("L", _INF)),
    ),
}


@dataclass(frozen=True)
class Missed(Result):
    """Instances of one group that no detection takes.

    Attributes:
        name: the group's, XS to XL.
        upper: its upper bound, inclusive; infinite for the last.
        instances: how many there are.
        missed: how many are missed.
    """

    name: str
    upper: float
    instances: int
    missed: int

    @property
    def share(self) -> float:
        """Missed of all, 0 where there are none."""
        return self.missed / self.instances if self.instances else 0.0


@dataclass(frozen=True, eq=False)
class Diagnosis(Result):
    """What :func:`diagnose` finds. Shares are fractions, not per cent.

    Attributes:
        tiou: threshold of the profile and of the missed instances.
        factor: k; the profile covers the best k·G detections of each class with G instances.
        shares: share of each kind among those detections.
        profile: (k, 6) counts: row i the (i+1)-th G best of every class, columns as ``ERRORS``.
        gains: average mAP gained by removing every false positive of a kind.
        gains_at: the same at each threshold, (K,).
        tious: (K,) thresholds of mAP and gains.
        average: average mAP as it is.
        missed: groups of instances by ``length``, ``coverage`` (absent where durations are unknown) and
            ``instances``.
        instances: G of all classes.
        warnings: what was odd about the input.
    """

    tiou: float
    factor: int
    shares: Mapping[str, float]
    profile: Integers
    average: float = field(metadata={"json": "average_mAP"})
    tious: Floats
    gains: Mapping[str, float]
    gains_at: Mapping[str, Floats]
    instances: int
    missed: Mapping[str, tuple[Missed, ...]]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the last group's upper bound is None."""
        return {"errors": list(ERRORS), **super().to_dict()}


def diagnose(
    ground_truth: GroundTruthLike,
    detections: DetectionsLike,
    *,
    tiou: float = 0.5,
    tious: Iterable[float] | None = None,
    factor: int = 10,
    buckets: str | Buckets = "thumos14",
    durations: Mapping[str, float] | None = None,
    protocol: Protocol | str | None = None,
    **options: Unpack[Options],
) -> Diagnosis:
    """Tell apart the kinds of false positives, what each costs, and which instances are missed.

    With α = ``tiou``, a detection that takes an annotation as for mAP is a *true positive*. Of the others,
    the first that holds: *double detection*: tIoU of at least α with an annotation of its class (which a
    better detection has); *wrong label*: at least α with one of another class; *localisation*: at least 0.1
    with one of its class; *confusion*: at least 0.1 with one of another class; *background*.

    Args:
        ground_truth, detections, protocol, options: as for ``mean_average_precision``.
        tiou: α of the profile and of the missed instances.
        tious: thresholds of mAP; None takes the protocol's. A gain at a threshold removes what is an error
            at that threshold.
        factor: k of the best k·G detections a class that the profile covers.
        buckets: bounds of the groups of instances, or ``thumos14`` or ``activitynet`` for DETAD's.
        durations: seconds of each video, for coverage, where the annotation file does not say.
    Raises:
        ConfigError: a threshold, factor or bucket name without meaning.
        DataError: as ``mean_average_precision``.
    """
    (alpha,) = check_tious([tiou], "tiou")
    protocol = Protocol.of(protocol, options, tious)
    thresholds = protocol.thresholds
    if factor < 1:
        raise ConfigError(f"factor: expected at least 1, got {factor}.")
    if isinstance(buckets, str):
        if buckets not in BUCKETS:
            raise ConfigError(f"buckets: there is no {buckets!r}; there are {', '.join(BUCKETS)}.")
        buckets = BUCKETS[buckets]
    table = build_table(ground_truth, detections, protocol)
    every = np.append(thresholds, alpha)
    kinds, holder = classify(table, every)
    warnings = list(table.warnings)

    judged = Judged.of(table)
    before = np.nanmean(judged.class_precisions(), axis=0)
    gains_at: dict[str, Floats] = {}
    for kind, name in enumerate(ERRORS[1:], 1):
        without = judged.without((kinds[:-1] == kind)[:, judged.rank])
        gains_at[name] = np.nanmean(without.class_precisions(), axis=0) - before

    profile = _profile(table, kinds[-1], factor)
    drawn = int(profile.sum())
    missed = _missed(table, holder[-1] == len(table.scores), buckets, durations or {}, warnings)
    return Diagnosis(
        tiou=alpha,
        factor=factor,
        shares={
            name: float(count / drawn) if drawn else 0.0
            for name, count in zip(ERRORS, profile.sum(axis=0).tolist(), strict=True)
        },
        profile=profile,
        average=float(before.mean()),
        tious=thresholds,
        gains={name: float(values.mean()) for name, values in gains_at.items()},
        gains_at=gains_at,
        instances=len(table.gt_video),
        missed=missed,
        warnings=tuple(warnings),
    )


def classify(table: Table, tious: Floats) -> tuple[npt.NDArray[np.int8], Integers]:
    """The kind of every detection at every threshold.

    Returns:
        (K, D) index into ``ERRORS``, and (K, G) the detection that takes each annotation (D where none).
    """
    size = len(table.scores)
    lowest = min(MIN_TIOU, float(tious.min()))
    pairs = table.pairs(lowest)
    same = table.label[pairs.detection] == table.gt_class[pairs.annotation]
    best = np.zeros((2, size))
    for row, pair in enumerate((same, ~same)):
        np.maximum.at(best[row], pairs.detection[pair], pairs.tiou[pair])
    holder = table.match(tious)
    hit = true_positives(holder, size)
    alpha = tious[:, None]
    conditions = [hit, best[0] >= alpha, best[1] >= alpha]
    conditions += [np.broadcast_to(best[row] >= MIN_TIOU, hit.shape) for row in (0, 1)]
    kinds = np.select(conditions, [0, 1, 2, 3, 4], default=5).astype(np.int8)
    return kinds, holder


def _profile(table: Table, kinds: npt.NDArray[np.int8], factor: int) -> Integers:
    """(k, 6) kinds of each class's best G detections, second best G, …, summed over classes."""
    rank = np.argsort(table.label, kind="stable")
    first = np.searchsorted(table.label[rank], np.arange(len(table.classes)))
    label = table.label[rank]
    place = np.arange(len(rank)) - first[label]
    instances = table.instances[label]
    row = np.where(instances > 0, place // np.maximum(instances, 1), factor)
    inside = row < factor
    flat = np.bincount(row[inside] * len(ERRORS) + kinds[rank][inside], minlength=factor * len(ERRORS))
    return flat.reshape(factor, len(ERRORS)).astype(np.int64)


def _missed(
    table: Table,
    missed: npt.NDArray[np.bool_],
    buckets: Buckets,
    durations: Mapping[str, float],
    warnings: list[str],
) -> dict[str, tuple[Missed, ...]]:
    length = table.gt_segments[:, 1] - table.gt_segments[:, 0]
    group = table.gt_video * len(table.classes) + table.gt_class
    _, inverse, counts = np.unique(group, return_inverse=True, return_counts=True)
    result = {"length": _groups(length, missed, buckets.length)}
    names = sorted(set(table.gt_video.tolist()))
    known: dict[int, float] = {}
    for index in names:
        duration = durations.get(table.videos[index], table.durations[index])
        if duration is not None and duration > 0:
            known[index] = float(duration)
    if len(known) == len(names):
        seconds = np.array([known[index] for index in table.gt_video.tolist()])
        with np.errstate(over="ignore"):  # a duration of almost nothing
            coverage = length / seconds
        result["coverage"] = _groups(coverage, missed, buckets.coverage)
    else:
        warnings.append(
            f"coverage is skipped: {len(names) - len(known)} of {len(names)} videos have no duration, "
            "neither in the annotation file nor in durations."
        )
    result["instances"] = _groups(counts[inverse].astype(np.float64), missed, buckets.instances)
    return result


def _groups(
    values: Floats, missed: npt.NDArray[np.bool_], bounds: Sequence[tuple[str, float]]
) -> tuple[Missed, ...]:
    place = np.searchsorted([upper for _, upper in bounds], values, side="left")
    every = np.bincount(place, minlength=len(bounds))
    lost = np.bincount(place[missed], minlength=len(bounds))
    return tuple(
        Missed(name, float(upper), int(every[i]), int(lost[i])) for i, (name, upper) in enumerate(bounds)
    )

"""Two runs side by side, with the noise that the choice of videos makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from aicl_fast.errors import ConfigError
from aicl_fast.evaluate.average_precision import Judged, MapResult
from aicl_fast.evaluate.inputs import (
    DetectionsLike,
    GroundTruthLike,
    as_detections,
    as_ground_truth,
    touched_subsets,
)
from aicl_fast.evaluate.matching import Floats, Integers
from aicl_fast.evaluate.names import excluded_videos
from aicl_fast.evaluate.protocol import Options, Protocol
from aicl_fast.evaluate.result import Result
from aicl_fast.evaluate.table import build_table


@dataclass(frozen=True)
class Difference(Result):
    """Second run minus first.

    Attributes:
        first, second: the two values.
        low, high: the interval that holds the difference in ``level`` of all resamplings of the videos.
    """

    first: float
    second: float
    low: float
    high: float

    @property
    def value(self) -> float:
        """Second minus first."""
        return self.second - self.first

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``within noise`` (the interval holds 0), of the second run."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "within noise"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**super().to_dict(), "difference": self.value, "verdict": self.verdict}


@dataclass(frozen=True, eq=False)
class Comparison(Result):
    """What :func:`compare` finds.

    Attributes:
        first, second: each run's own measures.
        average: of average mAP.
        at: of mAP at each tIoU.
        per_class: of each class's AP, averaged over the tIoUs.
        level: share of resamplings that an interval holds.
        resamples: how many were drawn.
        videos: how many videos were drawn from.
        names: of the two runs.
    """

    first: MapResult = field(metadata={"json": None})
    second: MapResult = field(metadata={"json": None})
    average: Difference
    at: Mapping[float, Difference]
    per_class: Mapping[str, Difference]
    level: float
    resamples: int
    videos: int
    names: tuple[str, str] = ("the first run", "the second run")

    @property
    def verdict(self) -> str:
        """One sentence on average mAP."""
        difference = self.average
        interval = (
            f"{100 * self.level:g} % interval {100 * difference.low:+.2f} to {100 * difference.high:+.2f} "
            f"over {self.videos} videos"
        )
        points = f"{100 * abs(difference.value):.2f} points of average mAP"
        first, second = self.names
        if difference.verdict == "within noise":
            return f"The difference of {points} between {first} and {second} is within noise ({interval})."
        return f"{second} is {difference.verdict} than {first} by {points} ({interval})."

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        warnings = [*self.first.warnings, *self.second.warnings]
        return {"verdict": self.verdict, **super().to_dict(), "warnings": warnings}


def compare(
    ground_truth: GroundTruthLike,
    first: DetectionsLike,
    second: DetectionsLike,
    tiou_thresholds: Iterable[float] | None = None,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    names: tuple[str, str] = ("the first run", "the second run"),
    protocol: Protocol | str | None = None,
    **options: Unpack[Options],
) -> Comparison:
    """Measure two runs and tell a difference from noise by a paired bootstrap over videos.

    Videos are drawn with replacement, as many as there are, and both runs are measured on the same draw; the
    interval is of the percentiles of the differences. A class that a draw has no instance of is left out of
    that draw's mean. The interval covers the choice of test videos, not the randomness of training: two runs
    of one recipe with different seeds can differ by more than it.

    Args:
        first, second: detections of the two runs, on the same videos.
        resamples: draws, at least 100.
        level: share of draws that the interval holds.
        seed: of the draws.
        names: of the two runs, for the verdict.

    The others as for ``mean_average_precision``.

    Raises:
        ConfigError: ``resamples`` or ``level`` without meaning.
        DataError: as ``mean_average_precision``.
    """
    if resamples < 100:
        raise ConfigError(f"resamples: expected at least 100 for an interval, got {resamples}.")
    if not 0 < level < 1:
        raise ConfigError(f"level: expected a number between 0 and 1, got {level}.")
    protocol = Protocol.of(protocol, options, tiou_thresholds, "tiou_thresholds")
    truth = as_ground_truth(ground_truth)
    runs = [as_detections(first), as_detections(second)]
    remarks: list[str] = []
    excluded = excluded_videos(protocol.exclude, {*truth.videos, *runs[0], *runs[1]}, remarks)
    if protocol.subset is None:
        # Inferred from both, so that both are measured on the same videos.
        protocol = replace(protocol, subset=touched_subsets(truth, *runs) or None)
    judged = []
    for run in runs:
        own = replace(protocol, exclude=excluded.intersection({*truth.videos, *run}))
        judged.append(Judged.of(build_table(truth, run, own)))
    results = [item.result() for item in judged]
    results[0] = replace(results[0], warnings=(*remarks, *results[0].warnings))
    drawn, videos = _paired_draws(judged, resamples, seed)
    tail = 100 * (1 - level) / 2

    def difference(first: float, second: float, values: Floats) -> Difference:
        values = values[np.isfinite(values)]
        if not len(values):
            return Difference(first, second, float("nan"), float("nan"))
        low, high = np.percentile(values, [tail, 100 - tail])
        return Difference(first, second, float(low), float(high))

    one, other = results
    present = {index: name for index, name in enumerate(one.instances) if one.instances[name]}
    by_tiou = np.nanmean(drawn[:, list(present)], axis=1)
    by_class = drawn.mean(axis=2)
    means = [{name: float(result.per_class[name].mean()) for name in present.values()} for result in results]
    return Comparison(
        first=one,
        second=other,
        average=difference(one.average, other.average, by_tiou.mean(axis=1)),
        at={
            tiou: difference(float(one.mAP[k]), float(other.mAP[k]), by_tiou[:, k])
            for k, tiou in enumerate(protocol.tious)
        },
        per_class={
            name: difference(means[0][name], means[1][name], by_class[:, index])
            for index, name in present.items()
        },
        level=level,
        resamples=resamples,
        videos=videos,
        names=names,
    )


def _paired_draws(judged: list[Judged], resamples: int, seed: int) -> tuple[Floats, int]:
    """(resamples, C, K) AP of the second run less the first's, and how many videos are drawn from."""
    names = list(dict.fromkeys([*judged[0].table.videos, *judged[1].table.videos]))
    place = {name: index for index, name in enumerate(names)}
    columns = [np.array([place[name] for name in item.table.videos]) for item in judged]
    resamplers = [_Resampler(item) for item in judged]
    generator = np.random.default_rng(seed)
    chances = np.full(len(names), 1 / len(names))
    drawn = np.empty((resamples, *resamplers[0].shape))
    for index in range(resamples):
        weights = generator.multinomial(len(names), chances).astype(np.float64)
        first, second = (
            item.precisions(weights[column]) for item, column in zip(resamplers, columns, strict=True)
        )
        drawn[index] = second - first
    return drawn, len(names)


class _Resampler:
    """:meth:`Judged.class_precisions` for many draws: only true positives are touched.

    Precision peaks at true positives, so AP needs it nowhere else, and these are a small part of all
    detections at all thresholds.
    """

    def __init__(self, judged: Judged) -> None:
        table = judged.table
        self.shape = (len(table.classes), len(judged.tious))
        self.gt_class, self.gt_video = table.gt_class, table.gt_video
        self.video = table.video[judged.rank]
        self.start = judged.bounds[:-1]
        label = table.label[judged.rank]
        tiou, position = np.nonzero(judged.hit)
        group = label[position] * self.shape[1] + tiou
        order = np.lexsort((position, group))
        self.group: Integers = group[order]
        self.position: Integers = position[order]
        self.label: Integers = label[self.position]
        self.row: Integers = tiou[order]
        self.counted: npt.NDArray[np.bool_] | None = judged.counted
        # Makes a running maximum from the right start again in every group: an earlier group is higher.
        self.lift = 2.0 * (self.shape[0] * self.shape[1] - 1 - self.group)

    def precisions(self, weights: Floats) -> Floats:
        """(C, K) AP where each video counts as often as ``weights`` (V,) says; NaN without instances."""
        weight = weights[self.video]
        gain = weight[self.position]
        if self.counted is None:
            tried = np.concatenate([[0.0], np.cumsum(weight)])
            seen = tried[self.position + 1] - tried[self.start[self.label]]
        else:
            every = np.zeros((self.counted.shape[0], len(weight) + 1))
            np.cumsum(self.counted * weight, axis=1, out=every[:, 1:])
            seen = every[self.row, self.position + 1] - every[self.row, self.start[self.label]]
        total = np.cumsum(gain)
        opening = (
            np.concatenate([[True], self.group[1:] != self.group[:-1]]) if len(gain) else np.empty(0, bool)
        )
        before = (total - gain)[opening]
        hits = total - np.repeat(before, np.diff(np.append(np.nonzero(opening)[0], len(gain))))
        precision = hits / np.maximum(seen, 1e-300)
        best = np.maximum.accumulate((precision + self.lift)[::-1])[::-1] - self.lift
        area = np.bincount(self.group, best * gain, minlength=self.shape[0] * self.shape[1])
        instances = np.bincount(self.gt_class, weights[self.gt_video], minlength=self.shape[0])
        result = np.full(self.shape, np.nan)
        has = instances > 0
        result[has] = area.reshape(self.shape)[has] / instances[has, None]
        return result

"""Do two files say the same? The same features through each; differences, mAP and latency in one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from aicl_fast.data.dataset import Dataset
from aicl_fast.data.detections import Detections
from aicl_fast.data.features import Floats
from aicl_fast.data.sampling import sample
from aicl_fast.detector import Detector
from aicl_fast.errors import ConfigError, DataError
from aicl_fast.evaluate import mean_average_precision
from aicl_fast.metadata import Range
from aicl_fast.signature import NetworkOutputs


class Tolerance(NamedTuple):
    """How far a file may be from float32."""

    absolute: float
    """Of every output; all are probabilities, in [0, 1]. One segment that changes places with another in
    the top k moves a video score by more than rounding does."""
    mAP: float
    """How much lower the average mAP on a data set may be, as a share."""


TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(1e-4, 0.001),
    "tf32": Tolerance(1e-2, 0.005),
    "fp16": Tolerance(1e-2, 0.005),
    "bf16": Tolerance(4e-2, 0.005),
    "int8": Tolerance(1.5e-1, 0.005),
    "fp8": Tolerance(1.5e-1, 0.005),
}
"""Tolerances by precision. Of two files the wider one holds."""

BATCH = 8
"""Videos compared at a time."""

_BLOCK = 5
"""Timed runs of one file at a stretch."""
_WARM = 3
"""Runs before them that do not count."""
_PAUSE = 0.05
"""Seconds after which an engine's threads are at rest, with room to spare."""


@dataclass(frozen=True)
class Difference:
    """How one output of a file differs from the reference's."""

    output: str
    absolute: float
    """Largest."""
    relative: float
    """Largest, where the reference is at least 1e-3."""
    where: tuple[int, ...]
    """Of the largest absolute one: video, then segment and class as the output has them."""


@dataclass(frozen=True)
class Parity:
    """How one file compares with the first."""

    name: str
    precision: str
    engine: str
    differences: tuple[Difference, ...]
    """Empty for the reference itself."""
    tolerance: Tolerance
    milliseconds: float
    """Median of one video a run."""
    mAP: float | None
    """Average over the model's tIoUs, if there was a data set."""
    reference_mAP: float | None

    @property
    def passed(self) -> bool:
        """Within the tolerance, mAP too."""
        if any(not each.absolute <= self.tolerance.absolute for each in self.differences):  # NaN fails
            return False
        if self.mAP is None or self.reference_mAP is None:
            return True
        return self.reference_mAP - self.mAP <= self.tolerance.mAP


def compare_detectors(
    detectors: Sequence[Detector],
    dataset: Dataset | None = None,
    *,
    runs: int = 20,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Parity]:
    """Run the same features through several model files.

    Args:
        detectors: two or more; the first is the reference.
        dataset: its test videos are the features, and mAP is measured on them; None takes random features.
        runs: timed runs of each, in turns, so that all see the same machine.
        seed: of the random features.
    Returns:
        One :class:`Parity` a detector, in their order.
    Raises:
        DataError: fewer than two, their features or classes differ, or no T is possible for all.
        ConfigError: a negative seed, or no run.
    """
    if runs < 1:
        raise ConfigError(f"--runs: expected at least 1, got {runs}.")
    if seed < 0:
        raise ConfigError(f"--seed: expected 0 or more, got {seed}.")
    _check_comparable(detectors)
    length = common_segments([each.engine.info.segments for each in detectors], detectors[0].segments)
    before = [each.segments for each in detectors]
    try:
        for each in detectors:
            each.segments = length
        return _compared(detectors, dataset, runs, seed, progress)
    finally:
        for each, own in zip(detectors, before, strict=True):
            each.segments = own


def common_segments(allowed: Sequence[Range], wanted: int) -> int:
    """The T nearest to ``wanted`` that all files allow.

    Raises:
        DataError: there is none.
    """
    low, high = max(each.min for each in allowed), min(each.max for each in allowed)
    if low > high:
        raise DataError(
            f"segments: expected a T that all files allow, got {', '.join(map(str, allowed))}. Export with "
            "a range of --segments, or the same T."
        )
    return min(max(wanted, low), high)


def _compared(
    detectors: Sequence[Detector],
    dataset: Dataset | None,
    runs: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> list[Parity]:
    videos = _features(detectors[0], dataset, seed)
    found: list[list[NetworkOutputs]] = [[] for _ in detectors]
    for start in range(0, len(videos), BATCH):
        chunk = np.stack(videos[start : start + BATCH])
        for number, detector in enumerate(detectors):
            found[number].append(detector.engine(chunk))
        if progress is not None:
            progress(min(start + BATCH, len(videos)), len(videos))
    joined = [NetworkOutputs(*map(np.concatenate, zip(*parts, strict=True))) for parts in found]
    times = _latencies(detectors, videos[0][None], runs)
    maps = [None if dataset is None else _mean_average(detector, dataset) for detector in detectors]
    own = TOLERANCES.get(detectors[0].engine.info.precision, TOLERANCES["fp32"])
    results = []
    for number, detector in enumerate(detectors):
        info = detector.engine.info
        wanted = TOLERANCES.get(info.precision, TOLERANCES["fp32"])
        results.append(
            Parity(
                name=detector.path.name,
                precision=info.precision,
                engine=detector.engine.name,
                differences=differences(joined[0], joined[number]) if number else (),
                tolerance=Tolerance(*map(max, own, wanted)),
                milliseconds=1e3 * times[number],
                mAP=maps[number],
                reference_mAP=maps[0],
            )
        )
    return results


def differences(reference: NetworkOutputs, other: NetworkOutputs) -> tuple[Difference, ...]:
    """Compare two engines' outputs of the same features, output by output."""
    found = []
    for name, a, b in zip(NetworkOutputs._fields, reference, other, strict=True):
        apart = np.abs(a.astype(np.float64) - b)
        apart = np.where(np.isnan(apart), np.inf, apart)
        large = np.abs(a) >= 1e-3
        relative = float((apart[large] / np.abs(a[large])).max()) if large.any() else 0.0
        where = np.unravel_index(int(apart.argmax()), apart.shape)
        found.append(Difference(name, float(apart.max()), relative, tuple(int(i) for i in where)))
    return tuple(found)


def _check_comparable(detectors: Sequence[Detector]) -> None:
    if len(detectors) < 2:
        raise DataError(f"parity: expected at least two model files, got {len(detectors)}.")
    first = detectors[0]
    for other in detectors[1:]:
        for name, mine, theirs in (
            ("features a segment", first.config.data.input_width, other.config.data.input_width),
            ("classes", first.classes, other.classes),
        ):
            if mine != theirs:
                raise DataError(
                    f"{other.path}: cannot be compared with {first.path}: {name} are {theirs}, not {mine}."
                )


def _features(detector: Detector, dataset: Dataset | None, seed: int) -> list[Floats]:
    data = detector.config.data
    if dataset is None:
        rng = np.random.default_rng(seed)
        # Features of a ReLU network: not negative, about 1.
        shape = (BATCH, detector.segments, data.input_width)
        return list(np.abs(rng.standard_normal(shape, np.float32)))
    return [sample([dataset.streams("test", name)], detector.segments)[0] for name in dataset.videos["test"]]


def _latencies(detectors: Sequence[Detector], features: Floats, runs: int) -> list[float]:
    """Median seconds of each, in blocks: an engine's threads spin on after a run, on the cores of the next.

    Before a block, the others have come to rest and this one is warm.
    """
    times: list[list[float]] = [[] for _ in detectors]
    while len(times[0]) < runs:
        count = min(_BLOCK, runs - len(times[0]))
        for detector, found in zip(detectors, times, strict=True):
            time.sleep(_PAUSE)
            for _ in range(_WARM):
                detector.engine(features)
            for _ in range(count):
                start = time.perf_counter()
                detector.engine(features)
                found.append(time.perf_counter() - start)
    return [float(np.median(each)) for each in times]


def _mean_average(detector: Detector, dataset: Dataset) -> float:
    names = dataset.videos["test"]
    found: dict[str, Detections] = {}
    for start in range(0, len(names), BATCH):
        chunk = names[start : start + BATCH]
        features = [dataset.features("test", name) for name in chunk]
        found.update(zip(chunk, detector.batch(features, videos=chunk), strict=True))
    truth = dataset.truth("test")
    return float(mean_average_precision(truth, found, detector.config.evaluate.tious).average)

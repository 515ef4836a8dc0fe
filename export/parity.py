"""Do two files say the same? The same features through each; differences, mAP and latency in one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from aicl_fast.dataset import Dataset
from aicl_fast.detections import Detections
from aicl_fast.detector import Detector
from aicl_fast.engines import EngineOutputs
from aicl_fast.errors import DataError
from aicl_fast.evaluate import mean_average_precision
from aicl_fast.features import Floats, sample_indices


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
        runs: timed runs of each, in turn, so that all see the same machine.
        seed: of the random features.
    Returns:
        One :class:`Parity` a detector, in their order.
    Raises:
        DataError: fewer than two, or their features, T or classes differ.
    """
    _check_comparable(detectors)
    videos = _features(detectors[0], dataset, seed)
    found: list[list[EngineOutputs]] = [[] for _ in detectors]
    for start in range(0, len(videos), BATCH):
        chunk = np.stack(videos[start : start + BATCH])
        for number, detector in enumerate(detectors):
            found[number].append(detector.engine(chunk))
        if progress is not None:
            progress(min(start + BATCH, len(videos)), len(videos))
    joined = [EngineOutputs(*map(np.concatenate, zip(*parts, strict=True))) for parts in found]
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


def differences(reference: EngineOutputs, other: EngineOutputs) -> tuple[Difference, ...]:
    """Compare two engines' outputs of the same features, output by output."""
    found = []
    for name, a, b in zip(EngineOutputs._fields, reference, other, strict=True):
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
            ("segments (T)", first.config.data.segments, other.config.data.segments),
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
        return list(np.abs(rng.standard_normal((BATCH, data.segments, data.input_width), np.float32)))
    found = []
    for name in dataset.videos["test"]:
        features = dataset.features("test", name)
        found.append(features[sample_indices(len(features), data.segments)])
    return found


def _latencies(detectors: Sequence[Detector], features: Floats, runs: int) -> list[float]:
    for detector in detectors:
        for _ in range(3):
            detector.engine(features)
    times = np.empty((runs, len(detectors)))
    for run in range(runs):
        for number, detector in enumerate(detectors):
            start = time.perf_counter()
            detector.engine(features)
            times[run, number] = time.perf_counter() - start
    return [float(value) for value in np.median(times, axis=0)]


def _mean_average(detector: Detector, dataset: Dataset) -> float:
    names = dataset.videos["test"]
    found: dict[str, Detections] = {}
    for start in range(0, len(names), BATCH):
        chunk = names[start : start + BATCH]
        features = [dataset.features("test", name) for name in chunk]
        found.update(zip(chunk, detector.batch(features, videos=chunk), strict=True))
    truth = dataset.truth("test")
    return float(mean_average_precision(truth, found, detector.config.evaluate.tious).average)

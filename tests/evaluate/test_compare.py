"""The paired bootstrap: weights equal repetition, verdicts are right where the answer is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aicl_fast.data.annotations import GroundTruth
from aicl_fast.data.detections import Detections, load_detections
from aicl_fast.errors import ConfigError
from aicl_fast.evaluate import compare, mean_average_precision
from aicl_fast.evaluate.average_precision import Judged
from aicl_fast.evaluate.bootstrap import _Resampler
from aicl_fast.evaluate.protocol import Ambiguous, Protocol
from aicl_fast.evaluate.table import build_table


def a_run(
    rng: np.random.Generator, truth: dict[str, Any], noise: float, extra: int
) -> dict[str, list[tuple[str, float, float, float]]]:
    found: dict[str, list[tuple[str, float, float, float]]] = {}
    for video, spans in truth.items():
        items = [
            (label, float(rng.random()), *sorted((start + noise * rng.normal(), end + noise * rng.normal())))
            for label, start, end in spans
        ]
        items += [
            ("a" if rng.random() < 0.5 else "b", float(rng.random()), start, start + 5.0)
            for start in rng.random(extra) * 90
        ]
        found[video] = items
    return found


@pytest.fixture
def truth() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {
        f"v{number}": [
            ("a" if rng.random() < 0.6 else "b", float(start), float(start) + 6.0)
            for start in rng.choice(np.arange(0, 90, 10), rng.integers(1, 5), replace=False)
        ]
        for number in range(25)
    }


@pytest.mark.parametrize("ambiguous", [False, True])
def test_weights_equal_repeated_videos(
    truth: dict[str, Any], ambiguous: bool, truth_of: Any, found_of: Any
) -> None:
    rng = np.random.default_rng(1)
    if ambiguous:
        truth = {video: [*spans, ("Ambiguous", 40.0, 60.0)] for video, spans in truth.items()}
    found = a_run(rng, truth, 1.5, 6)
    tious = (0.1, 0.3, 0.5, 0.7)
    option: Ambiguous = "forgive" if ambiguous else "drop"
    protocol = Protocol(tious, ambiguous=option)
    judged = Judged.of(build_table(truth_of(truth), found_of(found), protocol))
    quick = _Resampler(judged)
    for _ in range(5):
        times = rng.integers(0, 4, len(truth))
        weights = times.astype(float)
        # A copy's detections tie with the original's; both orders of equal copies give the same AP.
        copies = {f"{v}.{i}": truth[v] for v, n in zip(truth, times, strict=True) for i in range(n)}
        copied = {f"{v}.{i}": found[v] for v, n in zip(truth, times, strict=True) for i in range(n)}
        expected = mean_average_precision(
            truth_of(copies), found_of(copied), protocol=protocol, classes=["a", "b"]
        )
        for result in (judged.class_precisions(weights), quick.precisions(weights)):
            for index, name in enumerate(judged.table.classes):
                np.testing.assert_allclose(result[index], expected.per_class[name], rtol=0, atol=1e-11)


def test_a_better_run_is_called_better(truth: dict[str, Any], truth_of: Any, found_of: Any) -> None:
    rng = np.random.default_rng(2)
    bad, good = a_run(rng, truth, 3.0, 10), a_run(rng, truth, 0.3, 2)
    result = compare(truth_of(truth), found_of(bad), found_of(good), resamples=200, names=("old", "new"))
    assert result.average.verdict == "better"
    assert result.average.low < result.average.value < result.average.high
    assert result.verdict.startswith("new is better than old by ")  # names as they are: they may be paths
    back = compare(truth_of(truth), found_of(good), found_of(bad), resamples=200)
    assert back.average.verdict == "worse"
    assert back.average.low == pytest.approx(-result.average.high)
    assert set(result.per_class) == {"a", "b"}
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_run_equals_itself(truth: dict[str, Any], truth_of: Any, found_of: Any) -> None:
    found = found_of(a_run(np.random.default_rng(2), truth, 1.0, 4))
    result = compare(truth_of(truth), found, found, resamples=100)
    assert (result.average.value, result.average.low, result.average.high) == (0.0, 0.0, 0.0)
    assert "within noise" in result.verdict


def test_the_seed_decides(truth: dict[str, Any], truth_of: Any, found_of: Any) -> None:
    rng = np.random.default_rng(2)
    runs = [found_of(a_run(rng, truth, 1.0, 4)) for _ in range(2)]
    one, same, other = (compare(truth_of(truth), *runs, resamples=100, seed=s).average for s in (1, 1, 2))
    assert (one.low, one.high) == (same.low, same.high) != (other.low, other.high)


def test_videos_of_only_one_run(truth: dict[str, Any], truth_of: Any, found_of: Any) -> None:
    """A run that lacks videos, and one that has videos nobody annotated, meet on the same draw."""
    found = a_run(np.random.default_rng(3), truth, 0.5, 1)
    fewer = dict(list(found.items())[:10])
    more = {"stranger": [("a", 2.0, 0.0, 5.0)], **found}
    result = compare(truth_of(truth), found_of(fewer), found_of(more), resamples=100)
    assert result.videos == len(truth) + 1
    assert result.average.verdict == "better"


def test_noise_on_real_detections_is_called_noise(shared_data: Path) -> None:
    folder = shared_data / "thumos14"
    truth = GroundTruth.load(folder / "gt.json")
    found = load_detections(folder / "detections.json")
    rng = np.random.default_rng(0)
    jittered = {
        name: Detections(item.labels, item.scores + 0.002 * rng.normal(size=len(item)), item.segments, name)
        for name, item in found.items()
    }
    result = compare(truth, found, jittered, resamples=100)
    assert result.first.average == pytest.approx(0.4167824692564227, abs=1e-9)
    assert result.first.subset == result.second.subset == "test"
    assert result.average.verdict == "within noise"


def test_bad_arguments(truth: dict[str, Any], truth_of: Any, found_of: Any) -> None:
    for arguments in ({"resamples": 1}, {"level": 1.0}):
        with pytest.raises(ConfigError, match=next(iter(arguments))):
            compare(truth_of(truth), {}, {}, **arguments)

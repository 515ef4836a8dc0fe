"""Every measure against the plain loops of naive.py, on inputs full of ties."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aicl_fast.errors import DataError
from aicl_fast.evaluate import ERRORS, average_recall, mean_average_precision
from aicl_fast.evaluate.detad import classify
from aicl_fast.evaluate.matching import network_order
from aicl_fast.evaluate.table import build_table

VIDEOS = ("v0", "v1", "v2")
quick = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def inputs(most: int, scores: int, least: int = 0, latest: int = 14) -> dict[str, Any]:
    """Annotations and detections. A coarse grid of times and scores makes ties of both kinds common."""
    labels, times = st.sampled_from("ab"), st.integers(0, latest)
    spans = st.tuples(labels, times, times).map(lambda x: (x[0], min(x[1:]), max(x[1:])))
    items = st.tuples(labels, st.integers(0, scores), times, times).map(
        lambda x: (x[0], x[1] / scores, min(x[2:]), max(x[2:]))
    )
    videos = VIDEOS[: 2 if least else 3]
    return {
        "truth": st.fixed_dictionaries({v: st.lists(spans, min_size=least, max_size=most) for v in videos}),
        "found": st.fixed_dictionaries({v: st.lists(items, max_size=9 if most == 9 else 12) for v in videos}),
    }


@given(**inputs(9, 4, latest=12), ties=st.sampled_from(["activitynet", "file"]))
@settings(quick, max_examples=300)
def test_precision(truth: Any, found: Any, ties: Any, naive: Any, truth_of: Any, found_of: Any) -> None:
    tious = [0.1, 0.25, 0.5, 1.0]
    if not any(truth.values()):
        with pytest.raises(DataError, match="no annotated instance"):
            mean_average_precision(truth_of(truth), found_of(found), tious)
        return
    result = mean_average_precision(truth_of(truth), found_of(found), tious, ties=ties)
    expected = naive.mean_average_precision(truth, found, tious, ties)
    assert set(result.per_class) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(result.per_class[name], values, rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.mAP, np.mean(list(expected.values()), axis=0), rtol=0, atol=1e-12)


def crowd(seed: int, videos: tuple[str, ...], annotations: int, detections: int) -> tuple[Any, Any]:
    """Dense annotations, many overlapping detections: long chains of second choices."""
    rng = np.random.default_rng(seed)
    truth, found = {}, {}
    for video in videos:
        starts = rng.integers(0, 60, annotations).astype(float)
        truth[video] = [("a", s, s + n) for s, n in zip(starts, rng.integers(1, 9, annotations), strict=True)]
        columns = (
            rng.integers(0, 60, detections) * 1.0,
            rng.integers(1, 12, detections),
            rng.integers(0, 30, detections),
        )
        found[video] = [("a", score / 30, s, s + n) for s, n, score in zip(*columns, strict=True)]
    return truth, found


@pytest.mark.parametrize("ties", ["activitynet", "file"])
@pytest.mark.parametrize(
    ("seed", "videos", "sizes", "limits"),
    [
        *[(seed, ("v",), (40, 150), {}) for seed in range(3)],
        # With room for almost no pair, or few detections, at a time the answer is the same.
        (9, VIDEOS, (12, 20), {"_CHUNK": 5}),
        (9, VIDEOS, (12, 20), {"_BLOCK": 7}),
        (9, ("v",), (40, 150), {"_BLOCK": 1, "_CHUNK": 1}),
    ],
)
def test_precision_where_many_compete(
    seed: int, videos: Any, sizes: Any, limits: Any, ties: Any, naive: Any, truth_of: Any, found_of: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    truth, found = crowd(seed, videos, *sizes)
    for name, value in limits.items():
        monkeypatch.setattr(f"aicl_fast.evaluate.matching.{name}", value)
    tious = [0.1, 0.3, 0.5, 0.7]
    result = mean_average_precision(truth_of(truth), found_of(found), tious, ties=ties)
    expected = naive.mean_average_precision(truth, found, tious, ties)
    np.testing.assert_allclose(result.per_class["a"], expected["a"], rtol=0, atol=1e-12)


@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=70))
@quick
def test_network_order_equals_its_recursive_definition(values: list[int], naive: Any) -> None:
    size = 1 << (len(values) - 1).bit_length()
    row = np.full((1, size), np.inf)
    row[0, : len(values)] = values
    order = network_order(row)[0]
    assert order[order < len(values)].tolist() == naive.network(values)


def test_network_order_is_what_a_vectorised_numpy_does() -> None:
    rng = np.random.default_rng(0)
    probe = np.array([0.5, 0.5, 1, 0, 0.5, 0.5, 0, 1, 0.5, 0.5, 0.5, 0, 1, 1, 0, 0.5, 0.25, 0.5, 0.5, 0.5])
    if probe.argsort().tolist() == probe.argsort(kind="stable").tolist():
        pytest.skip("this numpy sorts small arrays by insertion: no AVX2, or numpy before 2.0")
    for size in (2, 5, 8, 17, 38, 64, 100, 256):
        for _ in range(50):
            # As a detection sees annotations: most do not overlap it, two overlap it alike.
            values = np.where(rng.random(size) < 0.7, 0.0, rng.random(size))
            values[rng.integers(0, size, 2)] = 0.5
            row = np.full((1, 1 << (size - 1).bit_length()), np.inf)
            row[0, :size] = values
            order = network_order(row)[0]
            order = order[order < size]
            tied = values[order] == 0.5
            assert order[tied].tolist() == [i for i in values.argsort().tolist() if values[i] == 0.5]


@given(**inputs(6, 30, least=1), threshold=st.sampled_from([0.05, 0.1, 0.3, 0.5]))
@settings(quick, max_examples=200)
def test_kinds(truth: Any, found: Any, threshold: float, naive: Any, truth_of: Any, found_of: Any) -> None:
    table = build_table(truth_of(truth), found_of(found))
    kinds, _ = classify(table, np.array([threshold]))
    columns = (table.label, table.scores.tolist(), table.video, kinds[0])
    ours = [
        (table.classes[label], score, table.videos[video], ERRORS[kind])
        for label, score, video, kind in zip(*columns, strict=True)
    ]
    # Unknown labels are ignored.
    assert ours == [row for row in naive.kinds(truth, found, threshold) if row[0] in table.classes]


@given(**inputs(6, 9, least=1))
@settings(quick, max_examples=100)
def test_recall(truth: Any, found: Any, naive: Any, truth_of: Any, found_of: Any) -> None:
    labels = {span[0] for video in truth.values() for span in video}
    found = {video: [item for item in every if item[0] in labels] for video, every in found.items()}
    numbers, tious = [1, 3, 100], [0.2, 0.5, 0.8]
    result = average_recall(truth_of(truth), found_of(found), numbers, tious)
    expected = [[naive.recall(truth, found, n, t) for t in tious] for n in numbers]
    np.testing.assert_allclose(result.recall, expected, atol=1e-12)
    np.testing.assert_allclose(result.average, np.mean(expected, axis=1), atol=1e-12)
    json.dumps(result.to_dict(), allow_nan=False)

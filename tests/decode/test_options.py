"""What no preset switches on: joined runs, a shortest proposal, density."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aicl_fast.config import PRESETS, DecodeConfig
from aicl_fast.data.detections import Detections
from aicl_fast.decode.decoder import Decoder
from aicl_fast.decode.nms import NMS_MODES
from aicl_fast.errors import ConfigError

# One segment a second and no interpolation: a grid point is a second.
PLAIN = DecodeConfig(
    upscale=1, thresholds=(0.5,), nms="hard", nms_tiou=1.0, nms_added_seconds=0.0, outer_ratio=0.0,
    video_score_weight=0.0,
)  # fmt: skip
KEPT = replace(PLAIN, nms="decay_once", nms_sigma=1e300)
"""Every proposal with its own score."""


def run(curve: Any, backend: Any, config: DecodeConfig, n: int | None = None) -> Detections:
    """Of one class."""
    scores = np.asarray(curve, np.float64)[:, None]
    return Decoder(config, "a", backend).decode(scores, np.ones(1), n or len(scores), 25.0, 25)


def spans(found: Detections) -> list[list[float]]:
    return sorted(found.segments.tolist())


def test_runs_no_further_apart_than_the_gap_are_one(backend: str) -> None:
    curve = [1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1]
    for gap, wanted in (
        (0.0, [[0, 1], [3, 5], [6, 7], [10, 11]]),
        (0.99, [[0, 1], [3, 5], [6, 7], [10, 11]]),
        (1.0, [[0, 1], [3, 7], [10, 11]]),
        (2.0, [[0, 7], [10, 11]]),
        (3.0, [[0, 11]]),
        (1e30, [[0, 11]]),
    ):
        found = run(curve, backend, replace(PLAIN, merge_gap=gap))
        assert spans(found) == wanted, gap
    assert found.scores.tolist() == [5 / 11]  # of all of it, and nothing is outside


def test_joined_runs_are_scored_on_all_that_they_span(backend: str) -> None:
    curve = [0.25, 0.0, 1.0, 0.0, 1.0, 0.0, 0.75]
    config = replace(PLAIN, thresholds=(0.9,), merge_gap=1.0, outer_ratio=0.5)
    found = run(curve, backend, config)
    assert spans(found) == [[2, 5]]
    assert found.scores.tolist() == [pytest.approx(2 / 3 - 0.25 / 3)]  # two points before, one behind
    found = run(curve, backend, replace(config, outer_ratio=0.7))  # two to each side
    assert found.scores.tolist() == [pytest.approx(2 / 3 - (0.25 + 0.75) / 4)]


@pytest.mark.parametrize("place", range(0, 200, 7))
def test_equal_to_the_gap_or_the_shortest_wherever_it_is(place: int, backend: str) -> None:
    # 0.1 s a point: 3 · 0.1 is not 0.3, and 0.3 - 0 is not 0.5 - 0.2.
    curve = np.zeros(210)
    curve[[place, place + 1, place + 2, place + 6, place + 7, place + 8]] = 1
    for gap, shortest, count in (
        (0.3, 0.0, 1), (0.2999, 0.0, 2), (0.0, 0.3, 2), (0.0, 0.3001, 0), (0.3, 0.9, 1), (0.3, 0.9001, 0),
    ):  # fmt: skip
        config = replace(PLAIN, merge_gap=gap, min_seconds=shortest)
        assert len(run(curve, backend, config, n=21)) == count, (gap, shortest)


@pytest.mark.parametrize("nms", NMS_MODES)
def test_a_short_proposal_suppresses_nothing(nms: str, backend: str) -> None:
    curve = [0.6, 0.6, 1.0, 0.6, 0.6, 0, 0, 1.0]
    config = replace(PLAIN, thresholds=(0.5, 0.9), nms=nms, nms_tiou=0.1, outer_ratio=0.2, min_seconds=2.0)
    found = run(curve, backend, config)
    assert spans(found) == [[0, 5]]
    alone = run(curve, backend, replace(config, thresholds=(0.5,)))
    assert found == alone
    assert spans(run(curve, backend, replace(config, min_seconds=0.0)))[:2] != [[0, 5]]


def test_joined_before_the_short_ones_are_dropped(backend: str) -> None:
    config = replace(PLAIN, merge_gap=1.0, min_seconds=3.0)
    assert spans(run([1, 0, 1, 0, 0, 1, 0], backend, config)) == [[0, 3]]


@pytest.mark.parametrize("nms", NMS_MODES)
@pytest.mark.parametrize("across", [False, True])
def test_nothing_is_long_enough(nms: str, across: bool, backend: str) -> None:
    rng = np.random.default_rng(0)
    config = replace(PRESETS["thumos14"].decode, nms=nms, nms_across_classes=across, density_weight=1.0)
    decoder = Decoder(replace(config, min_seconds=61.0), "abc", backend)  # type: ignore[arg-type]
    assert len(decoder.decode(rng.random((60, 3)), np.ones(3), 60, 25.0, 25)) == 0
    decoder = Decoder(replace(config, min_seconds=1e30), "abc", backend)  # type: ignore[arg-type]
    assert len(decoder.decode(np.ones((60, 3)), np.ones(3), 60, 25.0, 25)) == 0
    decoder = Decoder(replace(config, min_seconds=60.0), "abc", backend)  # type: ignore[arg-type]
    assert len(decoder.decode(np.ones((60, 3)), np.ones(3), 60, 25.0, 25)) > 0


def test_density_by_hand(backend: str) -> None:
    curve = [0.3, 0.3, 0.5, 0.5, 0.3, 0.7, 0.3, 0.3, 0.3, 0.3, 0.0, 0.3]
    config = replace(KEPT, thresholds=(0.2, 0.4, 0.6))
    # [0, 10] holds [2, 4] and [5, 6], which is there twice; [11, 12] is apart from all of them.
    density = {(0.0, 10.0): (2 + 1 + 1) / 10 / 4, (2.0, 4.0): 0.2 / 4, (5.0, 6.0): 1.1 / 4, (11.0, 12.0): 0.0}
    before, after = (run(curve, backend, replace(config, density_weight=weight)) for weight in (0.0, 2.0))
    wanted = sorted(
        (score + 2.0 * density[start, end], [start, end]) for score, (start, end) in _rows(before)
    )
    assert [span for _, span in sorted(_rows(after))] == [span for _, span in wanted]
    assert sorted(after.scores.tolist()) == pytest.approx([score for score, _ in wanted])


def test_density_counts_ten(backend: str) -> None:
    # A staircase: [0, 40], [0, 39] … each within the one before.
    steps = 40
    curve = np.arange(steps, 0, -1) / 64
    thresholds = tuple(curve.tolist())
    config = replace(KEPT, thresholds=thresholds)
    before, after = (
        {end: score for score, (_, end) in _rows(run(curve, backend, replace(config, density_weight=weight)))}
        for weight in (0.0, 1.0)
    )
    for length in range(1, steps + 1):
        others = [min(length, other) / max(length, other) for other in range(1, steps + 1) if other != length]
        total = 0.0
        for overlap in sorted(others, reverse=True)[:10]:
            total += overlap
        assert after[length] == before[length] + total / 10, length


@pytest.mark.parametrize("count", [1, 2, 10, 11, 12, 40])
def test_density_of_equal_ones(count: int, backend: str) -> None:
    config = replace(KEPT, thresholds=tuple(np.linspace(0.1, 0.9, count)))
    before = run([0, 1, 1, 0], backend, config)
    after = run([0, 1, 1, 0], backend, replace(config, density_weight=0.25))
    assert len(before) == len(after) == count
    # One alone has no others.
    assert after.scores.tolist() == [score + (0.25 if count > 1 else 0.0) for score in before.scores]


def test_density_is_of_a_class_on_its_own(backend: str) -> None:
    config = replace(KEPT, nms_across_classes=True, density_weight=1.0)
    scores = np.tile([[0.0], [1.0], [1.0], [0.0]], (1, 2))
    found = Decoder(config, "ab", backend).decode(scores, np.ones(2), 4, 25.0, 25)  # type: ignore[arg-type]
    assert found.scores.tolist() == [1.0, 1.0]


def test_density_decides_what_suppresses(backend: str) -> None:
    # Alone, a peak beats the plateau around it, on which several thresholds agree.
    curve = [0, 0.4, 0.4, 0.4, 1.0, 0.4, 0.4, 0.4, 0]
    config = replace(PLAIN, thresholds=(0.1, 0.2, 0.3, 0.35, 0.9), nms_tiou=0.1, outer_ratio=0.3)
    assert run(curve, backend, config).segments[0].tolist() == [4, 5]
    assert run(curve, backend, replace(config, density_weight=1.0)).segments.tolist() == [[1, 8]]


@pytest.mark.parametrize("nms", NMS_MODES)
def test_huge_weights(nms: str, backend: str) -> None:
    rng = np.random.default_rng(0)
    config = replace(PRESETS["thumos14"].decode, nms=nms, density_weight=1e100, merge_gap=1e30)
    found = run(rng.random(200), backend, config)
    assert len(found) > 0
    assert np.isfinite(found.scores).all()
    assert (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize("name", ["density_weight", "min_seconds", "merge_gap"])
@pytest.mark.parametrize("value", [-1.0, -1e-300, math.nan, math.inf, 1e101, "a", None, True])
def test_settings_without_a_meaning_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"decode\.{name}: expected"):
        replace(PLAIN, **{name: value})


def test_a_mode_from_outside_gets_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    seen: list[list[float]] = []

    def suppress(start: Any, end: Any, score: Any, config: Any) -> Any:
        seen.extend(zip(start.tolist(), end.tolist(), score.tolist(), strict=True))  # type: ignore[arg-type]
        return np.ones(len(score), np.bool_)

    monkeypatch.setitem(NMS_MODES, "all", suppress)
    config = replace(PLAIN, nms="all", thresholds=(0.4, 0.5))
    config = replace(config, merge_gap=1.0, min_seconds=3.0, density_weight=1.0)
    run([1, 0, 1, 0, 0, 1, 0], "numba", config)
    assert seen == [(0.0, 3.0, pytest.approx(2 / 3 + 1))] * 2


def _rows(found: Detections) -> list[tuple[float, list[float]]]:
    return list(zip(found.scores.tolist(), found.segments.tolist(), strict=True))

"""Three implementations against each other: the grid's own words, numba, C++."""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aicl_fast.config import PRESETS, DataConfig, DecodeConfig
from aicl_fast.data.detections import Detections
from aicl_fast.decode.decoder import Backend, Decoder, available_backends

BACKENDS: tuple[Backend, ...] = tuple(b for b in ("native", "numba") if b in available_backends())
THUMOS = PRESETS["thumos14"].decode
SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

Curve = npt.NDArray[np.float64]


def _noise(rng: np.random.Generator, length: int) -> Curve:
    return rng.random(length)


def _walk(rng: np.random.Generator, length: int) -> Curve:
    return 0.5 + np.cumsum(rng.uniform(-0.1, 0.1, length))


def _at_thresholds(rng: np.random.Generator, length: int) -> Curve:
    # As the thresholds are written: 0.1 * 3 is not 0.3.
    return rng.choice([0.0, 1.0, *THUMOS.thresholds], length)


def _plateaus(rng: np.random.Generator, length: int) -> Curve:
    return np.repeat(_at_thresholds(rng, length), rng.integers(1, 5, length))[:length]


def _beside_thresholds(rng: np.random.Generator, length: int) -> Curve:
    return np.nextafter(_at_thresholds(rng, length), rng.choice([-1.0, 2.0], length))


def _ties(rng: np.random.Generator, length: int) -> Curve:
    return rng.integers(0, 5, length) / 4


def _constant(rng: np.random.Generator, length: int) -> Curve:
    return np.full(length, rng.choice([0.5, 0.3, 0.05, 2.0, -1.0, rng.random()]))


def _above(rng: np.random.Generator, length: int) -> Curve:
    return 1 + 4 * rng.random(length)


def _below(rng: np.random.Generator, length: int) -> Curve:
    return -4 * rng.random(length)


def _wild(rng: np.random.Generator, length: int) -> Curve:
    return 3 * rng.standard_normal(length)


def _hair(rng: np.random.Generator, length: int) -> Curve:
    # Neighbouring floats around a threshold: the interpolation itself rounds to one or the other.
    return 0.5 + rng.integers(-3, 4, length) * np.spacing(0.5)


KINDS = (
    _noise, _walk, _at_thresholds, _plateaus, _beside_thresholds, _ties, _constant, _above, _below, _wild,
    _hair,
)  # fmt: skip
lengths = st.one_of(
    st.integers(1, 6), st.integers(1, 80), st.sampled_from([63, 100, 500, 750]), st.integers(1, 3000)
)


@st.composite
def videos(draw: st.DrawFn) -> tuple[Curve, Curve]:
    """(T, C) scores and (C,) video scores."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    length, width = draw(lengths), draw(st.integers(0, 5))
    curves = [draw(st.sampled_from(KINDS))(rng, length) for _ in range(width)]
    scores = np.stack(curves, axis=1) if curves else np.empty((length, 0))
    return scores, rng.random(width) * draw(st.sampled_from([0.2, 0.5, 1.0]))


@st.composite
def configs(draw: st.DrawFn) -> DecodeConfig:
    thresholds = draw(
        st.one_of(
            st.just(THUMOS.thresholds),
            st.lists(st.sampled_from([*THUMOS.thresholds, 0.0, 1.0, -1.0]), min_size=1, max_size=14),
            st.lists(st.floats(-2, 3), min_size=1, max_size=5),
        )
    )
    return DecodeConfig(
        thresholds=tuple(thresholds),
        class_threshold=draw(st.sampled_from([0.0, 0.1, 0.25, 0.9])),
        upscale=draw(st.sampled_from([24, 24, 1, 2, 3, 8, 25])),
        merge_gap=draw(st.sampled_from([0.0, 0.0, 0.2, 3.0, 1e30])),
        min_seconds=draw(st.sampled_from([0.0, 0.0, 0.5, 4.0, 1e30])),
        density_weight=draw(st.sampled_from([0.0, 0.0, 0.5, 2.0])),
        outer_ratio=draw(st.sampled_from([0.2, 0.25, 0.0, 1.0, 7.3])),
        video_score_weight=draw(st.sampled_from([0.2, 0.0, -1.5])),
        nms=draw(st.sampled_from(["decay_once", "hard", "gaussian"])),
        nms_tiou=draw(st.sampled_from([0.4, 0.7, 0.0, 1.0, 0.01, 0.95])),
        nms_sigma=draw(st.sampled_from([0.35, 0.01, 5.0])),
        nms_added_seconds=draw(st.sampled_from([1.0, 0.0, 20.0])),
        nms_across_classes=draw(st.booleans()),
        min_score=draw(st.sampled_from([0.001, 0.2, -0.5])),
        max_detections=draw(st.sampled_from([0, 0, 1, 7])),
    )


class Case(NamedTuple):
    """What there is to decode: (T, C) scores and (C,) video scores, n, the settings."""

    video: tuple[Curve, Curve]
    n: int
    config: DecodeConfig
    data: DataConfig = DataConfig()

    def proposals(self, naive: ModuleType) -> Any:
        return naive.proposals(*self.video, self.n, self.config, self.data)

    def undecayed(self) -> Case:
        """So wide a Gaussian that nothing decays: the detections are the proposals."""
        config = replace(self.config, nms="gaussian", nms_sigma=1e300, min_score=-1e300, max_detections=0)
        return self._replace(config=config)

    def run(self, backend: Backend) -> Detections:
        names = [str(c) for c in range(len(self.video[1]))]
        decoder = Decoder(self.config, names, backend)
        return decoder.decode(*self.video, self.n, self.data.fps, self.data.frames_per_segment)


datas = st.builds(
    DataConfig, frames_per_segment=st.sampled_from([16, 1]), fps=st.sampled_from([25.0, 29.97, 50.0])
)


def _short_enough(case: Case) -> Case:
    """The naive density compares every pair."""
    return case._replace(video=(case.video[0][:300], case.video[1])) if case.config.density_weight else case


cases = st.builds(Case, videos(), st.integers(1, 5000), configs(), datas).map(_short_enough)


def rows(found: Detections) -> list[tuple[int, float, float, float]]:
    return [(int(d.label), d.score, d.start, d.end) for d in found]


def scale_of(video: tuple[Curve, Curve]) -> float:
    return max(1.0, float(np.abs(video[0]).max(initial=0.0)))


@pytest.mark.parametrize("backend", BACKENDS)
@given(case=cases)
@example(Case((np.array([[0.5], [0.5 + 2**-53]]), np.array([1.0])), 10, DecodeConfig(thresholds=(0.5,))))
@SETTINGS
def test_proposals_are_the_grids(naive: ModuleType, backend: Backend, case: Case) -> None:
    found = rows(case.undecayed().run(backend))
    wanted = case.proposals(naive)
    left = sorted((p.label, p.start, p.end, p.score) for p in wanted)
    right = sorted((label, start, end, score) for label, score, start, end in found)
    # Ends to the grid point: the very same floats.
    assert [row[:3] for row in right] == [row[:3] for row in left]
    assert [row[3] for row in right] == pytest.approx(
        [row[3] for row in left], rel=0, abs=1e-8 * scale_of(case.video)
    )


@pytest.mark.parametrize("backend", BACKENDS)
@given(case=cases, weight=st.sampled_from([0.3, 1.0, 1e9, 1e-9]))
@SETTINGS
def test_densities_are_the_naive_ones(naive: ModuleType, backend: Backend, case: Case, weight: float) -> None:
    case = _short_enough(case._replace(config=replace(case.config, density_weight=weight))).undecayed()
    without = case._replace(config=replace(case.config, density_weight=0.0))
    boxes = without.proposals(naive)
    names = sorted({box.label for box in boxes})
    # Proposals of equal times have equal scores, too.
    density = {
        (box.label, box.start, box.end): value
        for pool in ([box for box in boxes if box.label == label] for label in names)
        for box, value in zip(pool, naive.densities(pool), strict=True)
    }
    wanted = sorted(
        (label, start, end, score + weight * density[label, start, end])
        for label, score, start, end in rows(without.run(backend))
    )
    found = rows(case.run(backend))
    assert sorted((label, start, end, score) for label, score, start, end in found) == wanted


@pytest.mark.parametrize("backend", BACKENDS)
@given(case=cases)
@SETTINGS
def test_nms_is_the_naive_one(naive: ModuleType, backend: Backend, case: Case) -> None:
    # Given the same proposals with the same bits: sums in another order would break ties in another way.
    config, found = case.config, rows(case.undecayed().run(backend))
    if len(found) > 250:
        case = case._replace(video=(case.video[0][:60], case.video[1]))
        found = rows(case.undecayed().run(backend))
    pool = [naive.Proposal(label, -1, -1, score, start, end) for label, score, start, end in found]
    labels = {box.label for box in pool}
    pools = (
        [pool] if config.nms_across_classes else [[b for b in pool if b.label == c] for c in sorted(labels)]
    )
    kept = [pair for part in pools for pair in naive.suppress(part, config)]
    kept.sort(key=lambda pair: -pair[1])
    wanted = [(score, box.label, box.start, box.end) for box, score in kept]
    got = [(score, label, start, end) for label, score, start, end in rows(case.run(backend))]
    if config.max_detections:
        assert len(got) == min(len(wanted), config.max_detections)
        wanted = wanted[: len(got)]
        # Which of several equal ones are skipped is a matter of order, which this comparison does not fix.
        assert [row[0] for row in got] == pytest.approx([row[0] for row in wanted], rel=1e-12)
        return

    def places(items: list[Any]) -> list[Any]:
        return sorted(row[1:] for row in items)

    assert places(got) == places(wanted)
    assert [row[0] for row in got] == pytest.approx([row[0] for row in wanted], rel=1e-12)
    by_place = [sorted(items, key=lambda row: (row[1:], row[0])) for items in (got, wanted)]
    assert [row[0] for row in by_place[0]] == pytest.approx([row[0] for row in by_place[1]], rel=1e-12)


@given(case=cases, single=st.booleans())
@SETTINGS
def test_the_backends_agree(case: Case, single: bool) -> None:
    if single:
        scores, v = (array.astype(np.float32) for array in case.video)
        case = case._replace(video=(scores, v))  # type: ignore[arg-type]
    first, *others = (case.run(backend) for backend in BACKENDS)
    for other in others:
        assert first.labels.tolist() == other.labels.tolist()
        assert first.segments.tolist() == other.segments.tolist()
        # Only exp may differ, in its last bit.
        np.testing.assert_allclose(first.scores, other.scores, rtol=1e-13, atol=0)
    assert (np.diff(first.scores) <= 0).all()
    assert np.isfinite(first.scores).all()


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    curve=st.lists(
        st.one_of(st.floats(-1, 2), st.sampled_from([0.0, 0.5, 1.0, *THUMOS.thresholds])),
        min_size=1,
        max_size=12,
    ),
    upscale=st.sampled_from([24, 7, 1]),
)
@SETTINGS
def test_small_curves_that_shrink(
    naive: ModuleType, backend: Backend, curve: list[float], upscale: int
) -> None:
    case = Case((np.array(curve)[:, None], np.array([1.0])), 30, replace(THUMOS, upscale=upscale))
    found, wanted = rows(case.undecayed().run(backend)), case.proposals(naive)
    assert sorted(row[2:] for row in found) == sorted((p.start, p.end) for p in wanted)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("nms", ["decay_once", "hard", "gaussian"])
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("length", [2, 63, 100, 500])
def test_whole_decoding_on_smooth_curves(
    naive: ModuleType, backend: Backend, nms: Any, across: bool, length: int
) -> None:
    rng = np.random.default_rng(length)
    noise = rng.standard_normal((length + 40, 3))
    window = np.hanning(41)
    scores = np.stack([np.convolve(noise[:, c], window, "valid") for c in range(3)], axis=1)[:length]
    scores = 1 / (1 + np.exp(-scores))
    config = replace(THUMOS, nms=nms, nms_across_classes=across)
    v = np.array([0.5, 0.1, 0.4])
    wanted = naive.decode(scores, v, 900, config, DataConfig())
    found = rows(Case((scores, v), 900, config).run(backend))
    assert [(row[0], row[2], row[3]) for row in found] == [(row[0], row[2], row[3]) for row in wanted]
    assert [row[1] for row in found] == pytest.approx([row[1] for row in wanted], abs=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_classes_and_many_thresholds(naive: ModuleType, backend: Backend) -> None:
    rng = np.random.default_rng(11)
    scores, v = rng.random((50, 200)), rng.random(200)
    config = replace(THUMOS, thresholds=tuple(np.linspace(0, 1, 40)), class_threshold=0.0)
    case = Case((scores, v), 50, config)
    found, wanted = rows(case.undecayed().run(backend)), case.proposals(naive)
    left = sorted((label, start, end) for label, _, start, end in found)
    assert left == sorted((p.label, p.start, p.end) for p in wanted)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("peak", [False, True])
def test_scores_that_agree_in_their_leading_bits(backend: Backend, peak: bool) -> None:
    # Sorting goes by leading bits first: here they say nothing about the order.
    rng = np.random.default_rng(0)
    scores = 0.5 + rng.integers(-500, 501, (3000, 1)) * np.spacing(0.5)
    if peak:
        # But for the last proposal, which comes first.
        scores[-20:, 0] = 0.4
        scores[-5:, 0] = 0.9
    case = Case((scores, np.ones(1)), 900, DecodeConfig(thresholds=(0.5,)))
    found = case.undecayed().run(backend)
    assert len(set(found.scores.tolist())) > 100
    assert np.ptp(found.scores[int(peak) :]) < (0.1 if peak else 1e-9)
    assert (np.diff(found.scores) <= 0).all()
    ties = np.diff(found.scores) == 0
    assert ties.any()
    assert (np.diff(found.segments[:, 0])[ties] > 0).all()
    # The order in which greedy NMS takes them, and nothing suppresses anything.
    hard = DecodeConfig(thresholds=(0.5,), nms="hard", nms_tiou=1.0)
    assert case._replace(config=hard).run(backend) == found


def test_the_naive_interpolation_is_numpys(naive: ModuleType) -> None:
    # The twin is itself held against an interpolation that somebody else wrote.
    curve = np.random.default_rng(0).random(30)
    dense = naive.grid(curve, 24)
    x = np.arange(24 * 30) / 24
    inside = x <= 29
    np.testing.assert_allclose(dense[inside], np.interp(x[inside], np.arange(30), curve), rtol=0, atol=1e-15)
    beyond = curve[-1] + (x[~inside] - 29) * (curve[-1] - curve[-2])
    np.testing.assert_allclose(dense[~inside], beyond, rtol=0, atol=1e-14)
    assert math.isclose(dense[0], curve[0])

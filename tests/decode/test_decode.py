"""Decoding on examples: the authors' outputs, hand-made curves, modes, errors."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import aicl_fast.decode.decoder as decoding
from aicl_fast.config import PRESETS, DataConfig, DecodeConfig, load_config
from aicl_fast.data.detections import Detections
from aicl_fast.data.scores import Scores
from aicl_fast.decode.decoder import Decoder
from aicl_fast.decode.fusion import postprocess
from aicl_fast.decode.nms import NMS_MODES, register_nms
from aicl_fast.errors import ConfigError, DataError, UnavailableError

# One segment a second, ten grid points a segment: times can be read off the curve.
SECONDS = DataConfig(segments=2, frames_per_segment=25, fps=25.0)
PLAIN = DecodeConfig(upscale=10, nms_added_seconds=0.0, nms="hard", nms_tiou=1.0, thresholds=(0.5,))


def decode(
    scores: Any, v: Any, backend: str, config: DecodeConfig = PLAIN, n: Any = None, **more: Any
) -> Detections:
    """One recording by a Decoder of its own, with classes a, b, … and one segment per second."""
    classes = more.pop("classes", "abcdefgh"[: len(v)])
    decoder = Decoder(config, classes, backend)  # type: ignore[arg-type]
    return decoder.decode(scores, v, len(scores) if n is None else n, 25.0, 25, **more)


def run(curve: Any, backend: str, config: DecodeConfig = PLAIN, v: float = 1.0) -> Detections:
    return decode(np.asarray(curve, dtype=np.float64)[:, None], np.array([v]), backend, config)


def recording(scores: Any, v: Any, n: int, classes: Any, name: str = "video") -> Scores:
    none = np.empty(0, np.float32)
    return Scores(scores, v, none, none, n, 25.0, 25, tuple(classes), name)


@pytest.mark.parametrize("case", range(4))
def test_equals_the_authors_program(goldens: Path, case: int, backend: str) -> None:
    z = np.load(goldens / f"decode_seed7_case{case}.npz")
    wanted = json.loads((goldens / f"decode_seed7_case{case}.json").read_text())["detections"]
    found = postprocess(
        z["cas"], z["a_rgb"], z["a_flow"], num_segments=int(z["video_segments"]), fps=25.0,
        nms="decay_once" if z["soft_nms"] else "hard", backend=backend,  # type: ignore[arg-type]
    )  # fmt: skip
    left = sorted((label, round(start, 6), round(end, 6), score) for label, score, start, end in wanted)
    right = sorted((d.label, round(d.start, 6), round(d.end, 6), d.score) for d in found)
    assert [row[:3] for row in right] == [row[:3] for row in left]
    assert [row[3] for row in right] == pytest.approx([row[3] for row in left], abs=1e-6)


def test_a_triangle_by_hand(backend: str) -> None:
    # 0, 0.1 … 1.0 … 0.1, 0, -0.1 … -0.9: at or above 0.5 from point 5 to point 15.
    found = run([0.0, 1.0, 0.0], backend, replace(PLAIN, outer_ratio=0.2, video_score_weight=0.2), v=0.5)
    assert found.segments.tolist() == [[pytest.approx(0.5), pytest.approx(1.6)]]
    inner = (0.5 + 0.6 + 0.7 + 0.8 + 0.9) * 2 / 11 + 1.0 / 11
    # int(5 - 2.2) = 2 to int(15 + 2.2) = 17: the points 2, 3, 4 and 16, 17.
    outer = (0.2 + 0.3 + 0.4 + 0.4 + 0.3) / 5
    assert found.scores.tolist() == [pytest.approx(inner - outer + 0.2 * 0.5)]


def test_the_last_slope_goes_on(backend: str) -> None:
    rising = run([0.0, 0.4], backend)  # 0.4 + 0.4·r/10 reaches 0.5 at r = 3
    assert rising.segments.tolist() == [[pytest.approx(1.3), pytest.approx(2.0)]]
    falling = run([1.0, 0.6], backend)
    assert falling.segments.tolist() == [[pytest.approx(0.0), pytest.approx(1.3)]]


def test_one_segment_is_a_constant(backend: str) -> None:
    found = run([0.7], backend)
    assert found.segments.tolist() == [[0.0, 1.0]]
    # Nothing is outside it.
    assert found.scores.tolist() == [pytest.approx(0.7 + 0.2)]
    assert len(run([0.3], backend)) == 0


def test_a_run_of_the_first_point_alone_is_a_proposal(backend: str) -> None:
    assert run([0.5, 0.0, 0.0], backend).segments.tolist() == [[0.0, pytest.approx(0.1)]]


@pytest.mark.parametrize("theta", PRESETS["thumos14"].decode.thresholds)
def test_a_plateau_exactly_at_a_threshold_is_inside(theta: float, backend: str) -> None:
    config = replace(PLAIN, thresholds=(theta,), upscale=24)
    assert run([0.0, theta, theta, 0.0], backend, config).segments.tolist() == [
        [pytest.approx(1.0), pytest.approx(2 + 1 / 24)]
    ]
    below = float(np.nextafter(theta, 0))
    assert len(run([below] * 3, backend, config)) == 0
    assert len(run([theta] * 3, backend, config)) == 1


def test_thresholds_in_any_order_and_repeated(backend: str) -> None:
    rng = np.random.default_rng(0)
    curve = rng.random(40)
    wanted = run(curve, backend, replace(PLAIN, thresholds=(0.2, 0.5, 0.7)))
    assert run(curve, backend, replace(PLAIN, thresholds=(0.7, 0.2, 0.5, 0.2, 0.7))) == wanted


def test_classes_localised(backend: str) -> None:
    scores = np.full((4, 3), 0.7)
    found = decode(scores, np.array([0.25, 0.3, 0.2]), backend)
    assert found.labels.tolist() == ["b", "a"]
    # None reaches the threshold: the best, the first of equals.
    found = decode(scores, np.array([0.1, 0.2, 0.2]), backend)
    assert found.labels.tolist() == ["b"]


def test_a_float32_video_score_is_compared_as_it_is(backend: str) -> None:
    # 0.7 in float32 is a little less than 0.7.
    config = replace(PLAIN, class_threshold=0.7)
    scores = np.full((4, 2), 0.9, np.float32)
    v = np.array([0.7, 0.71], np.float32)
    assert decode(scores, v, backend, config).labels.tolist() == ["b"]


def test_zero_classes(backend: str) -> None:
    found = decode(np.empty((5, 0)), np.empty(0), backend, video="nobody")
    assert len(found) == 0
    assert found.video == "nobody"


def test_nms_modes_on_a_nested_pair(backend: str) -> None:
    # One plateau seen at two thresholds: the inner proposal is 3.1 s, the outer 3.5 s.
    curve = [0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    both = replace(PLAIN, thresholds=(0.7, 0.9), nms_tiou=0.5)
    assert len(run(curve, backend, replace(both, nms="hard", nms_tiou=1.0))) == 2
    hard = run(curve, backend, both)
    assert len(hard) == 1
    once = run(curve, backend, replace(both, nms="decay_once"))
    apart = run(curve, backend, replace(both, nms="hard", nms_tiou=1.0))
    lengths = np.diff(apart.segments, axis=1)[:, 0]
    tiou = lengths.min() / lengths.max()
    assert once.scores.tolist() == [
        pytest.approx(apart.scores[0]),
        pytest.approx(apart.scores[1] * math.exp(-(tiou**2) / both.nms_sigma)),
    ]
    assert run(curve, backend, replace(both, nms="gaussian", min_score=0.0)).scores == pytest.approx(
        once.scores
    )
    floor = float(once.scores[1]) + 1e-9
    assert len(run(curve, backend, replace(both, nms="gaussian", min_score=floor))) == 1
    assert len(run(curve, backend, replace(both, nms="gaussian", min_score=99.0))) == 0


def test_gaussian_nms_leaves_scores_below_zero_as_they_are(backend: str) -> None:
    # Between two peaks what is around is higher; such a score would rise by being decayed.
    curve = [1.0, 1.0, 1.0, 0.0, 0.5, 0.0, 1.0, 1.0, 1.0]
    config = replace(PLAIN, thresholds=(0.1, 0.2), outer_ratio=3.0, min_score=-9.0)
    below = [
        [score for score in run(curve, backend, replace(config, nms=nms, nms_tiou=1.0)).scores if score < 0]
        for nms in ("hard", "gaussian")
    ]
    assert len(below[0]) == 2
    assert below[0] == below[1]


def test_across_classes(backend: str) -> None:
    scores = np.stack([[0.0, 0.9, 0.9, 0.0], [0.0, 0.8, 0.8, 0.0]], axis=1)
    apart = decode(scores, np.array([0.5, 0.5]), backend, replace(PLAIN, nms_tiou=0.5))
    assert sorted(apart.labels.tolist()) == ["a", "b"]
    together = replace(PLAIN, nms_tiou=0.5, nms_across_classes=True)
    assert decode(scores, np.array([0.5, 0.5]), backend, together).labels.tolist() == ["a"]


def test_max_detections_keeps_the_best(backend: str) -> None:
    curve = np.random.default_rng(3).random(60)
    every = run(curve, backend, PRESETS["thumos14"].decode)
    best = run(curve, backend, replace(PRESETS["thumos14"].decode, max_detections=5))
    assert len(every) > 5
    assert best.scores.tolist() == every.scores[:5].tolist()
    assert best.segments.tolist() == every.segments[:5].tolist()


def test_equal_scores_keep_the_order_of_class_threshold_and_start(backend: str) -> None:
    scores = np.tile([[0.0], [1.0], [0.0], [0.0], [1.0], [0.0], [0.0]], (1, 2))
    found = decode(scores, np.array([0.5, 0.5]), backend, replace(PLAIN, upscale=8, outer_ratio=0.0))
    assert len(set(found.scores.tolist())) == 1
    assert found.labels.tolist() == ["a", "a", "b", "b"]
    assert found.segments[:, 0].tolist() == sorted(found.segments[:2, 0].tolist()) * 2


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.bool_])
def test_any_real_type_and_layout(dtype: Any, backend: str) -> None:
    scores = (np.random.default_rng(1).random((30, 4)) > 0.5).astype(dtype)
    v = np.array([0.4, 0.1, 0.4, 0.1])
    wanted = decode(scores.astype(np.float64), v, backend)
    assert len(wanted)
    assert decode(scores, v, backend) == wanted
    assert decode(np.asfortranarray(scores), v, backend) == wanted
    assert decode(np.repeat(scores, 2, axis=0)[::2], np.repeat(v, 2)[::2], backend) == wanted
    assert decode(scores.tolist(), v.tolist(), backend) == wanted


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_of_any_origin(dtype: Any, backend: str) -> None:
    scores, v = np.random.default_rng(2).random((30, 2)).astype(dtype), np.array([0.9, 0.1], dtype)
    wanted = decode(scores, v, backend)
    assert len(wanted)
    # Its type is another object than NumPy's own float32.
    assert decode(pickle.loads(pickle.dumps(scores)), v, backend) == wanted
    assert decode(scores.astype(np.dtype(dtype).newbyteorder()), v, backend) == wanted
    # Memory of ctypes names its byte order even where it is the processor's.
    memory = (np.ctypeslib.as_ctypes_type(dtype) * scores.size).from_buffer_copy(scores.tobytes())
    assert decode(np.ctypeslib.as_array(memory).reshape(scores.shape), v, backend) == wanted
    unaligned = np.frombuffer(b"." + scores.tobytes(), dtype, offset=1).reshape(scores.shape)
    assert not unaligned.flags.aligned
    assert decode(unaligned, v, backend) == wanted
    assert decode(scores.view(np.ma.MaskedArray), v, backend) == wanted
    assert decode(scores, v, backend, n=np.int64(30)) == wanted
    assert decode(scores, v, backend, classes=["a", "b"]) == wanted


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("length", "width"), [(1, 1), (2, 20), (15, 3), (16, 1), (17, 4), (40, 20)])
def test_memory_that_begins_anywhere(length: int, width: int, dtype: Any, backend: str) -> None:
    # They are looked at by lines of the cache, 64 bytes, which end neither where rows do nor where all do.
    a_line = 64 // np.dtype(dtype).itemsize
    decoder = Decoder(PLAIN, [f"c{c}" for c in range(width)], backend)  # type: ignore[arg-type]
    scores, v = np.random.default_rng(3).random((length, width)).astype(dtype), np.full(width, 0.9, dtype)
    scores[0] = 1
    wanted = decoder.decode(scores, v, 30, 25.0, 25)
    assert len(wanted)
    # Nothing before them and nothing behind them is a score.
    memory = np.full(scores.size + 3 * a_line, np.nan, dtype)
    line = a_line + -memory.ctypes.data % 64 // memory.itemsize
    for begin in range(line, line + a_line, 3):
        memory[:] = np.nan
        there = memory[begin : begin + scores.size].reshape(scores.shape)
        there[:] = scores
        assert decoder.decode(there, v, 30, 25.0, 25) == wanted
        for t, c in np.ndindex(length, width):
            there[t, c] = np.inf
            with pytest.raises(DataError, match=rf"scores\[{t}, {c}\] is inf; .* 1 of {scores.size} "):
                decoder.decode(there, v, 30, 25.0, 25)
            there[t, c] = scores[t, c]


def test_inputs_are_not_changed(backend: str) -> None:
    scores, v = np.random.default_rng(1).random((30, 1)), np.array([0.9])
    scores.setflags(write=False)
    v.setflags(write=False)
    decode(scores, v, backend)


# ---- errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_score_that_is_not_finite(value: float, dtype: Any, backend: str) -> None:
    scores, v = np.full((9, 3), 0.5, dtype), np.array([0.9, 0.1, 0.1], dtype)
    with np.errstate(over="ignore"):
        # In a class that is not even localised.
        scores[7, 2] = value
        with pytest.raises(DataError, match=r"video: scores\[7, 2\] is .*; expected finite numbers. 1 of 27"):
            decode(scores, v, backend)
        v[1] = value
        scores[7, 2] = 0.5
    with pytest.raises(DataError, match=r"v7: video_scores\[1\] is "):
        decode(scores, v, backend, video="v7")
    with pytest.raises(DataError, match=r"^b: video_scores\[1\]"):
        Decoder(PLAIN, "abc", backend).batch(  # type: ignore[arg-type]
            [recording(scores, np.array([0.9, 0, 0]), 9, "abc", "a"), recording(scores, v, 9, "abc", "b")]
        )


@pytest.mark.parametrize(
    ("scores", "v", "n", "message"),
    [
        (np.zeros((3, 9)), np.zeros(3), 9, r"scores \(T, 3\) .* got \(3, 9\) and \(3,\).*transposed"),
        (np.zeros((9, 3)), np.zeros(2), 9, r"got \(9, 3\) and \(2,\)"),
        (np.zeros(9), np.zeros(3), 9, r"got \(9,\)"),
        (np.float64(3), np.zeros(3), 9, r"got \(\)"),
        (np.zeros((0, 3)), np.zeros(3), 9, "no segments"),
        (np.zeros((9, 3)), np.zeros(3), 0, "num_segments is 0"),
        (np.zeros((9, 3)), np.zeros(3), -4, "num_segments is -4"),
        (np.zeros((9, 3)), np.zeros(3), math.nan, "num_segments is nan"),
        (np.zeros((9, 3)), np.zeros(3), 2.5, "num_segments is 2.5"),
        (np.zeros((9, 3)), np.zeros(3), "9", "num_segments is '9'"),
        (np.zeros((9, 3), complex), np.zeros(3), 9, "complex128"),
        (np.array([["a"] * 3] * 9), np.zeros(3), 9, "expected real numbers in scores"),
        ([[1, 2, 3], [1, 2]], np.zeros(3), 9, "scores cannot be read as an array"),
    ],
)
def test_arrays_that_do_not_fit(scores: Any, v: Any, n: Any, message: str, backend: str) -> None:
    with pytest.raises(DataError, match=message):
        decode(scores, v, backend, n=n, classes="abc")


@pytest.mark.parametrize("several", [False, True], ids=["one", "batch"])
def test_more_proposals_than_room_was_made_for(several: bool, backend: str) -> None:
    """Every second segment is a run at every threshold: over a million in all, which are 35 000 boxes."""
    count = 70_000
    curve = np.tile([0.0, 1.0], count // 2)
    config = replace(PLAIN, thresholds=tuple(np.linspace(0.1, 0.9, 32)), nms_tiou=0.1)
    if several:
        decoder = Decoder(config, ("a",), backend)  # type: ignore[arg-type]
        found = decoder.batch([recording(curve[:, None], np.ones(1), count, "a")] * 2, threads=2)[1]
    else:
        found = run(curve, backend, config)
    assert len(found) == count // 2
    assert np.array_equal(np.sort(found.segments[:, 0]) // 2, np.arange(count // 2))


def test_a_long_and_a_wide_video_do_not_spoil_the_next(backend: str) -> None:
    """Memory for the longest with as many classes as the widest is more than a machine has."""
    names = [str(number) for number in range(20_000)]
    for length, width in ((2_000_000, 1), (2, 20_000), (3, 2)):
        scores, v = np.zeros((length, width), np.float32), np.zeros(width, np.float32)
        scores[:2, 0] = v[0] = 1
        found = decode(scores, v, backend, n=2, classes=names[:width])
        assert len(found) == 1, (length, width)


def test_a_grid_too_long(backend: str) -> None:
    with pytest.raises(DataError, match=r"more than 2\*\*31"):
        run([0.0] * 250_000, backend, replace(PLAIN, upscale=10_000))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("class_threshold", math.nan),
        ("min_score", math.nan),
        ("video_score_weight", math.inf),
        ("nms_added_seconds", math.inf),
        ("max_detections", 2**40),
    ],
)
def test_settings_that_have_no_meaning(name: str, value: float, backend: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected"):
        run([0.0, 1.0], backend, replace(PLAIN, **{name: value}))


def test_batch_arguments(backend: str) -> None:
    decoder = Decoder(PLAIN, "a", backend)  # type: ignore[arg-type]
    assert decoder.batch([]) == []
    one = recording(np.ones((3, 1)), np.ones(1), 3, "a", "video0")
    with pytest.raises(ConfigError, match="threads: expected at least 1"):
        decoder.batch([one], threads=0)
    found = decoder.batch([one])
    assert [len(found[0]), found[0].video] == [1, "video0"]
    assert decoder(one) == found[0]
    with pytest.raises(
        DataError, match=r"^video0: expected scores of this decoder's 1 classes, got .* 1 others"
    ):
        decoder(replace(one, classes=("b",)))
    for change, message in (
        ({"fps": 0.0}, "fps: expected 1e-30 to"),
        ({"frames_per_segment": 2.5}, "a whole"),
    ):
        with pytest.raises(ConfigError, match=message):
            decoder(replace(one, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"preset": "thumos41"}, ConfigError, "thumos14"),
        ({"preset": None}, ConfigError, "preset: there is no"),
        ({"preset": {}}, ConfigError, "preset: there is no"),
        ({"preset": "activitynet12"}, ConfigError, "'activitynet12' has no class names"),
        ({"fps": 0.0}, ConfigError, "fps"),
        ({"nms": "soft"}, ConfigError, "nms: expected one of"),
        ({"classes": [*"abcdefghijklmnopqrs", "a "]}, ConfigError, "classes: "),
        ({"classes": ["a", None]}, ConfigError, "classes: "),
        ({"classes": ["", "b"]}, ConfigError, "classes: "),
        ({"classes": ["a", 3]}, ConfigError, "classes: "),
        ({"classes": "abc"}, DataError, r"\(T, 3\)"),
        ({"actionness_rgb": np.zeros(8)}, DataError, r"got \(9, 20\), \(8,\) and \(9,\)"),
        ({"cas": np.full((9, 20), np.nan)}, DataError, "cas has a NaN"),
        ({"num_segments": 1}, DataError, r"num_segments is 1; .* from 2 to"),
        ({"actionness_flow": np.full(9, 3)}, DataError, r"flow goes from 3 to 3; expected prob.*the sigmoid"),
        ({"actionness_rgb": np.full(9, np.nan)}, DataError, "actionness_rgb goes from nan"),
        ({"cas": np.zeros((0, 20)), "actionness_rgb": [], "actionness_flow": []}, DataError, "no segments"),
    ],
)
def test_postprocess_errors(change: dict[str, Any], error: type[Exception], message: str) -> None:
    good = {"cas": np.zeros((9, 20)), "actionness_rgb": np.full(9, 0.5), "actionness_flow": np.full(9, 0.5)}
    with pytest.raises(error, match=message):
        postprocess(**{**good, "num_segments": 9, **change})


def test_postprocess_takes_a_config_and_names(backend: str) -> None:
    rng = np.random.default_rng(0)
    cas, a = 4 * rng.standard_normal((50, 3)), rng.random(50)
    found = postprocess(cas, a, a, num_segments=80, preset=PRESETS["activitynet12"], classes=["x", "y", "z"],
                        nms="hard", backend=backend, video="w")  # type: ignore[arg-type]  # fmt: skip
    assert found.video == "w"
    assert set(found.labels.tolist()) <= {"x", "y", "z"}
    assert len(found)


def test_postprocess_follows_the_preset(backend: str) -> None:
    rng = np.random.default_rng(0)
    arrays = 4 * rng.standard_normal((50, 5)), rng.random(50), rng.random(50)
    demo = PRESETS["demo"].with_classes("abcde")
    found = postprocess(*arrays, num_segments=80, preset=demo, backend=backend)  # type: ignore[arg-type]
    given = postprocess(*arrays, num_segments=80, preset=demo, fps=50.0, nms="gaussian", backend=backend)  # type: ignore[arg-type]
    assert found == given
    assert demo.decode.nms == "gaussian"
    hard = postprocess(*arrays, num_segments=80, preset=demo, nms="hard", backend=backend)  # type: ignore[arg-type]
    assert len(hard) < len(found)
    slow = postprocess(*arrays, num_segments=80, preset=demo, fps=25.0, backend=backend)  # type: ignore[arg-type]
    assert slow.segments.max() == pytest.approx(2 * found.segments.max())


def test_a_mode_from_outside(monkeypatch: pytest.MonkeyPatch, backend: str, naive: ModuleType) -> None:
    def one_of_each_pool(start: Any, end: Any, score: Any, config: DecodeConfig) -> Any:
        score *= config.nms_sigma
        return np.arange(len(score)) == (np.argmax(score) if len(score) else -1)

    monkeypatch.setitem(NMS_MODES, "one_of_each_pool", 0)  # so that it is taken out again at the end
    del NMS_MODES["one_of_each_pool"]
    register_nms("one_of_each_pool", one_of_each_pool)
    register_nms("one_of_each_pool", one_of_each_pool)
    for name, function in (("hard", one_of_each_pool), ("two words", one_of_each_pool), ("number", 3)):
        with pytest.raises(ConfigError, match="register_nms: "):
            register_nms(name, function)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    scores, v = rng.random((40, 3)), np.array([0.5, 0.1, 0.4])
    config = load_config("thumos14", overrides=["nms=one_of_each_pool", "nms_sigma=0.5"]).decode
    wanted = naive.proposals(scores, v, 900, config, SECONDS)
    best = {label: max(p.score for p in wanted if p.label == label) for label in {p.label for p in wanted}}
    found = decode(scores, v, backend, config, n=900)
    assert found.scores.tolist() == pytest.approx(sorted((0.5 * s for s in best.values()), reverse=True))
    assert sorted("abc".index(label) for label in found.labels) == sorted(best)
    together = replace(config, nms_across_classes=True)
    assert decode(scores, v, backend, together, n=900) == found[:1]
    assert decode(scores, v, backend, replace(config, max_detections=1), n=900) == found[:1]


# ---- backends -------------------------------------------------------------------------------------------


def test_names_the_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoding.default_backend() == decoding.available_backends()[0]
    with pytest.raises(ConfigError, match="backend: expected auto, native or numba, got 'cuda'"):
        run([0.0, 1.0], "cuda")
    monkeypatch.setattr(decoding, "native_module", lambda: None)
    assert decoding.available_backends() == ("numba",)
    assert decoding.default_backend() == "numba"
    assert len(run([0.0, 1.0], "auto")) == 1
    with pytest.raises(UnavailableError, match=r"was not built .* use backend='numba'"):
        run([0.0, 1.0], "native")
    monkeypatch.setattr(decoding.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="pip install numba"):
        run([0.0, 1.0], "numba")


def test_settings_are_not_confused(backend: str, naive: ModuleType) -> None:
    # Settings come and go, and so does the memory of a Decoder.
    curve = np.random.default_rng(5).random(20)
    for step in range(100):
        config = replace(PLAIN, thresholds=(0.2 + step / 200,))
        wanted = naive.decode(curve[:, None], [1.0], 20, config, SECONDS)
        found = run(curve, backend, config)
        assert [row[2:] for row in wanted] == [tuple(s) for s in found.segments.tolist()]


def test_nothing_is_loaded_before_it_is_used() -> None:
    script = (
        "import sys, aicl_fast.decode.decoder\n"
        "assert not {'numba', 'torch', 'onnxruntime', 'aicl_fast.kernels.decode_numba',"
        " 'aicl_fast.kernels._native'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd="/")


def test_numba_where_nothing_can_be_written(tmp_path: Path) -> None:
    # A file where each cache folder would have to be: neither the package's nor the user's can be made.
    import aicl_fast.kernels.decode_numba as kernels

    assert kernels.__file__ is not None
    module = tmp_path / "decode_alone.py"
    module.write_text(Path(kernels.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "__pycache__").write_text("")
    script = (
        "import numpy as np, decode_alone\n"
        "curves = np.empty((1, 4))\n"
        "assert decode_alone.gather(np.ones((4, 2)), np.array([1]), 9.0, curves) and (curves == 1).all()\n"
    )
    environment = {
        "HOME": str(module),
        "XDG_CACHE_HOME": str(module),
        "PYTHONPATH": str(tmp_path),
        "PATH": "",
    }
    subprocess.run([sys.executable, "-B", "-c", script], check=True, cwd=tmp_path, env=environment)

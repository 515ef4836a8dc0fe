"""Long recordings in windows, against a version written by hand."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aicl_fast import Detector, windows
from aicl_fast.config import Config, DecodeConfig, WindowsConfig
from aicl_fast.data.scores import Scores
from aicl_fast.errors import AiclWarning, ConfigError
from aicl_fast.windows import Windows, smoothed

SECOND = 50 / 16
"""Segments of the tiny model: T is 32."""


def _streams(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((n, 6), dtype=np.float32), rng.random((n, 5), dtype=np.float32)


def _open(model: Path, length: float | str, hop: float | str = "auto", **more: Any) -> Detector:
    """A detector with windows of so many segments."""
    if not isinstance(length, str):
        length /= SECOND
    if not isinstance(hop, str):
        hop /= SECOND
    windows = WindowsConfig(window=length, hop=hop)  # type: ignore[arg-type]
    plain = Detector(model, windows=windows, threads=1)
    return (
        plain
        if not more
        else Detector(model, windows=windows, threads=1, decode=replace(plain.decode_config, **more))
    )


def _by_hand(detector: Detector, streams: tuple[np.ndarray, np.ndarray], length: int, hop: int) -> Scores:
    """Windows one after the other, as docs/windows.md says it."""
    whole = Detector(detector.path, windows=WindowsConfig(window="off"), threads=1)
    settings, gamma = detector.decode_config, detector.config.model.fusion_gamma
    n, samples = len(streams[0]), detector.segments
    starts = [start for start in range(0, n, hop) if start + length < n] + [n - length]
    sums = {"fused": 0.0, "actionness": 0.0, "actionness_agnostic": 0.0}
    curves: dict[str, list[np.ndarray]] = {name: [] for name in sums}
    for t in range(n):
        for name in sums:
            total, weight = 0.0, 0
            for start in starts:
                if start <= t < start + length:
                    scored = whole.scores(*(stream[start : start + length] for stream in streams))
                    place = (t - start) * samples / length
                    low, high = int(place), min(int(place) + 1, samples - 1)
                    curve = getattr(scored, name)
                    value = (1 - (place - low)) * curve[low] + (place - low) * curve[high]
                    own = min(t - start, start + length - 1 - t) + 1
                    total, weight = total + own * value, weight + own
            curves[name].append(total / weight)
    fused, agnostic = np.array(curves["fused"]), np.array(curves["actionness_agnostic"])
    probability = np.clip((fused - (1 - gamma) * agnostic[:, None]) / gamma, 0, 1)
    reach = settings.class_span // 2
    classes = np.empty_like(probability)
    for t in range(n):
        near = [
            (reach + 1 - abs(i - t), probability[i]) for i in range(t - reach, t + reach + 1) if 0 <= i < n
        ]
        classes[t] = sum(own * value for own, value in near) / sum(own for own, _ in near)
    return replace(
        whole.scores(*streams),
        fused=fused * classes**settings.power_in_windows,
        video_scores=classes.max(0),
        actionness=np.array(curves["actionness"]),
        actionness_agnostic=agnostic,
    )


@pytest.mark.parametrize(("length", "hop"), [(32, 16), (32, 9), (48, 48), (20, 7), (3, 1)])
@pytest.mark.filterwarnings("ignore::aicl_fast.errors.AiclWarning")
def test_windows_as_written_by_hand(tiny_model: Path, length: int, hop: int) -> None:
    detector = _open(tiny_model.with_suffix(".onnx"), length, hop)
    streams = _streams(length + 27)
    found, expected = detector.scores(*streams), _by_hand(detector, streams, length, hop)
    for name in ("fused", "video_scores", "actionness", "actionness_agnostic"):
        values = getattr(found, name)
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, getattr(expected, name), atol=2e-6)
    assert (found.num_segments, found.duration) == (length + 27, expected.duration)
    detections = detector(*streams)
    assert len(detections) > 0
    assert detections.segments.max() <= found.duration + 1e-9


@pytest.mark.parametrize("n", [2, 31, 32, 64])
def test_a_recording_that_fits_is_scored_as_before(tiny_model: Path, n: int) -> None:
    model = tiny_model.with_suffix(".onnx")
    off, on = _open(model, "off"), _open(model, 64)
    streams = _streams(n)
    for name in ("fused", "video_scores", "actionness", "actionness_agnostic"):
        np.testing.assert_array_equal(getattr(on.scores(*streams), name), getattr(off.scores(*streams), name))
    assert on(*streams) == off(*streams)


def test_long_and_short_in_one_batch(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = _open(tiny_model.with_suffix(".onnx"), 40)
    recordings = [_streams(n, n) for n in (300, 20, 41, 40)]
    found = detector.batch(recordings)
    assert found == [detector(*each, video=f"video {row}") for row, each in enumerate(recordings)]
    calls: list[tuple[int, int]] = []
    detector.batch_scores(recordings, progress=lambda done, every: calls.append((done, every)))
    assert calls == [(14, 14), (2, 2)]
    monkeypatch.setattr(windows, "BATCH", 1)
    assert detector.batch(recordings) == found


def test_long_recordings_decode_equally_in_both_backends(tiny_model: Path) -> None:
    from aicl_fast.decode.decoder import Decoder, available_backends

    detector = _open(tiny_model.with_suffix(".onnx"), 40)
    scores = detector.scores(*_streams(2000))
    found = [Decoder(detector.decode_config, detector.classes, name)(scores) for name in available_backends()]
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize(
    ("typical", "longest", "samples", "length", "hop", "limit"),
    [
        (20, 100, 32, 20, 10, 100),  # as most recordings have, stretched to T
        (32, 100, 32, 32, 28, 100),  # T
        (50, 100, 32, 50, 25, 100),  # T is less than most recordings have
        (10, 20, 32, 10, 5, 32),  # T is more than any has; T segments are all seen
        (5, 20, 32, 8, 4, 32),  # stretched no further than fourfold
        (5, 6, 32, 6, 3, 32),
        (0, 100, 32, 100, 50, 100),
        (1, 2, 32, 3, 1, 32),
    ],
)
def test_auto(
    tiny_config: Config, typical: int, longest: int, samples: int, length: int, hop: int, limit: int
) -> None:
    data = replace(tiny_config.data, typical_segments=typical, longest_segments=longest)
    found = Windows.of(replace(tiny_config, data=data), WindowsConfig(), 50.0, samples)
    assert found is not None
    assert (found.length, found.limit, found.hop) == (length, limit, hop)


def test_no_windows_where_lengths_are_unknown_or_off(tiny_config: Config) -> None:
    assert tiny_config.data.longest_segments == 0
    assert Windows.of(tiny_config, WindowsConfig(), 50.0, 32) is None
    known = replace(tiny_config, data=replace(tiny_config.data, longest_segments=9))
    assert Windows.of(known, WindowsConfig(window="off"), 50.0, 32) is None


def test_what_is_far_too_long_is_warned_of(tiny_model: Path) -> None:
    detector = _open(tiny_model.with_suffix(".onnx"), "off")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector(*_streams(64))
        _open(detector.path, 64)(*_streams(6400))
    with pytest.warns(AiclWarning, match=r"long: has 65 segments. The network sees 32 .* --window SECONDS"):
        detector(*_streams(65), video="long")
    with pytest.warns(AiclWarning, match="video: has 90 segments"):
        _open(detector.path, 100)(*_streams(90))
    with pytest.warns(AiclWarning, match="video: is scored in windows of 70 segments"):
        _open(detector.path, 70)(*_streams(90))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"window": 0.6},
            r"0.6 s are 2 segments of 0.32 s; expected at least 3 segments, 0.96 s",
        ),
        ({"hop": 40}, r"windows.hop: 40.0 s is longer than the window, 9.6 s"),
    ],
)
def test_windows_that_make_no_sense(tiny_model: Path, settings: dict[str, float], message: str) -> None:
    detector = Detector(tiny_model.with_suffix(".onnx"), windows=WindowsConfig(**settings))  # type: ignore[arg-type]
    data = replace(detector.config.data, typical_segments=30, longest_segments=30)
    detector.engine.info = replace(detector.engine.info, config=replace(detector.config, data=data))
    with pytest.raises(ConfigError, match=message):
        detector(*_streams(100))


@pytest.mark.parametrize("value", [0, -1, "long", float("nan")])
def test_settings_are_checked(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"windows.window"):
        WindowsConfig(window=value)
    with pytest.raises(ConfigError, match=r"windows.hop"):
        WindowsConfig(hop=value)
    with pytest.raises(ConfigError, match=r"windows.hop: 11 s is longer than the window, 10 s"):
        WindowsConfig(window=10, hop=11)


def test_a_span_is_odd() -> None:
    with pytest.raises(ConfigError, match=r"decode.class_span: expected an odd number, got 4"):
        DecodeConfig(class_span=4)


def test_class_scores_of_a_recording_that_fits(tiny_model: Path) -> None:
    model = tiny_model.with_suffix(".onnx")
    plain, on = _open(model, "off"), _open(model, "off", class_power=0.7, class_span=3)
    before, after = plain.scores(*_streams(20)), on.scores(*_streams(20))
    gamma = plain.config.model.fusion_gamma
    share = (before.fused - (1 - gamma) * before.actionness_agnostic[:, None]) / gamma
    expected = before.fused * smoothed(np.clip(share, 0, 1), 3) ** 0.7
    np.testing.assert_allclose(after.fused, expected, atol=1e-6)
    for name in ("video_scores", "actionness", "actionness_agnostic"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert on(*_streams(20)) != plain(*_streams(20))


def test_windows_are_pickled(tiny_model: Path) -> None:
    detector = _open(tiny_model.with_suffix(".onnx"), 40)
    assert pickle.loads(pickle.dumps(detector)).windows_config == detector.windows_config
    with pytest.raises(ConfigError, match=r"expected an aicl_fast.config.WindowsConfig, got int"):
        Detector(detector.path, windows=3)  # type: ignore[arg-type]


def test_smoothing_of_fewer_segments_than_the_span() -> None:
    curves = np.array([[1.0], [0.0]], np.float32)
    np.testing.assert_allclose(smoothed(curves, 5), [[3 / 5], [2 / 5]], atol=1e-7)
    np.testing.assert_array_equal(smoothed(curves, 1), curves)


def test_the_fused_score_without_classes(tiny_config: Config, tmp_path: Path) -> None:
    """At γ = 0 all classes have one fused score, so the windows' own video scores tell them apart."""
    from aicl_fast.model import TwoBranchNet
    from aicl_fast.weights import save_model

    config = tiny_config.with_values({"fusion_gamma": 0.0, "class_power": 1.0})
    save_model(tmp_path / "m.safetensors", TwoBranchNet(config), config)
    detector = _open(tmp_path / "m.safetensors", 32, 32, class_power=1.0)
    streams = _streams(96)
    found = detector.scores(*streams)
    for part in range(3):
        piece = detector.scores(*(stream[32 * part : 32 * (part + 1)] for stream in streams))
        here = slice(32 * part, 32 * (part + 1))
        np.testing.assert_allclose(found.fused[here], piece.fused * piece.video_scores, atol=1e-6)

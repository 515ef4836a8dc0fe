"""Features that lie on a GPU: sampled and localised where they are. Without one, tensors play the part."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aicl_fast import Detector  # noqa: E402
from aicl_fast import detector as detector_module  # noqa: E402
from aicl_fast.engines import session  # noqa: E402
from aicl_fast.engines.cuda import features as gpu_features  # noqa: E402
from aicl_fast.errors import DataError, UnavailableError  # noqa: E402
from aicl_fast.metadata import Range  # noqa: E402


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A GPU; or the CPU, whose tensors are then taken for a GPU's."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if request.param == "cpu":
        for module in (detector_module, session):
            monkeypatch.setattr(module, "is_gpu_array", lambda value: isinstance(value, torch.Tensor))
    return str(request.param)


@pytest.fixture
def detector(tiny_model: Path, device: str) -> Detector:
    return Detector(tiny_model, device=device, precision="fp32")


def _streams(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((n, 6), dtype=np.float32), rng.random((n, 5), dtype=np.float32)


def _close(ours, theirs) -> None:
    assert ours.num_segments == theirs.num_segments
    for name in ("fused", "video_scores", "actionness", "actionness_agnostic"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0, atol=2e-3)


@pytest.mark.parametrize("n", [2, 31, 32, 500])
def test_scores_are_those_of_the_same_features_on_the_host(detector: Detector, device: str, n: int) -> None:
    rgb, flow = _streams(n)
    expected = detector.scores(rgb, flow)
    there = [torch.from_numpy(stream).to(device) for stream in (rgb, flow)]
    _close(detector.scores(*there), expected)
    _close(detector.scores(torch.cat(there, 1)), expected)
    assert len(detector(*there)) > 0


def test_a_batch_of_several_lengths_and_types(detector: Detector, device: str) -> None:
    recordings = [_streams(n, n) for n in (40, 7, 90)]
    expected = detector.batch_scores(recordings)
    there = [tuple(torch.from_numpy(stream).to(device) for stream in streams) for streams in recordings]
    for ours, theirs in zip(detector.batch_scores(there), expected, strict=True):
        _close(ours, theirs)
    half = [tuple(stream.half() for stream in streams) for streams in there]
    for ours, theirs in zip(detector.batch_scores(half), expected, strict=True):
        _close(ours, theirs)


def test_no_recording_is_rounded_to_the_type_of_another(detector: Detector, device: str) -> None:
    rgb, flow = (torch.from_numpy(stream * 1e5).to(device) for stream in _streams(40))
    alone = detector.scores(rgb, flow)
    narrow = tuple(stream.half() for stream in (rgb / 1e5, flow / 1e5))
    _close(detector.batch_scores([narrow, (rgb, flow)])[1], alone)
    assert np.isfinite(alone.fused).all()


def test_more_videos_than_a_run_takes(
    detector: Detector, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = [_streams(40, n) for n in range(7)]
    expected = detector.batch_scores(recordings)
    sizes = []
    plain = detector.engine._plain

    def seen(features):
        sizes.append(len(features))
        return plain(features)

    monkeypatch.setattr(detector.engine, "_plain", seen)
    monkeypatch.setattr(detector.engine, "info", replace(detector.engine.info, batch=Range(2, 2, 3)))
    there = [tuple(torch.from_numpy(stream).to(device) for stream in streams) for streams in recordings]
    for ours, theirs in zip(detector.batch_scores(there), expected, strict=True):
        _close(ours, theirs)
    if device == "cpu":
        assert sizes == [3, 3, 2]


def test_features_that_want_a_gradient(detector: Detector, device: str) -> None:
    rgb, flow = (torch.from_numpy(stream).to(device).requires_grad_() for stream in _streams(40))
    assert detector.scores(rgb, flow).fused.shape == (32, 3)


def test_the_engine_takes_sampled_features(detector: Detector, device: str) -> None:
    batch = np.random.default_rng(0).random((3, 32, 11), dtype=np.float32)
    expected = detector.engine(batch)
    for ours, theirs in zip(detector.engine(torch.from_numpy(batch).to(device)), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-3)
    with pytest.raises(DataError, match=r"floating-point type, got torch\.int64"):
        detector.engine(torch.ones(1, 32, 11, dtype=torch.int64, device=device))
    with pytest.raises(DataError, match=r"takes \(B, T, D\).*got \(1, 31, 11\)"):
        detector.engine(torch.ones(1, 31, 11, device=device))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rgb, flow: (rgb[None], flow), r"expected shape \(segments, 6\), got \(1, 40, 6\)"),
        (lambda rgb, flow: (rgb[:0], flow[:0]), "the array is empty"),
        (lambda rgb, flow: (rgb.int(), flow), "expected floating-point features, got int32"),
        (lambda rgb, flow: (rgb[:, 1:], flow), "expected 6 features a segment, got 5"),
        (lambda rgb, flow: (rgb[1:], flow), "rgb has 39 segments and flow 40"),
        (lambda rgb, flow: (rgb[:1], flow[:1]), "has 1 segment"),
    ],
)
def test_bad_recordings_are_refused_by_name(detector: Detector, device: str, change, words: str) -> None:
    rgb, flow = (torch.from_numpy(stream).to(device) for stream in _streams(40))
    with pytest.raises(DataError, match=rf"match: .*{words}|match: {words}"):
        detector(*change(rgb, flow), video="match")


def test_what_is_not_finite_is_seen_in_the_scores(detector: Detector, device: str) -> None:
    rgb, flow = (torch.from_numpy(stream).to(device) for stream in _streams(40))
    rgb[3, 2] = float("nan")
    with pytest.raises(DataError, match="is nan; expected finite numbers"):
        detector(rgb, flow)


def test_some_on_the_host_and_some_not(detector: Detector, device: str) -> None:
    streams = _streams(40)
    there = tuple(torch.from_numpy(stream).to(device) for stream in streams)
    with pytest.raises(DataError, match="some are on a GPU and some on the host"):
        detector.batch([streams, there])


def test_other_engines_say_where_they_run(tiny_model: Path, device: str) -> None:
    rgb, flow = (torch.from_numpy(stream).to(device) for stream in _streams(40))
    with (
        Detector(tiny_model.with_suffix(".onnx"), threads=1) as detector,
        pytest.raises(DataError, match=r"on a GPU, and .* takes them from the host \(onnxruntime\)"),
    ):
        detector(rgb, flow)


def test_another_device_is_named(tiny_model: Path, device: str) -> None:
    if device == "cuda":
        pytest.skip("another GPU would be needed")
    with Detector(tiny_model, device=device) as detector, pytest.raises(DataError, match=r"are on meta, and"):
        detector.engine(torch.ones(1, 32, 11, device="meta"))


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UnavailableError, match="features: sampling features on a GPU"):
        gpu_features.as_tensor(object(), "features")


def test_an_array_that_torch_cannot_read(device: str) -> None:
    class Strange:
        def __dlpack__(self, **_: object) -> object:
            raise BufferError("of no use")

        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

    with pytest.raises(DataError, match=r"features: torch cannot read this Strange"):
        gpu_features.as_tensor(Strange(), "features")

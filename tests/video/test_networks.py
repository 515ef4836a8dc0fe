"""What every segment network promises: shapes, types, batches of any size, errors that say what to do."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from aicl_fast.engines.session import Session
from aicl_fast.errors import DataError, ModelError, UnavailableError
from aicl_fast.metadata import FORMAT, Range, SegmentInfo, parse_segment_info
from aicl_fast.signature import SegmentOutputs
from aicl_fast.video.networks import SegmentNetwork, kinetics_classes, open_network

SHAPES = {"rgb": (16, 224, 224, 3), "flow": (16, 224, 224, 2)}
DTYPES = {"rgb": np.uint8, "flow": np.float32}


class Counting(Session):
    """Each clip's first value as every feature; remembers how many clips came at a time."""

    def __init__(self, stream: str = "rgb", batch: Range = Range(1, 1, 8)) -> None:  # noqa: B008
        super().__init__(Path("counting"), SegmentInfo(stream, "ab" * 32, batch=batch))
        self.runs: list[int] = []

    def run(self, clips) -> SegmentOutputs:
        assert clips.flags.c_contiguous
        self.runs.append(len(clips))
        first = clips[:, 0, 0, 0, :1].astype(np.float32)
        return SegmentOutputs(np.repeat(first, 1024, 1), np.repeat(first, 400, 1))


def clips(stream: str, count: int, frames: int = 16) -> np.ndarray:
    found = np.zeros((count, frames, *SHAPES[stream][1:]), DTYPES[stream])
    found[:, 0, 0, 0, 0] = np.arange(count)
    return found


@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_what_it_says_of_itself(stream: str) -> None:
    network = SegmentNetwork(Counting(stream))
    assert (network.stream, network.name, network.precision) == (stream, f"i3d-{stream}", "fp32")
    assert (network.frames, network.size, network.width) == (16, 224, 1024)
    assert network.weights_hash == "ab" * 32


@pytest.mark.parametrize(
    ("batch", "count", "runs"),
    [
        (Range(1, 1, 8), 8, [8]),
        (Range(1, 1, 8), 17, [8, 8, 1]),
        (Range(4, 4, 4), 6, [4, 4]),
        (Range(2, 2, 3), 1, [2]),
    ],
)
def test_any_number_of_segments(batch: Range, count: int, runs: list[int]) -> None:
    session = Counting("flow", batch)
    network = SegmentNetwork(session)
    features = network(clips("flow", count))
    assert session.runs == runs
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, np.repeat(np.arange(count)[:, None], 1024, 1))
    assert network.classify(clips("flow", count)).shape == (count, 400)


def test_views_are_made_contiguous() -> None:
    network = SegmentNetwork(Counting("rgb"))
    np.testing.assert_array_equal(network(clips("rgb", 6)[::2])[:, 0], [0, 2, 4])


@pytest.mark.parametrize(
    ("stream", "given", "message"),
    [
        ("rgb", clips("rgb", 1).astype(np.float32), "takes a uint8 array of RGB in 0 to 255, got float32"),
        ("flow", clips("flow", 1).astype(np.float64), "takes a float32 array of flow in pixels.*got float64"),
        ("rgb", [[1]], "takes a uint8 array.*got list"),
        ("rgb", clips("rgb", 1)[0], r"takes \(N, 16, 224, 224, 3\).*; got \(16, 224, 224, 3\)"),
        ("rgb", clips("rgb", 0), "N at least 1"),
        ("rgb", clips("rgb", 1, 15), r"got \(1, 15, "),
        ("rgb", clips("rgb", 1, 17), r"got \(1, 17, "),
        ("rgb", clips("rgb", 1)[..., :2], "got .*224, 2"),
        ("rgb", clips("rgb", 1)[:, :, :, :200], "got .*224, 200, 3.*Resize and crop"),
        ("flow", np.full((1, *SHAPES["flow"]), np.nan, np.float32), "NaN or infinite"),
    ],
)
def test_other_clips_are_refused(stream: str, given, message: str) -> None:
    session = Counting(stream)
    network = SegmentNetwork(session)
    for call in (network, network.classify):
        with pytest.raises(DataError, match=f"clips: .*{message}"):
            call(given)
    assert session.runs == []


def test_what_a_file_says_comes_back() -> None:
    info = SegmentInfo("flow", "cd" * 32, precision="bf16", batch=Range(2, 3, 4), classes=7)
    text = info.to_json()
    document = json.loads(text)
    assert (document["kind"], document["stream"], document["weights_sha256"]) == ("i3d", "flow", "cd" * 32)
    assert (document["frames"], document["size"]) == (16, 224)
    back = parse_segment_info(text, "m.onnx")
    assert back.version
    assert back == SegmentInfo(**{**vars(info), "version": back.version})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not an aicl_fast model"),
        ("{", "its settings cannot be read"),
        ("[]", "its settings cannot be read"),
        (json.dumps({"format": FORMAT + 1, "kind": "i3d"}), ".*Upgrade aicl_fast"),
        (json.dumps({"format": FORMAT, "config": {}}), "is a detector's model.*aicl_fast.Detector"),
        (json.dumps({"format": FORMAT, "kind": "i3d"}), "its settings cannot be read"),
    ],
)
def test_other_metadata_is_refused(text: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=rf"m\.onnx: {message}"):
        parse_segment_info(text, "m.onnx")


@pytest.fixture(scope="module", params=["rgb", "flow"])
def weights(request, random_i3d, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights of one stream."""
    torch = pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.pt"
    torch.save(random_i3d(request.param).state_dict(), path)
    return path


def test_trained_weights_run_in_torch(weights: Path, random_i3d) -> None:
    import torch

    from aicl_fast.video.i3d_weights import i3d_hash

    stream = weights.stem
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (1, *SHAPES["rgb"]), np.uint8)
    scaled = clip / 127.5 - 1
    if stream == "flow":
        clip = rng.normal(0, 15, (1, *SHAPES["flow"])).astype(np.float32)
        scaled = clip.clip(-20, 20) / 20
    clip.setflags(write=False)
    network = open_network(weights, stream=stream)
    assert network.weights_hash == i3d_hash(random_i3d(stream))
    with torch.no_grad():
        expected = random_i3d(stream)(torch.from_numpy(scaled).float().permute(0, 4, 1, 2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features = network(clip)
    assert (features.shape, features.dtype) == ((1, 1024), np.float32)
    assert np.abs(features - expected.features.numpy()).max() < 2e-5 * features.max()
    other = {"rgb": "flow", "flow": "rgb"}[stream]
    with pytest.raises(ModelError, match=f"is of the {stream} stream, not of {other}"):
        open_network(weights, stream=other)


@pytest.mark.parametrize("weights", ["rgb"], indirect=True)
def test_bfloat16_and_longer_clips(weights: Path) -> None:
    exact = open_network(weights)
    narrow = open_network(weights, precision="bf16")
    assert narrow.precision == "bf16"
    assert narrow.weights_hash == exact.weights_hash
    clip = np.random.default_rng(0).integers(0, 256, (1, *SHAPES["rgb"]), np.uint8)
    # Of a part of the picture, and longer ones in float32: without bfloat16 products it takes minutes.
    part = np.ascontiguousarray(clip[:, :, :32, :32])
    expected, found = (network.session.run(part).features for network in (exact, narrow))
    assert 1e-4 < np.abs(found - expected).max() / expected.max() < 5e-2
    longer = np.concatenate([clip, clip[:, :1]], 1)
    assert exact.classify(longer).shape == (1, 7)
    with pytest.raises(DataError, match=r"got \(1, 17, 224, 224, 3\)"):
        exact(longer)


@pytest.mark.parametrize("weights", ["rgb"], indirect=True)
def test_what_cannot_be_opened(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(DataError, match="the network does not exist"):
        open_network(tmp_path / "none.npz")
    with pytest.raises(ModelError, match="stream: expected rgb or flow, got 'depth'"):
        open_network(weights, stream="depth")
    with pytest.raises(ModelError, match=r"precision: expected fp32 or bf16 for .* on cpu, got 'fp16'"):
        open_network(weights, precision="fp16")
    for device in ("tpu", "cpu:1", "cuda:x", "cuda:²"):
        with pytest.raises(ModelError, match=f"device: expected cpu, cuda or cuda:N, got '{device}'"):
            open_network(weights, device=device)
    with pytest.raises(ModelError, match=r"threads: expected a number of at least 1, .*got 0"):
        open_network(weights, threads=0)
    strange = tmp_path / "m.tflite"
    strange.write_bytes(b"")
    with pytest.raises(ModelError, match=r"expected weights of I3D \(\.npz, .* or an exported network"):
        open_network(strange)


def test_a_gpu_by_its_number_is_asked_for_and_no_other_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime is played: it has CUDA, whose device cannot start."""
    onnxruntime = pytest.importorskip("onnxruntime")
    asked: list[object] = []

    class Session:
        def __init__(self, path: str, options: object, providers: list[object]) -> None:
            asked.extend(providers)

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    path = tmp_path / "m.onnx"
    path.write_bytes(b"")
    monkeypatch.setattr(
        "aicl_fast.engines.onnxruntime.read_onnx", lambda path: SegmentInfo("rgb", "").to_json()
    )
    with pytest.raises(UnavailableError, match=r"CUDAExecutionProvider cannot start.*choose the CPU"):
        open_network(path, device="cuda:1")
    assert asked == [("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]


def test_the_classes_of_kinetics() -> None:
    names = kinetics_classes()
    assert len(set(names)) == len(names) == 400
    assert list(names) == sorted(names)
    assert (names[0], names[6], names[59], names[399]) == (
        "abseiling",
        "arm wrestling",
        "clean and jerk",
        "zumba",
    )


def test_importing_it_loads_no_torch(tmp_path: Path) -> None:
    program = "import sys, aicl_fast.video.networks; sys.exit('torch' in sys.modules)"
    # Another folder: the sources must not shadow the installed package.
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == 0

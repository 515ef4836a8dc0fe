"""Files that the version before wrote are opened, and give what they gave then. ``earlier/README.md``."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest

from aicl_fast import Detector
from aicl_fast.engines.container import read_container
from aicl_fast.engines.packages import load_tensorrt
from aicl_fast.errors import ModelError, UnavailableError
from aicl_fast.metadata import I3D, Range
from aicl_fast.video import open_network

FOLDER = Path(__file__).with_name("earlier")
EXPECTED = np.load(FOLDER / "expected.npz")
RECORDING = np.random.default_rng(7).random((60, 11), dtype=np.float32)


def unpacked(name: str, tmp_path: Path) -> Path:
    path = tmp_path / name
    path.write_bytes(lzma.decompress((FOLDER / f"{name}.xz").read_bytes()))
    return path


def check_detections(path: Path, atol: float) -> None:
    with Detector(path) as detector:
        scores, detections = detector.scores(RECORDING, fps=30), detector(RECORDING, fps=30)
    for name, found in (
        ("fused", scores.fused),
        ("video", scores.video_scores),
        ("actionness", scores.actionness),
        ("agnostic", scores.actionness_agnostic),
        ("scores", detections.scores),
        ("segments", detections.segments),
    ):
        np.testing.assert_allclose(found, EXPECTED[name], rtol=0, atol=atol, err_msg=name)
    assert list(detections.labels) == list(EXPECTED["labels"])


def test_weights() -> None:
    pytest.importorskip("torch")
    check_detections(FOLDER / "model.safetensors", 1e-6)


@pytest.mark.parametrize("suffix", ["onnx", "openvino"])
def test_an_exported_detector(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino" if suffix == "openvino" else "onnxruntime")
    check_detections(unpacked(f"model.{suffix}", tmp_path), 1e-6)


def test_a_tensorrt_engine(tmp_path: Path) -> None:
    path = unpacked("model.engine", tmp_path)
    container = read_container(path)
    assert (container.kind, container.builder["version"]) == ("tensorrt-rtx", "1.7.1.116")
    assert len(container.read("plan")) > 700_000
    assert (container.info.batch, container.info.precision) == (Range(1, 2, 4), "fp32")
    try:
        version = load_tensorrt("tensorrt-rtx").__version__
        if version == container.builder["version"]:
            check_detections(path, 1e-3)
            return
    except UnavailableError as error:
        pytest.skip(f"its settings are read; to run it, {error}")
    with pytest.raises(ModelError, match=r"expected TensorRT-RTX 1\.7\.1\.116, which built it"):
        Detector(path)


@pytest.mark.parametrize("suffix", ["onnx", "openvino"])
def test_a_segment_network(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino" if suffix == "openvino" else "onnxruntime")
    clip = np.random.default_rng(7).integers(0, 256, (1, 16, 224, 224, 3), np.uint8)
    with open_network(unpacked(f"i3d.{suffix}", tmp_path), stream="rgb") as network:
        assert (network.info.batch, network.info.classes, network.name) == (Range(1, 1, 2), 7, f"{I3D}-rgb")
        for found, name in ((network(clip), "features"), (network.classify(clip), "logits")):
            np.testing.assert_allclose(
                found, EXPECTED[name], rtol=0, atol=1e-3 * np.abs(EXPECTED[name]).max()
            )

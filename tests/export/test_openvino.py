"""OpenVINO files: their settings, and how the engine compiles them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("openvino")

from aicl_fast import Detector
from aicl_fast.errors import ModelError
from aicl_fast.metadata import Range


def test_settings(exported, batch: np.ndarray) -> None:
    out = exported("openvino")
    plain = Detector(out, threads=1, pin_threads=False).engine(batch)
    again = Detector(out, threads=1, pin_threads=True, precision="fp32").engine(batch)
    np.testing.assert_array_equal(plain.scores, again.scores)
    with pytest.raises(ModelError, match="precision: expected fp32, bf16 or fp16 for OpenVINO, got 'int8'"):
        Detector(out, precision="int8")


def test_each_batch_size_is_compiled(exported, batch: np.ndarray, expected) -> None:
    engine = Detector(exported("openvino"), threads=1).engine
    assert list(engine._compiled) == [(1, 32, 11)]
    np.testing.assert_allclose(engine(batch).scores, expected.scores, atol=1e-6)
    many = np.concatenate([batch] * 3)
    for count in range(6, 16):
        assert engine(many[:count]).scores.shape == (count, 32, 3)
    assert list(engine._compiled) == [(count, 32, 11) for count in range(8, 16)]
    np.testing.assert_allclose(engine(batch).scores, expected.scores, atol=1e-6)


def test_it_is_compiled_once_where_the_length_varies(exported, batch: np.ndarray, assert_close) -> None:
    pytest.importorskip("onnxruntime")
    engine, reference = (
        Detector(exported(name, segments=Range(8, 32, 64), convolution="direct"), threads=1).engine
        for name in ("openvino", "onnx")
    )
    (compiled,) = engine._compiled.values()
    for length in (32, 9, 64, 8, 32):
        for videos in (batch, batch[:1]):
            features = np.concatenate([videos] * 2, axis=1)[:, :length]
            assert_close(engine(features), reference(features))
    assert list(engine._compiled.values()) == [compiled]


def test_several_threads(exported, batch: np.ndarray) -> None:
    from concurrent.futures import ThreadPoolExecutor

    engine = Detector(exported("openvino"), threads=1).engine
    alone = [engine(batch[i : i + 1]).scores for i in range(5)]
    with ThreadPoolExecutor(3) as pool:
        for number, outputs in enumerate(pool.map(lambda n: engine(batch[n % 5][None]), range(30))):
            np.testing.assert_allclose(outputs.scores, alone[number % 5], atol=1e-6)


def test_detecting_imports_no_torch(exported) -> None:
    code = (
        "import sys, numpy; from aicl_fast import Detector\n"
        f"d = Detector({str(exported('openvino', 'bf16'))!r}, threads=1)\n"
        "d(numpy.ones((9, 11), numpy.float32))\n"
        "heavy = {'torch', 'triton', 'onnx', 'onnxruntime', 'tensorrt_rtx_bindings'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

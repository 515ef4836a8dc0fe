"""A detector in another process: pickled, or after a fork."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aicl_fast import Detector
from aicl_fast.errors import DataError, UnavailableError

RECORDING = np.random.default_rng(0).random((60, 11), dtype=np.float32)


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_a_pickled_detector_opens_its_file_again(
    tiny_model: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    detector = Detector(f"model{suffix}", threads=1)
    detector.decode_config = replace(detector.decode_config, min_score=0.01)
    stored = pickle.dumps(detector)
    assert len(stored) < 10_000
    monkeypatch.chdir("/")
    again = pickle.loads(stored)
    assert again.decode_config == detector.decode_config
    assert (again.path, again.segments) == (tiny_model.with_suffix(suffix), 32)
    assert list(again(RECORDING)) == list(detector(RECORDING))


def scored(detector: Detector) -> Any:
    return detector.scores(RECORDING).fused


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_other_processes_find_the_same(tiny_model: Path, method: str) -> None:
    detector = Detector(tiny_model.with_suffix(".onnx"), threads=1)
    with multiprocessing.get_context(method).Pool(1) as pool:
        found = pool.apply_async(scored, (detector,)).get(timeout=120)
    np.testing.assert_array_equal(found, scored(detector))


FORK = """
import os, sys, threading
import numpy as np
from aicl_fast import Detector
from aicl_fast.errors import AiclError
path, engine = sys.argv[1:]
if engine == "torch":
    import torch
    torch.set_num_threads(2)
    torch.nn.functional.relu(torch.randn(4_000_000))  # its threads run
detector = Detector(path, engine=engine, threads=2)
features = np.random.default_rng(0).random((64, 32, 11), dtype=np.float32)
before = detector.engine(features)
pid = os.fork()
if pid == 0:
    code = 1
    try:
        for each in (detector, Detector(path, engine=engine, threads=2)):
            np.testing.assert_allclose(each.engine(features).scores, before.scores, atol=1e-6)
        code = 0
    except AiclError as error:
        print(error, file=sys.stderr)
    finally:
        os._exit(code)
assert os.waitpid(pid, 0)[1] == 0
assert np.array_equal(detector.engine(features).scores, before.scores)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch"])
def test_it_runs_on_after_a_fork(tiny_model: Path, engine: str) -> None:
    pytest.importorskip(engine)
    path = tiny_model if engine == "torch" else tiny_model.with_suffix(".onnx")
    program = [sys.executable, "-W", "ignore", "-c", FORK, str(path), engine]
    subprocess.run(program, check=True, timeout=120)


def test_one_on_a_gpu_says_that_it_cannot(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector(tiny_model, threads=1)
    detector.engine._device = __import__("torch").device("cuda")  # type: ignore[attr-defined]
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(UnavailableError, match=r"was opened in another process.*spawn"):
        detector(RECORDING)


@pytest.mark.parametrize(
    "fps", [Fraction(25, 1), Decimal("25"), np.float32(25), np.int16(25), np.array(25.0), 25]
)
def test_frame_rates_of_any_kind(tiny_model: Path, fps: Any) -> None:
    detector = Detector(tiny_model.with_suffix(".onnx"), threads=1)
    assert list(detector(RECORDING, fps=fps)) == list(detector(RECORDING, fps=25.0))
    assert type(detector.scores(RECORDING, fps=fps).fps) is float


@pytest.mark.parametrize("fps", ["25", b"25", True, 1j, [25], Decimal("NaN"), 10**400, -1, Fraction(0)])
def test_what_is_no_frame_rate(tiny_model: Path, fps: Any) -> None:
    with pytest.raises(DataError, match=r"fps: expected a positive number"):
        Detector(tiny_model.with_suffix(".onnx"), threads=1)(RECORDING, fps=fps)

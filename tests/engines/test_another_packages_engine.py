"""An engine of another package: one file, one entry point, and a detector runs it end to end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aicl_fast import Detector, plugins
from aicl_fast.config import Config
from aicl_fast.engines.registry import engines, options_of
from aicl_fast.errors import ModelError, UnavailableError
from aicl_fast.metadata import ModelInfo, Range

ENGINE = '''
import numpy as np
from aicl_fast.engines.registry import EngineSpec
from aicl_fast.engines.session import Session, read_settings

ENGINE = EngineSpec("toy_engine:ToySession", (".toy",), "the toy", frozenset({"threads"}), devices=("cpu",))


class ToySession(Session):
    """The mean of the features is every score; a file is its settings."""

    name = "toy"

    def __init__(self, path, *, kind, threads=1):
        super().__init__(path, read_settings(path.read_text(), path, kind))
        self.threads, self.batches = threads, []

    def run(self, inputs):
        self.batches.append(len(inputs))
        means = inputs.mean(2)
        scores = np.repeat(means[:, :, None], self.info.config.model.num_classes, 2)
        return self.signature.result(scores, scores.max(1), means, means)
'''


@pytest.fixture
def toy(tmp_path: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of the toy, whose package is installed."""
    (tmp_path / "toy_engine.py").write_text(ENGINE)
    made = tmp_path / "toy_engine-1.0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-engine\nVersion: 1.0\n")
    (made / "entry_points.txt").write_text("[aicl_fast.engines]\ntoy = toy_engine:ENGINE\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins.load.cache_clear()
    path = tmp_path / "model.toy"
    path.write_text(ModelInfo(tiny_config, batch=Range(2, 2, 3)).to_json())
    yield path
    plugins.load.cache_clear()


@pytest.mark.parametrize("engine", [None, "toy"])
def test_a_detector_runs_it(toy: Path, engine: str | None) -> None:
    features = np.random.default_rng(0).random((4, 40, 11), dtype=np.float32)
    with Detector(toy, engine=engine, threads=2) as detector:
        found = detector.batch_scores(list(features))
        assert detector.engine.threads == 2
        assert detector.engine.batches == [3, 2]  # the last video, and one of zeros
        sampled = features[:, np.arange(32) * 40 // 32].mean(2)
        for scores, means in zip(found, sampled, strict=True):
            np.testing.assert_allclose(scores.actionness, means, atol=1e-6)
            assert scores.fused.shape == (32, 3)
        assert detector(features[0]).video == "video"
    with pytest.raises(UnavailableError, match="is closed"):
        detector(features[0])


def test_it_is_one_of_the_engines(toy: Path, tiny_model: Path) -> None:
    assert list(engines()) == ["onnxruntime", "openvino", "tensorrt", "torch", "toy"]
    assert options_of(toy) == {"threads"}
    with pytest.raises(ModelError, match="the toy runs on the CPU here; got device='cuda'"):
        Detector(toy, device="cuda")
    with pytest.raises(ModelError, match=r"cannot run in toy; .*runs in onnxruntime or openvino"):
        Detector(tiny_model.with_suffix(".onnx"), engine="toy")
    with pytest.raises(ModelError, match=r"expected one of .*torch, toy, got 'tvm'"):
        Detector(toy, engine="tvm")

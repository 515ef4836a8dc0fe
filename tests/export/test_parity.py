"""Files compared: outputs, latencies, mAP, and the command."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from aicl_fast import Detector
from aicl_fast.data.dataset import Dataset
from aicl_fast.errors import DataError
from aicl_fast.export.parity import TOLERANCES, compare_detectors, differences
from aicl_fast.metadata import Range
from aicl_fast.signature import NetworkOutputs


def test_parity(tiny_model: Path, tiny_dataset: Path, exported) -> None:

    half = exported("onnx", "fp16")
    detectors = [Detector(tiny_model), Detector(tiny_model.with_suffix(".onnx")), Detector(half)]
    dataset = Dataset.open(tiny_dataset, detectors[0].config, splits=("test",))
    results = compare_detectors(detectors, dataset, runs=2)
    assert [each.passed for each in results] == [True, True, True]
    assert results[0].differences == ()
    assert results[0].mAP is not None
    assert 0 < results[2].differences[0].absolute < 1e-3
    assert results[1].tolerance == TOLERANCES["fp32"]
    assert results[2].tolerance == TOLERANCES["fp16"]
    assert all(each.milliseconds > 0 for each in results)
    with pytest.raises(DataError, match="at least two"):
        compare_detectors(detectors[:1])


def test_parity_is_of_a_length_that_all_take(exported) -> None:
    sizes = {"any": Range(8, 32, 64), "short": Range(16, 16, 16), "long": Range(40, 48, 64)}
    files = {
        name: Detector(exported("onnx", "fp32", segments=each, convolution="direct"))
        for name, each in sizes.items()
    }
    for names, length in ((("any", "short"), 16), (("any", "long"), 40), (("long", "any"), 48)):
        detectors = [files[name] for name in names]
        before = [each.segments for each in detectors]
        results = compare_detectors(detectors, runs=1)
        assert all(each.passed for each in results)
        assert max(each.where[1] for each in results[1].differences if len(each.where) > 1) < length
        assert [each.segments for each in detectors] == before
    with pytest.raises(DataError, match="expected a T that all files allow, got 16, 40:48:64"):
        compare_detectors([files["short"], files["long"]])


def test_latencies_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    import aicl_fast.export.parity as parity

    order: list[str] = []
    detectors: Any = [SimpleNamespace(engine=lambda _, name=name: order.append(name)) for name in "ab"]
    monkeypatch.setattr(time, "sleep", lambda seconds: order.append("rest"))
    parity._latencies(detectors, np.zeros(1, np.float32), 7)
    assert order == [*("rest", *"a" * 8), *("rest", *"b" * 8), *("rest", *"a" * 5), *("rest", *"b" * 5)]


@pytest.mark.parametrize("precision", TOLERANCES)
def test_the_table_shows_the_tolerance_that_holds(precision: str) -> None:
    from aicl_fast.cli.parity import parity_table
    from aicl_fast.export.parity import Parity

    made = [
        Parity(name, precision, "onnxruntime", (), TOLERANCES[precision], 1.0, None, None) for name in "ab"
    ]
    (shown,) = [cell for cell in parity_table("", made).columns[1].cells if cell]
    assert float(str(shown).removeprefix("≤ ")) == TOLERANCES[precision].absolute


def test_differences_say_where(expected: NetworkOutputs) -> None:
    other = NetworkOutputs(*(each.copy() for each in expected))
    other.scores[3, 17, 2] += 0.25
    other.actionness[1, 5] = np.nan
    scores, video, actionness, agnostic = differences(expected, other)
    assert (scores.where, round(scores.absolute, 6)) == ((3, 17, 2), 0.25)
    assert scores.relative == pytest.approx(0.25 / expected.scores[3, 17, 2], rel=1e-4)
    assert (video.absolute, agnostic.relative) == (0, 0)
    assert (actionness.where, actionness.absolute) == ((1, 5), np.inf)


def test_parity_command(run, tiny_model: Path, tmp_path: Path, tiny_config) -> None:
    import torch

    from aicl_fast.model import TwoBranchNet
    from aicl_fast.weights import save_model

    onnx = tiny_model.with_suffix(".onnx")
    text = run("parity", onnx, f"onnxruntime:{onnx}", "--runs", 1)
    assert "reference" in text
    assert "actionness_agnostic" in text
    torch.manual_seed(1)
    save_model(tmp_path / "other.safetensors", TwoBranchNet(tiny_config), tiny_config)
    text = run("parity", onnx, "other.safetensors", "--runs", 1, expect=1)
    assert "FAILS" in text
    assert "past tolerance: other.safetensors" in text


def test_parity_with_options(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file gets those that its engine has."""
    import aicl_fast.detector as detector
    from aicl_fast.cli import parity

    given: dict[str, Any] = {}
    real = detector.open_session

    def spy(path: Any, *, engine: str | None, **options: Any) -> Any:
        given[str(engine)] = {name: value for name, value in options.items() if value not in (None, False)}
        return real(path, engine=engine, **options)

    monkeypatch.setattr(detector, "open_session", spy)
    onnx = tiny_model.with_suffix(".onnx")
    models = [str(tiny_model), f"onnxruntime:{onnx}", f"openvino:{onnx}"]
    provider = "CPUExecutionProvider"
    parity.run(models, threads=2, runs=1, device="cpu", provider=[provider], pin_threads=True)
    both = {"threads": 2, "pin_threads": True, "device": "cpu"}
    assert given == {
        "None": {"threads": 2, "device": "cpu"},
        "onnxruntime": {**both, "providers": [provider]},
        "openvino": both,
    }

"""Weights of the tiny model exported in any format, distances from torch, and one thread for all."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aicl_fast.signature import NetworkOutputs

if TYPE_CHECKING:
    from aicl_fast.export.options import ExportOptions


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def batch() -> np.ndarray:
    """(5, 32, 11) features for the tiny model."""
    return np.random.default_rng(5).random((5, 32, 11), dtype=np.float32)


@pytest.fixture(scope="session")
def expected(tiny_model: Path, batch: np.ndarray) -> NetworkOutputs:
    """What torch says of them in float32."""
    from aicl_fast.engines.torch import TorchSession

    return TorchSession(tiny_model)(batch)


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    """``assert_close(actual, expected, atol)``: four float32 outputs each."""

    def check(actual: Any, expected: Any, atol: float = 1e-6) -> None:
        for name, a, b in zip(NetworkOutputs._fields, actual, expected, strict=True):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, b, atol=atol, rtol=0, err_msg=name)

    return check


@pytest.fixture(scope="session")
def options(
    make_tiny_dataset: Any, tiny_config: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., ExportOptions]:
    """``options("onnx", "int8", ...)``, with a data set where the precision needs one."""
    from aicl_fast.export.options import CALIBRATED, ExportOptions

    data = make_tiny_dataset(tmp_path_factory.mktemp("calibration") / "data", tiny_config)

    def make(format_: str = "onnx", precision: str = "fp32", **more: Any) -> ExportOptions:
        return ExportOptions(format_, precision, calibrate=data if precision in CALIBRATED else None, **more)

    return make


@pytest.fixture(scope="session")
def graph(tiny_model: Path, options: Callable[..., ExportOptions]) -> Callable[..., Any]:
    """``graph("onnx", "int8")``: the tiny model as an ``onnx.ModelProto``, and what its file will say."""
    from aicl_fast.export.export import exported_onnx
    from aicl_fast.weights import load_model

    return functools.cache(lambda *names: exported_onnx(*load_model(tiny_model), options(*names)))


@pytest.fixture(scope="session")
def exported(
    tiny_model: Path, options: Callable[..., ExportOptions], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """``exported("openvino", "bf16")``: the tiny model's file in a format; of a server's, the model's."""
    from aicl_fast.export.export import export_model
    from aicl_fast.export.formats import FORMATS

    @functools.cache
    def export(format_: str = "onnx", precision: str = "fp32", **more: Any) -> Path:
        path = tmp_path_factory.mktemp("exported") / f"m{FORMATS[format_].suffix}"
        out = export_model(tiny_model, path, options(format_, precision, **more))
        return next(out.rglob("model.onnx")) if out.is_dir() else out

    return export


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., None]:
    """``refused(words, "export", ...)``: it ends with 2 and says why on stderr, without a traceback."""
    from aicl_fast.cli import main

    monkeypatch.chdir(tmp_path)

    def call(words: str, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["aicl-fast", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert (end.value.code, out) == (2, "")
        # typer's messages stand in a frame
        assert "".join(words.split()) in "".join(err.replace("│", "").split())
        assert "Traceback" not in err

    return call

"""Weights of the tiny model, an engine's distance from torch, and one thread for all."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from aicl_fast.signature import NetworkOutputs


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def _graphs_are_built_once():
    """torch's exporter takes seconds; the same weights, precision and sizes give the same graph."""
    formats = pytest.importorskip("aicl_fast.export.formats")
    built: dict[tuple[object, ...], bytes] = {}
    build = formats.build_onnx

    def remember(net, info, **options):
        import onnx

        key = (info.to_json(), *sorted(options.items()))
        if key not in built:
            built[key] = build(net, info, **options).SerializeToString()
        return onnx.load_from_string(built[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "build_onnx", remember)
        yield


@pytest.fixture(scope="session")
def batch() -> np.ndarray:
    """(5, 32, 11) features for the tiny model."""
    return np.random.default_rng(5).random((5, 32, 11), dtype=np.float32)


@pytest.fixture(scope="session")
def expected(tiny_model: Path, batch: np.ndarray) -> NetworkOutputs:
    """What torch says of them in float32."""
    from aicl_fast.engines.torch import TorchEngine

    return TorchEngine(tiny_model)(batch)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """``aicl-fast`` in this process: (exit status, stdout, stderr)."""
    from aicl_fast.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aicl-fast", *map(str, arguments)])
        with pytest.raises(SystemExit) as status:
            main()
        return int(status.value.code or 0), *capsys.readouterr()

    return run

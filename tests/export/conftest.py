"""Weights of the tiny model, an engine's distance from torch, and one thread for all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aicl_fast.engines import EngineOutputs


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
def expected(tiny_model: Path, batch: np.ndarray) -> EngineOutputs:
    """What torch says of them in float32."""
    from aicl_fast.engines.torch import TorchEngine

    return TorchEngine(tiny_model)(batch)

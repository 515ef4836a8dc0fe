"""The naive version of decoding, loaded from beside the tests, and what the tests of this folder share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from aicl_fast.decode.decoder import available_backends


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def naive() -> ModuleType:
    """tests/decode/naive.py. (pytest's importlib mode puts no folder on the path.)"""
    return _load("decode_naive", Path(__file__).with_name("naive.py"))


@pytest.fixture(params=["native", "numba"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that this installation has."""
    if request.param not in available_backends():
        pytest.skip(f"backend '{request.param}' is not installed here")
    return str(request.param)

"""Where the kernels run in tests: in Triton's interpreter, or on CUDA where there is a GPU.

Each kernel test takes ``target``: a device and a dtype. On a machine without a GPU the targets are the
interpreter's; those marked ``gpu`` are skipped. On one with a GPU it is the other way round, because one
process can have Triton in one mode only.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    import torch

_HAS_TORCH = importlib.util.find_spec("torch") is not None
_HAS_TRITON = _HAS_TORCH and importlib.util.find_spec("triton") is not None


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


ON_CUDA = _HAS_TRITON and os.environ.get("TRITON_INTERPRET", "0") != "1" and _has_cuda()

if _HAS_TRITON and not ON_CUDA:
    # Triton's own library of functions is bound to the interpreter or to the compiler when it is imported.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        importlib.import_module("triton.language")


class Target(NamedTuple):
    """Where a kernel test runs, and with what."""

    device: torch.device
    dtype: torch.dtype
    tolerance: float

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor on the device; in the dtype if it is a float."""
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)


def _targets() -> list[Any]:
    interpreted = [pytest.param(("cpu", name), id=f"interpreter-{name}") for name in ("float32", "float16")]
    names = ("float32", "float16", "bfloat16")
    return interpreted + [
        pytest.param(("cuda", name), id=f"cuda-{name}", marks=pytest.mark.gpu) for name in names
    ]


@pytest.fixture(params=_targets())
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Target:
    """Each device and dtype; the public functions use the kernels, and ``torch.empty`` gives NaN."""
    device, name = request.param
    return _switch_on(monkeypatch, device, name)


@pytest.fixture(params=[pytest.param("cpu", id="interpreter"), pytest.param("cuda", marks=pytest.mark.gpu)])
def target32(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Target:
    """As ``target``, float32 only, for what does not hang on the dtype."""
    return _switch_on(monkeypatch, request.param, "float32")


def _switch_on(monkeypatch: pytest.MonkeyPatch, device: str, name: str) -> Target:
    torch = pytest.importorskip("torch")
    if not _HAS_TRITON:
        pytest.skip("Triton is not installed")
    if device == "cuda" and not ON_CUDA:
        pytest.skip("needs a CUDA device")
    if device == "cpu" and ON_CUDA:
        pytest.skip("this process compiles for CUDA; set TRITON_INTERPRET=1 for the interpreter")
    from aicl_fast.kernels import dispatch
    from aicl_fast.kernels.harness import ROUNDING

    monkeypatch.setattr(dispatch, "ENABLED", True)
    if device == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        monkeypatch.setattr(dispatch, "INTERPRET", True)
    _poison_empty(monkeypatch, torch)
    return Target(torch.device(device), getattr(torch, name), ROUNDING[getattr(torch, name)])


def _poison_empty(monkeypatch: pytest.MonkeyPatch, torch: Any) -> None:
    """Fill what ``torch.empty`` returns, so that an element that nobody wrote cannot hide."""
    empty = torch.empty

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        out = empty(*args, **kwargs)
        if out.dtype.is_floating_point:
            return out.fill_(float("nan"))
        return out.fill_(True if out.dtype == torch.bool else -1)

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.fixture
def outside(tmp_path: Path, fork_python: Callable[..., Any]) -> Callable[..., Any]:
    """``outside("-m", …)``: Python in a process of its own; this one has Triton in its interpreter."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    # The folder of a checkout would shadow the installed package.
    return lambda *arguments: fork_python(*arguments, env=environment, cwd=tmp_path)


@pytest.fixture
def assert_close() -> Callable[..., None]:
    """Compare by norm with a reference of higher precision; NaN never passes."""

    def check(actual: Any, expected: Any, tolerance: float, what: str = "") -> None:
        assert actual.shape == expected.shape, what
        difference = (actual.double().cpu() - expected.double().cpu()).norm().item()
        scale = expected.double().norm().item()
        assert difference <= tolerance * max(scale, 1e-6), f"{what}: {difference:.3g} of {scale:.3g}"

    return check


@pytest.fixture
def rows() -> Callable[..., Any]:
    """Make a (B, T, C) tensor of any layout: ``rows``, ``planar`` (a transposed (B, C, T)) or ``strided``."""
    torch = pytest.importorskip("torch")

    def make(batch: int, length: int, width: int, layout: str, seed: int = 0) -> Any:
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(batch, length, width, generator=generator)
        if layout == "planar":
            return values.transpose(1, 2).contiguous().transpose(1, 2)
        if layout == "strided":
            wide = torch.full((batch, 2 * length, width + 3), float("nan"))
            wide[:, ::2, 1:-2] = values
            return wide[:, ::2, 1:-2]
        return values

    return make

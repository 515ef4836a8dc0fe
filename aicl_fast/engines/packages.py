"""The packages that run models, imported in one place: without telemetry, and by the extra that has them."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from aicl_fast.errors import UnavailableError
from aicl_fast.extras import needs

Kind = Literal["tensorrt", "tensorrt-rtx"]
"""Of TensorRT's packages, whose API is the same and whose names to import differ."""
NAMES: dict[str, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
# TensorRT-RTX is imported as tensorrt_rtx from NVIDIA's archive and as tensorrt_rtx_bindings from wheels.
_MODULES: dict[str, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
_TELEMETRY = "openvino_telemetry"
_lock = threading.Lock()


def import_onnxruntime() -> Any:
    """The onnxruntime package, which then sends nothing, looks up no host and keeps no identifier.

    From 1.32 its builds report how they are used unless this variable is set before the first import. A
    program that imports it earlier decides for itself, but for what its sessions do later.

    Raises:
        UnavailableError: it is not installed, or does not load.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise UnavailableError(
            f"onnxruntime cannot be imported ({error}): pip install onnxruntime"
        ) from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def import_openvino(what: str) -> Any:
    """The openvino package, which from then on sends nothing and looks up no host.

    Its tools report what they convert by ``openvino_telemetry``. Where that package is missing they take an
    empty stand-in of their own; so it counts as missing while they are imported. What the program imported
    before is given the stand-in, too.

    Args:
        what: what needs it, as the start of a sentence.
    Raises:
        UnavailableError: it is not installed, or does not load.
    """
    with needs("openvino", what), _lock:
        with _missing(_TELEMETRY):
            openvino = importlib.import_module("openvino")
        for name, module in list(sys.modules.items()):
            reports = getattr(module, "tm", None) if name.startswith("openvino.") else None
            if getattr(reports, "__name__", "") == _TELEMETRY:
                module.__dict__["tm"] = importlib.import_module("openvino.tools.ovc.telemetry_stub")
        return openvino


@contextmanager
def _missing(name: str) -> Iterator[None]:
    """A package cannot be imported meanwhile, if it was not yet."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def load_tensorrt(kind: Kind) -> Any:
    """The TensorRT (10 or 11) or TensorRT-RTX module.

    Raises:
        UnavailableError: it is not installed, or its libraries do not load.
    """
    reasons = []
    for name in _MODULES[kind]:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:
            reasons.append(str(error))
    raise UnavailableError(
        f"{NAMES[kind]} cannot be imported ({'; '.join(reasons)}): pip install 'aicl-fast[{kind}]'."
    )

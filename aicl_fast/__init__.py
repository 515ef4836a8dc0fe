"""Temporal action localization with AICL: features in, timed detections out.

Importing this package loads its errors and nothing else, not even numpy. Each public name below is
imported from its module when it is first used, so an application that only decodes never pays for
ONNX Runtime, and none pays for torch unless it trains, exports or runs weights.

    from aicl_fast import Detector
    detector = Detector("model.onnx")
    for detection in detector(rgb, flow, fps=25.0):
        print(detection.label, detection.score, detection.start, detection.end)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aicl_fast.errors import AiclError

if TYPE_CHECKING:
    from aicl_fast.config import Config, load_config
    from aicl_fast.data.detections import Detection, Detections, load_detections
    from aicl_fast.data.writers import save_detections
    from aicl_fast.decode.fusion import postprocess
    from aicl_fast.detector import Detector

__all__ = [
    "AiclError",
    "Config",
    "Detection",
    "Detections",
    "Detector",
    "__version__",
    "load_config",
    "load_detections",
    "postprocess",
    "save_detections",
]

__version__ = "0.1.0"
# pyproject.toml says the same, which a test checks: the source runs without an installation too.

_HOME = {
    "Config": "config",
    "Detection": "data.detections",
    "Detections": "data.detections",
    "Detector": "detector",
    "load_config": "config",
    "load_detections": "data.detections",
    "postprocess": "decode.fusion",
    "save_detections": "data.writers",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"aicl_fast.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'aicl_fast' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)

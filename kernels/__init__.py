"""The hot loops, one operation a file, each beside its plain reference.

Nothing is imported here until it is asked for: numba, the compiled part and torch each cost start-up
time that a caller of another one should not pay.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aicl_fast.kernels.contrast import segment_contrast
    from aicl_fast.kernels.fusion import score_fusion
    from aicl_fast.kernels.mining import Mining, mine_segments
    from aicl_fast.kernels.pooling import topk_pool

__all__ = ["Mining", "mine_segments", "score_fusion", "segment_contrast", "topk_pool"]

_HOME = {
    "Mining": "mining",
    "mine_segments": "mining",
    "score_fusion": "fusion",
    "segment_contrast": "contrast",
    "topk_pool": "pooling",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"aicl_fast.kernels.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'aicl_fast.kernels' has no attribute '{name}'")

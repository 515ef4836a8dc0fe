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
    from aicl_fast.kernels.two_branch import (
        TwoBranchEmbeddings,
        TwoBranchScores,
        two_branch_embed,
        two_branch_infer,
    )
    from aicl_fast.kernels.two_branch_weights import TwoBranchWeights, pack_two_branch

__all__ = [
    "Mining",
    "TwoBranchEmbeddings",
    "TwoBranchScores",
    "TwoBranchWeights",
    "mine_segments",
    "pack_two_branch",
    "score_fusion",
    "segment_contrast",
    "topk_pool",
    "two_branch_embed",
    "two_branch_infer",
]

# A new operation is a file here, one in gpu/, and a line in this table and in cases.OPERATIONS.
_FILES = {
    "Mining": "mining",
    "TwoBranchEmbeddings": "two_branch",
    "TwoBranchScores": "two_branch",
    "TwoBranchWeights": "two_branch_weights",
    "mine_segments": "mining",
    "pack_two_branch": "two_branch_weights",
    "score_fusion": "fusion",
    "segment_contrast": "contrast",
    "topk_pool": "pooling",
    "two_branch_embed": "two_branch",
    "two_branch_infer": "two_branch",
}


def __getattr__(name: str) -> Any:
    if name in _FILES:
        value = getattr(importlib.import_module(f"aicl_fast.kernels.{_FILES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'aicl_fast.kernels' has no attribute '{name}'")

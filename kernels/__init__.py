"""The hot loops, one operation a file, each beside its plain reference.

Nothing is imported here until it is asked for: numba, the compiled part and torch each cost start-up
time that a caller of another one should not pay.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aicl_fast.kernels.contrast import segment_contrast as segment_contrast
    from aicl_fast.kernels.fusion import score_fusion as score_fusion
    from aicl_fast.kernels.mining import Mining as Mining
    from aicl_fast.kernels.mining import mine_segments as mine_segments
    from aicl_fast.kernels.pooling import topk_pool as topk_pool
    from aicl_fast.kernels.two_branch import TwoBranchEmbeddings as TwoBranchEmbeddings
    from aicl_fast.kernels.two_branch import TwoBranchScores as TwoBranchScores
    from aicl_fast.kernels.two_branch import two_branch_embed as two_branch_embed
    from aicl_fast.kernels.two_branch import two_branch_infer as two_branch_infer
    from aicl_fast.kernels.two_branch_weights import TwoBranchWeights as TwoBranchWeights
    from aicl_fast.kernels.two_branch_weights import pack_two_branch as pack_two_branch

# A new operation is a file here, one in gpu/, and a line in this table and in harness.OPERATIONS.
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

__all__ = sorted(_FILES)


def __getattr__(name: str) -> Any:
    if name in _FILES:
        value = getattr(importlib.import_module(f"aicl_fast.kernels.{_FILES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'aicl_fast.kernels' has no attribute '{name}'")

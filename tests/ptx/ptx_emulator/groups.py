"""The groups of cases, each for a process of its own, and the kernels that each has to run."""

from __future__ import annotations

_NETWORK = {"embed_kernel", "heads_kernel"}
GROUPS = {
    "scores": {
        "fusion_fwd_kernel",
        "fusion_bwd_kernel",
        "pool_fwd_kernel",
        "pool_bwd_kernel",
        "mining_kernel",
    },
    "contrast": {"contrast_fwd_kernel", "contrast_bwd_kernel"},
    "network, whole, boxes": _NETWORK,
    "network, whole, pointers": _NETWORK,
    "network, split, boxes": _NETWORK,
    "network, split, pointers": _NETWORK,
    "float8": {"float8_kernel", *_NETWORK},
}

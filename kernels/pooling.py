"""Top-k pooling: the k best segments of each class become the video's logit for that class."""

from __future__ import annotations

import torch
from torch import Tensor


def select_topk(scores: Tensor, k: int, dim: int = 1) -> Tensor:
    """Boolean mask of exactly ``k`` entries along ``dim``: the highest, ties by lowest index.

    ``torch.topk`` leaves the choice among equal scores open, so the k-th value is taken from it and the
    ties are dealt out here. Works without a host round trip and in one graph.
    """
    kth = scores.topk(k, dim=dim).values.amin(dim=dim, keepdim=True)
    above = scores > kth
    tied = scores == kth
    room = k - above.sum(dim=dim, keepdim=True)
    return above | (tied & (tied.cumsum(dim=dim) <= room))


def topk_pool_reference(cas: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """What :func:`topk_pool` computes, in plain torch."""
    selected = select_topk(scores.detach(), k)
    pooled = torch.where(selected, cas, cas.new_zeros(())).sum(dim=1) / k
    return pooled, selected


def topk_pool(cas: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Mean of CAS over each class's ``k`` segments of highest score.

    Args:
        cas: (B, T, C) values to average.
        scores: (B, T, C) values to rank by; no gradient flows to them.
        k: segments a class, 1 to T.
    Returns:
        ``pooled`` (B, C) and ``selected`` (B, T, C) bool, exactly k true along T, ties by lowest index.
    Raises:
        ValueError: k is not in 1 … T.
    """
    if not 1 <= k <= cas.shape[1]:
        raise ValueError(f"topk_pool: k must be 1 to T = {cas.shape[1]}, got {k}")
    return topk_pool_reference(cas, scores, k)

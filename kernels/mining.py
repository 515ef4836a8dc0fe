"""Segment mining: where the two branches agree on action or background, and where they do not."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Mining(NamedTuple):
    """The mined segments of each video, as (B, T) boolean masks; at most K true in a row.

    A region with fewer than K members keeps those it has; an empty region is all false.
    """

    ca: Tensor
    """Consistent action: both branches above their median; the highest A."""
    cb: Tensor
    """Consistent background: both at or below; the lowest A."""
    ia: Tensor
    """Inconsistent action: the branches differ; the highest A."""
    ib: Tensor
    """Inconsistent background: the branches differ; the lowest A."""


def above_median(values: Tensor) -> Tensor:
    """(B, T) bool: strictly above the median along T (for even T the mean of the two middle values)."""
    length = values.shape[1]
    ordered = values.sort(dim=1).values
    median = (ordered[:, (length - 1) // 2] + ordered[:, length // 2]) / 2
    return values > median.unsqueeze(1)


def _highest(values: Tensor, region: Tensor, k: int) -> Tensor:
    """The ``k`` highest members of each row's region, ties by lowest index, fewer where it is short."""
    from aicl_fast.kernels.pooling import select_topk

    floor = values.new_full((), -torch.inf)
    return region & select_topk(torch.where(region, values, floor), k)


def mine_segments_reference(a: Tensor, a_ca: Tensor, k: int) -> Mining:
    """What :func:`mine_segments` computes, in plain torch."""
    a = a.detach()
    aware, agnostic = above_median(a), above_median(a_ca.detach())
    differ = aware ^ agnostic
    return Mining(
        ca=_highest(a, aware & agnostic, k),
        cb=_highest(-a, ~(aware | agnostic), k),
        ia=_highest(a, differ, k),
        ib=_highest(-a, differ, k),
    )


def mine_segments(a: Tensor, a_ca: Tensor, k: int) -> Mining:
    """Mine the segments that the contrastive loss compares.

    Each branch's actionness is binarised at its own median over T. A ranks all four regions.

    Args:
        a: (B, T) class-aware actionness.
        a_ca: (B, T) class-agnostic actionness.
        k: K, the segments kept of each region, 1 to T.
    Returns:
        :class:`Mining`; no gradient flows through it.
    Raises:
        ValueError: k is not in 1 … T.
    Source: the paper's supplement and the authors' program, without its filling up of short regions.
    """
    if not 1 <= k <= a.shape[1]:
        raise ValueError(f"mine_segments: k must be 1 to T = {a.shape[1]}, got {k}")
    return mine_segments_reference(a, a_ca, k)

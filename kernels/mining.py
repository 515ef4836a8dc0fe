"""Segment mining: where the two branches agree on action or background, and where they do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from aicl_fast.extras import needs

with needs("triton"):
    import torch
    from torch import Tensor

from aicl_fast.kernels.dispatch import MAX_LENGTH, operation, use_kernels
from aicl_fast.kernels.launch import launch, next_power_of_2, unused_low_bits
from aicl_fast.kernels.pooling import select_topk

__all__ = ["Mining", "above_median", "mine_segments", "mine_segments_reference"]


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


@dataclass(frozen=True)
class MiningLaunch:
    """Launch settings for sequences up to ``max_length``."""

    max_length: int
    num_warps: int
    """Two searches of 32 counts each follow one another, so a count must be short: with four warps a
    thread holds 32 of a video's 4 x 1024 keys."""


LAUNCHES = (MiningLaunch(max_length=1024, num_warps=4), MiningLaunch(max_length=MAX_LENGTH, num_warps=16))


@operation("mine_segments")
def mine_segments_fwd(a: Tensor, a_ca: Tensor, k: int) -> Iterator[Tensor]:
    """Launch the kernel; the masks come as one (4, B, T) tensor."""
    yield (masks := torch.empty((4, *a.shape), dtype=torch.bool, device=a.device))
    from aicl_fast.kernels.gpu.mining import mining_kernel

    batch, length = a.shape
    settings = next(settings for settings in LAUNCHES if length <= settings.max_length)
    launch(
        mining_kernel,
        (batch,),
        a.contiguous(),
        a_ca.contiguous(),
        masks,
        k,
        batch,
        length,
        SHIFT=unused_low_bits(a.dtype),
        BLOCK_T=next_power_of_2(length),
        num_warps=settings.num_warps,
    )


def above_median(values: Tensor) -> Tensor:
    """(B, T) bool: strictly above the median along T (for even T the mean of the two middle values)."""
    length = values.shape[1]
    ordered = values.sort(dim=1).values
    median = (ordered[:, (length - 1) // 2] + ordered[:, length // 2]) / 2
    return values > median.unsqueeze(1)


def _highest(values: Tensor, region: Tensor, k: int) -> Tensor:
    """The ``k`` highest members of each row's region, ties by lowest index, fewer where it is short."""
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

    Each branch's actionness is binarised at its own median over T. A ranks all four regions. On CUDA, for T
    to 4096, medians, regions and their top-K are one launch; elsewhere and in float64 the reference.

    Args:
        a: (B, T) class-aware actionness.
        a_ca: (B, T) class-agnostic actionness.
        k: K, the segments kept of each region, 1 to T.
    Returns:
        :class:`Mining`; no gradient flows through it.
    Raises:
        ValueError: k is not in 1 … T.
    Source: the paper's supplement and the authors' program, without its filling up of short regions.

    Example:
        >>> mining = mine_segments(torch.rand(2, 750), torch.rand(2, 750), k=37)
        >>> mining.ca.sum(1)
        tensor([37, 37])
    """
    if not 1 <= k <= a.shape[1]:
        raise ValueError(f"mine_segments: k must be 1 to T = {a.shape[1]}, got {k}")
    if use_kernels(a, a_ca) and a.dtype == a_ca.dtype and a.shape[1] <= MAX_LENGTH:
        return Mining(*mine_segments_fwd(a.detach(), a_ca.detach(), k).unbind(0))
    return mine_segments_reference(a, a_ca, k)

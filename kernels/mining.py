"""Segment mining: where the two branches agree on action or background, and where they do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from aicl_fast.extras import needs

with needs("triton"):
    import torch
    from torch import Tensor

from aicl_fast.kernels._triton import (
    MAX_LENGTH,
    highest,
    kernel,
    kernel_general_in,
    kth_key,
    next_power_of_2,
    operation,
    order_key,
    unused_low_bits,
    use_kernels,
)

if TYPE_CHECKING:
    import triton.language as tl

# mypy: disable-error-code="no-untyped-def"

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


@kernel
def _above_median(b_x, b_row, m_t, T, ELEMENT: tl.constexpr, SHIFT: tl.constexpr):
    """Mask of what is above the median of each row, rounded as values of type ELEMENT would be."""
    # Keys are those of -x: the lower middle of x is then the (T // 2 + 1)-th highest.
    b_key = tl.where(m_t, order_key(-b_x, SHIFT), 0)
    b_kth = tl.expand_dims(kth_key(b_key, tl.zeros_like(b_row) + (T + 1) // 2, 1, SHIFT), 1)
    # The middle at rank (T - 1) // 2 is found; the next higher value or the same one is at rank T // 2.
    b_is_low = m_t & (b_key >= b_kth)
    b_low = tl.max(tl.where(b_is_low, b_x, -float("inf")), 1)
    b_next = tl.min(tl.where(m_t & (b_key < b_kth), b_x, float("inf")), 1)
    b_reach = tl.sum(b_is_low.to(tl.int32), 1)
    b_high = tl.where(b_reach > T // 2, b_low, b_next)
    b_median = (b_low + b_high).to(ELEMENT).to(tl.float32) * 0.5
    return b_x > tl.expand_dims(b_median.to(ELEMENT).to(tl.float32), 1)


@kernel_general_in("K", "B")
def _mining_kernel(p_a, p_a_ca, p_masks, K, B, T, SHIFT: tl.constexpr, BLOCK_T: tl.constexpr):
    """One program: one video. Two medians are one search, then the four regions are another."""
    video = tl.program_id(0).to(tl.int64)
    b_t = tl.arange(0, BLOCK_T)[None, :]
    m_t = b_t < T
    b_a = tl.load(p_a + video * T + b_t, mask=m_t, other=0.0).to(tl.float32)
    b_a_ca = tl.load(p_a_ca + video * T + b_t, mask=m_t, other=0.0).to(tl.float32)

    b_branch = tl.arange(0, 2)
    b_pair = tl.where(b_branch[:, None] == 0, b_a, b_a_ca)
    b_above = _above_median(b_pair, b_branch, m_t, T, p_a.dtype.element_ty, SHIFT)
    # 0 where neither branch is above its median, 1 for A alone, 2 for A_ca alone, 3 for both.
    b_kind = tl.sum(tl.where(b_above, b_branch[:, None] + 1, 0), 0)[None, :]

    b_row = tl.arange(0, 4)
    b_region = b_row[:, None]  # ca, cb, ia, ib
    b_differ = (b_kind == 1) | (b_kind == 2)
    m_member = ((b_region == 0) & (b_kind == 3)) | ((b_region == 1) & (b_kind == 0))
    m_member = (m_member | ((b_region >= 2) & b_differ)) & m_t
    # Action is ranked by the highest A, background by the lowest.
    b_rank = tl.where(b_region % 2 == 0, b_a, -b_a)
    b_key = tl.where(m_member, order_key(b_rank, SHIFT), 0)
    b_k = tl.minimum(tl.sum(m_member.to(tl.int32), 1), K)
    b_mined = highest(b_key, m_member, b_k, 1, SHIFT) & m_member
    tl.store(p_masks + (b_region * B + video) * T + b_t, b_mined, mask=m_t & (b_region < 4))


@operation("mine_segments")
def mine_segments_fwd(a: Tensor, a_ca: Tensor, k: int) -> Tensor:
    """Launch the kernel; the masks come as one (4, B, T) tensor."""
    batch, length = a.shape
    masks = torch.empty((4, batch, length), dtype=torch.bool, device=a.device)
    launch = next(launch for launch in LAUNCHES if length <= launch.max_length)
    _mining_kernel[(batch,)](
        a.contiguous(),
        a_ca.contiguous(),
        masks,
        k,
        batch,
        length,
        SHIFT=unused_low_bits(a.dtype),
        BLOCK_T=next_power_of_2(length),
        num_warps=launch.num_warps,
    )
    return masks


@mine_segments_fwd.register_fake
def _(a: Tensor, a_ca: Tensor, k: int) -> Tensor:
    return torch.empty((4, *a.shape), dtype=torch.bool, device=a.device)


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

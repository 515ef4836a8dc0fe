"""Top-k pooling: the k best segments of each class become the video's logit for that class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aicl_fast.extras import needs

with needs("triton"):
    import torch
    from torch import Tensor

from aicl_fast.kernels._triton import (
    MAX_BATCH,
    MAX_LENGTH,
    as_layout,
    empty_layout,
    highest,
    is_planar,
    kernel_general_in,
    next_power_of_2,
    operation,
    order_key,
    unused_low_bits,
    use_kernels,
)

if TYPE_CHECKING:
    import triton.language as tl

# mypy: disable-error-code="no-untyped-def"

__all__ = ["select_topk", "topk_pool", "topk_pool_reference"]


@dataclass(frozen=True)
class PoolingLaunch:
    """Launch settings of the forward kernel for sequences up to ``max_length``."""

    max_length: int
    block_c: int
    """Classes a program. One keeps the most programs in flight; more would share the cache lines of a
    (B, T, C) layout, which the second-level cache serves anyway."""
    num_warps: int
    """The search is a chain of counts over T: few warps make each count short."""


LAUNCHES = (
    PoolingLaunch(max_length=1024, block_c=1, num_warps=2),
    PoolingLaunch(max_length=MAX_LENGTH, block_c=1, num_warps=8),
)


@dataclass(frozen=True)
class PoolingBackwardLaunch:
    """Launch settings of the backward kernel, which only streams."""

    elements: int = 2048
    num_warps: int = 4


BACKWARD = PoolingBackwardLaunch()


@kernel_general_in("k")
def _pool_fwd_kernel(
    p_cas,
    p_scores,
    p_pooled,
    p_selected,
    k,
    T,
    C: tl.constexpr,
    PLANAR: tl.constexpr,
    SHIFT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One program: all segments of one video for BLOCK_C classes."""
    b_c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    b_t = tl.arange(0, BLOCK_T)
    video = tl.program_id(1).to(tl.int64)
    m_c = b_c < C
    m_ct = m_c[:, None] & (b_t < T)[None, :]
    b_at = b_c[:, None] * T + b_t[None, :] if PLANAR else b_t[None, :] * C + b_c[:, None]
    start = video * T * C

    b_scores = tl.load(p_scores + start + b_at, mask=m_ct, other=0.0).to(tl.float32)
    b_key = tl.where(m_ct, order_key(b_scores, SHIFT), 0)
    b_selected = highest(b_key, m_ct, tl.full([BLOCK_C], 0, tl.int32) + k, 1, SHIFT)
    b_selected = b_selected & m_ct

    # Only the selected values are read.
    b_cas = tl.load(p_cas + start + b_at, mask=b_selected, other=0.0).to(tl.float32)
    b_pooled = tl.sum(b_cas, 1) / k
    tl.store(p_pooled + video * C + b_c, b_pooled.to(p_pooled.dtype.element_ty), mask=m_c)
    tl.store(p_selected + start + b_at, b_selected, mask=m_ct)


@kernel_general_in("k")
def _pool_bwd_kernel(
    p_d_pooled,
    p_selected,
    p_d_cas,
    k,
    T,
    C: tl.constexpr,
    PLANAR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: BLOCK successive values of one video, in memory's order."""
    b_at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    video = tl.program_id(1).to(tl.int64)
    mask = b_at < T * C
    b_c = b_at // T if PLANAR else b_at % C
    b_selected = tl.load(p_selected + video * T * C + b_at, mask=mask, other=0).to(tl.int1)
    b_d = tl.load(p_d_pooled + video * C + b_c, mask=mask, other=0.0).to(tl.float32) / k
    b_d_cas = tl.where(b_selected, b_d, 0.0)
    tl.store(p_d_cas + video * T * C + b_at, b_d_cas.to(p_d_cas.dtype.element_ty), mask=mask)


@operation("topk_pool")
def topk_pool_fwd(cas: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Launch the forward kernel; the mask lies in memory as ``scores`` does."""
    batch, length, classes = cas.shape
    planar = is_planar(scores)
    pooled = torch.empty((batch, classes), dtype=cas.dtype, device=cas.device)
    selected = empty_layout(scores, planar, torch.bool)
    launch = next(launch for launch in LAUNCHES if length <= launch.max_length)
    _pool_fwd_kernel[(-(-classes // launch.block_c), batch)](
        as_layout(cas, planar),
        as_layout(scores, planar),
        pooled,
        selected,
        k,
        length,
        C=classes,
        PLANAR=planar,
        SHIFT=unused_low_bits(scores.dtype),
        BLOCK_T=next_power_of_2(length),
        BLOCK_C=launch.block_c,
        num_warps=launch.num_warps,
    )
    return pooled, selected


@topk_pool_fwd.register_fake
def _(cas: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    pooled = torch.empty((cas.shape[0], cas.shape[2]), dtype=cas.dtype, device=cas.device)
    return pooled, empty_layout(scores, is_planar(scores), torch.bool)


@operation("topk_pool_backward")
def topk_pool_bwd(d_pooled: Tensor, selected: Tensor, k: int) -> Tensor:
    """Launch the backward kernel; the gradient lies in memory as the mask does."""
    batch, length, classes = selected.shape
    planar = is_planar(selected)
    d_cas = empty_layout(selected, planar, d_pooled.dtype)
    block = min(BACKWARD.elements, next_power_of_2(length * classes))
    _pool_bwd_kernel[(-(-length * classes // block), batch)](
        d_pooled.contiguous(),
        as_layout(selected, planar),
        d_cas,
        k,
        length,
        C=classes,
        PLANAR=planar,
        BLOCK=block,
        num_warps=BACKWARD.num_warps,
    )
    return d_cas


@topk_pool_bwd.register_fake
def _(d_pooled: Tensor, selected: Tensor, k: int) -> Tensor:
    return empty_layout(selected, is_planar(selected), d_pooled.dtype)


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.k = inputs[2]
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, d_pooled: Tensor, _selected: Tensor | None) -> tuple[Tensor, None, None]:
    return topk_pool_bwd(d_pooled, ctx.saved_tensors[0], ctx.k), None, None


topk_pool_fwd.register_autograd(_backward, setup_context=_setup)


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

    On CUDA one kernel forward and one backward, for T to 4096; elsewhere and in float64 the reference.

    Args:
        cas: (B, T, C) values to average.
        scores: (B, T, C) values to rank by; no gradient flows to them.
        k: segments a class, 1 to T.
    Returns:
        ``pooled`` (B, C) of ``cas``'s dtype, summed in float32, and ``selected`` (B, T, C) bool, exactly k
        true along T, ties by lowest index.
    Raises:
        ValueError: k is not in 1 … T.
    Source: section 3.2 of the paper; the authors' program leaves ties open.

    Example:
        >>> pooled, selected = topk_pool(torch.randn(2, 750, 20), torch.rand(2, 750, 20), k=93)
        >>> pooled.shape, selected.sum(1).unique()
        (torch.Size([2, 20]), tensor([93]))
    """
    if not 1 <= k <= cas.shape[1]:
        raise ValueError(f"topk_pool: k must be 1 to T = {cas.shape[1]}, got {k}")
    fits = cas.shape[1] <= MAX_LENGTH and len(cas) <= MAX_BATCH
    if fits and use_kernels(cas, scores):
        pooled, selected = topk_pool_fwd(cas, scores.detach(), k)
        return pooled, selected
    return topk_pool_reference(cas, scores, k)

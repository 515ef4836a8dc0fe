"""Top-k pooling: the k best segments of each class become the video's logit for that class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aicl_fast.extras import needs

with needs("triton"):
    import torch
    from torch import Tensor

from aicl_fast.kernels.dispatch import (
    MAX_BATCH,
    MAX_LENGTH,
    as_layout,
    empty_layout,
    is_planar,
    operation,
    use_kernels,
)
from aicl_fast.kernels.launch import launch, next_power_of_2, unused_low_bits

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


@operation("topk_pool")
def topk_pool_fwd(cas: Tensor, scores: Tensor, k: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Launch the forward kernel; the mask lies in memory as ``scores`` does."""
    batch, length, classes = cas.shape
    pooled = torch.empty((batch, classes), dtype=cas.dtype, device=cas.device)
    yield (out := (pooled, empty_layout(scores, torch.bool)))
    from aicl_fast.kernels.gpu.pooling import pool_fwd_kernel

    planar = is_planar(scores)
    settings = next(settings for settings in LAUNCHES if length <= settings.max_length)
    launch(
        pool_fwd_kernel,
        (-(-classes // settings.block_c), batch),
        as_layout(cas, planar),
        as_layout(scores, planar),
        *out,
        k,
        length,
        C=classes,
        PLANAR=planar,
        SHIFT=unused_low_bits(scores.dtype),
        BLOCK_T=next_power_of_2(length),
        BLOCK_C=settings.block_c,
        num_warps=settings.num_warps,
    )


@operation("topk_pool_backward")
def topk_pool_bwd(d_pooled: Tensor, selected: Tensor, k: int) -> Iterator[Tensor]:
    """Launch the backward kernel; the gradient lies in memory as the mask does."""
    yield (d_cas := empty_layout(selected, d_pooled.dtype))
    from aicl_fast.kernels.gpu.pooling import pool_bwd_kernel

    batch, length, classes = selected.shape
    planar = is_planar(selected)
    block = min(BACKWARD.elements, next_power_of_2(length * classes))
    launch(
        pool_bwd_kernel,
        (-(-length * classes // block), batch),
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

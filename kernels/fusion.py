"""Score fusion (eq. 3, 4 and 8): class activation sequence and actionness into the scores that localise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aicl_fast.extras import needs

with needs("triton"):
    import torch
    from torch import Tensor

from aicl_fast.kernels._triton import (
    MAX_BATCH,
    as_layout,
    empty_layout,
    is_planar,
    kernel,
    next_power_of_2,
    operation,
    use_kernels,
)

if TYPE_CHECKING:
    import triton.language as tl

# mypy: disable-error-code="no-untyped-def"

_MAX_CLASSES = 4096  # a row of classes is held in registers; above this the reference runs


@dataclass(frozen=True)
class FusionLaunch:
    """Launch settings of both kernels for one layout."""

    elements: int
    """Scores a program, padding included: enough loads in flight, and small batches still fill the chip."""
    least: int
    """Segments a program if that makes no more than 8192 scores."""
    per_thread: int
    """Scores a thread."""

    def block_t(self, classes: int) -> int:
        """Segments a program, a power of two."""
        block_c = next_power_of_2(classes)
        return max(1, self.elements // block_c, min(self.least, 8192 // block_c))

    def num_warps(self, elements: int) -> int:
        """Warps of a program of so many scores."""
        return min(8, max(1, elements // (32 * self.per_thread)))


ROWS = FusionLaunch(elements=2048, least=1, per_thread=16)
# Threads of a warp take neighbouring segments and hold all classes of theirs, so that sums need no exchange;
# but for lengths that are multiples of 16, whose wider accesses leave fewer threads along the segments.
PLANAR = FusionLaunch(elements=2048, least=32, per_thread=32)


@kernel
def _fusion_fwd_kernel(
    p_cas,
    p_rgb,
    p_flow,
    p_scores,
    p_a,
    p_a_ca,
    gamma,
    T,
    C: tl.constexpr,
    PLANAR: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One program: BLOCK_T segments of one video, all classes."""
    b_t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    b_c = tl.arange(0, BLOCK_C)
    video = tl.program_id(1).to(tl.int64)
    m_t = b_t < T
    m_tc = m_t[:, None] & (b_c < C)[None, :]
    # C is a constant, so that 16-byte accesses are found where it is a multiple of four.
    b_at = b_c[None, :] * T + b_t[:, None] if PLANAR else b_t[:, None] * C + b_c[None, :]
    start = video * T * C

    b_cas = tl.load(p_cas + start + b_at, mask=m_tc, other=-float("inf")).to(tl.float32)
    b_rgb = tl.load(p_rgb + video * T + b_t, mask=m_t, other=0.0).to(tl.float32)
    b_flow = tl.load(p_flow + video * T + b_t, mask=m_t, other=0.0).to(tl.float32)

    b_max = tl.where(m_t, tl.max(b_cas, 1), 0.0)
    b_exp = tl.exp(b_cas - b_max[:, None])
    b_softmax = b_exp / tl.where(m_t, tl.sum(b_exp, 1), 1.0)[:, None]
    b_a = tl.sigmoid(tl.sum(tl.where(m_tc, b_cas, 0.0), 1))
    b_a_ca = (tl.sigmoid(b_rgb) + tl.sigmoid(b_flow)) * 0.5
    b_scores = gamma * b_softmax + ((1.0 - gamma) * b_a_ca)[:, None]

    tl.store(p_scores + start + b_at, b_scores.to(p_scores.dtype.element_ty), mask=m_tc)
    tl.store(p_a + video * T + b_t, b_a.to(p_a.dtype.element_ty), mask=m_t)
    tl.store(p_a_ca + video * T + b_t, b_a_ca.to(p_a_ca.dtype.element_ty), mask=m_t)


@kernel
def _fusion_bwd_kernel(
    p_cas,
    p_rgb,
    p_flow,
    p_d_scores,
    p_d_a,
    p_d_a_ca,
    p_d_cas,
    p_d_rgb,
    p_d_flow,
    gamma,
    T,
    C: tl.constexpr,
    PLANAR: tl.constexpr,
    WITH_SCORES: tl.constexpr,
    WITH_A: tl.constexpr,
    WITH_A_CA: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """As the forward; softmax and sigmoids are computed again, which costs less than reading them."""
    b_t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    b_c = tl.arange(0, BLOCK_C)
    video = tl.program_id(1).to(tl.int64)
    m_t = b_t < T
    m_tc = m_t[:, None] & (b_c < C)[None, :]
    b_at = b_c[None, :] * T + b_t[:, None] if PLANAR else b_t[:, None] * C + b_c[None, :]
    start = video * T * C

    b_cas = tl.load(p_cas + start + b_at, mask=m_tc, other=-float("inf")).to(tl.float32)
    b_r = tl.sigmoid(tl.load(p_rgb + video * T + b_t, mask=m_t, other=0.0).to(tl.float32))
    b_f = tl.sigmoid(tl.load(p_flow + video * T + b_t, mask=m_t, other=0.0).to(tl.float32))

    b_d_cas = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    b_d_a_ca = tl.zeros([BLOCK_T], tl.float32)
    if WITH_SCORES:
        b_d = tl.load(p_d_scores + start + b_at, mask=m_tc, other=0.0).to(tl.float32)
        b_max = tl.where(m_t, tl.max(b_cas, 1), 0.0)
        b_exp = tl.exp(b_cas - b_max[:, None])
        b_softmax = b_exp / tl.where(m_t, tl.sum(b_exp, 1), 1.0)[:, None]
        b_d_cas += gamma * b_softmax * (b_d - tl.sum(b_d * b_softmax, 1)[:, None])
        b_d_a_ca += (1.0 - gamma) * tl.sum(b_d, 1)
    if WITH_A:
        b_a = tl.sigmoid(tl.sum(tl.where(m_tc, b_cas, 0.0), 1))
        b_d_a = tl.load(p_d_a + video * T + b_t, mask=m_t, other=0.0).to(tl.float32)
        b_d_cas += (b_d_a * b_a * (1.0 - b_a))[:, None]
    if WITH_A_CA:
        b_d_a_ca += tl.load(p_d_a_ca + video * T + b_t, mask=m_t, other=0.0).to(tl.float32)

    b_d_rgb = 0.5 * b_d_a_ca * b_r * (1.0 - b_r)
    b_d_flow = 0.5 * b_d_a_ca * b_f * (1.0 - b_f)
    tl.store(p_d_cas + start + b_at, b_d_cas.to(p_d_cas.dtype.element_ty), mask=m_tc)
    tl.store(p_d_rgb + video * T + b_t, b_d_rgb.to(p_d_rgb.dtype.element_ty), mask=m_t)
    tl.store(p_d_flow + video * T + b_t, b_d_flow.to(p_d_flow.dtype.element_ty), mask=m_t)


def _grid(cas: Tensor, planar: bool) -> tuple[tuple[int, int], dict[str, Any]]:
    batch, length, classes = cas.shape
    launch = PLANAR if planar else ROWS
    block_t = min(launch.block_t(classes), next_power_of_2(length))
    block_c = next_power_of_2(classes)
    meta = {
        "C": classes,
        "PLANAR": planar,
        "BLOCK_T": block_t,
        "BLOCK_C": block_c,
        "num_warps": launch.num_warps(block_t * block_c),
    }
    return (-(-length // block_t), batch), meta


@operation("score_fusion")
def score_fusion_fwd(
    cas: Tensor, logit_rgb: Tensor, logit_flow: Tensor, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the forward kernel; scores lie in memory as ``cas`` does."""
    planar = is_planar(cas)
    scores = empty_layout(cas, planar)
    a, a_ca = (torch.empty(cas.shape[:2], dtype=cas.dtype, device=cas.device) for _ in range(2))
    grid, meta = _grid(cas, planar)
    _fusion_fwd_kernel[grid](
        as_layout(cas, planar),
        logit_rgb.contiguous(),
        logit_flow.contiguous(),
        scores,
        a,
        a_ca,
        gamma,
        cas.shape[1],
        **meta,
    )
    return scores, a, a_ca


@score_fusion_fwd.register_fake
def _(cas: Tensor, logit_rgb: Tensor, logit_flow: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    a, a_ca = (torch.empty(cas.shape[:2], dtype=cas.dtype, device=cas.device) for _ in range(2))
    return empty_layout(cas, is_planar(cas)), a, a_ca


@operation("score_fusion_backward")
def score_fusion_bwd(
    cas: Tensor,
    logit_rgb: Tensor,
    logit_flow: Tensor,
    gamma: float,
    d_scores: Tensor | None,
    d_a: Tensor | None,
    d_a_ca: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the backward kernel; a gradient that is None is not read."""
    planar = is_planar(cas)
    d_cas = empty_layout(cas, planar)
    d_rgb = torch.empty(cas.shape[:2], dtype=logit_rgb.dtype, device=cas.device)
    d_flow = torch.empty(cas.shape[:2], dtype=logit_flow.dtype, device=cas.device)
    grid, meta = _grid(cas, planar)
    _fusion_bwd_kernel[grid](
        as_layout(cas, planar),
        logit_rgb.contiguous(),
        logit_flow.contiguous(),
        cas if d_scores is None else as_layout(d_scores, planar),
        cas if d_a is None else d_a.contiguous(),
        cas if d_a_ca is None else d_a_ca.contiguous(),
        d_cas,
        d_rgb,
        d_flow,
        gamma,
        cas.shape[1],
        WITH_SCORES=d_scores is not None,
        WITH_A=d_a is not None,
        WITH_A_CA=d_a_ca is not None,
        **meta,
    )
    return d_cas, d_rgb, d_flow


@score_fusion_bwd.register_fake
def _(
    cas: Tensor,
    logit_rgb: Tensor,
    logit_flow: Tensor,
    gamma: float,
    d_scores: Tensor | None,
    d_a: Tensor | None,
    d_a_ca: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    d_rgb = torch.empty(cas.shape[:2], dtype=logit_rgb.dtype, device=cas.device)
    d_flow = torch.empty(cas.shape[:2], dtype=logit_flow.dtype, device=cas.device)
    return empty_layout(cas, is_planar(cas)), d_rgb, d_flow


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: tuple[Tensor, ...]) -> None:
    cas, logit_rgb, logit_flow, ctx.gamma = inputs
    # In training the scores are detached: their gradient would be a tensor of zeros, read for nothing.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(cas, logit_rgb, logit_flow)


def _backward(
    ctx: Any, d_scores: Tensor | None, d_a: Tensor | None, d_a_ca: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, None]:
    d_cas, d_rgb, d_flow = score_fusion_bwd(*ctx.saved_tensors, ctx.gamma, d_scores, d_a, d_a_ca)
    return d_cas, d_rgb, d_flow, None


score_fusion_fwd.register_autograd(_backward, setup_context=_setup)


def score_fusion_reference(
    cas: Tensor, logit_rgb: Tensor, logit_flow: Tensor, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What :func:`score_fusion` computes, in plain torch."""
    a_ca = (logit_rgb.sigmoid() + logit_flow.sigmoid()) / 2
    scores = gamma * cas.softmax(-1) + (1 - gamma) * a_ca.unsqueeze(-1)
    return scores, cas.sum(-1).sigmoid(), a_ca


def score_fusion(
    cas: Tensor, logit_rgb: Tensor, logit_flow: Tensor, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Fuse the two branches: ``A_score = γ·softmax(CAS) + (1-γ)·(A_rgb + A_flow)/2``.

    On CUDA one pass over memory, forward and backward; elsewhere, in float64 and above 4096 classes the
    reference.

    Args:
        cas: (B, T, C) class activation sequence, logits; float32, float16, bfloat16 or float64. Read as it
            lies, (B, T, C) or (B, C, T) in memory; any other layout is copied first.
        logit_rgb: (B, T) actionness of the first stream before its sigmoid.
        logit_flow: (B, T) actionness of the second stream before its sigmoid.
        gamma: γ in [0, 1], the share of the class-aware branch.
    Returns:
        ``scores`` (B, T, C) fused A_score; ``a`` (B, T) class-aware actionness sigmoid(sum of CAS);
        ``a_ca`` (B, T) class-agnostic actionness. All of ``cas``'s dtype, computed in float32.
    Source: eq. 3, 4, 8, normalised as the authors' program does.

    Example:
        >>> cas, logit = torch.randn(2, 750, 20), torch.randn(2, 750)
        >>> scores, a, a_ca = score_fusion(cas, logit, logit, gamma=1 / 3)
        >>> scores.shape, a.shape
        (torch.Size([2, 750, 20]), torch.Size([2, 750]))
    """
    # The batch is looked at last: torch's exporter would fix the one that it traces with.
    if (
        cas.shape[-1] <= _MAX_CLASSES
        and use_kernels(cas, logit_rgb, logit_flow)
        and cas.shape[0] <= MAX_BATCH
    ):
        scores, a, a_ca = score_fusion_fwd(cas, logit_rgb, logit_flow, gamma)
        return scores, a, a_ca
    return score_fusion_reference(cas, logit_rgb, logit_flow, gamma)

"""Segment contrastive loss (eq. 12 to 14): inconsistent segments are drawn to the consistent ones.

The four terms fall into two *halves* that share nothing but the embedding: (x, y, n) = (IA, CA, CB) and
(IB, CB, CA). In a half, x queries with y as its positive and y with x, both against the negatives n. So the
forward kernel runs one program for each embedding, video and half: it lists the mined segments, averages
those of x and y, and meets each negative once, with a running log-sum-exp. It leaves behind four scalars and
four vectors of De a half, among them the finished gradient of both means, and of each negative its two
cosines and its norm. The backward kernel then writes each embedding's gradient in one pass, every value on
its own: it sums over nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    is_planar,
    kernel,
    kernel_general_in,
    next_power_of_2,
    operation,
    use_kernels,
)
from aicl_fast.kernels.mining import Mining

if TYPE_CHECKING:
    import triton.language as tl

# mypy: disable-error-code="no-untyped-def"

_EPS = 1e-12
_MAX_WIDTH = 2048  # a row of an embedding is held in registers; above this the reference runs
_MAX_EMBEDDINGS = 3  # pointers a launch takes: the method has three embeddings


@dataclass(frozen=True)
class ContrastLaunch:
    """Launch settings of one kernel."""

    elements: int
    """Values of a tile of segments by De; the segments of a tile follow from De."""
    max_segments: int
    num_warps: int

    def segments(self, width: int) -> int:
        """Segments a tile, a power of two."""
        return max(1, min(self.max_segments, self.elements // next_power_of_2(width)))


# A video has some 37 segments a set, gathered from memory: few and large loads in flight, not many trips.
FORWARD = ContrastLaunch(elements=16384, max_segments=64, num_warps=8)
# Addresses a segment apart fill more registers: the larger tile spills with Triton 3.6.
FORWARD_PLANAR = ContrastLaunch(elements=8192, max_segments=64, num_warps=8)
# Bound by writing the gradient; 16 values a thread keep two programs on a multiprocessor (113 registers).
BACKWARD = ContrastLaunch(elements=4096, max_segments=64, num_warps=8)


@kernel
def _unit(b_sum, n, eps: tl.constexpr):
    """(mean over its norm, 1 / norm, 1.0 where the norm is its own and not eps) from a sum of n rows."""
    b_mean = b_sum / tl.maximum(n, 1).to(tl.float32)
    square = tl.sum(b_mean * b_mean, 0)
    inverse = 1.0 / tl.sqrt(tl.maximum(square, eps * eps))
    return b_mean * inverse, inverse, tl.where(square >= eps * eps, 1.0, 0.0)


@kernel
def _attend(b_hat, b_u, m_row, inv_tau, peak, total, b_pull):
    """Take a tile of normalised negatives into the running log-sum-exp of a query and its gradient."""
    b_cosine = tl.sum(b_hat * b_u[None, :], 1)
    b_logit = tl.where(m_row, b_cosine * inv_tau, -float("inf"))
    new_peak = tl.maximum(peak, tl.max(b_logit, 0))
    shrink = tl.exp(peak - new_peak)
    b_weight = tl.exp(b_logit - new_peak)
    total = total * shrink + tl.sum(b_weight, 0)
    b_pull = b_pull * shrink + tl.sum(b_weight[:, None] * b_hat, 0)
    return b_cosine, new_peak, total, b_pull


@kernel
def _softplus(x):
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@kernel_general_in("B")
def _contrast_fwd_kernel(
    p_e0,
    p_e1,
    p_e2,
    p_ca,
    p_cb,
    p_ia,
    p_ib,
    p_list,
    p_losses,
    p_vectors,
    p_scalars,
    p_negatives,
    inv_tau,
    B,
    T,
    DE: tl.constexpr,
    PLANAR: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One program: one half of one video of one embedding."""
    half = tl.program_id(0)
    video = tl.program_id(1).to(tl.int64)
    which = tl.program_id(2)
    p_e = p_e0
    if which == 1:
        p_e = p_e1
    if which == 2:
        p_e = p_e2
    p_e += video * T * DE
    p_x, p_y, p_n = p_ia, p_ca, p_cb
    if half == 1:
        p_x, p_y, p_n = p_ib, p_cb, p_ca

    # The members of x and y, then the negatives, as two lists in memory: a gather needs its indices in
    # other threads than those that found them.
    b_t = tl.arange(0, BLOCK_T)
    m_t = b_t < T
    b_x = tl.load(p_x + video * T + b_t, mask=m_t, other=0).to(tl.int32)
    b_y = tl.load(p_y + video * T + b_t, mask=m_t, other=0).to(tl.int32)
    b_n = tl.load(p_n + video * T + b_t, mask=m_t, other=0).to(tl.int32)
    b_either = b_x | b_y
    item = (which * B + video) * 2 + half
    p_either = p_list + item * 2 * T
    p_negative = p_either + T
    tl.store(p_either + tl.cumsum(b_either, 0) - 1, b_t * 4 + b_x + 2 * b_y, mask=b_either != 0)
    tl.store(p_negative + tl.cumsum(b_n, 0) - 1, b_t, mask=b_n != 0)
    p_kept = p_negatives + item * 3 * T
    for i in tl.static_range(3):
        tl.store(p_kept + i * T + b_t, tl.zeros([BLOCK_T], tl.float32), mask=m_t & (b_n == 0))
    n_x, n_y, n_either, n_n = tl.sum(b_x, 0), tl.sum(b_y, 0), tl.sum(b_either, 0), tl.sum(b_n, 0)
    tl.debug_barrier()

    b_d = tl.arange(0, BLOCK_D)
    m_d = b_d < DE
    b_j = tl.arange(0, CHUNK)
    b_sum_x = tl.zeros([BLOCK_D], tl.float32)
    b_sum_y = tl.zeros([BLOCK_D], tl.float32)
    start = n_x * 0
    while start < n_either:
        m_row = start + b_j < n_either
        b_entry = tl.load(p_either + start + b_j, mask=m_row, other=0)
        b_row = b_entry >> 2
        b_at = b_row[:, None] + b_d[None, :] * T if PLANAR else b_row[:, None] * DE + b_d[None, :]
        b_e = tl.load(p_e + b_at, mask=m_row[:, None] & m_d[None, :], other=0.0).to(tl.float32)
        b_sum_x += tl.sum(b_e * (b_entry & 1).to(tl.float32)[:, None], 0)
        b_sum_y += tl.sum(b_e * ((b_entry >> 1) & 1).to(tl.float32)[:, None], 0)
        start += CHUNK
    b_u_x, inv_x, own_x = _unit(b_sum_x, n_x, EPS)
    b_u_y, inv_y, own_y = _unit(b_sum_y, n_y, EPS)
    attract = tl.sum(b_u_x * b_u_y, 0) * inv_tau

    peak_x, peak_y = attract * 0.0 - float("inf"), attract * 0.0 - float("inf")
    total_x, total_y = attract * 0.0, attract * 0.0
    b_pull_x = tl.zeros([BLOCK_D], tl.float32)
    b_pull_y = tl.zeros([BLOCK_D], tl.float32)
    start = n_x * 0
    while start < n_n:
        m_row = start + b_j < n_n
        b_row = tl.load(p_negative + start + b_j, mask=m_row, other=0)
        b_at = b_row[:, None] + b_d[None, :] * T if PLANAR else b_row[:, None] * DE + b_d[None, :]
        b_e = tl.load(p_e + b_at, mask=m_row[:, None] & m_d[None, :], other=0.0).to(tl.float32)
        b_inverse = 1.0 / tl.sqrt(tl.maximum(tl.sum(b_e * b_e, 1), EPS * EPS))
        b_hat = b_e * b_inverse[:, None]
        b_cos_x, peak_x, total_x, b_pull_x = _attend(b_hat, b_u_x, m_row, inv_tau, peak_x, total_x, b_pull_x)
        b_cos_y, peak_y, total_y, b_pull_y = _attend(b_hat, b_u_y, m_row, inv_tau, peak_y, total_y, b_pull_y)
        tl.store(p_kept + b_row, b_cos_x, mask=m_row)
        tl.store(p_kept + T + b_row, b_cos_y, mask=m_row)
        tl.store(p_kept + 2 * T + b_row, b_inverse, mask=m_row)
        start += CHUNK

    # An absent term is 0, and so is its gradient: e^(cosine/tau - inf) is 0 at any temperature.
    present = (n_x > 0) & (n_y > 0) & (n_n > 0)
    lse_x = tl.where(present, peak_x + tl.log(tl.where(present, total_x, 1.0)), float("inf"))
    lse_y = tl.where(present, peak_y + tl.log(tl.where(present, total_y, 1.0)), float("inf"))
    # -log(e^p / (e^p + Σ e^n)) = softplus(log Σ e^n - p)
    loss = tl.where(present, _softplus(lse_x - attract) + _softplus(lse_y - attract), 0.0)
    slope_x = tl.where(present, tl.sigmoid(lse_x - attract), 0.0)
    slope_y = tl.where(present, tl.sigmoid(lse_y - attract), 0.0)
    b_pull_x = b_pull_x * (slope_x / tl.where(present, total_x, 1.0))
    b_pull_y = b_pull_y * (slope_y / tl.where(present, total_y, 1.0))
    b_d_u_x = (b_pull_x - (slope_x + slope_y) * b_u_y) * inv_tau
    b_d_u_y = (b_pull_y - (slope_x + slope_y) * b_u_x) * inv_tau
    b_d_x = (b_d_u_x - own_x * tl.sum(b_d_u_x * b_u_x, 0) * b_u_x) * (
        inv_x / tl.maximum(n_x, 1).to(tl.float32)
    )
    b_d_y = (b_d_u_y - own_y * tl.sum(b_d_u_y * b_u_y, 0) * b_u_y) * (
        inv_y / tl.maximum(n_y, 1).to(tl.float32)
    )

    tl.store(p_losses + item, loss)
    p_out = p_vectors + item * 4 * DE + b_d
    tl.store(p_out, b_u_x, mask=m_d)
    tl.store(p_out + DE, b_u_y, mask=m_d)
    tl.store(p_out + 2 * DE, b_d_x, mask=m_d)
    tl.store(p_out + 3 * DE, b_d_y, mask=m_d)
    tl.store(p_scalars + item * 4, lse_x)
    tl.store(p_scalars + item * 4 + 1, lse_y)
    tl.store(p_scalars + item * 4 + 2, slope_x)
    tl.store(p_scalars + item * 4 + 3, slope_y)


@kernel
def _half_gradient(
    p_x,
    p_y,
    p_n,
    p_vectors,
    p_scalars,
    p_negatives,
    gradient,
    inv_tau,
    b_t,
    m_t,
    b_d,
    m_d,
    T,
    DE: tl.constexpr,
    EPS: tl.constexpr,
):
    """What one half sends to a tile of segments: a tile of its own, and a multiple of their embeddings."""
    b_x = tl.load(p_x + b_t, mask=m_t, other=0).to(tl.float32)
    b_y = tl.load(p_y + b_t, mask=m_t, other=0).to(tl.float32)
    m_n = tl.load(p_n + b_t, mask=m_t, other=0).to(tl.int1)
    b_cos_x = tl.load(p_negatives + b_t, mask=m_t, other=0.0)
    b_cos_y = tl.load(p_negatives + T + b_t, mask=m_t, other=0.0)
    b_inverse = tl.load(p_negatives + 2 * T + b_t, mask=m_t, other=0.0)
    b_u_x = tl.load(p_vectors + b_d, mask=m_d, other=0.0)
    b_u_y = tl.load(p_vectors + DE + b_d, mask=m_d, other=0.0)
    b_d_x = tl.load(p_vectors + 2 * DE + b_d, mask=m_d, other=0.0)
    b_d_y = tl.load(p_vectors + 3 * DE + b_d, mask=m_d, other=0.0)
    lse_x, lse_y = tl.load(p_scalars), tl.load(p_scalars + 1)
    slope_x, slope_y = tl.load(p_scalars + 2), tl.load(p_scalars + 3)

    b_scale = b_inverse * inv_tau * gradient
    # What is no negative has a weight of 0, not infinite times 0.
    b_w_x = b_scale * slope_x * tl.exp(tl.where(m_n, b_cos_x * inv_tau - lse_x, 0.0))
    b_w_y = b_scale * slope_y * tl.exp(tl.where(m_n, b_cos_y * inv_tau - lse_y, 0.0))
    # A norm that is eps in place of its own does not change with the embedding.
    b_along = tl.where(b_inverse * EPS < 0.999999, b_w_x * b_cos_x + b_w_y * b_cos_y, 0.0) * b_inverse
    b_out = b_w_x[:, None] * b_u_x[None, :] + b_w_y[:, None] * b_u_y[None, :]
    b_out += (b_x * gradient)[:, None] * b_d_x[None, :] + (b_y * gradient)[:, None] * b_d_y[None, :]
    return b_out, b_along


@kernel_general_in("B", "stride_n", "stride_b", "stride_h")
def _contrast_bwd_kernel(
    p_e0,
    p_e1,
    p_e2,
    p_d0,
    p_d1,
    p_d2,
    p_ca,
    p_cb,
    p_ia,
    p_ib,
    p_vectors,
    p_scalars,
    p_negatives,
    p_d_losses,
    stride_n,
    stride_b,
    stride_h,
    inv_tau,
    B,
    T,
    DE: tl.constexpr,
    PLANAR: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program: BLOCK_T segments of one video of one embedding."""
    video = tl.program_id(1).to(tl.int64)
    which = tl.program_id(2)
    p_e, p_d = p_e0, p_d0
    if which == 1:
        p_e, p_d = p_e1, p_d1
    if which == 2:
        p_e, p_d = p_e2, p_d2
    b_t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    b_d = tl.arange(0, BLOCK_D)
    m_t, m_d = b_t < T, b_d < DE
    b_at = b_t[:, None] + b_d[None, :] * T if PLANAR else b_t[:, None] * DE + b_d[None, :]
    p_e, p_d = p_e + video * T * DE, p_d + video * T * DE

    # Only negatives need their embedding; the rest of the tile is not read.
    p_ca, p_cb, p_ia, p_ib = p_ca + video * T, p_cb + video * T, p_ia + video * T, p_ib + video * T
    m_negative = tl.load(p_ca + b_t, mask=m_t, other=0).to(tl.int1)
    m_negative = m_negative | tl.load(p_cb + b_t, mask=m_t, other=0).to(tl.int1)
    b_e = tl.load(p_e + b_at, mask=m_negative[:, None] & m_d[None, :], other=0.0).to(tl.float32)

    item = (which * B + video) * 2
    p_v, p_s, p_k = p_vectors + item * 4 * DE, p_scalars + item * 4, p_negatives + item * 3 * T
    p_g = p_d_losses + which * stride_n + video * stride_b
    g0, g1 = tl.load(p_g), tl.load(p_g + stride_h)
    b_out, b_along = _half_gradient(
        p_ia, p_ca, p_cb, p_v, p_s, p_k, g0, inv_tau, b_t, m_t, b_d, m_d, T, DE, EPS
    )
    b_other, b_along_other = _half_gradient(
        p_ib, p_cb, p_ca, p_v + 4 * DE, p_s + 4, p_k + 3 * T, g1, inv_tau, b_t, m_t, b_d, m_d, T, DE, EPS
    )
    b_out += b_other - (b_along + b_along_other)[:, None] * b_e
    tl.store(p_d + b_at, b_out.to(p_d.dtype.element_ty), mask=m_t[:, None] & m_d[None, :])


def _three(tensors: Sequence[Tensor]) -> list[Tensor]:
    """As many tensors as a launch takes; those too many repeat the first and are not touched."""
    return [*tensors, *[tensors[0]] * (_MAX_EMBEDDINGS - len(tensors))]


@operation("segment_contrast")
def segment_contrast_fwd(
    embeddings: Sequence[Tensor], ca: Tensor, cb: Tensor, ia: Tensor, ib: Tensor, tau: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the forward kernel for one to three embeddings of one shape.

    Returns:
        ``losses`` (N, B, 2) a half, not yet averaged over videos; ``vectors`` (N, B, 2, 4, De),
        ``scalars`` (N, B, 2, 4) and ``negatives`` (N, B, 2, 3, T) for the backward: each negative's cosines
        with both queries and one over its norm, 0 for other segments. All float32.
    """
    first = embeddings[0]
    batch, length, width = first.shape
    planar = is_planar(first)
    launch = FORWARD_PLANAR if planar else FORWARD
    shape = (len(embeddings), batch, 2)
    losses = torch.empty(shape, dtype=torch.float32, device=first.device)
    vectors = torch.empty((*shape, 4, width), dtype=torch.float32, device=first.device)
    scalars = torch.empty((*shape, 4), dtype=torch.float32, device=first.device)
    negatives = torch.empty((*shape, 3, length), dtype=torch.float32, device=first.device)
    lists = torch.empty((*shape, 2, length), dtype=torch.int32, device=first.device)
    _contrast_fwd_kernel[(2, batch, len(embeddings))](
        *_three([as_layout(embedding, planar) for embedding in embeddings]),
        *(mask.contiguous() for mask in (ca, cb, ia, ib)),
        lists,
        losses,
        vectors,
        scalars,
        negatives,
        1 / tau,
        batch,
        length,
        DE=width,
        PLANAR=planar,
        EPS=_EPS,
        BLOCK_T=next_power_of_2(length),
        BLOCK_D=next_power_of_2(width),
        CHUNK=launch.segments(width),
        num_warps=launch.num_warps,
    )
    return losses, vectors, scalars, negatives


@segment_contrast_fwd.register_fake
def _(
    embeddings: Sequence[Tensor], ca: Tensor, cb: Tensor, ia: Tensor, ib: Tensor, tau: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    first = embeddings[0]
    shape = (len(embeddings), first.shape[0], 2)
    return (
        torch.empty(shape, dtype=torch.float32, device=first.device),
        torch.empty((*shape, 4, first.shape[2]), dtype=torch.float32, device=first.device),
        torch.empty((*shape, 4), dtype=torch.float32, device=first.device),
        torch.empty((*shape, 3, first.shape[1]), dtype=torch.float32, device=first.device),
    )


@operation("segment_contrast_backward")
def segment_contrast_bwd(
    d_losses: Tensor,
    embeddings: Sequence[Tensor],
    ca: Tensor,
    cb: Tensor,
    ia: Tensor,
    ib: Tensor,
    vectors: Tensor,
    scalars: Tensor,
    negatives: Tensor,
    tau: float,
) -> list[Tensor]:
    """Launch the backward kernel; each gradient lies in memory as the first embedding does."""
    first = embeddings[0]
    batch, length, width = first.shape
    planar = is_planar(first)
    gradients = [empty_layout(embedding, planar) for embedding in embeddings]
    block_t = min(BACKWARD.segments(width), next_power_of_2(length))
    _contrast_bwd_kernel[(-(-length // block_t), batch, len(embeddings))](
        *_three([as_layout(embedding, planar) for embedding in embeddings]),
        *_three(gradients),
        *(mask.contiguous() for mask in (ca, cb, ia, ib)),
        vectors,
        scalars,
        negatives,
        d_losses,
        *d_losses.stride(),
        1 / tau,
        batch,
        length,
        DE=width,
        PLANAR=planar,
        EPS=_EPS,
        BLOCK_T=block_t,
        BLOCK_D=next_power_of_2(width),
        num_warps=BACKWARD.num_warps,
    )
    return gradients


@segment_contrast_bwd.register_fake
def _(
    d_losses: Tensor,
    embeddings: Sequence[Tensor],
    ca: Tensor,
    cb: Tensor,
    ia: Tensor,
    ib: Tensor,
    vectors: Tensor,
    scalars: Tensor,
    negatives: Tensor,
    tau: float,
) -> list[Tensor]:
    planar = is_planar(embeddings[0])
    return [empty_layout(embedding, planar) for embedding in embeddings]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    embeddings, ca, cb, ia, ib, ctx.tau = inputs
    # What the forward leaves for the backward has no gradient: none is filled with zeros for nothing.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(ca, cb, ia, ib, *output[1:], *embeddings)


def _backward(ctx: Any, d_losses: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    if d_losses is None:
        return (None,) * 6
    ca, cb, ia, ib, vectors, scalars, negatives, *embeddings = ctx.saved_tensors
    masks = (ca, cb, ia, ib)
    gradients = segment_contrast_bwd(d_losses, embeddings, *masks, vectors, scalars, negatives, ctx.tau)
    return gradients, None, None, None, None, None


segment_contrast_fwd.register_autograd(_backward, setup_context=_setup)


def segment_contrast_reference(embedding: Tensor, mining: Mining, tau: float) -> Tensor:
    """What :func:`segment_contrast` computes for one embedding, in plain torch.

    Cosines are taken as dot products over norms, so that no normalised copy of the embedding is made.
    """
    masks = torch.stack(list(mining), dim=1)  # (B, 4, T) in the order ca, cb, ia, ib
    counts = masks.sum(dim=2)
    means = masks.to(embedding.dtype) @ embedding / counts.clamp_min(1).unsqueeze(2).to(embedding.dtype)
    means = means / means.square().sum(-1, keepdim=True).clamp_min(_EPS**2).sqrt()
    norms = embedding.square().sum(-1).clamp_min(_EPS**2).sqrt()

    # The four terms' positives are ca, cb, ia, ib, their queries ia, ib, ca, cb, their negatives cb, ca, cb,
    # ca. A list of indices would be copied to a GPU, and the host would wait for it.
    queries = means.roll(2, 1)  # (B, 4, De), one row a term
    attract = (queries * means).sum(-1) / tau  # (B, 4)
    repel = queries @ embedding.transpose(1, 2) / norms.unsqueeze(1) / tau  # (B, 4, T)

    negatives = masks[:, :2].flip(1).repeat(1, 2, 1)  # (B, 4, T)
    filled = counts > 0
    present = filled & filled.roll(2, 1) & filled[:, :2].flip(1).repeat(1, 2)
    # An absent term has no negative to sum over: its log-sum-exp is kept finite, then left out.
    members = negatives | ~present.unsqueeze(2)
    total = torch.logsumexp(repel.masked_fill(~members, -torch.inf), dim=2)
    # -log(e^p / (e^p + Σ e^n)) = softplus(log Σ e^n - p)
    terms = torch.nn.functional.softplus(total - attract)
    return torch.where(present, terms, terms.new_zeros(())).sum(dim=1).mean()


def segment_contrast(embedding: Tensor | Sequence[Tensor], mining: Mining, tau: float) -> Tensor:
    """The contrastive loss over the four pairs of mined segments, of one embedding or of several.

    For (query, positive, negatives) in (IA, CA, CB), (IB, CB, CA), (CA, IA, CB), (CB, IB, CA): with q and
    k+ the L2-normalised means of the query and positive segments and n each L2-normalised negative,
    ``-log(exp(q·k+/τ) / (exp(q·k+/τ) + Σ exp(q·n/τ)))``; mean over the batch, the four summed. A term
    whose query, positive or negative set is empty is 0 for that video.

    On CUDA one kernel forward and one backward for up to three embeddings at once (T to 4096, De to 2048);
    elsewhere and in float64 the reference, one embedding after the other.

    Args:
        embedding: (B, T, De), or a sequence of them, all of one shape and dtype.
        mining: which segments, from :func:`aicl_fast.kernels.mine_segments`.
        tau: τ, the temperature.
    Returns:
        The loss, a scalar of the embedding's dtype; for a sequence one of shape (N,), in its order.
    Raises:
        ValueError: the sequence is empty, or its shapes differ.
    Source: eq. 12 to 14 as the authors' program reads them.

    Example:
        >>> from aicl_fast.kernels import mine_segments
        >>> mining = mine_segments(torch.rand(2, 750), torch.rand(2, 750), k=37)
        >>> segment_contrast([torch.rand(2, 750, 512) for _ in range(3)], mining, tau=0.1).shape
        torch.Size([3])
    """
    embeddings = [embedding] if isinstance(embedding, Tensor) else list(embedding)
    if not embeddings or any(other.shape != embeddings[0].shape for other in embeddings):
        shapes = [tuple(other.shape) for other in embeddings]
        raise ValueError(f"segment_contrast: expected embeddings of one shape (B, T, De), got {shapes}")
    batch, length, width = embeddings[0].shape
    fits = length <= MAX_LENGTH and width <= _MAX_WIDTH and batch <= MAX_BATCH
    alike = all(other.dtype == embeddings[0].dtype for other in embeddings)
    if fits and alike and use_kernels(*embeddings, masks=mining):
        losses = torch.cat(
            [
                _kernel_losses(embeddings[i : i + _MAX_EMBEDDINGS], mining, tau)
                for i in range(0, len(embeddings), _MAX_EMBEDDINGS)
            ]
        )
    else:
        losses = torch.stack([segment_contrast_reference(one, mining, tau) for one in embeddings])
    return losses[0] if isinstance(embedding, Tensor) else losses


def _kernel_losses(embeddings: list[Tensor], mining: Mining, tau: float) -> Tensor:
    losses, _, _, _ = segment_contrast_fwd(embeddings, *mining, tau)
    mean: Tensor = losses.sum(dim=(1, 2)) / losses.shape[1]
    return mean.to(embeddings[0].dtype)

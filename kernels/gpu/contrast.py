"""The contrastive loss on a GPU."""

from __future__ import annotations

from aicl_fast.extras import needs

with needs("triton"):
    import triton
    import triton.language as tl

# mypy: disable-error-code="no-untyped-def,untyped-decorator"


@triton.jit
def _unit(b_sum, n, eps: tl.constexpr):
    """(mean over its norm, 1 / norm, 1.0 where the norm is its own and not eps) from a sum of n rows."""
    b_mean = b_sum / tl.maximum(n, 1).to(tl.float32)
    square = tl.sum(b_mean * b_mean, 0)
    inverse = 1.0 / tl.sqrt(tl.maximum(square, eps * eps))
    return b_mean * inverse, inverse, tl.where(square >= eps * eps, 1.0, 0.0)


@triton.jit
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


@triton.jit
def _softplus(x):
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit(do_not_specialize=["B"])
def contrast_fwd_kernel(
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


@triton.jit
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


@triton.jit(do_not_specialize=["B", "stride_n", "stride_b", "stride_h"])
def contrast_bwd_kernel(
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

"""Score fusion on a GPU: one pass over memory forward, one backward."""

from __future__ import annotations

from aicl_fast.extras import needs

with needs("triton"):
    import triton
    import triton.language as tl

# mypy: disable-error-code="no-untyped-def,untyped-decorator"


@triton.jit
def fusion_fwd_kernel(
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


@triton.jit
def fusion_bwd_kernel(
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

"""Top-k pooling on a GPU."""

from __future__ import annotations

from aicl_fast.extras import needs

with needs("triton"):
    import triton
    import triton.language as tl

from aicl_fast.kernels.gpu.selection import highest, order_key

# mypy: disable-error-code="no-untyped-def,untyped-decorator"


@triton.jit(do_not_specialize=["k"])
def pool_fwd_kernel(
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


@triton.jit(do_not_specialize=["k"])
def pool_bwd_kernel(
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

"""Segment mining on a GPU: two medians, four regions and their top K in one launch."""

from __future__ import annotations

from aicl_fast.extras import needs

with needs("triton"):
    import triton
    import triton.language as tl

from aicl_fast.kernels.gpu.selection import highest, kth_key, order_key

# mypy: disable-error-code="no-untyped-def,untyped-decorator"


@triton.jit
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


@triton.jit(do_not_specialize=["K", "B"])
def mining_kernel(p_a, p_a_ca, p_masks, K, B, T, SHIFT: tl.constexpr, BLOCK_T: tl.constexpr):
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

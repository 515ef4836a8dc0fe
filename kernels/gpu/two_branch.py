"""The network on a GPU: the product of both streams, the heads, and rounding to float8."""

from __future__ import annotations

from aicl_fast.extras import needs

with needs("triton"):
    import triton
    import triton.language as tl

# mypy: disable-error-code="no-untyped-def,untyped-decorator"


@triton.jit
def _half_product(
    b_acc,
    p_x,
    p_w,
    b_row,
    b_t,
    b_out,
    video,
    start,
    first_out,
    rows,
    T,
    D: tl.constexpr,
    PITCH: tl.constexpr,
    DE: tl.constexpr,
    TF32: tl.constexpr,
    PROMOTE: tl.constexpr,
    BOXES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Add one input half's product to a tile: rows ``b_row`` of x with rows ``b_out`` of the weights."""
    b_k = tl.arange(0, BLOCK_K)
    m_out = (b_out < 2 * DE)[None, :]
    # One loop over taps and features: a loop a tap would drain the pipeline twice.
    for step in range(0, 3 * STEPS):
        tap = step // STEPS
        d = (step % STEPS) * BLOCK_K
        if BOXES:
            b_x = p_x.load([video, start + tap - 1, d]).reshape(BLOCK_M, BLOCK_K)
            b_w = p_w.load([first_out, tap, d]).reshape(BLOCK_N, BLOCK_K).T
        else:
            b_d = d + b_k
            b_from = b_t + (tap - 1)
            m_x = ((b_from >= 0) & (b_from < T) & (b_row < rows))[:, None]
            m_w = m_out
            if D % BLOCK_K != 0:
                m_x = m_x & (b_d < D)[None, :]
                m_w = m_w & (b_d < D)[:, None]
            p_row = p_x + b_row.to(tl.int64)[:, None] * PITCH
            b_x = tl.load(p_row + (tap - 1) * PITCH + b_d[None, :], mask=m_x, other=0.0)
            p_out = p_w + b_out[None, :] * (3 * D)
            b_w = tl.load(p_out + tap * D + b_d[:, None], mask=m_w, other=0.0)
        if PROMOTE:
            # Not by max_num_imprecise_acc: its sums read what a product in flight still writes, so that the
            # assembler lets one product run at a time.
            b_acc += tl.dot(b_x, b_w)
        else:
            b_acc = tl.dot(b_x, b_w, b_acc, input_precision="tf32" if TF32 else None)
    return b_acc


@triton.jit(do_not_specialize=["rows", "tiles_t"])
def embed_kernel(
    p_x_rgb,
    p_x_flow,
    p_rgb,
    p_flow,
    p_bias,
    p_edge,
    p_scale,
    p_e,
    p_halves,
    p_classify,
    p_actionness,
    p_cas,
    p_logits,
    rows,
    tiles_t,
    T,
    D_RGB: tl.constexpr,
    D_FLOW: tl.constexpr,
    DE: tl.constexpr,
    C: tl.constexpr,
    SPLIT: tl.constexpr,
    WITH_HEADS: tl.constexpr,
    WITH_EDGE: tl.constexpr,
    WITH_SCALE: tl.constexpr,
    TF32: tl.constexpr,
    PROMOTE: tl.constexpr,
    BOXES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TILES_N: tl.constexpr,
    STEPS_RGB: tl.constexpr,
    STEPS_FLOW: tl.constexpr,
):
    """One program: BLOCK_M segments by BLOCK_N columns of one embedding, or of half the fused one.

    With BOXES the first four arguments are descriptors, and a tile is of one video; without, they are
    pointers, and a tile may end in the next video.
    """
    # Programs of the same segments follow one another and find their features in the second-level cache.
    PARTS: tl.constexpr = (
        4 if SPLIT else 3
    )  # fused (its first half), first stream, second stream, fused's second
    tile_m = tl.program_id(0) // (PARTS * TILES_N)
    part = (tl.program_id(0) // TILES_N) % PARTS
    tile_n = tl.program_id(0) % TILES_N
    b_m = tl.arange(0, BLOCK_M)
    video, start = tile_m // tiles_t, tile_m % tiles_t * BLOCK_M
    if BOXES:
        b_t = start + b_m
        b_row = video * T + b_t
        m_row = b_t < T
    else:
        b_row = tile_m * BLOCK_M + b_m
        b_t = b_row % T
        m_row = b_row < rows
    b_n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    m_n = b_n < DE
    m_tile = m_row[:, None] & m_n[None, :]
    # Columns beyond De are another stream's, or repeat the last one; they are computed and not used.
    first_out = tile_n * BLOCK_N + tl.where((part == 0) | (part == 3), DE, 0)
    b_out = tl.minimum(b_n, DE - 1) + tl.where((part == 0) | (part == 3), DE, 0)

    b_acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if part < 2:
        b_acc = _half_product(
            b_acc, p_x_rgb, p_rgb, b_row, b_t, b_out, video, start, first_out, rows, T,
            D_RGB, D_RGB + D_FLOW, DE, TF32, PROMOTE, BOXES, BLOCK_M, BLOCK_N, BLOCK_K, STEPS_RGB,
        )  # fmt: skip
    if (part >= 2) | ((part == 0) & (not SPLIT)):
        b_acc = _half_product(
            b_acc, p_x_flow, p_flow, b_row, b_t, b_out, video, start, first_out, rows, T,
            D_FLOW, D_RGB + D_FLOW, DE, TF32, PROMOTE, BOXES, BLOCK_M, BLOCK_N, BLOCK_K, STEPS_FLOW,
        )  # fmt: skip

    stream = tl.where(part == 3, 0, part)
    if WITH_SCALE:
        b_acc *= tl.load(p_scale + stream * DE + b_n, mask=m_n, other=0.0)[None, :]
    b_at = b_row.to(tl.int64)[:, None] * DE + b_n[None, :]
    if SPLIT and stream == 0:
        p_half = p_halves + (part // 3).to(tl.int64) * rows * DE
        tl.store(p_half + b_at, b_acc, mask=m_tile)
    else:
        b_acc += tl.load(p_bias + stream * DE + b_n, mask=m_n, other=0.0)[None, :]
        if WITH_EDGE:
            b_first = tl.load(p_edge + stream * DE + b_n, mask=m_n, other=0.0)
            b_last = tl.load(p_edge + (3 + stream) * DE + b_n, mask=m_n, other=0.0)
            b_acc += tl.where(b_t == 0, 1.0, 0.0)[:, None] * b_first[None, :]
            b_acc += tl.where(b_t == T - 1, 1.0, 0.0)[:, None] * b_last[None, :]
        b_e = tl.maximum(b_acc, 0.0, propagate_nan=tl.PropagateNan.ALL).to(p_e.dtype.element_ty)
        if not WITH_HEADS:
            tl.store(p_e + stream.to(tl.int64) * rows * DE + b_at, b_e, mask=m_tile)
        elif stream == 0:
            for c in tl.static_range(0, C, BLOCK_C):
                b_c = c + tl.arange(0, BLOCK_C)
                m_c = (b_c < C)[None, :]
                b_w = tl.load(
                    p_classify + b_c[None, :] * DE + b_n[:, None], mask=m_c & m_n[:, None], other=0.0
                )
                b_cas = tl.dot(b_e, b_w, input_precision="tf32" if TF32 else None)
                p_out = p_cas + (tile_n * rows + b_row).to(tl.int64)[:, None] * C + b_c[None, :]
                tl.store(p_out, b_cas, mask=m_row[:, None] & m_c)
        else:
            b_head = tl.load(p_actionness + (stream - 1) * DE + b_n, mask=m_n, other=0.0)
            b_logit = tl.sum(b_e.to(tl.float32) * b_head[None, :], 1)
            tl.store(p_logits + (tile_n * 2 + stream - 1) * rows + b_row, b_logit, mask=m_row)


@triton.jit(do_not_specialize=["rows"])
def heads_kernel(
    p_halves,
    p_bias,
    p_edge,
    p_classify,
    p_classify_bias,
    p_actionness_bias,
    p_cas_shares,
    p_logits,
    p_cas,
    p_scores,
    p_a,
    p_a_ca,
    gamma,
    rows,
    T,
    DE: tl.constexpr,
    C: tl.constexpr,
    SPLIT: tl.constexpr,
    WITH_EDGE: tl.constexpr,
    TF32: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TILES_N: tl.constexpr,
):
    """One program: BLOCK_M segments, all classes. Split, the fused embedding's head is computed here."""
    b_row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    b_c = tl.arange(0, BLOCK_C)
    m_row, m_c = b_row < rows, b_c < C
    m_tile = m_row[:, None] & m_c[None, :]
    b_wide = b_row.to(tl.int64)[:, None]

    b_cas = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    if SPLIT:
        b_t = b_row % T
        for d in range(0, DE, BLOCK_D):
            b_d = d + tl.arange(0, BLOCK_D)
            m_d = b_d < DE
            m_e = m_row[:, None] & m_d[None, :]
            b_e = tl.load(p_halves + b_wide * DE + b_d[None, :], mask=m_e, other=0.0)
            b_e += tl.load(p_halves + (b_wide + rows) * DE + b_d[None, :], mask=m_e, other=0.0)
            b_e += tl.load(p_bias + b_d, mask=m_d, other=0.0)[None, :]
            if WITH_EDGE:
                b_first = tl.load(p_edge + b_d, mask=m_d, other=0.0)
                b_last = tl.load(p_edge + 3 * DE + b_d, mask=m_d, other=0.0)
                b_e += tl.where(b_t == 0, 1.0, 0.0)[:, None] * b_first[None, :]
                b_e += tl.where(b_t == T - 1, 1.0, 0.0)[:, None] * b_last[None, :]
            b_e = tl.maximum(b_e, 0.0, propagate_nan=tl.PropagateNan.ALL).to(p_classify.dtype.element_ty)
            m_w = m_d[:, None] & m_c[None, :]
            b_w = tl.load(p_classify + b_c[None, :] * DE + b_d[:, None], mask=m_w, other=0.0)
            b_cas = tl.dot(b_e, b_w, b_cas, input_precision="tf32" if TF32 else None)
    else:
        for tile in tl.static_range(TILES_N):
            b_cas += tl.load(p_cas_shares + (b_wide + tile * rows) * C + b_c[None, :], mask=m_tile, other=0.0)
    b_cas += tl.load(p_classify_bias + b_c, mask=m_c, other=0.0)[None, :]
    b_rgb = tl.zeros([BLOCK_M], tl.float32) + tl.load(p_actionness_bias)
    b_flow = tl.zeros([BLOCK_M], tl.float32) + tl.load(p_actionness_bias + 1)
    for tile in tl.static_range(TILES_N):
        b_rgb += tl.load(p_logits + 2 * tile * rows + b_row, mask=m_row, other=0.0)
        b_flow += tl.load(p_logits + (2 * tile + 1) * rows + b_row, mask=m_row, other=0.0)

    b_cas = tl.where(m_c[None, :], b_cas, -float("inf"))
    b_exp = tl.exp(b_cas - tl.max(b_cas, 1)[:, None])
    b_softmax = b_exp / tl.sum(b_exp, 1)[:, None]
    b_a = tl.sigmoid(tl.sum(tl.where(m_c[None, :], b_cas, 0.0), 1))
    b_a_ca = (tl.sigmoid(b_rgb) + tl.sigmoid(b_flow)) * 0.5
    b_at = b_wide * C + b_c[None, :]
    tl.store(p_cas + b_at, b_cas, mask=m_tile)
    tl.store(p_scores + b_at, gamma * b_softmax + ((1.0 - gamma) * b_a_ca)[:, None], mask=m_tile)
    tl.store(p_a + b_row, b_a, mask=m_row)
    tl.store(p_a_ca + b_row, b_a_ca, mask=m_row)


@triton.jit
def float8_kernel(p_x, p_out, scale, count, MOST: tl.constexpr, BLOCK: tl.constexpr):
    """One program: BLOCK values, divided, clipped and rounded."""
    b_at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    b_x = tl.div_rn(tl.load(p_x + b_at, mask=b_at < count, other=0.0).to(tl.float32), scale)
    b_clipped = tl.minimum(tl.maximum(b_x, -MOST), MOST)
    b_out = tl.where(b_x != b_x, b_x, b_clipped)
    tl.store(p_out + b_at, b_out.to(p_out.dtype.element_ty), mask=b_at < count)

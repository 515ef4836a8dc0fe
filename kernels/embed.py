"""The whole network for inference (section 3.1): three convolutions, three heads and the fusion.

A kernel-3 convolution over segments is a matrix product whose rows are three neighbouring segments side by
side. They are never laid out: the loop over the inner dimension reads one tap after the other, each a row
further, and zeros beyond a video's ends. Each input half feeds De columns of its own stream and De of the
fused one, so its weights are one matrix of 2·De rows, and the network is two products,
(B·T x 3·D) x (3·D x 2·De), the fused columns of both being summed.

From Hopper on the copy engine reads *boxes* of one video's segments by features, and what lies beyond the
video is filled with the convolution's zeros by itself. Elsewhere, where rows are no multiples of 16 bytes and
where videos are much shorter than a tile, threads compute their addresses.

*Whole* launches let one program run through both halves for a fused tile; bias, ReLU and the tile's share of
the heads follow in registers, so that inference never writes an embedding. *Split* launches give the halves
of a fused tile to two programs, because one video makes too few tiles to fill a GPU otherwise. A second,
small kernel adds up the shares and fuses the scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from aicl_fast.extras import needs

with needs("triton"):
    import torch
    from torch import Tensor

from aicl_fast.kernels._triton import (
    boxes,
    capability,
    fits_boxes,
    kernel,
    kernel_general_in,
    next_power_of_2,
    operation,
    use_kernels,
)
from aicl_fast.kernels.embed_weights import (
    FLOAT8,
    TwoBranchWeights,
    float8_features_fwd,
    plain_dtype,
)
from aicl_fast.kernels.fusion import score_fusion_reference

if TYPE_CHECKING:
    import triton.language as tl

# mypy: disable-error-code="no-untyped-def"

_MAX_CLASSES = 512  # the second kernel holds a row of classes; above this the reference runs


class TwoBranchEmbeddings(NamedTuple):
    """(B, T, De) each, after the ReLU."""

    E: Tensor
    E_rgb: Tensor
    E_flow: Tensor


class TwoBranchScores(NamedTuple):
    """What localisation needs of B videos, float32."""

    CAS: Tensor
    """(B, T, C) class activation sequence, logits."""
    A_score: Tensor
    """(B, T, C) fused score."""
    A: Tensor
    """(B, T) class-aware actionness."""
    A_ca: Tensor
    """(B, T) class-agnostic actionness."""


@dataclass(frozen=True)
class EmbedLaunch:
    """Launch settings of the product for up to ``max_rows`` segments in all."""

    max_rows: int
    split: bool
    block_m: int
    block_n: int
    block_k_bytes: int
    num_warps: int
    num_stages: int
    boxes: bool = False
    """Whether the copy engine reads, where the tensors allow it."""


_ANY = 1 << 62
# One video has six tiles of 128 segments: with 128 columns and split halves, 96 programs of equal length.
# From a few videos on, tiles of 256 columns read the features half as often.
LAUNCHES: dict[str, tuple[EmbedLaunch, ...]] = {
    # 227 KiB of shared memory: four stages of the large tile.
    "hopper": (
        EmbedLaunch(4096, True, 128, 128, 128, num_warps=8, num_stages=4, boxes=True),
        EmbedLaunch(_ANY, False, 128, 256, 128, num_warps=8, num_stages=4, boxes=True),
    ),
    # Hopper keeps sums of float8 products in 14 bits, and so they are raised to float32 after every step: a
    # second set of results, which the large tile has no registers for. On Blackwell it spills as well.
    "hopper_float8": (
        EmbedLaunch(4096, True, 128, 128, 128, num_warps=8, num_stages=4, boxes=True),
        EmbedLaunch(_ANY, False, 128, 128, 128, num_warps=8, num_stages=4, boxes=True),
    ),
    # 163 KiB, and results in registers beside the operands' fragments: the smaller tile.
    "ampere": (
        EmbedLaunch(4096, True, 128, 128, 64, num_warps=8, num_stages=4),
        EmbedLaunch(_ANY, False, 128, 128, 128, num_warps=8, num_stages=3),
    ),
    # 99 KiB. Shorter steps in the inner dimension spill with Triton 3.6 in float8.
    "small": (
        EmbedLaunch(4096, True, 128, 128, 128, num_warps=8, num_stages=3),
        EmbedLaunch(_ANY, False, 128, 128, 64, num_warps=8, num_stages=4),
    ),
}


@dataclass(frozen=True)
class HeadsLaunch:
    """Launch settings of the second kernel: few rows a program, so that one video still fills the GPU."""

    block_m: int = 16
    weights: int = 8192
    """Values of the classes' weights a step of De; every stage of them is in shared memory."""

    def block_d(self, block_c: int) -> int:
        """Values of De a step, a power of two."""
        return max(16, min(64, self.weights // block_c))

    def num_warps(self, block_c: int) -> int:
        """A program holds its row of classes in registers."""
        return max(4, block_c // 32)

    def num_stages(self, block_c: int) -> int:
        """Steps in flight."""
        return 3 if block_c <= 64 else 2


HEADS = HeadsLaunch()


def _launch(rows: int, x: Tensor) -> EmbedLaunch:
    found = capability(x.device)
    family = "hopper" if found in (90, 100, 103) else "ampere" if found in (80, 87) else "small"
    if family == "hopper" and x.dtype == FLOAT8:
        family = "hopper_float8"
    return next(launch for launch in LAUNCHES[family] if rows <= launch.max_rows)


@kernel
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


@kernel_general_in("rows", "tiles_t")
def _embed_kernel(
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


@kernel_general_in("rows")
def _heads_kernel(
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


def _product(
    x: Tensor,
    rgb: Tensor,
    flow: Tensor,
    bias: Tensor,
    edge: Tensor | None,
    scale: Tensor | None,
    launch: EmbedLaunch,
    *,
    split: bool,
    embeddings: Tensor,
    halves: Tensor,
    heads: tuple[Tensor, Tensor, Tensor, Tensor] | None,
) -> None:
    """Launch the product: into ``embeddings``, or into the shares of the heads (and ``halves``, split)."""
    batch, length, _ = x.shape
    width = bias.shape[1]
    d_rgb, d_flow = rgb.shape[1] // 3, flow.shape[1] // 3
    rows = batch * length
    block_k = launch.block_k_bytes // x.element_size()
    tiles_n = -(-width // launch.block_n)
    classify, actionness, cas, logits = heads or (bias, bias, bias, bias)
    classes = classify.shape[0]
    halves_of_x = x[..., :d_rgb], x[..., d_rgb:]
    matrices = [weights.view(2 * width, 3, -1) for weights in (rgb, flow)]
    sources: list[Any] = [*halves_of_x, rgb, flow]
    tiles_t, tiles_m = -(-length // launch.block_m), -(-rows // launch.block_m)
    # A box is of one video: short ones would leave much of it empty.
    in_boxes = launch.boxes and batch * tiles_t <= 1.125 * tiles_m
    in_boxes = in_boxes and all(fits_boxes(tensor) for tensor in (*halves_of_x, *matrices))
    if in_boxes:
        tiles_m = batch * tiles_t
        sources = [boxes(half, (1, launch.block_m, block_k)) for half in halves_of_x]
        sources += [boxes(matrix, (launch.block_n, 1, block_k)) for matrix in matrices]
    _embed_kernel[(tiles_m * tiles_n * (4 if split else 3),)](
        *sources,
        bias,
        bias if edge is None else edge,
        bias if scale is None else scale,
        embeddings,
        halves,
        classify,
        actionness,
        cas,
        logits,
        rows,
        tiles_t,
        length,
        D_RGB=d_rgb,
        D_FLOW=d_flow,
        DE=width,
        C=classes,
        SPLIT=split,
        WITH_HEADS=heads is not None,
        WITH_EDGE=edge is not None,
        WITH_SCALE=scale is not None,
        TF32=x.dtype == torch.float32,
        # Hopper's float8 products keep fewer bits of their sums.
        PROMOTE=x.dtype == FLOAT8 and capability(x.device) // 10 == 9,
        BOXES=in_boxes,
        BLOCK_M=launch.block_m,
        BLOCK_N=launch.block_n,
        BLOCK_K=block_k,
        # Classes in portions: all of two hundred at once would push the tile out of the registers.
        BLOCK_C=min(32, max(16, next_power_of_2(classes))),
        TILES_N=tiles_n,
        STEPS_RGB=-(-d_rgb // block_k),
        STEPS_FLOW=-(-d_flow // block_k),
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )


@operation("two_branch_embed")
def two_branch_embed_fwd(
    x: Tensor, rgb: Tensor, flow: Tensor, bias: Tensor, edge: Tensor | None, scale: Tensor | None
) -> Tensor:
    """Launch the product; (3, B, T, De): fused, first stream, second stream."""
    embeddings = torch.empty((3, *x.shape[:2], bias.shape[1]), dtype=plain_dtype(x.dtype), device=x.device)
    launch = _launch(x.shape[0] * x.shape[1], x)
    _product(
        x.contiguous(),
        rgb,
        flow,
        bias,
        edge,
        scale,
        launch,
        split=False,  # the halves of a fused tile would have to meet in another launch
        embeddings=embeddings,
        halves=bias,
        heads=None,
    )
    return embeddings


@two_branch_embed_fwd.register_fake
def _(
    x: Tensor, rgb: Tensor, flow: Tensor, bias: Tensor, edge: Tensor | None, scale: Tensor | None
) -> Tensor:
    return torch.empty((3, *x.shape[:2], bias.shape[1]), dtype=plain_dtype(x.dtype), device=x.device)


@operation("two_branch_infer")
def two_branch_infer_fwd(
    x: Tensor,
    rgb: Tensor,
    flow: Tensor,
    bias: Tensor,
    edge: Tensor | None,
    scale: Tensor | None,
    classify: Tensor,
    classify_bias: Tensor,
    actionness: Tensor,
    actionness_bias: Tensor,
    gamma: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the product and the kernel that adds up its shares of the heads."""
    batch, length, _ = x.shape
    rows, width, classes = batch * length, bias.shape[1], classify.shape[0]
    launch = _launch(rows, x)
    split = launch.split
    tiles_n = -(-width // launch.block_n)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=x.device)

    halves = empty(2, rows, width) if split else bias
    shares = bias if split else empty(tiles_n, rows, classes)
    logits = empty(tiles_n, 2, rows)
    _product(
        x.contiguous(),
        rgb,
        flow,
        bias,
        edge,
        scale,
        launch,
        split=split,
        embeddings=classify,  # gives the type that embeddings are rounded to, and is not written
        halves=halves,
        heads=(classify, actionness, shares, logits),
    )
    block_c = max(16, next_power_of_2(classes))
    cas, scores = empty(batch, length, classes), empty(batch, length, classes)
    a, a_ca = empty(batch, length), empty(batch, length)
    _heads_kernel[(-(-rows // HEADS.block_m),)](
        halves,
        bias,
        bias if edge is None else edge,
        classify,
        classify_bias,
        actionness_bias,
        shares,
        logits,
        cas,
        scores,
        a,
        a_ca,
        gamma,
        rows,
        length,
        DE=width,
        C=classes,
        SPLIT=split,
        WITH_EDGE=edge is not None,
        TF32=classify.dtype == torch.float32,
        BLOCK_M=HEADS.block_m,
        BLOCK_D=HEADS.block_d(block_c),
        BLOCK_C=block_c,
        TILES_N=tiles_n,
        num_warps=HEADS.num_warps(block_c),
        num_stages=HEADS.num_stages(block_c),
    )
    return cas, scores, a, a_ca


@two_branch_infer_fwd.register_fake
def _(
    x: Tensor,
    rgb: Tensor,
    flow: Tensor,
    bias: Tensor,
    edge: Tensor | None,
    scale: Tensor | None,
    classify: Tensor,
    classify_bias: Tensor,
    actionness: Tensor,
    actionness_bias: Tensor,
    gamma: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def empty(*shape: int) -> Tensor:
        return torch.empty((*x.shape[:2], *shape), dtype=torch.float32, device=x.device)

    return empty(classify.shape[0]), empty(classify.shape[0]), empty(), empty()


def two_branch_embed_reference(x: Tensor, weights: TwoBranchWeights) -> TwoBranchEmbeddings:
    """What :func:`two_branch_embed` computes, in plain torch; float8 weights as float32."""
    compute = torch.float32 if weights.rgb.dtype == FLOAT8 else weights.rgb.dtype
    width = weights.bias.shape[1]
    d_rgb, _ = weights.widths
    halves = x.to(compute)[..., :d_rgb], x.to(compute)[..., d_rgb:]
    own, shared = [], []
    for half, matrix in zip(halves, (weights.rgb, weights.flow), strict=True):
        kernel_3 = matrix.to(compute).view(2 * width, 3, -1).transpose(1, 2)
        out = torch.nn.functional.conv1d(half.transpose(1, 2), kernel_3, padding=1).transpose(1, 2)
        own.append(out[..., :width])
        shared.append(out[..., width:])
    sums = torch.stack([shared[0] + shared[1], *own])  # (3, B, T, De)
    if weights.scale is not None:
        # The scale holds the features' own, which they are divided by in float8 only.
        sums = sums * (weights.scale / weights.input_scale)[:, None, None]
    sums = sums + weights.bias.to(compute)[:, None, None]
    if weights.edge is not None:
        ends = torch.zeros_like(sums)
        ends[:, :, 0] += weights.edge[0].to(compute)[:, None]
        ends[:, :, -1] += weights.edge[1].to(compute)[:, None]
        sums = sums + ends
    return TwoBranchEmbeddings(*sums.relu().to(plain_dtype(weights.rgb.dtype)).unbind(0))


def two_branch_infer_reference(x: Tensor, weights: TwoBranchWeights, gamma: float) -> TwoBranchScores:
    """What :func:`two_branch_infer` computes, in plain torch."""
    e, e_rgb, e_flow = two_branch_embed_reference(x, weights)
    cas = (e @ weights.classify.to(e.dtype).T).float() + weights.classify_bias
    # In float64 as it is; narrower sums as the kernels', in float32.
    wide = torch.float64 if e.dtype == torch.float64 else torch.float32
    rgb, flow = (
        stream.to(wide) @ weights.actionness[i].to(wide) + weights.actionness_bias[i]
        for i, stream in enumerate((e_rgb, e_flow))
    )
    scores, a, a_ca = score_fusion_reference(cas, rgb.float(), flow.float(), gamma)
    return TwoBranchScores(cas, scores, a, a_ca)


def _prepare(x: Tensor, weights: TwoBranchWeights, name: str) -> Tensor:
    """Check the features against the weights; as float8 where the weights are."""
    if x.ndim != 3 or x.shape[2] != sum(weights.widths):
        expected = f"(B, T, {' + '.join(map(str, weights.widths))})"
        raise ValueError(f"{name}: expected features of shape {expected}, got {tuple(x.shape)}")
    if weights.rgb.dtype == FLOAT8:
        return x
    if x.dtype != weights.rgb.dtype:
        raise ValueError(
            f"{name}: expected features of the weights' dtype {weights.rgb.dtype}, got {x.dtype}; "
            "convert them, or pack the weights in theirs"
        )
    return x


def _as_float8(x: Tensor, weights: TwoBranchWeights) -> Tensor:
    if weights.rgb.dtype != FLOAT8 or x.dtype == FLOAT8:
        return x
    rounded: Tensor = float8_features_fwd(x.detach(), weights.input_scale)
    return rounded


def _on_kernels(x: Tensor, weights: TwoBranchWeights) -> bool:
    if weights.classify.shape[0] > _MAX_CLASSES:
        return False
    if x.dtype == FLOAT8:  # has no reference arithmetic of its own: for the kernels wherever those run
        together = x.device == weights.bias.device and x.numel() > 0
        return together and use_kernels(weights.bias, weights.classify)
    return use_kernels(x, weights.bias, weights.classify)


def two_branch_embed(x: Tensor, weights: TwoBranchWeights) -> TwoBranchEmbeddings:
    """The three embeddings: kernel-3 convolution, bias, ReLU. For inference: no gradient flows through it.

    Args:
        x: (B, T, D_rgb + D_flow) features, the first stream first, of the weights' dtype (float16, bfloat16,
            float32 or float64). With float8 weights any of these; they are rounded to float8 on the way.
        weights: from :func:`pack_two_branch`.
    Returns:
        (B, T, De) each of the features' dtype; bfloat16 with float8 weights.
    Raises:
        ValueError: the features do not fit the weights.
    Source: section 3.1; eq. 1.
    """
    x = _prepare(x, weights, "two_branch_embed")
    if _on_kernels(x, weights):
        x = _as_float8(x, weights)
        bias, edge, scale = weights.bias, weights.edge, weights.scale
        embeddings = two_branch_embed_fwd(x.detach(), weights.rgb, weights.flow, bias, edge, scale)
        return TwoBranchEmbeddings(*embeddings.unbind(0))
    return two_branch_embed_reference(x, weights)


def two_branch_infer(x: Tensor, weights: TwoBranchWeights, gamma: float) -> TwoBranchScores:
    """The network, features to fused scores, in two launches on CUDA. For inference: no gradient.

    Args:
        x: (B, T, D_rgb + D_flow), as for :func:`two_branch_embed`.
        weights: from :func:`pack_two_branch`.
        gamma: γ of the fusion, see :func:`aicl_fast.kernels.score_fusion`.
    Returns:
        :class:`TwoBranchScores`, float32.
    Raises:
        ValueError: the features do not fit the weights.
    Source: section 3.1; eq. 1 to 4 and 8.

    Example:
        >>> from aicl_fast.config import load_config
        >>> from aicl_fast.model import TwoBranchNet
        >>> from aicl_fast.kernels import pack_two_branch
        >>> weights = pack_two_branch(TwoBranchNet(load_config("thumos14")).state_dict(), torch.float32)
        >>> two_branch_infer(torch.rand(2, 750, 2048), weights, 1 / 3).A_score.shape
        torch.Size([2, 750, 20])
    """
    x = _prepare(x, weights, "two_branch_infer")
    if _on_kernels(x, weights):
        outputs = two_branch_infer_fwd(
            _as_float8(x, weights).detach(),
            weights.rgb,
            weights.flow,
            weights.bias,
            weights.edge,
            weights.scale,
            weights.classify,
            weights.classify_bias,
            weights.actionness,
            weights.actionness_bias,
            gamma,
        )
        return TwoBranchScores(*outputs)
    return two_branch_infer_reference(x, weights, gamma)

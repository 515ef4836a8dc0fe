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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from aicl_fast.extras import needs

with needs("triton"):
    import torch
    from torch import Tensor

from aicl_fast.kernels.dispatch import operation, use_kernels
from aicl_fast.kernels.fusion import score_fusion_reference
from aicl_fast.kernels.launch import boxes, capability, fits_boxes, launch, next_power_of_2
from aicl_fast.kernels.two_branch_weights import (
    FLOAT8,
    TwoBranchWeights,
    float8_features_fwd,
    plain_dtype,
)

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


def _settings(rows: int, x: Tensor) -> EmbedLaunch:
    found = capability(x.device)
    family = "hopper" if found in (90, 100, 103) else "ampere" if found in (80, 87) else "small"
    if family == "hopper" and x.dtype == FLOAT8:
        family = "hopper_float8"
    return next(settings for settings in LAUNCHES[family] if rows <= settings.max_rows)


def _product(
    x: Tensor,
    weights: Sequence[Tensor | None],
    settings: EmbedLaunch,
    *,
    split: bool,
    embeddings: Tensor,
    halves: Tensor,
    heads: tuple[Tensor, Tensor, Tensor, Tensor] | None,
) -> None:
    """Launch the product: into ``embeddings``, or into the shares of the heads (and ``halves``, split)."""
    from aicl_fast.kernels.gpu.two_branch import embed_kernel

    rgb, flow, bias = cast(list[Tensor], weights[:3])
    edge, scale = weights[3:]
    batch, length, _ = x.shape
    width = bias.shape[1]
    d_rgb, d_flow = rgb.shape[1] // 3, flow.shape[1] // 3
    rows = batch * length
    block_k = settings.block_k_bytes // x.element_size()
    tiles_n = -(-width // settings.block_n)
    classify, actionness, cas, logits = heads or (bias, bias, bias, bias)
    classes = classify.shape[0]
    halves_of_x = x[..., :d_rgb], x[..., d_rgb:]
    matrices = [matrix.view(2 * width, 3, -1) for matrix in (rgb, flow)]
    sources: list[Any] = [*halves_of_x, rgb, flow]
    tiles_t, tiles_m = -(-length // settings.block_m), -(-rows // settings.block_m)
    # A box is of one video: short ones would leave much of it empty.
    in_boxes = settings.boxes and batch * tiles_t <= 1.125 * tiles_m
    in_boxes = in_boxes and all(fits_boxes(tensor) for tensor in (*halves_of_x, *matrices))
    if in_boxes:
        tiles_m = batch * tiles_t
        sources = [boxes(half, (1, settings.block_m, block_k)) for half in halves_of_x]
        sources += [boxes(matrix, (settings.block_n, 1, block_k)) for matrix in matrices]
    launch(
        embed_kernel,
        (tiles_m * tiles_n * (4 if split else 3),),
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
        BLOCK_M=settings.block_m,
        BLOCK_N=settings.block_n,
        BLOCK_K=block_k,
        # Classes in portions: all of two hundred at once would push the tile out of the registers.
        BLOCK_C=min(32, max(16, next_power_of_2(classes))),
        TILES_N=tiles_n,
        STEPS_RGB=-(-d_rgb // block_k),
        STEPS_FLOW=-(-d_flow // block_k),
        num_warps=settings.num_warps,
        num_stages=settings.num_stages,
    )


@operation("two_branch_embed")
def two_branch_embed_fwd(x: Tensor, weights: Sequence[Tensor | None]) -> Iterator[Tensor]:
    """Launch the product; (3, B, T, De): fused, first stream, second stream.

    Args:
        x: features.
        weights: :attr:`TwoBranchWeights.product`.
    """
    bias = cast(Tensor, weights[2])
    shape = (3, *x.shape[:2], bias.shape[1])
    yield (embeddings := torch.empty(shape, dtype=plain_dtype(x.dtype), device=x.device))
    _product(
        x.contiguous(),
        weights,
        _settings(x.shape[0] * x.shape[1], x),
        split=False,  # the halves of a fused tile would have to meet in another launch
        embeddings=embeddings,
        halves=bias,
        heads=None,
    )


@operation("two_branch_infer")
def two_branch_infer_fwd(
    x: Tensor, weights: Sequence[Tensor | None], heads: Sequence[Tensor], gamma: float
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Launch the product and the kernel that adds up its shares of the heads.

    Args:
        x: features.
        weights: :attr:`TwoBranchWeights.product`.
        heads: :attr:`TwoBranchWeights.heads`.
        gamma: γ.
    """
    bias, edge = cast(Tensor, weights[2]), weights[3]
    classify, classify_bias, actionness, actionness_bias = heads
    batch, length, _ = x.shape
    rows, width, classes = batch * length, bias.shape[1], classify.shape[0]

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=x.device)

    values, segments = (batch, length, classes), (batch, length)
    yield (out := (empty(*values), empty(*values), empty(*segments), empty(*segments)))
    from aicl_fast.kernels.gpu.two_branch import heads_kernel

    settings = _settings(rows, x)
    split = settings.split
    tiles_n = -(-width // settings.block_n)
    halves = empty(2, rows, width) if split else bias
    shares = bias if split else empty(tiles_n, rows, classes)
    logits = empty(tiles_n, 2, rows)
    _product(
        x.contiguous(),
        weights,
        settings,
        split=split,
        embeddings=classify,  # gives the type that embeddings are rounded to, and is not written
        halves=halves,
        heads=(classify, actionness, shares, logits),
    )
    block_c = max(16, next_power_of_2(classes))
    launch(
        heads_kernel,
        (-(-rows // HEADS.block_m),),
        halves,
        bias,
        bias if edge is None else edge,
        classify,
        classify_bias,
        actionness_bias,
        shares,
        logits,
        *out,
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
        embeddings = two_branch_embed_fwd(_as_float8(x, weights).detach(), weights.product)
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
        x = _as_float8(x, weights).detach()
        return TwoBranchScores(*two_branch_infer_fwd(x, weights.product, weights.heads, gamma))
    return two_branch_infer_reference(x, weights, gamma)

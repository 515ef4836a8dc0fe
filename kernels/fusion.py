"""Score fusion (eq. 3, 4 and 8): class activation sequence and actionness into the scores that localise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aicl_fast.extras import needs

with needs("triton"):
    import torch
    from torch import Tensor

from aicl_fast.kernels.dispatch import MAX_BATCH, as_layout, empty_layout, is_planar, operation, use_kernels
from aicl_fast.kernels.launch import launch, next_power_of_2

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


def _grid(cas: Tensor, planar: bool) -> tuple[tuple[int, int], dict[str, Any]]:
    batch, length, classes = cas.shape
    settings = PLANAR if planar else ROWS
    block_t = min(settings.block_t(classes), next_power_of_2(length))
    block_c = next_power_of_2(classes)
    meta = {
        "C": classes,
        "PLANAR": planar,
        "BLOCK_T": block_t,
        "BLOCK_C": block_c,
        "num_warps": settings.num_warps(block_t * block_c),
    }
    return (-(-length // block_t), batch), meta


@operation("score_fusion")
def score_fusion_fwd(
    cas: Tensor, logit_rgb: Tensor, logit_flow: Tensor, gamma: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Launch the forward kernel; scores lie in memory as ``cas`` does."""
    a, a_ca = (torch.empty(cas.shape[:2], dtype=cas.dtype, device=cas.device) for _ in range(2))
    yield (out := (empty_layout(cas), a, a_ca))
    from aicl_fast.kernels.gpu.fusion import fusion_fwd_kernel

    planar = is_planar(cas)
    grid, meta = _grid(cas, planar)
    logits = logit_rgb.contiguous(), logit_flow.contiguous()
    launch(fusion_fwd_kernel, grid, as_layout(cas, planar), *logits, *out, gamma, cas.shape[1], **meta)


@operation("score_fusion_backward")
def score_fusion_bwd(
    cas: Tensor,
    logit_rgb: Tensor,
    logit_flow: Tensor,
    gamma: float,
    d_scores: Tensor | None,
    d_a: Tensor | None,
    d_a_ca: Tensor | None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Launch the backward kernel; a gradient that is None is not read."""
    logits = (logit_rgb, logit_flow)
    d_rgb, d_flow = (torch.empty(cas.shape[:2], dtype=one.dtype, device=cas.device) for one in logits)
    yield (out := (empty_layout(cas), d_rgb, d_flow))
    from aicl_fast.kernels.gpu.fusion import fusion_bwd_kernel

    planar = is_planar(cas)
    grid, meta = _grid(cas, planar)
    launch(
        fusion_bwd_kernel,
        grid,
        as_layout(cas, planar),
        logit_rgb.contiguous(),
        logit_flow.contiguous(),
        cas if d_scores is None else as_layout(d_scores, planar),
        cas if d_a is None else d_a.contiguous(),
        cas if d_a_ca is None else d_a_ca.contiguous(),
        *out,
        gamma,
        cas.shape[1],
        WITH_SCORES=d_scores is not None,
        WITH_A=d_a is not None,
        WITH_A_CA=d_a_ca is not None,
        **meta,
    )


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

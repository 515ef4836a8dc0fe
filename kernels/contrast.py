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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aicl_fast.extras import needs

with needs("triton"):
    import torch
    from torch import Tensor

from aicl_fast.kernels.dispatch import (
    MAX_BATCH,
    MAX_LENGTH,
    as_layout,
    empty_layout,
    is_planar,
    operation,
    use_kernels,
)
from aicl_fast.kernels.launch import launch, next_power_of_2
from aicl_fast.kernels.mining import Mining

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


def _three(tensors: Sequence[Tensor]) -> list[Tensor]:
    """As many tensors as a launch takes; those too many repeat the first and are not touched."""
    return [*tensors, *[tensors[0]] * (_MAX_EMBEDDINGS - len(tensors))]


@operation("segment_contrast")
def segment_contrast_fwd(
    embeddings: Sequence[Tensor], ca: Tensor, cb: Tensor, ia: Tensor, ib: Tensor, tau: float
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Launch the forward kernel for one to three embeddings of one shape.

    Returns:
        ``losses`` (N, B, 2) of each half, not yet averaged over videos; ``vectors`` (N, B, 2, 4, De),
        ``scalars`` (N, B, 2, 4) and ``negatives`` (N, B, 2, 3, T) for the backward: each negative's cosines
        with both queries and one over its norm, 0 for other segments. All float32.
    """
    first = embeddings[0]
    batch, length, width = first.shape

    def empty(*last: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty((len(embeddings), batch, 2, *last), dtype=dtype, device=first.device)

    yield (out := (empty(), empty(4, width), empty(4), empty(3, length)))
    from aicl_fast.kernels.gpu.contrast import contrast_fwd_kernel

    planar = is_planar(first)
    settings = FORWARD_PLANAR if planar else FORWARD
    launch(
        contrast_fwd_kernel,
        (2, batch, len(embeddings)),
        *_three([as_layout(embedding, planar) for embedding in embeddings]),
        *(mask.contiguous() for mask in (ca, cb, ia, ib)),
        empty(2, length, dtype=torch.int32),  # lists of members
        *out,
        1 / tau,
        batch,
        length,
        DE=width,
        PLANAR=planar,
        EPS=_EPS,
        BLOCK_T=next_power_of_2(length),
        BLOCK_D=next_power_of_2(width),
        CHUNK=settings.segments(width),
        num_warps=settings.num_warps,
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
) -> Iterator[list[Tensor]]:
    """Launch the backward kernel; each gradient lies in memory as the first embedding does."""
    first = embeddings[0]
    yield (gradients := [empty_layout(first, embedding.dtype) for embedding in embeddings])
    from aicl_fast.kernels.gpu.contrast import contrast_bwd_kernel

    batch, length, width = first.shape
    planar = is_planar(first)
    block_t = min(BACKWARD.segments(width), next_power_of_2(length))
    launch(
        contrast_bwd_kernel,
        (-(-length // block_t), batch, len(embeddings)),
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
    # An absent term has no negative to sum over: its log-sum-exp is kept finite, then skipped.
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

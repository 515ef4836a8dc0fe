"""Segment contrastive loss (eq. 12 to 14): inconsistent segments are drawn to the consistent ones."""

from __future__ import annotations

import torch
from torch import Tensor

from aicl_fast.kernels.mining import Mining

_EPS = 1e-12


def segment_contrast_reference(embedding: Tensor, mining: Mining, tau: float) -> Tensor:
    """What :func:`segment_contrast` computes for one embedding, in plain torch.

    Cosines are taken as dot products over norms, so that no normalised copy of the embedding is made.
    """
    masks = torch.stack(list(mining), dim=1)  # (B, 4, T) in the order ca, cb, ia, ib
    counts = masks.sum(dim=2)
    means = masks.to(embedding.dtype) @ embedding / counts.clamp_min(1).unsqueeze(2).to(embedding.dtype)
    means = means / means.square().sum(-1, keepdim=True).clamp_min(_EPS**2).sqrt()
    norms = embedding.square().sum(-1).clamp_min(_EPS**2).sqrt()

    ca, cb, ia, ib = range(4)
    query = [ia, ib, ca, cb]
    positive = [ca, cb, ia, ib]
    negative = [cb, ca, cb, ca]
    queries = means[:, query]  # (B, 4, De), one row a term
    attract = (queries * means[:, positive]).sum(-1) / tau  # (B, 4)
    repel = queries @ embedding.transpose(1, 2) / norms.unsqueeze(1) / tau  # (B, 4, T)

    filled = counts > 0
    present = filled[:, query] & filled[:, positive] & filled[:, negative]
    # An absent term has no negative to sum over: its log-sum-exp is kept finite, then left out.
    members = masks[:, negative] | ~present.unsqueeze(2)
    total = torch.logsumexp(repel.masked_fill(~members, -torch.inf), dim=2)
    # -log(e^p / (e^p + Σ e^n)) = softplus(log Σ e^n - p)
    terms = torch.nn.functional.softplus(total - attract)
    return torch.where(present, terms, terms.new_zeros(())).sum(dim=1).mean()


def segment_contrast(embedding: Tensor, mining: Mining, tau: float) -> Tensor:
    """The contrastive loss of one embedding over the four pairs of mined segments.

    For (query, positive, negatives) in (IA, CA, CB), (IB, CB, CA), (CA, IA, CB), (CB, IB, CA): with q and
    k+ the L2-normalised means of the query and positive segments and n each L2-normalised negative,
    ``-log(exp(q·k+/τ) / (exp(q·k+/τ) + Σ exp(q·n/τ)))``; mean over the batch, the four summed. A term
    whose query, positive or negative set is empty is 0 for that video.

    Args:
        embedding: (B, T, De).
        mining: which segments, from :func:`aicl_fast.kernels.mine_segments`.
        tau: τ, the temperature.
    Returns:
        The loss, a scalar of the embedding's dtype.
    Source: eq. 12 to 14 as the authors' program reads them.
    """
    return segment_contrast_reference(embedding, mining, tau)

"""Score fusion (eq. 3, 4 and 8): class activation sequence and actionness into the scores that localise."""

from __future__ import annotations

from torch import Tensor


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

    Args:
        cas: (B, T, C) class activation sequence, logits.
        logit_rgb: (B, T) actionness of the first stream before its sigmoid.
        logit_flow: (B, T) actionness of the second stream before its sigmoid.
        gamma: γ in [0, 1], the share of the class-aware branch.
    Returns:
        ``scores`` (B, T, C) fused A_score; ``a`` (B, T) class-aware actionness sigmoid(sum of CAS);
        ``a_ca`` (B, T) class-agnostic actionness.
    Source: eq. 3, 4, 8, normalised as the authors' program does.
    """
    return score_fusion_reference(cas, logit_rgb, logit_flow, gamma)

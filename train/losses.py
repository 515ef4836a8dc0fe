"""AICL's losses (eq. 5 to 16), on whatever device the outputs are on, without a host round trip."""

from __future__ import annotations

from typing import NamedTuple

from aicl_fast.extras import needs

with needs("train"):
    import torch
    from torch import Tensor
    from torch.nn import functional

from aicl_fast.config import Config
from aicl_fast.errors import DataError
from aicl_fast.kernels import Mining, mine_segments, segment_contrast, topk_pool
from aicl_fast.model import Outputs

_EPS = 1e-7


class LossTerms(NamedTuple):
    """Every term of eq. 16, unweighted, and their weighted sum. A term that is switched off, or that
    compares with a stream the model does not read, is 0."""

    action: Tensor
    """L_a (eq. 5)"""
    agnostic_rgb: Tensor
    """L_ca of the first stream (eq. 9)"""
    agnostic_flow: Tensor
    """L_ca of the second stream (eq. 10)"""
    contrast_fused: Tensor
    """L_c of E; in the released program only, the paper's eq. 14 leaves it out"""
    contrast_rgb: Tensor
    """L_c of E_rgb"""
    contrast_flow: Tensor
    """L_c of E_flow"""
    modality: Tensor
    """L_mc (eq. 11)"""
    consistency: Tensor
    """L_ac (eq. 15)"""
    total: Tensor
    """Eq. 16: the sum, weighted by the config's loss section."""


def aicl_loss(
    outputs: Outputs, labels: Tensor, config: Config, *, selection_gamma: float | Tensor | None = None
) -> LossTerms:
    """All losses of one batch.

    Args:
        outputs: what :class:`aicl_fast.model.TwoBranchNet` returned for B videos.
        labels: (B, C) of any dtype, 1 or true where the video contains the class.
        config: weights and constants of its ``loss`` section; k and K follow from T.
        selection_gamma: γ of the scores that select the top-k segments; None selects by A_score, as
            released. 1 selects by softmax(CAS) alone, which is the warm-up.
    Raises:
        DataError: labels or outputs of shapes that do not fit each other.
    Source: eq. 5 to 16, and the authors' program where ``loss.variant`` is ``released``.
    """
    _check_shapes(outputs, labels)
    labels = labels.to(outputs.CAS.dtype)
    loss = config.loss
    modal = config.data.modal
    length = outputs.CAS.shape[1]
    zero = outputs.CAS.new_zeros(())
    selection = outputs.A_score if selection_gamma is None else _selection_scores(outputs, selection_gamma)
    logits, selected = topk_pool(outputs.CAS, selection, config.model.topk(length))

    target = labels / labels.sum(dim=1, keepdim=True).clamp_min(1)
    action = -(target * functional.log_softmax(logits, dim=1)).sum(dim=1).mean()

    agnostic_rgb = agnostic_flow = zero
    if loss.weight_agnostic:
        pseudo = pseudo_labels(selected, labels)
        if modal != "flow":
            agnostic_rgb = generalized_cross_entropy(outputs.A_rgb, pseudo, loss.gce_q)
        if modal != "rgb":
            agnostic_flow = generalized_cross_entropy(outputs.A_flow, pseudo, loss.gce_q)

    fused = rgb = flow = zero
    if loss.weight_contrast:
        mining = mine_segments(outputs.A, outputs.A_ca, max(1, length // loss.mining_divisor))
        embeddings = {"rgb": outputs.E_rgb, "flow": outputs.E_flow, "fused": outputs.E}
        if modal != "both":
            del embeddings["flow" if modal == "rgb" else "rgb"]
        if loss.variant == "paper":
            del embeddings["fused"]
        contrast = segment_contrast(list(embeddings.values()), mining, loss.temperature)
        losses = dict(zip(embeddings, contrast.unbind(), strict=True))
        fused, rgb, flow = (losses.get(name, zero) for name in ("fused", "rgb", "flow"))

    modality = consistency = zero
    if loss.weight_modality and modal == "both":
        modality = _agreement(outputs.A_rgb, outputs.A_flow, loss.variant == "paper")
    if loss.weight_consistency:
        consistency = _agreement(outputs.A, outputs.A_ca, loss.variant == "paper")

    total = (
        action
        + loss.weight_agnostic * (agnostic_rgb + agnostic_flow)
        + loss.weight_contrast * (fused + rgb + flow)
        + loss.weight_modality * modality
        + loss.weight_consistency * consistency
    )
    return LossTerms(action, agnostic_rgb, agnostic_flow, fused, rgb, flow, modality, consistency, total)


def pseudo_labels(selected: Tensor, labels: Tensor) -> Tensor:
    """(B, T) 1 where a segment is among the top-k of any class that the video contains, else 0.

    Args:
        selected: (B, T, C) bool from :func:`aicl_fast.kernels.topk_pool`.
        labels: (B, C), 1 for the classes present; its dtype is the result's.
    """
    return (selected & (labels > 0).unsqueeze(1)).any(dim=2).to(labels.dtype)


def generalized_cross_entropy(actionness: Tensor, pseudo: Tensor, q: float) -> Tensor:
    """Generalised cross entropy of an actionness against pseudo labels (eq. 9, 10), mean over videos.

    Args:
        actionness: (B, T) in [0, 1].
        pseudo: (B, T) of any dtype, 1 or true for action, 0 for background.
        q: noise tolerance; towards 0 it becomes the cross entropy, at 1 the mean absolute error.
    """
    pseudo = pseudo.to(actionness.dtype)
    background = 1 - pseudo
    on_action = (pseudo * (1 - (actionness + _EPS) ** q) / q).sum(dim=1) / (pseudo.sum(dim=1) + _EPS)
    on_background = (background * (1 - (1 - actionness + _EPS) ** q) / q).sum(dim=1)
    return (on_action + on_background / (background.sum(dim=1) + _EPS)).mean()


def _check_shapes(outputs: Outputs, labels: Tensor) -> None:
    # Shapes are known when a graph is compiled, so nothing of this is left in it.
    if outputs.CAS.dim() != 3:
        raise DataError(f"outputs.CAS: expected (B, T, C), got {tuple(outputs.CAS.shape)}.")
    videos, length, classes = outputs.CAS.shape
    if labels.shape != (videos, classes):
        raise DataError(
            f"labels: expected ({videos}, {classes}), a row for each video and a column for each class of "
            f"the network, got {tuple(labels.shape)}."
        )
    if outputs.A_score.shape != outputs.CAS.shape:
        raise DataError(
            f"outputs.A_score: expected CAS's shape {tuple(outputs.CAS.shape)}, got "
            f"{tuple(outputs.A_score.shape)}."
        )
    for name in ("A_rgb", "A_flow", "A", "A_ca"):
        shape = getattr(outputs, name).shape
        if shape != (videos, length):
            raise DataError(f"outputs.{name}: expected ({videos}, {length}), as CAS has, got {tuple(shape)}.")
    width = outputs.E.shape[-1]
    for name in ("E", "E_rgb", "E_flow"):
        shape = getattr(outputs, name).shape
        if shape != (videos, length, width):
            raise DataError(
                f"outputs.{name}: expected ({videos}, {length}, {width}), E's width at CAS's segments, got "
                f"{tuple(shape)}."
            )


def _agreement(a: Tensor, b: Tensor, stop_gradient: bool) -> Tensor:
    """MSE(a, b); eq. 11 and 15 stop the gradient in each half: same value, half the gradient."""
    if not stop_gradient:
        return functional.mse_loss(a, b)
    return (functional.mse_loss(a, b.detach()) + functional.mse_loss(b, a.detach())) / 2


def _selection_scores(outputs: Outputs, gamma: float | Tensor) -> Tensor:
    with torch.no_grad():
        return gamma * outputs.CAS.softmax(-1) + (1 - gamma) * outputs.A_ca.unsqueeze(-1)


__all__ = ["LossTerms", "Mining", "aicl_loss", "generalized_cross_entropy", "pseudo_labels"]

"""AICL's losses (eq. 5 to 16), on whatever device the outputs are on, without a host round trip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aicl_fast.extras import needs

with needs("train"):
    import torch
    from torch import Tensor
    from torch.nn import functional

from aicl_fast.config import Config
from aicl_fast.errors import DataError
from aicl_fast.kernels import mine_segments, segment_contrast, topk_pool
from aicl_fast.model import TwoBranchOutputs

_EPS = 1e-7
Losses = dict[str, Tensor]
"""Scalars by name, as :func:`loss_names` lists them."""
SegmentTargets = tuple[Tensor, Tensor]
"""(B, T, C), 1 where a segment shows the class, and (B, T) weights; background has a weight and no class."""


@dataclass(frozen=True)
class Batch:
    """What the terms are computed from, for B videos.

    Attributes:
        outputs: of the network.
        labels: (B, C), 1 where the video contains the class, else 0.
        logits: (B, C) video logits: mean CAS of each class's top-k segments.
        selected: (B, T, C) bool, the top-k segments of each class.
        segments: targets and weights of single segments, or None where nothing is known of them.
        config: weights and constants are in its ``loss`` section.
    """

    outputs: TwoBranchOutputs
    labels: Tensor
    logits: Tensor
    selected: Tensor
    segments: SegmentTargets | None
    config: Config

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that the model reads."""
        return ("rgb", "flow") if self.config.data.streams == "both" else (self.config.data.streams,)


@dataclass(frozen=True)
class Term:
    """One term of eq. 16.

    Attributes:
        parts: names of what it is the sum of, as ``log.csv`` has them.
        weight: the field of the ``loss`` section that is its weight, or the weight itself.
        compute: gives its parts by name. A part that it leaves out is 0.
    """

    parts: tuple[str, ...]
    weight: str | float
    compute: Callable[[Batch], Losses]

    def weight_in(self, config: Config) -> float:
        """Its weight with these settings. With 0 it is switched off, and not computed."""
        return float(getattr(config.loss, self.weight)) if isinstance(self.weight, str) else self.weight


def aicl_loss(
    outputs: TwoBranchOutputs,
    labels: Tensor,
    config: Config,
    *,
    selection_gamma: float | Tensor | None = None,
    segments: SegmentTargets | None = None,
) -> Losses:
    """All losses of one batch.

    Args:
        outputs: what :class:`aicl_fast.model.TwoBranchNet` returned for B videos.
        labels: (B, C) of any dtype, 1 or true where the video contains the class.
        config: weights and constants of its ``loss`` section; k and K follow from T.
        selection_gamma: γ of the scores that select the top-k segments; None selects by A_score, as in the
            authors' code. 1 selects by softmax(CAS) alone, which is the warm-up.
        segments: targets and weights of single segments for L_sc and L_sa, which the paper does not have.
    Returns:
        Scalars by the names of :func:`loss_names`: every part of every term, unweighted, and ``total``, their
        weighted sum. A part is 0 if its term is switched off, or needs a stream that the model does not read.
    Raises:
        DataError: labels or outputs of shapes that do not fit each other.
    Source: eq. 5 to 16, and the authors' code where ``loss.variant`` is ``released``; docs/method.md,
        section 4.
    """
    _check_shapes(outputs, labels)
    labels = labels.to(outputs.CAS.dtype)
    selection = outputs.A_score if selection_gamma is None else _selection_scores(outputs, selection_gamma)
    logits, selected = topk_pool(outputs.CAS, selection, config.model.topk(outputs.CAS.shape[1]))
    batch = Batch(outputs, labels, logits, selected, segments, config)
    zero = total = outputs.CAS.new_zeros(())
    losses: Losses = {}
    for term in TERMS.values():
        weight = term.weight_in(config)
        found = term.compute(batch) if weight else {}
        parts = {name: found.get(name, zero) for name in term.parts}
        losses.update(parts)
        if weight:
            total = total + weight * sum(parts.values(), zero)
    return {**losses, "total": total}


def loss_names() -> list[str]:
    """What :func:`aicl_loss` returns, in its order."""
    return [*(part for term in TERMS.values() for part in term.parts), "total"]


def only(*names: str) -> dict[str, float]:
    """Settings under which these terms of :data:`TERMS` are all that is trained with."""
    others = [term.weight for name, term in TERMS.items() if name not in names]
    return {f"loss.{weight}": 0.0 for weight in others if isinstance(weight, str)}


def _action(batch: Batch) -> Losses:
    target = batch.labels / batch.labels.sum(dim=1, keepdim=True).clamp_min(1)
    return {"action": -(target * functional.log_softmax(batch.logits, dim=1)).sum(dim=1).mean()}


def _agnostic(batch: Batch) -> Losses:
    pseudo = pseudo_labels(batch.selected, batch.labels)
    return {
        f"agnostic_{stream}": generalized_cross_entropy(
            getattr(batch.outputs, f"A_{stream}"), pseudo, batch.config.loss.gce_q
        )
        for stream in batch.streams
    }


def _contrast(batch: Batch) -> Losses:
    outputs, loss = batch.outputs, batch.config.loss
    mining = mine_segments(outputs.A, outputs.A_ca, max(1, outputs.A.shape[1] // loss.mining_divisor))
    embeddings = {stream: getattr(outputs, f"E_{stream}") for stream in batch.streams}
    if loss.variant == "released":
        embeddings["fused"] = outputs.E
    values = segment_contrast(list(embeddings.values()), mining, loss.temperature).unbind()
    return {f"contrast_{name}": value for name, value in zip(embeddings, values, strict=True)}


def _modality(batch: Batch) -> Losses:
    if len(batch.streams) < 2:
        return {}
    return {"modality": _agreement(batch.outputs.A_rgb, batch.outputs.A_flow, batch.config)}


def _consistency(batch: Batch) -> Losses:
    return {"consistency": _agreement(batch.outputs.A, batch.outputs.A_ca, batch.config)}


def _segment_class(batch: Batch) -> Losses:
    """Cross entropy of the classes on segments of action."""
    if batch.segments is None:
        return {}
    target, weight = batch.segments
    share = target / target.sum(dim=2, keepdim=True).clamp_min(1)
    entropy = -(share * functional.log_softmax(batch.outputs.CAS, dim=2)).sum(dim=2)
    return {"segment_class": _weighted_mean(entropy, weight * target.amax(dim=2))}


def _segment_actionness(batch: Batch) -> Losses:
    """Cross entropy of each stream's actionness on segments of action, and on those of background."""
    if batch.segments is None:
        return {}
    target, weight = batch.segments
    action = target.amax(dim=2)
    total = batch.outputs.CAS.new_zeros(())
    for stream in batch.streams:
        value = getattr(batch.outputs, f"A_{stream}")
        total = total + _weighted_mean(-(value + _EPS).log(), weight * action)
        total = total + _weighted_mean(-(1 - value + _EPS).log(), weight * (1 - action))
    return {"segment_actionness": total}


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Over each video's segments, then over the videos. (B, T) each; a video without weights counts as 0."""
    return ((values * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(_EPS)).mean()


TERMS: dict[str, Term] = {
    "L_a": Term(("action",), 1.0, _action),  # eq. 5
    "L_ca": Term(("agnostic_rgb", "agnostic_flow"), "weight_agnostic", _agnostic),  # eq. 9, 10
    # eq. 12 to 14; the paper leaves the fused embedding out
    "L_c": Term(("contrast_fused", "contrast_rgb", "contrast_flow"), "weight_contrast", _contrast),
    "L_mc": Term(("modality",), "weight_modality", _modality),  # eq. 11
    "L_ac": Term(("consistency",), "weight_consistency", _consistency),  # eq. 15
    # Of points, times and a teacher's detections (docs/accuracy.md); the paper has labels of videos alone.
    "L_sc": Term(("segment_class",), "weight_segment_class", _segment_class),
    "L_sa": Term(("segment_actionness",), "weight_segment_actionness", _segment_actionness),
}
"""The terms of eq. 16 by the paper's names, and two of segments. Another package adds its own here before it
trains."""


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


def _check_shapes(outputs: TwoBranchOutputs, labels: Tensor) -> None:
    # Shapes are known when a graph is compiled, so the graph holds nothing of this.
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


def _agreement(a: Tensor, b: Tensor, config: Config) -> Tensor:
    """MSE(a, b); eq. 11 and 15 stop the gradient in each half: same value, half the gradient."""
    if config.loss.variant == "released":
        return functional.mse_loss(a, b)
    return (functional.mse_loss(a, b.detach()) + functional.mse_loss(b, a.detach())) / 2


def _selection_scores(outputs: TwoBranchOutputs, gamma: float | Tensor) -> Tensor:
    with torch.no_grad():
        return gamma * outputs.CAS.softmax(-1) + (1 - gamma) * outputs.A_ca.unsqueeze(-1)


__all__ = [
    "TERMS",
    "Batch",
    "Losses",
    "Term",
    "aicl_loss",
    "generalized_cross_entropy",
    "loss_names",
    "only",
    "pseudo_labels",
]

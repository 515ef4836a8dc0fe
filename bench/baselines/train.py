"""One training step as one writes it from the method's text: the baseline that `bench/suites/train.py` times.

float32, eager, a Python loop over the batch for the pseudo labels, and medians and mining by way of NumPy.
Nothing is done slowly on purpose; it is what the method's description suggests.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from aicl_fast.config import Config
from aicl_fast.model import TwoBranchNet


def forward(net: TwoBranchNet, x: Tensor, gamma: float) -> dict[str, Tensor]:
    """The network, one operation after the other."""
    x = x.permute(0, 2, 1)
    width = net.rgb_width
    e = functional.relu(net.embed(x))
    e_rgb = functional.relu(net.embed_rgb(x[:, :width]))
    e_flow = functional.relu(net.embed_flow(x[:, width:]))
    cas = net.classify(e).permute(0, 2, 1)
    a_rgb = torch.sigmoid(net.actionness_rgb(e_rgb)).squeeze(1)
    a_flow = torch.sigmoid(net.actionness_flow(e_flow)).squeeze(1)
    a_ca = (a_rgb + a_flow) / 2
    score = gamma * functional.softmax(cas.detach(), dim=-1) + (1 - gamma) * a_ca.detach().unsqueeze(2)
    return {
        "e": e.permute(0, 2, 1), "e_rgb": e_rgb.permute(0, 2, 1), "e_flow": e_flow.permute(0, 2, 1),
        "cas": cas, "a_rgb": a_rgb, "a_flow": a_flow, "a_ca": a_ca, "a": torch.sigmoid(cas.sum(dim=2)),
        "score": score,
    }  # fmt: skip


def total_loss(net: TwoBranchNet, x: Tensor, labels: Tensor, config: Config) -> Tensor:
    """Eq. 16 with the released program's variant."""
    loss, out = config.loss, forward(net, x, config.model.fusion_gamma)
    k = max(1, x.shape[1] // config.model.topk_divisor)
    _, index = torch.topk(out["score"], k, dim=1)
    logits = torch.gather(out["cas"], 1, index).mean(dim=1)
    target = labels / labels.sum(dim=1, keepdim=True)
    action = -(target * torch.log(functional.softmax(logits, dim=1))).sum(dim=1).mean()

    pseudo = torch.zeros_like(out["a_rgb"])
    for video in range(len(x)):
        for c in torch.nonzero(labels[video]).flatten().tolist():
            pseudo[video, index[video, :, c]] = 1.0
    agnostic = _generalized(out["a_rgb"], pseudo, loss.gce_q) + _generalized(
        out["a_flow"], pseudo, loss.gce_q
    )

    mined = _mine(out["a"], out["a_ca"], max(1, x.shape[1] // loss.mining_divisor))
    contrast = sum(_contrast(out[name], mined, loss.temperature) for name in ("e", "e_rgb", "e_flow"))
    modality = functional.mse_loss(out["a_rgb"], out["a_flow"])
    consistency = functional.mse_loss(out["a"], out["a_ca"])
    total: Any = action + loss.weight_agnostic * agnostic + loss.weight_contrast * contrast
    result: Tensor = total + loss.weight_modality * modality + loss.weight_consistency * consistency
    return result


def _generalized(a: Tensor, g: Tensor, q: float) -> Tensor:
    on = (g * (1 - (a + 1e-7) ** q) / q).sum(dim=1) / (g.sum(dim=1) + 1e-7)
    off = ((1 - g) * (1 - (1 - a + 1e-7) ** q) / q).sum(dim=1) / ((1 - g).sum(dim=1) + 1e-7)
    return on.mean() + off.mean()


def _mine(a: Tensor, a_ca: Tensor, k: int) -> list[tuple[Tensor, ...]]:
    """(CA, CB, IA, IB) indices of each video."""
    score, other = a.detach().cpu().numpy(), a_ca.detach().cpu().numpy()
    first = score > np.median(score, axis=1, keepdims=True)
    second = other > np.median(other, axis=1, keepdims=True)
    mined = []
    for video in range(len(score)):
        falling = np.argsort(-score[video], kind="stable")
        rising = np.argsort(score[video], kind="stable")
        both, neither = first[video] & second[video], ~first[video] & ~second[video]
        differ = first[video] != second[video]
        chosen = (
            falling[both[falling]],
            rising[neither[rising]],
            falling[differ[falling]],
            rising[differ[rising]],
        )
        mined.append(tuple(torch.from_numpy(each[:k].copy()) for each in chosen))
    return mined


def _contrast(embedding: Tensor, mined: list[tuple[Tensor, ...]], tau: float) -> Tensor:
    total = embedding.new_zeros(())
    for video, (ca, cb, ia, ib) in zip(embedding, mined, strict=True):
        for query, positive, negative in ((ia, ca, cb), (ib, cb, ca), (ca, ia, cb), (cb, ib, ca)):
            if not (len(query) and len(positive) and len(negative)):
                continue
            q = functional.normalize(video[query].mean(dim=0), dim=0)
            p = functional.normalize(video[positive].mean(dim=0), dim=0)
            n = functional.normalize(video[negative], dim=1)
            logits = torch.cat([(q * p).sum().reshape(1), n @ q]) / tau
            total = total - functional.log_softmax(logits, dim=0)[0]
    return total / len(embedding)

"""Features to detections as the released program orders it: the baseline of `detect`, `engines` and `load`.

Eager float32 torch for the network, then NumPy: top-k pooling, the video's classes, and decoding on the grid.
"""

from __future__ import annotations

import numpy as np
import torch

from aicl_fast.bench.baselines import decode as reference_decode
from aicl_fast.bench.baselines import train as reference_train
from aicl_fast.config import Config
from aicl_fast.data.features import Array
from aicl_fast.data.sampling import sample
from aicl_fast.model import TwoBranchNet


class ReferenceDetector:
    """Runs one video at a time, as test scripts do; the network alone takes batches too."""

    def __init__(self, net: TwoBranchNet, config: Config, device: str = "cpu") -> None:
        self.net = net.eval().to(device)
        self.config = config
        self.device = device

    def __call__(self, rgb: Array, flow: Array) -> tuple[Array, Array]:
        """(N,) classes and (N, 3) start, end and score in seconds of one recording."""
        config = self.config
        features = np.concatenate([rgb, flow], axis=1)
        sampled = sample([[features]], config.data.segments)
        return self.decoded(torch.from_numpy(sampled), len(features))

    def decoded(self, sampled: torch.Tensor, num_segments: int) -> tuple[Array, Array]:
        """The same from (1, T, D) sampled features."""
        config = self.config
        score, video = self.scores(sampled)
        return reference_decode.decode(score[0], video[0], num_segments, config.decode, config.data)

    @torch.no_grad()
    def scores(self, features: torch.Tensor) -> tuple[Array, Array]:
        """(B, T, C) fused scores and (B, C) video scores of (B, T, D) features."""
        x = features.to(self.device)
        if self.config.model.standardize_input:
            x = (x - self.net.input_mean) * self.net.input_scale
        out = reference_train.forward(self.net, x, self.config.model.fusion_gamma)
        score, cas = out["score"].cpu().numpy(), out["cas"].cpu().numpy()
        order = np.argsort(-score, axis=1, kind="stable")[:, : self.config.topk]
        logits = np.take_along_axis(cas, order, axis=1).mean(axis=1)
        video = np.exp(logits - logits.max(axis=1, keepdims=True))
        return score, video / video.sum(axis=1, keepdims=True)

"""Features to detections as the released program orders it: the baseline of the `detect` suite.

Eager float32 torch for the network, then NumPy: top-k pooling, the video's classes, and decoding on the grid.
"""

from __future__ import annotations

import numpy as np
import torch

from aicl_fast.bench import textbook_decode, textbook_train
from aicl_fast.config import Config
from aicl_fast.features import Array, sample_indices
from aicl_fast.model import TwoBranchNet


class TextbookDetector:
    """Runs one video at a time, as test scripts do."""

    def __init__(self, net: TwoBranchNet, config: Config) -> None:
        self.net = net.eval()
        self.config = config

    @torch.no_grad()
    def __call__(self, rgb: Array, flow: Array) -> tuple[Array, Array]:
        """(N,) classes and (N, 3) start, end and score in seconds of one recording."""
        config = self.config
        features = np.concatenate([rgb, flow], axis=1)
        sampled = features[sample_indices(len(features), config.data.segments)]
        out = textbook_train.forward(self.net, torch.from_numpy(sampled)[None], config.model.fusion_gamma)
        score, cas = out["score"][0].numpy(), out["cas"][0].numpy()
        order = np.argsort(-score, axis=0, kind="stable")[: config.topk]
        logits = np.take_along_axis(cas, order, axis=0).mean(axis=0)
        video = np.exp(logits - logits.max())
        return textbook_decode.decode(score, video / video.sum(), len(features), config.decode, config.data)

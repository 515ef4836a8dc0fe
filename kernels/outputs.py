"""What a localisation network gives, whatever runs it. Imports no torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class NetworkOutputs(NamedTuple):
    """What a localisation network gives for B videos, float32, on the host."""

    scores: Floats
    """(B, T, C) fused A_score"""
    video_scores: Floats
    """(B, C) softmax of the video logits"""
    actionness: Floats
    """(B, T) class-aware A"""
    actionness_agnostic: Floats
    """(B, T) class-agnostic A_ca"""

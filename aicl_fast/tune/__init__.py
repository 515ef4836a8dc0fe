"""Tuning: the fusion's γ and the decoding's settings, chosen on annotated recordings (docs/accuracy.md)."""

from __future__ import annotations

from aicl_fast.tune.curves import Curves, collect_curves, timed_videos, weights_curves
from aicl_fast.tune.search import SPACE, Choice, Tuned, tune

__all__ = ["SPACE", "Choice", "Curves", "Tuned", "collect_curves", "timed_videos", "tune", "weights_curves"]

"""What is tried: each candidate is a change of settings of which some data gain and others lose."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from aicl_fast.config import Config
from aicl_fast.data.annotations import GroundTruth


@dataclass(frozen=True)
class Candidate:
    """Settings to train with.

    Attributes:
        name: as the report names it.
        changes: settings that differ from the data set's own.
        needs: what some training recordings must have: ``times``, ``points`` or nothing.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    needs: str = ""


_L_A = {
    "loss.weight_agnostic": 0.0,
    "loss.weight_contrast": 0.0,
    "loss.weight_modality": 0.0,
    "loss.weight_consistency": 0.0,
}
"""Without the terms beside L_a that need no labels of segments."""

CANDIDATES: tuple[Candidate, ...] = (
    Candidate("as configured"),
    Candidate("more segments a class", {"model.topk_divisor": 4}),
    Candidate("L_a alone, by softmax(CAS)", {**_L_A, "model.fusion_gamma": 1.0}),
    Candidate("selection by softmax(CAS)", {"train.selection_gamma": 1.0}),
    Candidate("L_a + L_ca", {**_L_A, "loss.weight_agnostic": 1.0}),
    Candidate("fewer segments a class", {"model.topk_divisor": 16}),
    Candidate("selection by the fused score", {"train.selection_gamma": None}),
    Candidate("with start and end", {"train.supervision": "times"}, needs="times"),
    Candidate("without the points", {"train.supervision": "videos"}, needs="points"),
)
"""In the order in which a short time budget takes them."""


def candidates(config: Config, truth: GroundTruth, fixed: Collection[str] = ()) -> tuple[Candidate, ...]:
    """Those that differ from the settings, and do not change one that is given.

    Args:
        config: the data set's settings.
        truth: annotations of the recordings to train on.
        fixed: settings that the user named, as ``section.name``.
    """
    videos = truth.videos.values()
    there = {"": True}
    there["times"] = any(video.timed.any() for video in videos)
    there["points"] = any(video.points.any() for video in videos)
    found, seen = [], []
    for each in CANDIDATES:
        changed = config.with_values(each.changes)
        if changed not in seen and there[each.needs] and set(fixed).isdisjoint(each.changes):
            seen.append(changed)
            found.append(each)
    return tuple(found)

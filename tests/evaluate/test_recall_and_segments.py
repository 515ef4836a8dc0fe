"""Average recall against loops; segment accuracy by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from aicl_fast.data.annotations import GroundTruth, VideoAnnotation
from aicl_fast.data.scores import Scores
from aicl_fast.errors import ConfigError, DataError
from aicl_fast.evaluate import average_recall, segment_accuracy
from aicl_fast.evaluate.segments import segment_labels


def test_recall_refuses(truth_of: Any, found_of: Any) -> None:
    truth, found = truth_of({"v": [("a", 0, 1)]}), found_of({"v": []})
    for numbers in ([], [0]):
        with pytest.raises(ConfigError, match="numbers"):
            average_recall(truth, found, numbers)
    assert average_recall(truth, found).average.max() == 0.0


def scores_of(aware: list[float], agnostic: list[float], num_segments: int) -> Scores:
    """Segments of one second."""
    length = len(aware)
    return Scores(
        np.zeros((length, 1), np.float32),
        np.ones(1, np.float32),
        np.array(aware, np.float32),
        np.array(agnostic, np.float32),
        num_segments,
        25.0,
        25,
        ("a",),
    )


def truth_with(*segments: tuple[str, float, float]) -> GroundTruth:
    video = VideoAnnotation(
        "test", tuple(item[0] for item in segments), np.array([item[1:] for item in segments])
    )
    return GroundTruth({"v": video})


def test_segments_are_labelled_by_their_middle() -> None:
    truth = truth_with(("a", 1.4, 3.5), ("Ambiguous", 0, 100))
    # 8 segments of a second sampled to 4: those that begin at 0, 2, 4 and 6 s; middles 0.5, 2.5, 4.5, 6.5.
    assert (
        segment_labels(scores_of([0] * 4, [0] * 4, 8), truth.videos["v"]).tolist()
        == [False, True] + [False] * 2
    )
    four = segment_labels(scores_of([0] * 4, [0] * 4, 4), truth.videos["v"])
    assert four.tolist() == [False, True, True, False]  # 1.5 and 2.5; 3.5 is the end, not inside


def test_accuracy_by_hand() -> None:
    truth = truth_with(("a", 1, 3))
    perfect, inverted = [0.1, 0.9, 0.8, 0.2], [0.9, 0.1, 0.2, 0.8]
    result = segment_accuracy(
        {"v": scores_of(perfect, inverted, 4), "unknown": scores_of(perfect, perfect, 4)}, truth
    )
    assert (result.aware, result.agnostic, result.ceiling, result.consistent) == (1.0, 0.0, 1.0, 0.0)
    assert (result.action, result.videos, result.segments) == (0.5, 1, 4)
    assert result.by_video == {"v": (1.0, 0.0)}
    json.dumps(result.to_dict())


def test_a_division_at_the_median_has_a_ceiling() -> None:
    """One segment of four is action; two are called so: at best three are right."""
    truth = truth_with(("a", 0, 1))
    result = segment_accuracy({"v": scores_of([0.9, 0.8, 0.1, 0.2], [0.9, 0.8, 0.1, 0.2], 4)}, truth)
    assert result.aware == result.ceiling == 0.75


def test_accuracy_needs_a_common_video() -> None:
    with pytest.raises(DataError, match="none of the 1"):
        segment_accuracy({"w": scores_of([0.0, 1.0], [0.0, 1.0], 2)}, truth_with(("a", 0, 1)))

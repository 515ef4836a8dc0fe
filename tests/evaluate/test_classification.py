"""Average precision and accuracy of video scores against labels."""

from __future__ import annotations

import numpy as np
import pytest

from aicl_fast.data.annotations import GroundTruth, VideoAnnotation
from aicl_fast.data.scores import Scores
from aicl_fast.errors import DataError
from aicl_fast.evaluate import video_classification

CLASSES = ("A", "B", "C")


def _scores(*rows: tuple[float, float, float]) -> dict[str, Scores]:
    curve = np.zeros(4, np.float32)
    return {
        f"v{number}": Scores(
            np.zeros((4, 3), np.float32), np.array(row, np.float32), curve, curve, 4, 25.0, 16, CLASSES
        )
        for number, row in enumerate(rows)
    }


def _truth(*labels: tuple[str, ...]) -> GroundTruth:
    videos = {
        f"v{number}": VideoAnnotation("test", each, np.zeros((len(each), 2)))
        for number, each in enumerate(labels)
    }
    return GroundTruth(videos)


def test_by_hand() -> None:
    scores = _scores((0.7, 0.2, 0.1), (0.6, 0.3, 0.1), (0.5, 0.4, 0.1), (0.2, 0.7, 0.1))
    found = video_classification(scores, _truth(("A",), ("B",), ("A", "B"), ("B",)))
    # A is first and third; B is first, second and third.
    assert found.per_class == pytest.approx({"A": (1 + 2 / 3) / 2, "B": 1.0})
    assert found.mAP == pytest.approx((5 / 6 + 1) / 2)
    assert found.accuracy == pytest.approx(3 / 4)
    assert found.videos == 4
    assert found.to_dict()["videos"] == 4


def test_equal_scores_count_together() -> None:
    found = video_classification(_scores(*[(0.5, 0.5, 0.0)] * 4), _truth(("A",), ("B",), ("B",), ("B",)))
    assert found.per_class == pytest.approx({"A": 0.25, "B": 0.75})


def test_videos_without_labels_and_ambiguous_are_left_out() -> None:
    scores = _scores((0.7, 0.2, 0.1), (0.1, 0.8, 0.1), (0.1, 0.8, 0.1))
    found = video_classification(scores, _truth(("A",), (), ("Ambiguous",)))
    assert (found.videos, found.accuracy, dict(found.per_class)) == (1, 1.0, {"A": 1.0})


def test_no_label_at_all() -> None:
    with pytest.raises(DataError, match="has no label of the 1 videos that have scores"):
        video_classification(_scores((1.0, 0.0, 0.0)), _truth(()))


def test_a_label_that_the_model_does_not_know_is_wrong() -> None:
    found = video_classification(_scores((1.0, 0.0, 0.0)), _truth(("D",)))
    assert (found.mAP, found.accuracy) == (0.0, 0.0)

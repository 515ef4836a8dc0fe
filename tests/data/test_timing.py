"""Features that last longer or shorter than the annotations say: which are said, and the likely cause."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from aicl_fast.config import DataConfig
from aicl_fast.data.annotations import GroundTruth, VideoAnnotation
from aicl_fast.data.timing import check_durations
from aicl_fast.errors import AiclWarning

DATA = DataConfig()


def said(
    entries: dict[str, tuple[float | None, float | None]], seconds: float = 64.0, **options: bool
) -> str:
    """What is said of videos with these (duration, fps) whose features cover so many seconds."""
    videos = {
        name: VideoAnnotation("test", (), np.zeros((0, 2)), duration, fps)
        for name, (duration, fps) in entries.items()
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_durations(
            GroundTruth(videos, "gt.json"), dict.fromkeys(entries, 64.0), DATA, "--fps ", **options
        )
    assert all(each.category is AiclWarning for each in caught)
    return " ".join(str(each.message) for each in caught)


@pytest.mark.parametrize("duration", [64.0, 63.2, 64.7, 65.5, None, 0.0])
def test_durations_that_agree(duration: float | None) -> None:
    assert said({"a": (duration, None)}) == ""


@pytest.mark.parametrize("rate", [24.0, 30.0, 15.0, 50.0])
def test_another_frame_rate_is_named(rate: float) -> None:
    text = said({"a": (64.0 * 25 / rate, None), "b": (64.0 * 25 / rate, rate)})
    assert "'a'" in text
    assert "64.0 s" in text
    assert "1 more" in text
    assert f"--fps {rate:g}." in text


def test_no_cause_is_guessed_where_videos_differ() -> None:
    assert "--fps …" in said({"a": (50.0, None), "b": (80.0, None)})
    text = said({"a": (50.0, 30.0)}, known=True)
    assert "record their frame rate" in text


def test_a_frame_rate_alone() -> None:
    assert "--fps 30." in said({"a": (None, 30.0)})
    # With a duration that fits, the videos were brought to the features' rate.
    assert said({"a": (64.0, 30.0)}) == ""
    assert said({"a": (None, 25.0)}) == ""
    assert said({"a": (None, 30.0)}, known=True) == ""

"""The suite `video`, decoding and flow: contenders that disagree are not timed; what a row holds."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("cv2")

from aicl_fast.bench import video_file
from aicl_fast.errors import AiclError


def test_decoding() -> None:
    rows = video_file.measure_decode(0.0, segments=1)
    assert [row["way"] for row in rows] == [video_file.READER, "as read here"]
    for row in rows:
        assert (row["stage"], row["batch"]) == ("decode", 1)
        assert row["frames_per_second"] == pytest.approx(16e3 / row["p50_ms"])
    assert rows[0]["apart_levels"] == 0
    assert 0 <= rows[1]["apart_levels"] < 3


def test_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    """On small frames, which take a hundredth of the time."""
    small = video_file.Transform(64, 56)
    monkeypatch.setattr(video_file, "Transform", lambda: small)
    rows = video_file.measure_flow(0.0, 2, pairs=2)
    assert [row["way"] for row in rows] == [
        video_file.PAIRWISE,
        "TV-L1, in a pool",
        "DIS, pair by pair",
        "DIS, in a pool",
    ]
    assert [row["apart_pixels"] for row in rows[:2]] == pytest.approx([0, 0], abs=1e-3)
    assert rows[2]["apart_pixels"] == pytest.approx(rows[3]["apart_pixels"], abs=1e-3)
    assert 0 < rows[2]["apart_pixels"] < 2
    assert rows[0]["frames_per_second"] == pytest.approx(2e3 / rows[0]["p50_ms"])


def test_only_what_agrees_is_timed() -> None:
    frames = [np.zeros((4, 4, 3), np.uint8)] * 2
    for other in (frames[:1], [frame + 9 for frame in frames]):
        with pytest.raises(AiclError, match="mine: gives"):
            video_file.check_frames({video_file.READER: lambda: frames, "mine": lambda other=other: other})
    flow = [np.zeros((4, 4, 2), np.float32)]
    with pytest.raises(AiclError, match="TV-L1, mine: is"):
        video_file.check_flow({video_file.PAIRWISE: lambda: flow, "TV-L1, mine": lambda: [flow[0] + 1]})

"""The suite `video`, decoding and flow: contenders that disagree are not timed; what a row holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("cv2")

from aicl_fast.bench.harness.tables import TABLES
from aicl_fast.bench.suites import video_file
from aicl_fast.engines.session import Session
from aicl_fast.errors import AiclError
from aicl_fast.metadata import SegmentInfo, Stream
from aicl_fast.signature import SegmentOutputs
from aicl_fast.video.networks import SegmentNetwork


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


class Means(Session):
    """A few pixels of each clip."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(Path(stream), SegmentInfo(stream, ""))

    def run(self, clips) -> SegmentOutputs:
        means = clips[:, 0, :3, :3].mean((1, 2, 3), dtype=np.float32)[:, None]
        return SegmentOutputs(np.repeat(means, 1024, 1), np.repeat(means, 400, 1))


def test_the_whole() -> None:
    networks = {"rgb": SegmentNetwork(Means("rgb")), "flow": SegmentNetwork(Means("flow"))}
    rows = video_file.measure_whole(networks, 0.0, 2, segments=1, least=1)
    assert [(row["stage"], row["way"]) for row in rows] == [
        ("whole", video_file.IN_TURN),
        ("whole", video_file.AT_ONCE),
    ]
    shares = [rows[0][f"{name}_share"] for name in ("decode", "flow", "network")]
    assert sum(shares) == pytest.approx(1)
    # These networks are nothing.
    assert shares[1] > shares[2]
    assert "flow_share" not in rows[1]
    (line,) = [
        line for line in TABLES["video"]({"rows": rows, "threads": 2}) if line.startswith("Of the whole")
    ]
    assert line.startswith("Of the whole, one after the other: decoding ")


def test_a_whole_with_other_features_is_not_timed() -> None:
    features = np.ones((1, 4), np.float32)
    video_file.check_features((features, features), (features, features))
    for other in (features * 2, features[:, :2]):
        with pytest.raises(AiclError, match="its flow features differ by"):
            video_file.check_features((features, features), (features, other))


def test_only_what_agrees_is_timed() -> None:
    frames = [np.zeros((4, 4, 3), np.uint8)] * 2
    for other in (frames[:1], [frame + 9 for frame in frames]):
        with pytest.raises(AiclError, match="mine: gives"):
            video_file.check_frames({video_file.READER: lambda: frames, "mine": lambda other=other: other})
    flow = [np.zeros((4, 4, 2), np.float32)]
    with pytest.raises(AiclError, match="TV-L1, mine: is"):
        video_file.check_flow({video_file.PAIRWISE: lambda: flow, "TV-L1, mine": lambda: [flow[0] + 1]})

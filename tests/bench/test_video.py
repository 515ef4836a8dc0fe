"""The suite `video`: contenders that disagree are not timed; what a row holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from aicl_fast.bench import video
from aicl_fast.errors import AiclError
from aicl_fast.video.networks import SegmentInfo, SegmentNetwork, SegmentOutputs


class Half(SegmentNetwork):
    """The mean of each clip and its half, a bit off."""

    def __init__(self, off: float) -> None:
        super().__init__(Path("half"), SegmentInfo("rgb", ""))
        self.off = off

    def run(self, clips) -> SegmentOutputs:
        means = clips[:, 0, :9, :9].mean((1, 2, 3))[:, None] * (1 + self.off)
        return SegmentOutputs(np.hstack([means, means / 2]), means)


def test_only_what_agrees_is_timed() -> None:
    clips = video.random_clips(Half(0), 2)
    contenders = {video.BASELINE: Half(0), "mine, fp32": Half(5e-4), "mine, bf16": Half(1e-2)}
    apart = video.check(contenders, clips)
    assert apart == pytest.approx({video.BASELINE: 0, "mine, fp32": 5e-4, "mine, bf16": 1e-2}, rel=1e-6)
    for off in (2e-3, float("nan")):
        with pytest.raises(AiclError, match="mine, fp32: features differ by"):
            video.check(contenders | {"mine, fp32": Half(off)}, clips)


def test_a_row_a_way_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "PlainI3D", lambda *_: Half(0))
    monkeypatch.setattr(video, "load_i3d", lambda *_: None)
    monkeypatch.setattr(video, "open_networks", lambda *_: {"mine, fp32": Half(0)})
    rows = video.measure_network(video.Subject(Path(), (1, 3), 1, "cpu", 0.0, compiled=False))
    assert [(row["way"], row["batch"]) for row in rows] == [
        (video.BASELINE, 1),
        ("mine, fp32", 1),
        (video.BASELINE, 3),
        ("mine, fp32", 3),
    ]
    for row in rows:
        assert row["stage"] == "network"
        assert row["segments_per_second"] == pytest.approx(1e3 * row["batch"] / row["p50_ms"])

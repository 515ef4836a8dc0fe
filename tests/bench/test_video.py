"""The suite `video`: contenders that disagree are not timed; what a row holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from aicl_fast.bench.suites import video
from aicl_fast.engines.session import Session
from aicl_fast.errors import AiclError, ConfigError, UnavailableError
from aicl_fast.metadata import SegmentInfo
from aicl_fast.signature import SegmentOutputs
from aicl_fast.video.networks import SegmentNetwork


class _Half(Session):
    """The mean of each clip and its half, a bit off."""

    def __init__(self, off: float) -> None:
        super().__init__(Path("half"), SegmentInfo("rgb", ""))
        self.off = off

    def run(self, clips) -> SegmentOutputs:
        # Of few bits, so that a power of two more is exact in float32.
        means = np.ceil(clips[:, 0, :9, :9].mean((1, 2, 3)))[:, None] * (1 + self.off)
        features = np.hstack([np.repeat(means, 512, axis=1), np.repeat(means / 2, 512, axis=1)])
        return SegmentOutputs(features.astype(np.float32), np.repeat(means, 400, axis=1).astype(np.float32))


def half(off: float) -> SegmentNetwork:
    return SegmentNetwork(_Half(off))


def test_only_what_agrees_is_timed() -> None:
    clips = video.random_clips(half(0), 2)
    contenders = {video.BASELINE: half(0), "mine, fp32": half(2**-11), "mine, bf16": half(2**-7)}
    apart = video.check(contenders, clips)
    assert apart == pytest.approx({video.BASELINE: 0, "mine, fp32": 2**-11, "mine, bf16": 2**-7}, rel=1e-6)
    for off in (2e-3, float("nan")):
        with pytest.raises(AiclError, match="mine, fp32: features differ by"):
            video.check(contenders | {"mine, fp32": half(off)}, clips)


def test_a_row_a_way_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "PlainI3D", lambda *_: half(0))
    monkeypatch.setattr(video, "load_i3d", lambda *_: None)
    monkeypatch.setattr(video, "open_networks", lambda *_: {"mine, fp32": half(0)})
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


def test_a_stage_without_its_packages_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(_: video.Subject) -> list[dict[str, Any]]:
        raise ModuleNotFoundError("No module named 'av'", name="av")

    row = {"stage": "network", "way": "ours", "batch": 1, "p50_ms": 1.0, "segments_per_second": 1.0,
           "times_faster": 1.0, "times_faster_interval": [1.0, 1.0]}  # fmt: skip
    monkeypatch.setattr(video, "STAGES", {"network": lambda _: [row], "decode": lacking})
    monkeypatch.setattr(video, "random_weights", lambda path: path)
    out = tmp_path / "x.json"
    video.main(["--threads", "1", "--json", str(out)])
    found = json.loads(out.read_text())
    assert found["rows"] == [row]
    monkeypatch.setattr(video, "STAGES", {"decode": lacking})
    with pytest.raises(UnavailableError, match="no stage can be measured: av is not installed"):
        video.main(["--threads", "1"])


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="there is no CUDA device"):
        video.main(["--device", "cuda"])
    with pytest.raises(ConfigError, match="expected cpu or cuda, got 'tpu'"):
        video.main(["--device", "tpu"])

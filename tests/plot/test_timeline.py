"""Timelines: what is chosen to be drawn, that pictures come out whole, and that failures say what to do."""

from __future__ import annotations

import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from aicl_fast.data.annotations import VideoAnnotation
from aicl_fast.data.detections import Detections
from aicl_fast.data.scores import Scores
from aicl_fast.errors import ConfigError, DataError, UnavailableError
from aicl_fast.plot import (
    LANES,
    MAX_CLASSES,
    PALETTE,
    Panel,
    lay_out,
    plot_comparison,
    plot_sheet,
    plot_timeline,
)

CLASSES = ("jump", "run", "throw")


@pytest.fixture
def scores() -> Scores:
    """128 s: 200 segments of 16 frames at 25 fps, sampled to T = 100."""
    rng = np.random.default_rng(3)
    return Scores(
        fused=rng.random((100, 3), dtype=np.float32),
        video_scores=np.array([0.8, 0.15, 0.05], np.float32),
        actionness=rng.random(100, dtype=np.float32),
        actionness_agnostic=rng.random(100, dtype=np.float32),
        num_segments=200,
        fps=25.0,
        frames_per_segment=16,
        classes=CLASSES,
        name="video_1",
    )


@pytest.fixture
def found() -> Detections:
    return Detections(
        np.array(["jump", "jump", "jump", "run", "jump"]),
        np.array([0.9, 0.8, 0.7, 0.5, 0.01]),
        np.array([[10, 30], [12, 28], [40, 50], [60, 70], [90, 99.0]]),
        "video_1",
    )


@pytest.fixture
def truth() -> VideoAnnotation:
    return VideoAnnotation("test", ("throw", "jump"), np.array([[100, 110], [11, 29.0]]))


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])  # type: ignore[return-value]


def test_layout_chooses_without_overlap(scores: Scores, found: Detections, truth: VideoAnnotation) -> None:
    layout = lay_out(Panel(scores, found, truth))
    assert layout.classes == ("throw", "jump", "run")  # annotated first, then detected
    assert [(bar.detection.score, bar.lane) for bar in layout.bars["jump"]] == [(0.9, 0), (0.8, 1), (0.7, 0)]
    assert layout.bars["throw"] == ()
    assert layout.annotated["throw"] == ((100.0, 110.0),)
    assert layout.hidden == 1  # 0.01 is below a quarter of the best
    assert layout.lanes("jump") == 2
    assert layout.lanes("throw") == 1
    assert layout.duration == 128.0


def test_layout_keeps_from_min_score_on(scores: Scores, found: Detections) -> None:
    assert lay_out(Panel(scores, found), min_score=0.0).hidden == 0
    assert lay_out(Panel(scores, found), min_score=0.8).hidden == 3
    assert lay_out(Panel(scores, found), min_score=2.0).classes == ()


def test_layout_limits_lanes_and_classes(scores: Scores) -> None:
    same = Detections(np.array(["a"] * 9), np.linspace(1, 0.5, 9), np.tile([1.0, 2.0], (9, 1)))
    layout = lay_out(Panel(scores, same))
    assert layout.lanes("a") == LANES
    assert layout.hidden == 9 - LANES
    many = Detections(np.array([f"c{i}" for i in range(30)]), np.ones(30), np.tile([1.0, 2.0], (30, 1)))
    assert len(lay_out(Panel(scores, many)).classes) == MAX_CLASSES


def test_layout_draws_negative_scores(scores: Scores) -> None:
    """Scores are contrasts and may all be negative; a share of the best then means nothing."""
    found = Detections(np.array(["a", "a"]), np.array([-0.1, -0.4]), np.array([[0, 1], [2, 3.0]]))
    assert lay_out(Panel(scores, found)).hidden == 0


def test_colours_are_distinct() -> None:
    assert len(set(PALETTE)) == len(PALETTE) >= MAX_CLASSES


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_timeline_is_written_whole(
    suffix: str, tmp_path: Path, scores: Scores, found: Detections, truth: VideoAnnotation
) -> None:
    path = tmp_path / "new" / f"timeline{suffix}"
    plot_timeline(scores, found, truth, path, title="a title", thresholds=[0.1, 0.5])
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    if suffix == ".png":
        width, height = png_size(path)
        assert width == 1680
        assert 400 < height < 1000
    elif suffix == ".svg":
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    else:
        assert path.read_bytes().startswith(b"%PDF")


def test_the_same_input_gives_the_same_svg(tmp_path: Path, scores: Scores, found: Detections) -> None:
    for name in ("one.svg", "two.svg"):
        plot_timeline(scores, found, None, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_colours_and_curves_reach_the_picture(
    tmp_path: Path, scores: Scores, found: Detections, truth: VideoAnnotation
) -> None:
    path = tmp_path / "timeline.svg"
    plot_timeline(scores, found, truth, path)
    text = path.read_text().lower()
    for colour in PALETTE[:3]:
        assert colour.lower() in text


def test_nothing_detected_nothing_annotated(tmp_path: Path, scores: Scores) -> None:
    plot_timeline(scores, Detections.empty(), None, tmp_path / "empty.png")
    nothing = VideoAnnotation("test", (), np.empty((0, 2)))
    plot_timeline(scores, Detections.empty(), nothing, tmp_path / "empty2.png")
    assert png_size(tmp_path / "empty.png")[0] == 1680


def test_labels_that_the_model_does_not_know_are_drawn(tmp_path: Path, scores: Scores) -> None:
    found = Detections(np.array(["sit"]), np.array([0.5]), np.array([[1.0, 5.0]]))
    plot_timeline(scores, found, None, tmp_path / "a.png")


def test_sheet_and_comparison(
    tmp_path: Path, scores: Scores, found: Detections, truth: VideoAnnotation
) -> None:
    plot_sheet([Panel(scores, found, truth)] * 3, tmp_path / "sheet.png", title="three")
    plot_timeline(scores, found, truth, tmp_path / "one.png")
    plot_comparison(
        {"baseline": (scores, Detections.empty()), "AICL": (scores, found)}, truth, tmp_path / "two.png"
    )
    assert png_size(tmp_path / "sheet.png")[1] > 2 * png_size(tmp_path / "one.png")[1]
    assert png_size(tmp_path / "two.png")[1] > png_size(tmp_path / "one.png")[1]


def test_refusals(tmp_path: Path, scores: Scores, found: Detections) -> None:
    with pytest.raises(DataError, match=r"\.png"):
        plot_timeline(scores, found, None, tmp_path / "timeline.bmp")
    with pytest.raises(DataError, match="nothing to draw"):
        plot_sheet([], tmp_path / "sheet.png")
    with pytest.raises(ConfigError, match="finite"):
        plot_timeline(scores, found, None, tmp_path / "a.png", thresholds=[float("nan")])
    with pytest.raises(DataError, match="too many"):
        plot_sheet([Panel(scores, found)] * 2000, tmp_path / "sheet.png")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib(
    tmp_path: Path, scores: Scores, found: Detections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UnavailableError, match="pip install"):
        plot_timeline(scores, found, None, tmp_path / "a.png")


def test_import_is_light() -> None:
    code = "import sys, aicl_fast.plot; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

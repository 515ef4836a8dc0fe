"""Timelines from a run's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aicl_fast.errors import ConfigError, DataError
from aicl_fast.evaluate import precision_by_video
from aicl_fast.report import plot_run


def test_one_several_worst_and_all(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run("run", noise=3.0)
    assert plot_run(run, tmp_path / "one.png", videos=["video_0002"]) == ("video_0002",)
    assert plot_run(run, tmp_path / "two.svg", videos=["video_0002", "video_0000"]) == (
        "video_0002",
        "video_0000",
    )
    ranked = precision_by_video(run / "gt.json", run / "detections.json")
    assert list(ranked.values()) == sorted(ranked.values())
    assert plot_run(run, tmp_path / "worst.png", worst=2) == tuple(ranked)[:2]
    assert len(plot_run(run, tmp_path / "all.png", title="all")) == 5
    assert "video_0002" not in {path.name for path in tmp_path.iterdir()}
    for name in ("one.png", "two.svg", "worst.png", "all.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_two_runs(make_run: Callable[..., Path], tmp_path: Path) -> None:
    first, second = make_run("base", noise=3.0), make_run("aicl", seed=3)
    plot_run(second, tmp_path / "one.png", videos=["video_0001"], baseline=first)
    plot_run(second, tmp_path / "many.png", worst=2, baseline=first, thresholds=[0.5], min_score=0.3)
    plot_run(second, tmp_path / "same.png", videos=["video_0001"], baseline=second)
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_without_ground_truth(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run("run")
    (run / "gt.json").unlink()
    plot_run(run, tmp_path / "one.png", videos=["video_0001"])
    with pytest.raises(DataError, match="worst"):
        plot_run(run, tmp_path / "worst.png", worst=1)


def test_a_video_without_detections(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run("run")
    document = json.loads((run / "detections.json").read_text())
    del document["results"]["video_0001"]
    (run / "detections.json").write_text(json.dumps(document))
    plot_run(run, tmp_path / "one.png", videos=["video_0001"])


def test_refusals(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run("run")
    with pytest.raises(DataError, match="Did you mean video_0001"):
        plot_run(run, tmp_path / "a.png", videos=["vidio_0001"])
    with pytest.raises(DataError, match="5 others"):
        plot_run(run, tmp_path / "a.png", videos=["x"])
    with pytest.raises(ConfigError, match="worst: 2 videos are asked for and 1 named"):
        plot_run(run, tmp_path / "a.png", videos=["video_0001"], worst=2)
    with pytest.raises(ConfigError, match="worst: expected a number of at least 1, got 0"):
        plot_run(run, tmp_path / "a.png", worst=0)
    (run / "scores.npz").unlink()
    with pytest.raises(DataError, match=r"scores\.npz"):
        plot_run(run, tmp_path / "a.png")

"""What got worse is told from noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aicl_fast.bench import compare
from aicl_fast.errors import ConfigError


def result(ratio: float, spread: float = 0.1, mAP: float = 0.8, **more: Any) -> dict[str, Any]:
    row = {
        "subject": "demo", "engine": "onnxruntime", "format": "onnx", "precision": "fp32", "batch": 8,
        "mAP": mAP, "times_faster": ratio, "times_faster_interval": [ratio - spread, ratio + spread],
    }  # fmt: skip
    return {"device": "a chip", "suite": "engines", "rows": [row], **more}


def compared(tmp_path: Path, old: dict[str, Any], new: dict[str, Any]) -> int:
    for name, value in (("old", old), ("new", new)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    return compare.main([str(tmp_path / "old.json"), str(tmp_path / "new.json")])


def test_slower_beyond_noise_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(tmp_path, result(2.0), result(1.5)) == 1
    told = capsys.readouterr().out
    assert "worse   engines: demo onnxruntime onnx fp32 8: times_faster 2 -> 1.5" in told
    assert "2 figures compared, 1 worse" in told


def test_noise_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(tmp_path, result(2.0, 0.3), result(1.6, 0.3)) == 0
    assert compared(tmp_path, result(2.0), result(3.0)) == 0
    assert "better" in capsys.readouterr().out


def test_less_accurate_is_worse_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(tmp_path, result(2.0), result(4.0, mAP=0.78)) == 1
    assert "mAP 0.8 -> 0.78" in capsys.readouterr().out
    assert compared(tmp_path, result(2.0), result(2.0, mAP=0.798)) == 0


def test_a_ratio_without_an_interval_may_lose_a_tenth(tmp_path: Path) -> None:
    def decode(ratio: float) -> dict[str, Any]:
        row = {"nms": "hard", "classes": 1, "native_x_textbook": ratio}
        return {"device": "a chip", "suite": "decode", "rows": [row]}

    assert compared(tmp_path, decode(100), decode(93)) == 0
    assert compared(tmp_path, decode(100), decode(88)) == 1


def test_whole_runs_are_compared_suite_by_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def whole(ratio: float, device: str) -> dict[str, Any]:
        absent = {"status": "not measured", "reason": "no GPU"}
        return {
            "device": device,
            "suites": {"engines": {"status": "measured", **result(ratio)}, "kernels": absent},
        }

    assert compared(tmp_path, whole(2.0, "a chip"), whole(1.0, "another")) == 1
    assert "note: measured on a chip, and then on another" in capsys.readouterr().out


def test_compiled_rivals_are_compared_with_their_suite(tmp_path: Path) -> None:
    def whole(ratio: float, compiled: float) -> dict[str, Any]:
        row = {"family": "fusion", "case": "B 1"}
        suites = {"kernels": {**row, "eager_replay_ratio": 3.0},
                  "kernels-compiled": {**row, "compiled_replay_ratio": compiled}}  # fmt: skip
        suites["video"] = {"stage": "i3d", "way": "ours", "batch": 1, "times_faster": ratio}
        return {
            "device": "a chip",
            "suites": {name: {"status": "measured", "rows": [row]} for name, row in suites.items()},
        }

    assert compared(tmp_path, whole(2.0, 2.0), whole(2.0, 2.0)) == 0
    assert compared(tmp_path, whole(2.0, 2.0), whole(2.0, 1.0)) == 1
    assert compared(tmp_path, whole(2.0, 2.0), whole(1.0, 2.0)) == 1


def test_files_with_nothing_in_common(tmp_path: Path) -> None:
    other = {"device": "a chip", "suite": "accuracy", "rows": []}
    with pytest.raises(ConfigError, match="no suite in common"):
        compared(tmp_path, result(1.0), other)

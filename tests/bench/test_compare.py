"""What got worse is told from noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aicl_fast.bench.harness import compare
from aicl_fast.bench.harness.measure import Timing
from aicl_fast.bench.harness.record import RESULTS as RECORDED
from aicl_fast.errors import ConfigError, DataError


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


def test_a_small_loss_is_not_worse_however_narrow_the_intervals(tmp_path: Path) -> None:
    assert compared(tmp_path, result(2.0, 0.001), result(1.92, 0.001)) == 0
    assert compared(tmp_path, result(2.0, 0.001), result(1.88, 0.001)) == 1


def simulated(seed: int, change: float = 1.0) -> dict[str, Any]:
    """A run of 120 figures of few turns on a noisy machine, every one ``change`` times as fast."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(120):
        turns = (5, 15, 50)[number % 3]
        baseline, ours = np.exp(rng.normal(0, 0.15, (2, turns)))
        timing = Timing(list(ours / change), list(baseline))
        rows.append({"step": str(number), **timing.row()})
    return {"device": "a chip", "suite": "train", "rows": rows}


def test_the_same_measured_twice_is_not_worse() -> None:
    """By 95 % intervals that do not meet, some of every hundred would be."""
    verdicts = [
        change.verdict
        for seed in range(4)
        for change in compare.changes(simulated(2 * seed), simulated(2 * seed + 1))
    ]
    assert len(verdicts) == 4 * 120
    assert sum(verdict != "same" for verdict in verdicts) <= 2
    # What lost a third is still found where there were turns to tell it by.
    found = compare.changes(simulated(0), simulated(1, change=0.6))
    worse = [change.row for change in found if change.verdict == "worse"]
    assert sum(int(row.rpartition(" ")[2]) % 3 == 2 for row in worse) >= 35
    assert not [change for change in found if change.verdict == "better"]


def test_less_accurate_is_worse_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(tmp_path, result(2.0), result(4.0, mAP=0.78)) == 1
    assert "mAP 0.8 -> 0.78" in capsys.readouterr().out
    assert compared(tmp_path, result(2.0), result(2.0, mAP=0.798)) == 0


def test_a_ratio_without_an_interval_may_lose_a_tenth(tmp_path: Path) -> None:
    def decode(ratio: float) -> dict[str, Any]:
        row = {"nms": "hard", "classes": 1, "native_x_reference": ratio}
        return {"device": "a chip", "suite": "decode", "rows": [row]}

    assert compared(tmp_path, decode(100), decode(93)) == 0
    assert compared(tmp_path, decode(100), decode(88)) == 1


RESULTS = [
    path
    for path in sorted(RECORDED.glob("*.json"))
    if not path.name.startswith(("ablate", "quantisation", "kernels-aot", "fuzz", "predictors"))
]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_a_recorded_file_is_no_worse_than_itself(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([str(path), str(path)]) == 0
    assert " figures compared, 0 worse" in capsys.readouterr().out


def test_cases_of_as_many_classes_are_told_apart(tmp_path: Path) -> None:
    def decode(*ratios: float, named: bool = True) -> dict[str, Any]:
        rows = [
            {"nms": "hard", "classes": 1, "proposals": made, "native_x_reference": ratio}
            | ({"target": target} if named else {})
            for target, made, ratio in zip((100, 500), (100.0, 500.25), ratios, strict=True)
        ]
        return {"device": "a chip", "suite": "decode", "rows": rows}

    assert compared(tmp_path, decode(100, 300), decode(100, 300)) == 0
    assert compared(tmp_path, decode(100, 300, named=False), decode(100, 300)) == 0
    assert compared(tmp_path, decode(100, 300, named=False), decode(100, 200)) == 1
    double = decode(100, 300)
    double["rows"][1]["target"] = 100
    with pytest.raises(DataError, match="decode: two rows are of hard 1 100"):
        compared(tmp_path, double, double)


def test_a_row_is_named_by_texts_and_numbers(tmp_path: Path) -> None:
    odd = {"device": "a chip", "suite": "accuracy", "rows": [{"name": {}, "seed": 1, "mAP": [0.5]}]}
    with pytest.raises(DataError, match="accuracy: expected texts or numbers to name a row"):
        compared(tmp_path, odd, odd)


def test_what_is_lost_is_worse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = {"family": "fusion", "case": "B 1", "eager_replay_ratio": 3.0, "correct": True}
    two = {"family": "mining", "case": "B 1", "eager_replay_ratio": 3.0, "correct": True}
    three = {"family": "pooling", "case": "B 1", "eager_replay_ratio": 3.0, "correct": True}

    def whole(*rows: dict[str, Any], **train: Any) -> dict[str, Any]:
        suites = {"kernels": {"status": "measured", "rows": list(rows)}, "train": train}
        return {"device": "a chip", "suites": suites}

    rows = [{"step": "ours", "times_faster": 2.0}]
    before = whole(one, two, three, status="measured", rows=rows)
    wrong = {**one, "correct": False}
    failed = {"family": "mining", "case": "B 1", "correct": False, "failed": "no registers"}
    assert compared(tmp_path, before, whole(wrong, failed, status="failed", reason="it broke")) == 1
    told = capsys.readouterr().out
    assert "worse   kernels: fusion B 1 gives wrong results" in told
    assert "worse   kernels: mining B 1 failed: no registers" in told
    assert "worse   kernels: pooling B 1 is missing" in told
    assert "worse   train is failed: it broke" in told
    assert "4 worse" in told
    # What never worked is not lost.
    broken = whole(failed, wrong, three, status="failed", reason="it broke")
    assert compared(tmp_path, broken, broken) == 0
    # Half of a suite is compared as far as it goes.
    half = {"status": "cut off", "reason": "not finished in 9 s", "rows": rows}
    assert compared(tmp_path, before, whole(one, two, three, **half)) == 0
    assert compared(tmp_path, before, whole(one, two, three, **{**half, "rows": []})) == 1


@pytest.mark.parametrize(
    ("suite", "row", "worse"),
    [
        ("evaluate", {"evaluator": "loop", "aicl_fast_times_faster": 15.0}, {"aicl_fast_times_faster": 9.0}),
        (
            "kernels",
            {"family": "fusion", "case": "B", "compiled_call_ratio": 2.0},
            {"compiled_call_ratio": 1.0},
        ),
        (
            "kernels",
            {"family": "latency", "case": "B", "kernels": {"times_faster": 9.0}},
            {"kernels": {"times_faster": 4.0}},
        ),
        ("load", {"program": "p", "times_faster": 2.0, "peak_mb": 100.0}, {"peak_mb": 150.0}),
        ("accuracy", {"name": "all", "seed": 1, "mAP": [0.8], "average_mAP": 0.8}, {"average_mAP": 0.7}),
    ],
)
def test_every_kind_of_figure_is_compared(
    tmp_path: Path, suite: str, row: dict[str, Any], worse: dict[str, Any]
) -> None:
    def of(found: dict[str, Any]) -> dict[str, Any]:
        return {"device": "a chip", "suite": suite, "rows": [found]}

    assert compared(tmp_path, of(row), of(row)) == 0
    assert compared(tmp_path, of(row), of({**row, **worse})) == 1


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
    nothing = {"device": "a chip", "suite": "engines", "rows": []}
    with pytest.raises(ConfigError, match="no figure in common"):
        compared(tmp_path, nothing, nothing)

"""Tables of whole runs, blocks that turn to a newer file, and a picture that says what it shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aicl_fast.bench.harness import report
from aicl_fast.bench.harness.quote import quoted
from aicl_fast.bench.harness.record import RESULTS
from aicl_fast.bench.harness.tables import TABLES
from aicl_fast.errors import ConfigError, DataError

ROOT = RESULTS.parents[1]


def timed(ratio: float) -> dict[str, Any]:
    return {
        "p50_ms": 10.0 / ratio, "p99_ms": 12.0 / ratio, "times_faster": ratio,
        "times_faster_interval": [ratio - 0.1, ratio + 0.1], "videos_per_second": 100.0 * ratio,
    }  # fmt: skip


def whole(commit: str = "0123456789ab", target: str = "cpu") -> dict[str, Any]:
    """A made-up run, in which training was not measured."""
    detect = [
        {"pipeline": name, "batch": 1, "mAP": 0.5, **timed(ratio)}
        for name, ratio in (("reference", 1.0), ("OpenVINO, bf16", 4.0))
    ]
    engines = [
        {"subject": "thumos14", "engine": engine, "format": format_, "precision": "fp32", "batch": batch,
         "mAP": 0.5, "share_of_floor": 0.25, **timed(ratio)}
        for engine, format_, ratio in (("reference", "", 1.0), ("onnxruntime", "onnx", 2.0))
        for batch in (1, 8)
    ]  # fmt: skip
    load = [{"program": "import aicl_fast", "import_ms": 20.0, "peak_mb": 11.0, **timed(8.0)}]
    kernel = {"family": "fusion", "case": "B 1", "kernels": {"replay_us": 5.0}, "share_of_floor": 0.8,
              "eager_replay_ratio": 3.0, "eager_call_ratio": 2.0}  # fmt: skip
    latency = {"family": "latency", "case": "B 1 T 750", "kernels": timed(50.0)}
    parts = {"detect": detect, "engines": engines, "load": load, "kernels": [kernel, latency]}
    suites: dict[str, Any] = {
        name: {"status": "measured", "seconds": 1.0, "command": "x", "rows": rows}
        for name, rows in parts.items()
    }
    suites["train"] = {"status": "not measured", "reason": "torch is not installed", "seconds": 0.0}
    origin = {"device": "a chip", "cores": 2, "date": "2026-01-01", "commit": commit, "target": target}
    return {**origin, "suites": suites}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    for name, value in {
        "old.json": whole("aaaaaaaaaaaa"),
        "new.json": whole(),
        "card.json": whole(target="cuda"),
        "train-cpu.json": {"device": "a chip", "suite": "train", "rows": []},
        "load-cpu.json": {"device": "a chip", "suite": "load", "rows": []},
    }.items():
        (folder / name).write_text(json.dumps(value))
    return folder


def test_a_block_takes_its_suite_from_a_whole_run(results: Path) -> None:
    block = "<!-- quote: new.json {} -->\n<!-- end -->\n"
    text = quoted(
        "".join(block.format(name) for name in ("detect", "detect-batches", "engines", "load", "kernels")),
        results,
    )
    assert "| OpenVINO, bf16 | 2.5 | 3.0 | 4.00 (3.90 to 4.10) | 50.0 |" in text
    assert "| OpenVINO, bf16 | 50.0 | 400.0 (4.00x) |" in text
    cell = "5.0 (2.00x, 1.90 to 2.10)"
    assert f"| ONNX Runtime | fp32 | 50.0 | {cell} | {cell} | 25 % |" in text
    assert "| import aicl_fast | 1 | 20 |  |  | 11 | 8.00 (7.90 to 8.10) |" in text
    assert "| fusion: B 1 | 5.0 | 80 % | 3.00x (2.00x) |  |" in text
    assert "B 1 T 750: p50 200 µs, p99 240 µs, 50.0x the reference." in text
    assert text.count("Measured on a chip, 2 cores, 2026-01-01, commit 0123456789ab.") == 5


def test_times_of_a_busy_machine_are_left_out(results: Path) -> None:
    busy = whole()
    busy["suites"]["load"]["load_average"] = 2.5
    busy["suites"]["detect"]["load_average"] = 2.3
    # The minute before is other people's; what a suite's own threads add is not.
    busy["suites"]["engines"] |= {"load_before": 2.3, "load_average": 3.5}
    busy["suites"]["kernels"] |= {"load_before": 2.5, "load_average": 1.0}
    (results / "busy.json").write_text(json.dumps(busy))
    block = "<!-- quote: busy.json {} -->\n<!-- end -->\n"
    said = quoted(block.format("load"), results)
    assert "Left out: the machine was busy while this was measured (load average 2.5 on 2 cores)." in said
    assert "|" not in said
    assert "| OpenVINO, bf16 |" in quoted(block.format("detect"), results)
    assert "| ONNX Runtime |" in quoted(block.format("engines"), results)
    assert "Left out" in quoted(block.format("kernels"), results)


def test_kernels_that_failed_and_rivals_that_were_compiled_later(results: Path) -> None:
    run = whole()
    rows = run["suites"]["kernels"]["rows"]
    rows.append({"family": "mining", "case": "B 2", "correct": False, "failed": "RuntimeError: no registers"})
    more = {"family": "fusion", "case": "B 1", "kernels": {"replay_us": 9.0},
            "compiled_replay_ratio": 1.5, "compiled_call_ratio": 1.25}  # fmt: skip
    run["suites"]["kernels-compiled"] = {"status": "measured", "seconds": 1.0, "command": "x", "rows": [more]}
    (results / "more.json").write_text(json.dumps(run))
    text = quoted("<!-- quote: more.json kernels -->\n<!-- end -->\n", results)
    assert "| fusion: B 1 | 5.0 | 80 % | 3.00x (2.00x) | 1.50x (1.25x) |" in text
    assert "| mining: B 2 | failed: RuntimeError: no registers |" in text


def test_what_a_sweep_found(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = {"split": True, "block_m": 128, "num_warps": 8}
    found = {"settings": {**shipped, "split": False, "num_warps": 4}, "correct": True}
    wrong = {"settings": shipped, "correct": False, "failed": "no registers"}
    row = {
        "family": "network",
        "case": "B 1",
        "launch": "product",
        "shipped": shipped,
        "correct": True,
        "replay_us": 30.04,
        "candidates": [found, found, wrong],
        "best": found["settings"],
        "times_faster": 1.1,
        "times_faster_interval": [1.05, 1.15],
        "faster": True,
    }
    rows = [row, {**row, "case": "B 8", "faster": False, "times_faster_interval": [0.99, 1.15]}]
    alone = {name: row[name] for name in ("family", "launch", "shipped", "correct", "replay_us")}
    rows.append({**alone, "case": "B 9", "candidates": []})
    rows.append(
        {"family": "mining", "case": "B 2", "launch": "forward", "correct": False, "failed": "it broke"}
    )
    run = whole(target="cuda")
    run["suites"]["sweep"] = {
        "status": "cut off",
        "reason": "not finished in 9 s",
        "seconds": 9.0,
        "rows": rows,
    }
    (results / "gpu.json").write_text(json.dumps(run))
    text = quoted("<!-- quote: gpu.json sweep -->\n<!-- end -->\n", results)
    start, best = "| product | split, block_m 128, num_warps 8 | 30.0 |", "no split, num_warps 4"
    assert f"| network: B 1 {start} {best} | 1.10 (1.05 to 1.15) | faster, of 2 |" in text
    assert f"| network: B 8 {start} {best} | 1.10 (0.99 to 1.15) | no faster, of 2 |" in text
    assert f"| network: B 9 {start} none |  |  |" in text
    assert "| mining: B 2 | forward | failed: it broke |" in text
    assert "This is a part: not finished in 9 s." in text
    assert report.main([str(results / "gpu.json")]) == 0
    assert best in capsys.readouterr().out
    # Before there is one, it says so.
    run["suites"]["sweep"] = {"status": "not measured", "reason": "there is no CUDA device", "seconds": 0.1}
    (results / "gpu.json").write_text(json.dumps(run))
    assert report.main([str(results / "gpu.json")]) == 0
    assert "sweep: not measured, there is no CUDA device" in capsys.readouterr().out


def test_what_was_not_measured_cannot_be_quoted(results: Path) -> None:
    with pytest.raises(ConfigError, match=r"new\.json: 'train' is not measured: torch is not installed"):
        quoted("<!-- quote: new.json train -->\n<!-- end -->", results)
    with pytest.raises(ConfigError, match="'decode' is not measured: it was not run"):
        quoted("<!-- quote: new.json decode -->\n<!-- end -->", results)


def test_blocks_turn_to_the_newer_file_of_the_same_kind(results: Path) -> None:
    names = [
        "old.json detect",
        "card.json detect",
        "train-cpu.json train",
        "gone.json load",
        "old.json train",
        "load-cpu.json load",
    ]
    text = "".join(f"<!-- quote: {name} -->\n<!-- end -->\n" for name in names)
    turned = report.redirected(text, "new.json", results)
    expected = [
        "new.json detect",
        "card.json detect",
        "train-cpu.json train",
        "new.json load",
        "old.json train",
        "load-cpu.json load",
    ]
    assert turned == "".join(f"<!-- quote: {name} -->\n<!-- end -->\n" for name in expected)
    assert "card.json load" in report.redirected(
        "<!-- quote: gone.json load -->\n<!-- end -->", "card.json", results
    )


def test_the_picture_says_what_it_shows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "bench.png"
    report.picture(whole(), "new.json", path)
    with image.open(path) as picture:
        assert picture.text["Source"] == "new.json 0123456789ab"
        assert picture.width > 1000


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_the_documents_picture_is_of_a_recorded_run(kind: str) -> None:
    image = pytest.importorskip("PIL.Image")
    path = ROOT / "docs" / f"bench-{kind}.png"
    if not path.is_file():
        assert not any(path.name in text.read_text(encoding="utf-8") for text in report.documents())
        return
    with image.open(path) as picture:
        file, commit = picture.text["Source"].split()
    assert json.loads((RESULTS / file).read_text(encoding="utf-8"))["commit"] == commit


def test_every_table_of_a_run_is_printed(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main([str(results / "new.json")])
    told = capsys.readouterr().out
    assert "train: not measured, torch is not installed" in told
    assert "| OpenVINO, bf16 | 2.5 |" in told
    assert "| import aicl_fast |" in told
    with pytest.raises(ConfigError, match="under bench/results/ only"):
        report.main([str(results / "new.json"), "--write"])
    with pytest.raises(ConfigError, match="holds one suite"):
        report.main([str(results / "train-cpu.json")])


def test_a_gpus_record_is_reported(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the compiled decoder or the naive implementation, stopped half-way, partly not timed."""
    card = whole(target="cuda")
    decode = {"nms": "hard", "classes": 1, "target": 100, "proposals": 100.0, "reference_us": 900.0,
              "numba_us": 30.0, "numba_x_reference": 30.0}  # fmt: skip
    why = "its first loss is nan, the reference's 3"
    train = [{"step": "reference, float32", **timed(1.0)}, {"step": "ours", "correct": False, "failed": why}]
    parts = {"decode": {"rows": [decode], "cold_start": [{"backend": "numba", "seconds": 0.5}]},
             "train": {"rows": train, "batch": 16, "segments": 750, "threads": 16},
             "load": {"rows": [{"program": "import numpy"}]},
             "tests": {"rows": [{"tests": 9, "failures": 0, "errors": 0, "skipped": 0}]}}  # fmt: skip
    for name, part in parts.items():
        card["suites"][name] = {"status": "measured", "seconds": 1.0, "command": "x", **part}
    card["suites"]["detect"] |= {"status": "cut off", "reason": "not finished in 90 s"}
    card["suites"]["memcheck"] = {"status": "failed", "reason": "memcheck: not finished", "seconds": 150.0}
    (results / "gpu.json").write_text(json.dumps(card))
    assert report.main([str(results / "gpu.json")]) == 0
    told = capsys.readouterr().out
    assert "| hard | 100 |  | 30 |  |  |" in told
    assert "numba over NumPy: 30x." in told
    assert "| ours | not timed: its first loss is nan, the reference's 3 |  |" in told
    assert "| OpenVINO, bf16 | 2.5 |" in told
    assert "This is a part: not finished in 90 s." in told
    assert "the table 'load' cannot be made of this record (KeyError: 'p50_ms')" in told


def test_rows_of_an_unsteady_machine_are_marked_and_few_turns_have_no_tail() -> None:
    rows: list[dict[str, Any]] = [
        {"pipeline": "reference", "mAP": 0.5, **timed(1.0), "turns": 200},
        {"pipeline": "ours", "mAP": 0.5, **timed(2.0), "turns": 99, "drift": 1.3},
    ]
    lines = TABLES["detect"]({"rows": rows})
    assert "| reference | 10.0 | 12.0 | 1.00 (0.90 to 1.10) | 50.0 |" in lines
    assert "| ours † | 5.0 |  | 2.00 (1.90 to 2.10) | 50.0 |" in lines
    assert lines[-1].startswith("† In the last third")
    lines = TABLES["detect"]({"rows": [{**row, "turns": 20, "drift": 1.0} for row in rows]})
    assert "| ours | 5.0 | 2.00 (1.90 to 2.10) | 50.0 |" in lines
    assert not any("p99" in line or "†" in line for line in lines)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "expected a result file, an object; got a list"),
        ({"suites": {"load": {"rows": []}}}, "load: expected a status of measured"),
        ({"suites": {"load": {"status": "failed"}}}, "load: is failed and does not say the reason"),
        ({"suites": {"load": {"status": "measured"}}}, "load: expected rows"),
        ({"suites": [1]}, "suites: expected an object, got a list"),
        ({"rows": [1]}, "expected rows, a list of objects"),
    ],
)
def test_a_file_that_is_no_result_is_told(tmp_path: Path, value: Any, message: str) -> None:
    from aicl_fast.bench.harness import compare

    path = tmp_path / "x.json"
    path.write_text(json.dumps(value))
    with pytest.raises(DataError, match=message):
        report.main([str(path)])
    with pytest.raises(DataError, match=message):
        compare.main([str(path), str(path)])


def test_tables_begin_with_their_suites_name() -> None:
    from aicl_fast.bench import SUITES

    assert {name.partition("-")[0] for name in TABLES} <= {*SUITES, "ablation"} | {"quantisation", "video"}

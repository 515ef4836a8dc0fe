"""The suites that run a model, on a tiny one: every row has its accuracy, and what is skipped its reason."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from aicl_fast.bench.harness import machine
from aicl_fast.bench.suites import detect, engines, load
from aicl_fast.config import Config
from aicl_fast.errors import AiclError, DataError
from aicl_fast.export.export import export_model
from aicl_fast.export.options import ExportOptions
from aicl_fast.metadata import Range
from aicl_fast.weights import save_model


def recorded(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_engines(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every export takes seconds, and the suite takes whatever the table says.
    formats = {"onnx": ("fp32", "bf16"), "openvino": ("fp32",), "tensorrt": ("fp32",), "server": ("fp32",)}
    monkeypatch.setattr(engines, "FORMATS", formats)
    # A processor without bfloat16 products takes a minute for large ones.
    rates = functools.partial(machine.processor_rates, size=96)
    monkeypatch.setattr(machine, "processor_rates", rates)
    out = tmp_path / "engines.json"
    given = ["--model", str(tiny_model), "--data", str(tiny_dataset)]
    engines.main([*given, "--batch", "1,3", "--seconds", "0", "--threads", "1", "--json", str(out)])
    result = recorded(out)
    rows, left_out = result["rows"], result["left_out"]
    names = {(row["engine"], row["precision"], row["batch"]) for row in rows}
    assert {("reference", "fp32", 1), ("torch", "fp32", 3), ("onnxruntime", "fp32", 1)} <= names
    assert len(names) == len(rows)
    # Whatever can be exported is a row or has its reason.
    seen = {(row["format"], row["precision"]) for row in rows}
    seen |= {(row["format"], row["precision"]) for row in left_out}
    assert {("onnx", "fp32"), ("onnx", "bf16"), ("openvino", "fp32"), ("tensorrt", "")} <= seen
    assert "server" not in {format_ for format_, _ in seen}
    assert all(row["why"] and str(tmp_path) not in row["why"] for row in left_out)
    exact = next(row["mAP"] for row in rows if row["engine"] == "torch")
    for row in rows:
        assert 0 <= row["mAP"] <= 1
        assert row["videos_per_second"] > 0
        if row["precision"] == "fp32":
            assert row["mAP"] == pytest.approx(exact, abs=1e-3)
            assert row["share_of_floor"] > 0


def test_detect(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "FORMATS", {"onnx": ("fp32",)})
    out = tmp_path / "detect.json"
    given = ["--model", str(tiny_model), "--batch", "1,2", "--rounds", "0"]
    detect.main([*given, "--seconds", "0", "--threads", "1", "--json", str(out)])
    result = recorded(out)
    assert {row["batch"] for row in result["rows"]} == {1, 2}
    assert result["detections"] > 0
    first = result["rows"][0]
    assert first["pipeline"] == "reference"
    assert first["times_faster"] == 1.0
    assert first["mAP"] is None
    assert "ONNX Runtime, fp32" in {row["pipeline"] for row in result["rows"]}


def test_different_answers_are_not_timed(tiny_model: Path) -> None:
    what = detect.given_subject(tiny_model)

    def wrong(rgb: Any, flow: Any) -> Any:
        labels, boxes = reference(rgb, flow)
        return labels, boxes + 0.01

    reference = detect.ReferenceDetector(*detect.load_model(what.weights))
    with detect.Detector(what.weights) as ours:
        assert detect.check_agreement(what, reference, ours) > 0
        with pytest.raises(AiclError, match="their times mean nothing"):
            detect.check_agreement(what, wrong, ours)  # type: ignore[arg-type]


@pytest.mark.long
def test_load(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "load.json"
    load.main(["--model", str(tiny_model), "--rounds", "1", "--json", str(out)])
    rows = {row["program"]: row for row in recorded(out)["rows"]}
    assert {load.BASELINE, load.IMPORT, "Detector, ONNX Runtime"} <= set(rows)
    # torch is in one of them only; memory is each process's own, not that of this one.
    assert rows[load.IMPORT]["peak_mb"] < rows["Detector, ONNX Runtime"]["peak_mb"]
    assert rows["Detector, ONNX Runtime"]["peak_mb"] < rows[load.BASELINE]["peak_mb"]
    assert {"import_ms", "open_ms", "first_ms"} <= set(rows[load.BASELINE])
    assert "open_ms" not in rows[load.IMPORT]


def test_a_program_that_fails_says_why(tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    what = detect.given_subject(tiny_model)
    command = [load.sys.executable, "-c", "raise SystemExit('no disk')"]
    monkeypatch.setattr(load, "programs", lambda *_: {load.BASELINE: command})
    with pytest.raises(AiclError, match="reference script failed: no disk"):
        load.measure(what, 1, 1, tmp_path)


def test_an_exporter_that_fails_leaves_out_its_format(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(engines, "FORMATS", {"onnx": ("fp32",)})
    monkeypatch.setattr(engines, "export_model", failing)
    what = detect.given_subject(tiny_model)
    running, (left,) = engines.open_all(what, tmp_path, 1, "cpu")
    assert [each.format for each in running] == ["safetensors"]
    assert (left["format"], left["why"]) == ("onnx", "RuntimeError: no such operator")


def test_a_gpus_float32_is_judged_as_tf32(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "ReferenceDetector", lambda net, config, device: None)
    what = detect.given_subject(tiny_model)
    each = engines.Contender("torch", "safetensors", "fp32", None, 1.0, 1.0, 0.5)  # type: ignore[arg-type]
    for error, device, right in ((2e-3, "cpu", 0), (2e-3, "cuda", 1), (6e-3, "cuda", 0)):
        monkeypatch.setattr(engines, "apart", lambda *_, error=error: error)
        assert len(engines.agreeing(what, [each], device)[0]) == right


def test_the_reference_has_the_accuracy_of_float32_or_none() -> None:
    def weights(precision: str, average: float) -> engines.Contender:
        return engines.Contender("torch", "safetensors", precision, None, 1.0, 1.0, average)  # type: ignore[arg-type]

    assert engines.exact_accuracy([weights("bf16", 0.4), weights("fp32", 0.5)]) == 0.5
    assert engines.exact_accuracy([weights("bf16", 0.4)]) is None


def test_a_program_that_cannot_run_here_is_left_out(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def copy(weights: Path, path: Path, options: ExportOptions) -> None:
        path.write_bytes(weights.with_suffix(".onnx").read_bytes())

    monkeypatch.setitem(load.sys.modules, "onnxruntime", None)
    monkeypatch.setattr(load, "export_model", copy)
    what = detect.given_subject(tiny_model)
    found = load.programs(what, 1, tmp_path)
    assert load.BASELINE in found
    assert not {"Detector, ONNX Runtime", load.COMMAND} & set(found)
    assert "Detector, ONNX Runtime: skipped, " in capsys.readouterr().err


def test_a_file_with_other_scores_is_not_timed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "FORMATS", {})
    what = detect.given_subject(tiny_model)
    running, _ = engines.open_all(what, tmp_path, 1, "cpu")
    assert engines.agreeing(what, running, "cpu") == (running, [])
    engine = running[0].detector.engine
    run = engine.run
    monkeypatch.setattr(engine, "run", lambda x: run(x)._replace(scores=2 * run(x).scores))
    right, (wrong,) = engines.agreeing(what, running, "cpu")
    assert not right
    assert wrong["why"] == "its scores differ from the reference's by 1, relatively"


@pytest.mark.long
def test_files_are_taken_of_the_same_weights_only(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "FORMATS", {"onnx": ("fp32",)})
    what = detect.given_subject(tiny_model)
    for _ in range(2):
        engines.open_all(what, tmp_path, 1, "cpu")
    assert len(list(tmp_path.glob("*.onnx"))) == 1
    other = tmp_path / "other.safetensors"
    net, config = detect.load_model(tiny_model)
    next(net.parameters()).requires_grad_(False).add_(1.0)
    save_model(other, net, config)
    engines.open_all(dataclasses.replace(what, weights=other), tmp_path, 1, "cpu")
    assert len(list(tmp_path.glob("*.onnx"))) == 2


def test_work_of_winograds_convolution_is_half(tiny_config: Config) -> None:
    plain = engines.work(tiny_config, 2)
    assert engines.work(tiny_config, 2, "tensorrt", "fp32") == plain
    moved, operations = engines.work(tiny_config, 2, "onnx", "fp32")
    assert 0.5 * plain[1] < operations < 0.6 * plain[1]
    assert moved > plain[0]
    assert engines.work(tiny_config, 2, "openvino", "bf16")[0] < moved


def test_work_is_counted(tiny_config: Config) -> None:
    moved, operations = engines.work(tiny_config, 2)
    data, width, classes = tiny_config.data, tiny_config.model.embedding_width, len(tiny_config.classes)
    both = data.rgb_width + data.flow_width
    convolutions = 3 * width * (both + data.rgb_width + data.flow_width)
    heads = width * classes + 2 * width
    assert operations == 2 * 2 * data.segments * (convolutions + heads)
    results = data.segments * (classes + 2) + classes
    assert moved == 4 * (2 * (data.segments * both + results) + convolutions + heads)


@pytest.mark.long
def test_an_exported_file_is_measured_itself(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its own T, beside the weights in torch, and without exporting anything of them."""
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own.onnx"
    settings = ExportOptions("onnx", segments=Range(16, 40, 64), convolution="direct")
    export_model(tiny_model, own, settings)
    given = ["--model", str(own), "--weights", str(tiny_model), "--threads", "1"]
    out = tmp_path / "out.json"
    engines.main([*given, "--batch", "2", "--seconds", "0", "--json", str(out)])
    rows, left_out = recorded(out)["rows"], recorded(out)["left_out"]
    assert [(row["engine"], row["format"]) for row in rows] == [
        ("reference", ""), ("torch", "safetensors"), ("onnxruntime", "onnx")
    ]  # fmt: skip
    assert not left_out
    assert rows[2]["floor_ms"] is None
    detect.main([*given, "--batch", "1", "--seconds", "0", "--rounds", "1", "--json", str(out)])
    assert [row["pipeline"] for row in recorded(out)["rows"]][2:] == ["ONNX Runtime, fp32"]
    assert "Detector, OpenVINO" not in {row["program"] for row in recorded(out)["cold"]}


def test_files_that_cannot_be_measured(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ghost\.onnx: the model file does not exist"):
        engines.main(["--model", str(tmp_path / "ghost.onnx")])
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(tiny_model.with_suffix(".onnx").read_bytes())
    with pytest.raises(DataError, match=r"alone\.safetensors: the baseline runs the weights .* --weights"):
        engines.main(["--model", str(alone)])
    other = tmp_path / "other.safetensors"
    net, config = detect.load_model(tiny_model)
    next(net.parameters()).requires_grad_(False).add_(1.0)
    save_model(other, net, config)
    with pytest.raises(DataError, match=r"other\.safetensors: alone\.onnx was exported from other weights"):
        engines.main(["--model", str(alone), "--weights", str(other)])


def test_what_is_calibrated_needs_a_data_set(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "FORMATS", {"onnx": ("int8",)})
    _, (left,) = engines.open_all(detect.given_subject(tiny_model), tmp_path, 1, "cpu")
    assert left["why"] == "is calibrated on recordings: name a data set with --data"

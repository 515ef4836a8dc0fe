"""Every format and precision that runs here: export, load, detect, and the same detections."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from aicl_fast import Detector
from aicl_fast.config import load_config
from aicl_fast.data.dataset import Dataset
from aicl_fast.data.detections import Detection, Detections
from aicl_fast.errors import AiclError, ConfigError, DataError, ModelError, UnavailableError
from aicl_fast.evaluate import mean_average_precision
from aicl_fast.export.export import check_combination, check_target, export_model
from aicl_fast.export.formats import FORMATS
from aicl_fast.export.options import CALIBRATED, BuildOptions, ExportOptions, ServerOptions
from aicl_fast.export.parity import TOLERANCES
from aicl_fast.metadata import Range
from aicl_fast.signature import NetworkOutputs

ENGINE_OF = {"onnx": "onnxruntime", "openvino": "openvino", "triton-repository": "onnxruntime"}
RUNS_HERE = [
    ("onnx", "fp32", "onnxruntime"),
    ("onnx", "fp16", "onnxruntime"),
    ("onnx", "int8", "onnxruntime"),
    ("onnx", "fp8", "onnxruntime"),
    ("onnx", "fp32", "openvino"),
    ("onnx", "fp16", "openvino"),
    ("onnx", "int8", "openvino"),
    ("onnx", "fp8", "openvino"),
    ("onnx", "bf16", "openvino"),
    ("openvino", "fp32", "openvino"),
    ("openvino", "fp16", "openvino"),
    ("openvino", "bf16", "openvino"),
    ("openvino", "int8", "openvino"),
    ("openvino", "fp8", "openvino"),
    ("triton-repository", "fp32", "onnxruntime"),
    ("triton-repository", "fp16", "onnxruntime"),
    ("triton-repository", "int8", "onnxruntime"),
    ("triton-repository", "fp8", "onnxruntime"),
]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The demo's: real ones."""
    pytest.importorskip("seglearn")
    from aicl_fast.train.watch import prepare_watch

    folder = tmp_path_factory.mktemp("recordings")
    prepare_watch(folder)
    return Dataset.open(folder, load_config("demo").with_values({"steps": 500}))


class Trained(NamedTuple):
    """What weights in torch find in the demo's test recordings."""

    weights: Path
    detections: dict[str, Detections]
    mAP: float


@pytest.fixture(scope="module")
def trained(recordings: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The demo's network, trained for long enough to be sure of what it sees."""
    from aicl_fast.train.trainer import train

    folder = tmp_path_factory.mktemp("trained")
    train(recordings, folder, overwrite=True)
    weights = folder / "model.safetensors"
    with Detector(weights) as detector:
        found = localise(detector, recordings)
    average = mean_of(recordings, found)
    assert average > 0.6
    return Trained(weights, found, average)


def localise(detector: Detector, dataset: Dataset) -> dict[str, Detections]:
    names = dataset.videos["test"]
    features = [dataset.features("test", name) for name in names]
    return dict(zip(names, detector.batch(features, videos=names), strict=True))


def mean_of(dataset: Dataset, found: dict[str, Detections]) -> float:
    tious = dataset.config.evaluate.tious
    return float(mean_average_precision(dataset.truth("test"), found, tious).average)


def share_matched(found: dict[str, Detections], wanted: dict[str, Detections], score: float) -> float:
    """Of the detections that are wanted and sure, those that are found: the same label, tIoU at least 0.9,
    and a score that differs by at most ``score``; each found one for one wanted."""
    matched = every = 0
    for name, sure in wanted.items():
        free = list(found[name])
        for one in (each for each in sure if each.score >= 0.2):
            every += 1
            fitting = (
                other
                for other in free
                if other.label == one.label
                and abs(other.score - one.score) <= score
                and tiou(one, other) >= 0.9
            )
            best = max(fitting, key=lambda other: tiou(one, other), default=None)
            if best is not None:
                free.remove(best)
                matched += 1
    assert every > 100
    return matched / every


def tiou(one: Detection, other: Detection) -> float:
    common = min(one.end, other.end) - max(one.start, other.start)
    return common / (max(one.end, other.end) - min(one.start, other.start))


MATCHED = {"fp32": 1.0, "fp16": 0.99, "bf16": 0.98, "int8": 0.95, "fp8": 0.95}
"""Share of detections that a file of a precision must find again."""


def saturates(precision: str) -> bool:
    """Whether engines clip sums of int8 products to 16 bits here, as they do on x86 without VNNI."""
    flags = Path("/proc/cpuinfo")
    x86 = platform.machine() in ("x86_64", "AMD64")
    return precision == "int8" and x86 and not (flags.is_file() and "vnni" in flags.read_text())


@pytest.mark.parametrize(("format_", "precision", "engine"), RUNS_HERE)
def test_export_load_detect(
    tmp_path: Path, trained: Trained, recordings: Dataset, format_: str, precision: str, engine: str
) -> None:
    pytest.importorskip(engine)
    calibrate = recordings.root if precision in CALIBRATED else None
    out = tmp_path / f"model{FORMATS[format_].suffix}"
    export_model(trained.weights, out, ExportOptions(format_, precision, calibrate=calibrate))
    if out.is_dir():  # a server's folder
        (out,) = out.rglob("model.onnx")
    # A name that says nothing: what the file holds decides what runs it.
    out = out.rename(tmp_path / "model.bin")
    tolerance = TOLERANCES[precision]
    with Detector(out, engine=engine if engine != ENGINE_OF[format_] else None, threads=1) as detector:
        assert detector.engine.name == engine
        assert detector.engine.info.precision == precision
        found = localise(detector, recordings)
    matched, average = (
        share_matched(found, trained.detections, tolerance.absolute),
        mean_of(recordings, found),
    )
    assert matched >= MATCHED[precision]
    assert abs(average - trained.mAP) <= (0.02 if saturates(precision) else 0.005)


@pytest.mark.parametrize(("format_", "precision", "engine"), RUNS_HERE)
def test_what_an_exported_network_computes(
    tmp_path: Path,
    tiny_model: Path,
    tiny_dataset: Path,
    batch: np.ndarray,
    expected: NetworkOutputs,
    format_: str,
    precision: str,
    engine: str,
) -> None:
    """Features of no recording, from a network that is sure of nothing: every output counts."""
    pytest.importorskip(engine)
    calibrate = tiny_dataset if precision in CALIBRATED else None
    out = tmp_path / f"model{FORMATS[format_].suffix}"
    export_model(tiny_model, out, ExportOptions(format_, precision, calibrate=calibrate))
    if out.is_dir():
        (out,) = out.rglob("model.onnx")
    with Detector(out, engine=engine, threads=1) as detector:
        actual = detector.engine(batch)
    for name, a, b in zip(NetworkOutputs._fields, actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCES[precision].absolute, rtol=0, err_msg=name)


def test_weights_as_they_are(tiny_model: Path, batch: np.ndarray) -> None:
    detector = Detector(tiny_model)
    assert detector.engine.name == "torch"
    assert detector.engine.info.weights
    onnx = Detector(tiny_model.with_suffix(".onnx"), threads=1)
    np.testing.assert_allclose(detector.engine(batch).scores, onnx.engine(batch).scores, atol=1e-6)
    assert len(detector.batch([batch[0], batch[1][:20]])) == 2
    with pytest.raises(ModelError, match=r"precision: expected fp32 for .* on cpu, got 'fp16'"):
        Detector(tiny_model, precision="fp16")


def test_on_cuda_without_a_gpu(tiny_model: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(
        UnavailableError, match=r"'cuda' was asked for, but torch .* finds no CUDA device here"
    ):
        Detector(tiny_model, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_on_cuda(tiny_model: Path, batch: np.ndarray, expected: NetworkOutputs, precision: str) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with Detector(tiny_model, device="cuda", precision=precision) as detector:
        for _ in range(3):
            actual = detector.engine(batch)
    tolerance = TOLERANCES["tf32" if precision == "fp32" else precision].absolute
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=0)


def test_weights_without_torch(tiny_model: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from aicl_fast import AiclError, Detector\n"
        f"try: Detector({str(tiny_model)!r})\n"
        "except AiclError as error: assert 'needs the package torch' in str(error), error\n"
        "else: raise SystemExit('no error')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"engine": "tvm"}, "expected one of onnxruntime, openvino, tensorrt, torch, got 'tvm'"),
        ({"engine": "torch"}, "cannot run in torch; this kind of file runs in onnxruntime or openvino"),
        ({"device": "gpu"}, "expected cpu, cuda or cuda:N, got 'gpu'"),
        ({"engine": "openvino", "device": "cuda"}, "OpenVINO runs on the CPU here"),
        ({"precision": "bf16"}, "precision: is not an option of the onnxruntime engine; it is of openvino"),
        ({"device": "cuda"}, "no CUDAExecutionProvider"),
    ],
)
def test_what_does_not_go_together_at_load(tiny_model: Path, arguments: dict, words: str) -> None:
    with pytest.raises(AiclError, match=words):
        Detector(tiny_model.with_suffix(".onnx"), **arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ExportOptions("coreml"), "--format: expected onnx, openvino"),
        (
            ExportOptions("onnx", "tf32"),
            "expected fp32 or fp16 .*or fp8 for .*tf32 exists for tensorrt",
        ),
        (ExportOptions("onnx", "fp4"), "got 'fp4'"),
        (ExportOptions(convolution="fft"), "--convolution: expected auto, direct or winograd, got 'fft'"),
        (ExportOptions("onnx", "fp16", convolution="winograd"), "winograd exists for onnx fp32, openvino"),
        (ExportOptions("triton-repository", "bf16"), "expected fp32 or fp16 or int8"),
        (ExportOptions("onnx", "int8"), "--calibrate: int8 needs real features"),
        (ExportOptions("onnx", "fp8"), "--calibrate: fp8 needs real features"),
        (ExportOptions("onnx", "fp16", calibrate=Path("x")), "--calibrate: is for --precision int8 and fp8"),
        (ExportOptions(build=BuildOptions(workspace_mb=1)), "for --format tensorrt and tensorrt-rtx"),
        (
            ExportOptions("onnx", "int8", calibrate=Path("x"), segments=Range(8, 9, 10)),
            "int8 is calibrated at one T",
        ),
        (ExportOptions("triton-repository", batch=Range(4, 4, 4)), "batches of 1 to a largest size"),
        (
            ExportOptions("triton-repository", server=ServerOptions(backend="onnx", kind="tpu")),
            "--instance-kind: expected auto, cpu or gpu",
        ),
        (ExportOptions("triton-repository", server=ServerOptions(name="../x")), "--name"),
        (
            ExportOptions("tensorrt-rtx", build=BuildOptions(timing_cache=Path("x"))),
            "--timing-cache: is an option of --format tensorrt",
        ),
        (
            ExportOptions("tensorrt-rtx", "bf16", build=BuildOptions(compute_capability=("7.5", "8.6"))),
            r"cards have bf16 products from 8\.0 on; got 7\.5\.",
        ),
        (
            ExportOptions(
                "tensorrt-rtx", "fp8", calibrate=Path("x"), build=BuildOptions(compute_capability=("8.6",))
            ),
            r"cards have fp8 products from 8\.9 on; got 8\.6\.",
        ),
        (
            ExportOptions("tensorrt", build=BuildOptions(compute_capability=("8.6",))),
            "--compute-capability: is an option of --format tensorrt-rtx",
        ),
        (
            ExportOptions("triton-repository", "tf32"),
            "tf32 exists for tensorrt, tensorrt-rtx, triton-repository with --backend tensorrt",
        ),
        (ExportOptions(seed=1), "--calibrate-videos, --seed: are for --precision int8 and fp8"),
        (ExportOptions(precision="fp16", calibrate_videos=3), "--calibrate-videos, --seed: are for"),
        (
            ExportOptions("openvino", "int8", calibrate=Path("x"), seed=-1),
            "--seed: expected 0 or more, got -1",
        ),
        (ExportOptions(server=ServerOptions(name="a")), "--name, .* are for --format triton-repository; got"),
        (
            ExportOptions("tensorrt-rtx", build=BuildOptions(compute_capability=("8.6", "9.9"))),
            r"builds for .*8\.6.*, not for 9\.9",
        ),
        (
            ExportOptions("tensorrt-rtx", build=BuildOptions(compute_capability=("8.6", "8.6"))),
            r"expected each card once, got 8\.6, 8\.6",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_first(options: ExportOptions, words: str, tmp_path: Path) -> None:
    if options.format == "tensorrt-rtx":
        pytest.importorskip("tensorrt_rtx_bindings")
    with pytest.raises(ConfigError, match=words):
        export_model(tmp_path / "not even there.safetensors", None, options)


def test_every_combination_is_known() -> None:
    for format_, row in FORMATS.items():
        for precision in row.precisions:
            assert precision in TOLERANCES
            calibrate = Path("x") if precision in CALIBRATED else None
            try:
                check_combination(ExportOptions(format_, precision, calibrate=calibrate))
            except UnavailableError:
                pass  # a package or a GPU that is not here
            except ConfigError:
                assert format_ == "triton-repository"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_tensorrt_asks_for_its_package_and_then_for_a_card(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    import aicl_fast.export.tensorrt.cards as tensorrt
    from aicl_fast.engines.cuda.driver import Cuda

    calibrate = Path("x") if precision in CALIBRATED else None
    options = ExportOptions("tensorrt", precision, calibrate=calibrate)

    def lacks(what: str) -> Any:
        def fail(*_: object) -> None:
            raise UnavailableError(f"there is no {what}.")

        return fail

    monkeypatch.setattr(tensorrt, "Cuda", lacks("driver"))
    monkeypatch.setattr(tensorrt, "load_tensorrt", lacks("package"))
    with pytest.raises(UnavailableError, match="there is no package"):
        check_combination(options)
    monkeypatch.setattr(tensorrt, "load_tensorrt", lambda kind: None)
    words = r"builds on the card .* there is no driver\. --format tensorrt-rtx builds without"
    with pytest.raises(UnavailableError, match=words):
        check_combination(options)

    class Turing(Cuda):
        capability = (7, 5)

        def __init__(self, number: int) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr(tensorrt, "Cuda", Turing)
    if precision != "bf16":
        check_combination(options)
        return
    with pytest.raises(ConfigError, match=r"cards have bf16 products from .* 8\.0 on; this one has 7\.5"):
        check_combination(options)


def test_files_that_cannot_be_used_are_named_first(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    import aicl_fast.export.export as exporting
    from aicl_fast.engines.packages import load_tensorrt
    from aicl_fast.engines.tensorrt.logger import make_logger

    monkeypatch.setattr(exporting, "exported_onnx", None)  # work that must not have started
    (tmp_path / "file").touch()
    for log in (tmp_path, tmp_path / "file" / "build.log"):
        with pytest.raises(DataError, match=r"--log: .* cannot be written"):
            export_model(
                tiny_model, tmp_path / "m.engine", ExportOptions("tensorrt-rtx", build=BuildOptions(log=log))
            )
        with pytest.raises(DataError, match=r"--log: .* cannot be written"):
            make_logger(load_tensorrt("tensorrt-rtx"), log)
    with pytest.raises(DataError, match=r"--timing-cache: .* a folder has this name"):
        check_target(tiny_model, tmp_path / "m.engine", _building(timing_cache=tmp_path))
    check_target(tiny_model, tmp_path / "m.engine", _building(timing_cache=tmp_path / "new"))


def test_export_command(run, tiny_model: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    status, out, _ = run(
        "export", tiny_model, "--precision", "fp16", "-o", "half.onnx", "--verify", "-d", tiny_dataset
    )
    assert status == 0
    assert re.search(r"half\.onnx: 0\.[01] MB", out)
    assert "mAP" in out
    status, _, err = run("export", tiny_model, "--precision", "bf16", "-o", "brain.onnx", "--verify")
    assert status == 2
    assert "openvino:model.onnx" in err
    assert not (tmp_path / "brain.onnx").exists()
    status, _, err = run("export", tiny_model, "--data", tiny_dataset)
    assert (status, "--data: is what --verify runs on" in err) == (2, True)
    status, _, err = run("export", tiny_model, "--batch", "²")
    assert (status, "--batch: expected one size" in err) == (2, True)
    status, _, err = run("export", tiny_model, "--batch", "8:1")
    assert (status, "--batch: expected one size" in err) == (2, True)
    status, _, err = run("export", tiny_model, "--refit", "old.engine")
    assert (status, "--refit: is for --format tensorrt" in err) == (2, True)


def test_what_cannot_be_verified_is_refused_first(run, tiny_model: Path, tmp_path: Path) -> None:
    for options, words in (
        (["--segments", "64"], "runs at its own T, 32, which --segments 64 leaves out"),
        (["-d", tmp_path / "none"], "the data set folder does not exist"),
    ):
        status, _, err = run("export", tiny_model, "-o", "m.onnx", "--verify", *options)
        assert (status, words in " ".join(err.split())) == (2, True)
        assert not (tmp_path / "m.onnx").exists()
    status, _, _ = run("export", tiny_model, "-o", "m.onnx", "--verify", "--segments", "16:64:128")
    assert status == 0
    status, _, err = run("parity", tiny_model, "m.onnx", "--seed", "-1")
    assert (status, "--seed: expected 0 or more, got -1" in err) == (2, True)


def test_info_command(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of files that nothing here can run."""
    from aicl_fast.cli import info

    brain = export_model(tiny_model, tmp_path / "b.onnx", ExportOptions(precision="bf16"))
    info.run(brain)
    text = capsys.readouterr().out
    assert "bf16" in text
    assert "1:8:64" in text
    assert Detector(tiny_model).engine.info.weights[:16] in text
    brain.write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"b\.onnx: the ONNX model cannot be read"):
        info.run(brain)


@pytest.mark.parametrize(("convolution", "convolutions"), [("auto", 0), ("winograd", 0), ("direct", 6)])
def test_the_convolution_is_chosen(tiny_model, tmp_path, convolution, convolutions) -> None:
    onnx = pytest.importorskip("onnx")
    out = export_model(tiny_model, tmp_path / "m.onnx", ExportOptions(convolution=convolution))
    kinds = [node.op_type for node in onnx.load(out).graph.node]
    assert kinds.count("Conv") == convolutions


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "x.engine"], "--format: x.engine may be tensorrt or tensorrt-rtx; say which"),
        (["-o", "out.trt"], "--out: expected a name that ends in .onnx for --format onnx, got out.trt"),
        (["-o", "m.safetensors"], "--out: expected a name that ends in .onnx"),
        (["-f", "onnx", "-o", "x.engine"], "--out: expected a name that ends in .onnx"),
        (["-f", "openvino", "-o", "x.onnx"], "ends in .openvino for --format openvino, got x.onnx"),
        (["-f", "triton-repository", "-o", "x.onnx"], "--out: expected a folder for --format triton-repo"),
    ],
)
def test_a_name_and_a_format_that_contradict_each_other(
    run, tiny_model: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    pytest.importorskip("openvino")
    status, _, err = run("export", tiny_model, *arguments)
    assert (status, words in " ".join(err.split())) == (2, True), err
    assert not list(tmp_path.iterdir())


def test_the_format_is_taken_from_the_name(run, tiny_model: Path) -> None:
    pytest.importorskip("openvino")
    for name, engine in (("m.openvino", "openvino"), ("m.ONNX", "onnxruntime")):
        status, _, _ = run("export", tiny_model, "-o", name)
        assert status == 0
        with Detector(name) as detector:
            assert detector.engine.name == engine


@pytest.mark.parametrize("options", [[], ["-o", "other.onnx"], ["--verify"], ["--model", "i3d-rgb"]])
def test_an_exported_model_is_not_exported(run, tiny_model: Path, tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "m.onnx").write_bytes(tiny_model.with_suffix(".onnx").read_bytes())
    for beside in ("the model.safetensors of its training.", "m.safetensors."):
        status, _, err = run("export", "m.onnx", *options)
        words = f"m.onnx: is an exported model, and an export is made of the weights. Give {beside}"
        assert (status, words in " ".join(err.split())) == (2, True), err
        (tmp_path / "m.safetensors").touch()


def test_bfloat16_for_onnx_runtime_is_remarked_on(run, tiny_model: Path) -> None:
    status, _, err = run("export", tiny_model, "--precision", "bf16", "-o", "brain.onnx")
    assert status == 0
    assert "note: ONNX Runtime has no bfloat16 convolution on a CPU; run this file with --engine" in err
    status, _, err = run("export", tiny_model, "--precision", "fp16", "-o", "half.onnx")
    assert (status, err) == (0, "")


def test_weights_are_not_written_over(run, tiny_model: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(tiny_model.read_bytes())
    (tmp_path / "link").symlink_to(weights)
    (tmp_path / "hard").hardlink_to(weights)
    for name in ("w.safetensors", "link", "hard", "../" + tmp_path.name + "/w.safetensors"):
        status, _, err = run("export", weights, "-o", name)
        assert (status, "is the weights, and would be overwritten" in " ".join(err.split())) == (2, True)
        assert weights.read_bytes() == tiny_model.read_bytes()
    for option in ("log", "timing_cache"):
        with pytest.raises(ConfigError, match="is the weights"):
            check_target(weights, tmp_path / "m.engine", _building(**{option: weights}))
    with pytest.raises(ConfigError, match=r"--log: .* is what --out names"):
        check_target(weights, tmp_path / "m.engine", _building(log=tmp_path / "m.engine"))
    status, _, err = run("export", weights, "-o", weights, "-f", "tensorrt-rtx", "--refit", "old.engine")
    assert (status, "--out: " in err) == (2, True)
    status, _, err = run("export", "--model", "i3d-rgb", weights, "-o", weights)
    assert (status, "--out: " in err) == (2, True)
    assert weights.read_bytes() == tiny_model.read_bytes()


def _building(**options: Any) -> ExportOptions:
    return ExportOptions("tensorrt", build=BuildOptions(**options))

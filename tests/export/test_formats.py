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

from aicl_fast import Detector, plugins
from aicl_fast.config import load_config
from aicl_fast.data.dataset import Dataset
from aicl_fast.data.detections import Detection, Detections
from aicl_fast.errors import AiclError, ConfigError, DataError, ModelError, UnavailableError
from aicl_fast.evaluate import mean_average_precision
from aicl_fast.export.export import check_combination, check_target, export_model
from aicl_fast.export.formats import FORMATS, Format
from aicl_fast.export.options import CALIBRATED, BuildOptions, ExportOptions, ServerOptions
from aicl_fast.export.parity import TOLERANCES
from aicl_fast.metadata import Range

RUN_BY = {
    "onnx": ("onnxruntime", "openvino"),
    "openvino": ("openvino",),
    "triton-repository": ("onnxruntime",),
    "tensorrt": (),
    "tensorrt-rtx": (),
}
"""The engines that run a format's files on a CPU; the first is the one that opens them by itself."""
LACKS = {"onnxruntime": ("bf16", "tf32"), "openvino": ()}
RUNS_HERE = [
    (name, precision, engine)
    for name, row in FORMATS.items()
    for engine in RUN_BY[name]
    for precision in row.precisions
    if precision not in LACKS[engine]
]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The demo's: real ones."""
    pytest.importorskip("seglearn")
    from aicl_fast.train.watch import prepare_watch

    folder = tmp_path_factory.mktemp("recordings")
    prepare_watch(folder)
    return Dataset.open(folder, load_config("demo").with_values({"steps": 300, "lr": 2e-4}))


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
    with Detector(out, engine=engine if engine != RUN_BY[format_][0] else None, threads=1) as detector:
        assert detector.engine.name == engine
        assert detector.engine.info.precision == precision
        detections = localise(detector, recordings)
    matched = share_matched(detections, trained.detections, TOLERANCES[precision].absolute)
    assert matched >= MATCHED[precision]
    apart = abs(mean_of(recordings, detections) - trained.mAP)
    assert apart <= (0.02 if saturates(precision) else 0.005)


@pytest.mark.parametrize(("format_", "precision", "engine"), RUNS_HERE)
def test_what_an_exported_network_computes(
    exported, batch: np.ndarray, expected, assert_close, format_: str, precision: str, engine: str
) -> None:
    """Features of no recording, from a network that is sure of nothing: every output counts."""
    pytest.importorskip(engine)
    with Detector(exported(format_, precision), engine=engine, threads=1) as detector:
        assert_close(detector.engine(batch), expected, TOLERANCES[precision].absolute)


TOY = """
from aicl_fast.export.formats import Format

def write(model, info, path, options, progress):
    path.write_bytes(b"toy" + model.SerializeToString())

FORMAT = Format("toy", ".toy", ("fp32", "fp16"), write)
"""


def test_a_format_of_another_package(run, tiny_model: Path, tmp_path: Path, monkeypatch) -> None:
    import onnx

    site = tmp_path / "site"
    (site / "toy-1.dist-info").mkdir(parents=True)
    (site / "toy-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
    entry = site / "toy-1.dist-info" / "entry_points.txt"
    entry.write_text("[aicl_fast.formats]\ntoy = toy_format:FORMAT\n")
    (site / "toy_format.py").write_text(TOY)
    monkeypatch.syspath_prepend(site)
    plugins.load.cache_clear()
    try:
        run("export", tiny_model, "--format", "toy", "-o", "by-format.toy")
        run("export", tiny_model, "-o", "by-name.toy", "--precision", "fp16")
        for refused, words in (
            (["--precision", "int8", "-o", "m.toy"], "--precision: expected fp32 or fp16 for --format toy"),
            (["--opset", "17", "-o", "m.toy"], "--opset: is for --format onnx and triton-repository with"),
            (
                ["--format", "toi"],
                "--format: expected onnx, openvino, tensorrt, tensorrt-rtx, triton-repository, toy",
            ),
            (
                ["--format", "toy", "-o", "m.onnx"],
                "--out: expected a name that ends in .toy for --format toy",
            ),
        ):
            assert words in run("export", tiny_model, *refused, expect=2)
        assert "is an exported model" in run("export", "by-name.toy", expect=2)
        entry.write_text("[aicl_fast.formats]\ntoy = toy_format:TOY\n")
        (site / "toy_format.py").write_text("TOY = 5")
        plugins.load.cache_clear()
        monkeypatch.delitem(sys.modules, "toy_format")
        words = "toy: expected an aicl_fast.export.formats.Format at the entry point of the group"
        assert words in run("export", tiny_model, "--format", "toy", expect=2)
    finally:
        plugins.load.cache_clear()
    for name in ("by-format.toy", "by-name.toy"):
        content = (tmp_path / name).read_bytes()
        assert content.startswith(b"toy")
        onnx.checker.check_model(onnx.load_from_string(content[3:]))


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
def test_on_cuda(tiny_model: Path, batch: np.ndarray, expected, assert_close, precision: str) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with Detector(tiny_model, device="cuda", precision=precision) as detector:
        for _ in range(3):
            actual = detector.engine(batch)
    assert_close(actual, expected, TOLERANCES["tf32" if precision == "fp32" else precision].absolute)


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


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_every_combination_is_known(row: Format, options) -> None:
    for precision in row.precisions:
        assert precision in TOLERANCES
        try:
            check_combination(options(row.name, precision))
        except UnavailableError:
            pass  # a package or a GPU that is missing
        except ConfigError:
            assert row.name == "triton-repository"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_tensorrt_asks_for_its_package_and_then_for_a_card(
    monkeypatch: pytest.MonkeyPatch, options, precision: str
) -> None:
    import aicl_fast.export.tensorrt.cards as tensorrt
    from aicl_fast.engines.cuda.driver import Cuda

    wanted = options("tensorrt", precision)

    def lacks(what: str) -> Any:
        def fail(*_: object) -> None:
            raise UnavailableError(f"there is no {what}.")

        return fail

    monkeypatch.setattr(tensorrt, "Cuda", lacks("driver"))
    monkeypatch.setattr(tensorrt, "load_tensorrt", lacks("package"))
    with pytest.raises(UnavailableError, match="there is no package"):
        check_combination(wanted)
    monkeypatch.setattr(tensorrt, "load_tensorrt", lambda kind: None)
    words = r"builds on the card .* there is no driver\. --format tensorrt-rtx builds without"
    with pytest.raises(UnavailableError, match=words):
        check_combination(wanted)

    class Turing(Cuda):
        capability = (7, 5)

        def __init__(self, number: int) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr(tensorrt, "Cuda", Turing)
    if precision != "bf16":
        check_combination(wanted)
        return
    with pytest.raises(ConfigError, match=r"cards have bf16 products from .* 8\.0 on; this one has 7\.5"):
        check_combination(wanted)


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
    text = run("export", tiny_model, "--precision", "fp16", "-o", "half.onnx", "--verify", "-d", tiny_dataset)
    assert re.search(r"half\.onnx: 0\.[01] MB", text)
    assert "mAP" in text
    for options, words in (
        (["--precision", "bf16", "-o", "brain.onnx", "--verify"], "openvino:model.onnx"),
        (["--data", tiny_dataset], "--data: is what --verify runs on"),
        (["--batch", "²"], "--batch: expected one size"),
        (["--batch", "8:1"], "--batch: expected one size"),
        (["--refit", "old.engine"], "--refit: is for --format tensorrt"),
    ):
        assert words in run("export", tiny_model, *options, expect=2)
    assert not (tmp_path / "brain.onnx").exists()


def test_what_cannot_be_verified_is_refused_first(run, tiny_model: Path, tmp_path: Path) -> None:
    for options, words in (
        (["--segments", "64"], "runs at its own T, 32, which --segments 64 leaves out"),
        (["-d", tmp_path / "none"], "the data set folder does not exist"),
    ):
        assert words in run("export", tiny_model, "-o", "m.onnx", "--verify", *options, expect=2)
        assert not (tmp_path / "m.onnx").exists()
    run("export", tiny_model, "-o", "m.onnx", "--verify", "--segments", "16:32:64")
    assert "--seed: expected 0 or more, got -1" in run(
        "parity", tiny_model, "m.onnx", "--seed", "-1", expect=2
    )


def test_info_command(tiny_model: Path, exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of files that nothing here can run."""
    from aicl_fast.cli import info

    brain = tmp_path / "b.onnx"
    brain.write_bytes(exported("onnx", "bf16").read_bytes())
    info.run(brain)
    text = capsys.readouterr().out
    assert "bf16" in text
    assert "1:8:64" in text
    assert Detector(tiny_model).engine.info.weights[:16] in text
    brain.write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"b\.onnx: the ONNX model cannot be read"):
        info.run(brain)


@pytest.mark.parametrize(("convolution", "convolutions"), [("auto", 0), ("winograd", 0), ("direct", 6)])
def test_the_convolution_is_chosen(exported, convolution: str, convolutions: int) -> None:
    import onnx

    model = onnx.load(exported("onnx", "fp32", convolution=convolution))
    kinds = [node.op_type for node in model.graph.node]
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
    assert words in run("export", tiny_model, *arguments, expect=2)
    assert not list(tmp_path.iterdir())


def test_the_format_is_taken_from_the_name(run, tiny_model: Path) -> None:
    pytest.importorskip("openvino")
    for name, engine in (("m.openvino", "openvino"), ("m.ONNX", "onnxruntime")):
        run("export", tiny_model, "-o", name)
        with Detector(name) as detector:
            assert detector.engine.name == engine


@pytest.mark.parametrize("options", [[], ["-o", "other.onnx"], ["--verify"], ["--model", "i3d-rgb"]])
def test_an_exported_model_is_not_exported(run, tiny_model: Path, tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "m.onnx").write_bytes(tiny_model.with_suffix(".onnx").read_bytes())
    for beside in ("the model.safetensors of its training.", "m.safetensors."):
        words = f"m.onnx: is an exported model, and an export is made of the weights. Give {beside}"
        assert words in run("export", "m.onnx", *options, expect=2)
        (tmp_path / "m.safetensors").touch()


def test_bfloat16_for_onnx_runtime_is_remarked_on(run, tiny_model: Path) -> None:
    text = run("export", tiny_model, "--precision", "bf16", "-o", "brain.onnx")
    assert "note: ONNX Runtime has no bfloat16 convolution on a CPU; run this file with --engine" in text
    text = run("export", tiny_model, "--precision", "fp16", "-o", "half.onnx")
    assert re.fullmatch(r"half\.onnx: 0\.[01] MB", text)


def test_weights_are_not_written_over(run, tiny_model: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(tiny_model.read_bytes())
    (tmp_path / "link").symlink_to(weights)
    (tmp_path / "hard").hardlink_to(weights)
    for name in ("w.safetensors", "link", "hard", "../" + tmp_path.name + "/w.safetensors"):
        words = "is the weights, and would be overwritten"
        assert words in run("export", weights, "-o", name, expect=2)
        assert weights.read_bytes() == tiny_model.read_bytes()
    for option in ("log", "timing_cache"):
        with pytest.raises(ConfigError, match="is the weights"):
            check_target(weights, tmp_path / "m.engine", _building(**{option: weights}))
    with pytest.raises(ConfigError, match=r"--log: .* is what --out names"):
        check_target(weights, tmp_path / "m.engine", _building(log=tmp_path / "m.engine"))
    for more in (["-f", "tensorrt-rtx", "--refit", "old.engine"], ["--model", "i3d-rgb"]):
        assert "--out: " in run("export", weights, "-o", weights, *more, expect=2)
    assert weights.read_bytes() == tiny_model.read_bytes()


def _building(**options: Any) -> ExportOptions:
    return ExportOptions("tensorrt", build=BuildOptions(**options))

"""Every format and precision that runs here: export, load, detect, and the same detections."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
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
from aicl_fast.export.formats import (
    CALIBRATED,
    FORMATS,
    SUFFIXES,
    ExportOptions,
    check_combination,
    check_target,
    export_model,
)
from aicl_fast.export.parity import TOLERANCES, compare_detectors, differences
from aicl_fast.export.quantize import calibration_features, quantize_onnx
from aicl_fast.export.tensorrt import BuildOptions
from aicl_fast.export.triton_repository import ServerOptions, check_config
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
    out = tmp_path / f"model{SUFFIXES.get(format_, '')}"
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
    out = tmp_path / f"model{SUFFIXES.get(format_, '')}"
    export_model(tiny_model, out, ExportOptions(format_, precision, calibrate=calibrate))
    if out.is_dir():
        (out,) = out.rglob("model.onnx")
    with Detector(out, engine=engine, threads=1) as detector:
        actual = detector.engine(batch)
    for name, a, b in zip(NetworkOutputs._fields, actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCES[precision].absolute, rtol=0, err_msg=name)


def test_openvino_settings(tmp_path: Path, tiny_model: Path, batch: np.ndarray) -> None:
    pytest.importorskip("openvino")
    out = export_model(tiny_model, tmp_path / "m.openvino", ExportOptions("openvino", "fp32"))
    plain = Detector(out, threads=1, pin_threads=False).engine(batch)
    again = Detector(out, threads=1, pin_threads=True, precision="fp32").engine(batch)
    np.testing.assert_array_equal(plain.scores, again.scores)
    with pytest.raises(ModelError, match="precision: expected fp32, bf16 or fp16 for OpenVINO, got 'int8'"):
        Detector(out, precision="int8")


def test_openvino_compiles_a_batch_size_at_a_time(tmp_path: Path, tiny_model: Path, batch, expected) -> None:
    pytest.importorskip("openvino")
    out = export_model(tiny_model, tmp_path / "m.openvino", ExportOptions("openvino"))
    engine = Detector(out, threads=1).engine
    assert list(engine._compiled) == [(1, 32, 11)]
    np.testing.assert_allclose(engine(batch).scores, expected.scores, atol=1e-6)
    many = np.concatenate([batch] * 3)
    for count in range(6, 16):
        assert engine(many[:count]).scores.shape == (count, 32, 3)
    assert list(engine._compiled) == [(count, 32, 11) for count in range(8, 16)]
    np.testing.assert_allclose(engine(batch).scores, expected.scores, atol=1e-6)


def test_openvino_compiles_once_where_the_length_varies(tmp_path: Path, tiny_model: Path, batch) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    sizes = Range(8, 32, 64)
    out = export_model(tiny_model, tmp_path / "m.openvino", ExportOptions("openvino", segments=sizes))
    other = export_model(tiny_model, tmp_path / "m.onnx", ExportOptions("onnx", segments=sizes))
    engine, reference = Detector(out, threads=1).engine, Detector(other, threads=1).engine
    (compiled,) = engine._compiled.values()
    for length in (32, 9, 64, 8, 32):
        for videos in (batch, batch[:1]):
            features = np.concatenate([videos] * 2, axis=1)[:, :length]
            for a, b in zip(engine(features), reference(features), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-6)
    assert list(engine._compiled.values()) == [compiled]


def test_openvino_from_several_threads(tmp_path: Path, tiny_model: Path, batch: np.ndarray) -> None:
    pytest.importorskip("openvino")
    from concurrent.futures import ThreadPoolExecutor

    out = export_model(tiny_model, tmp_path / "m.openvino", ExportOptions("openvino"))
    engine = Detector(out, threads=1).engine
    alone = [engine(batch[i : i + 1]).scores for i in range(5)]
    with ThreadPoolExecutor(3) as pool:
        for number, outputs in enumerate(pool.map(lambda n: engine(batch[n % 5][None]), range(30))):
            np.testing.assert_allclose(outputs.scores, alone[number % 5], atol=1e-6)


def test_detecting_with_openvino_imports_no_torch(tmp_path: Path, tiny_model: Path) -> None:
    pytest.importorskip("openvino")
    out = export_model(tiny_model, tmp_path / "m.openvino", ExportOptions("openvino", "bf16"))
    code = (
        "import sys, numpy; from aicl_fast import Detector\n"
        f"d = Detector({str(out)!r}, threads=1)\n"
        "d(numpy.ones((9, 11), numpy.float32))\n"
        "heavy = {'torch', 'triton', 'onnx', 'onnxruntime', 'tensorrt_rtx_bindings'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
    for format_, precisions in FORMATS.items():
        for precision in precisions:
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
    import aicl_fast.export.tensorrt as tensorrt
    from aicl_fast.engines.tensorrt import Cuda

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
    import aicl_fast.export.formats as formats
    from aicl_fast.engines.tensorrt_api import load_tensorrt, make_logger

    monkeypatch.setattr(formats, "exported_onnx", None)  # work that must not have started
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


def test_calibration_features_are_read_before_the_graph_is_built(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import aicl_fast.export.formats as formats

    monkeypatch.setattr(formats, "build_onnx", None)
    with pytest.raises(DataError, match="the data set folder does not exist"):
        export_model(tiny_model, None, ExportOptions("onnx", "int8", calibrate=tmp_path / "none"))


def test_calibration_is_reproducible(tiny_model: Path, tiny_dataset: Path, tiny_config) -> None:
    from aicl_fast.export.formats import exported_onnx
    from aicl_fast.weights import load_model

    net, config = load_model(tiny_model)
    first = calibration_features(tiny_dataset, config, videos=3, seed=7)
    assert [each.shape for each in first] == [(1, 32, 11)] * 3
    for a, b in zip(first, calibration_features(tiny_dataset, config, videos=3, seed=7), strict=True):
        np.testing.assert_array_equal(a, b)
    for precision in CALIBRATED:
        options = ExportOptions("onnx", precision, calibrate=tiny_dataset, calibrate_videos=3, seed=7)
        models = [exported_onnx(net, config, options)[0] for _ in range(2)]
        assert models[0].SerializeToString() == models[1].SerializeToString()
    info = exported_onnx(net, config, options)[1]
    with pytest.raises(DataError, match="no features to calibrate with"):
        quantize_onnx(models[0], info, [])
    wide = tiny_config.with_values({"rgb_width": 7})
    with pytest.raises(DataError, match="7"):
        calibration_features(tiny_dataset, wide)


def quantised(tiny_model: Path, dataset: Path, precision: str) -> Any:
    from aicl_fast.export.formats import exported_onnx
    from aicl_fast.weights import load_model

    options = ExportOptions("onnx", precision, calibrate=dataset)
    return exported_onnx(*load_model(tiny_model), options)[0]


@pytest.mark.parametrize(
    ("precision", "largest", "accuracy"), [("int8", 127, 1 / 254), ("fp8", 448, 1 / 16)], ids=["int8", "fp8"]
)
def test_only_the_embeddings_are_quantised(
    tiny_model: Path, tiny_dataset: Path, precision: str, largest: float, accuracy: float
) -> None:
    """Weights a channel, activations a tensor, no zero points; heads and biases stay in float32."""
    import onnx

    from aicl_fast.weights import load_model

    model = quantised(tiny_model, tiny_dataset, precision)
    numpy = onnx.numpy_helper.to_array
    tensors = {each.name: each for each in model.graph.initializer}
    producer = {name: node for node in model.graph.node for name in node.output}
    kind = getattr(onnx.TensorProto, {"int8": "INT8", "fp8": "FLOAT8E4M3FN"}[precision])
    net, _ = load_model(tiny_model)
    seen = []
    for node in (node for node in model.graph.node if node.op_type == "Conv"):
        if node.input[1] in tensors:  # a head
            assert tensors[node.input[1]].data_type == onnx.TensorProto.FLOAT
            continue
        assert tensors[node.input[2]].data_type == onnx.TensorProto.FLOAT
        weight, scale, zero = (tensors[name] for name in producer[node.input[1]].input)
        assert weight.data_type == zero.data_type == kind
        assert list(scale.dims) == [8]
        narrow = np.asarray(numpy(weight), np.float32)
        assert np.abs(narrow).max((1, 2)).tolist() == [largest] * 8
        # Every weight is where it was to within a rounding step.
        name = node.input[1].removeprefix("net.").partition(".")[0]
        wanted = getattr(net, name).weight.detach().numpy()
        restored = narrow * numpy(scale)[:, None, None]
        step = np.abs(wanted).max((1, 2), keepdims=True) if precision == "int8" else np.abs(wanted)
        assert (np.abs(restored - wanted) <= accuracy * 1.001 * step + 1e-4).all()
        _, scale, zero = (
            producer[node.input[0]].input[0],
            *map(tensors.get, producer[node.input[0]].input[1:]),
        )
        assert (list(scale.dims), zero.data_type) == ([], kind)
        seen.append(name)
    assert sorted(seen) == ["embed", "embed_flow", "embed_rgb"]
    assert not any(
        np.asarray(numpy(each), np.float32).any() for each in tensors.values() if "zero" in each.name
    )


@pytest.mark.parametrize("precision", FORMATS["onnx"])
def test_narrow_graphs_in_a_second_consumer(
    tiny_model: Path, tiny_dataset: Path, batch: np.ndarray, expected: NetworkOutputs, precision: str
) -> None:
    """onnx's own evaluator, which rounds for itself."""
    import onnxruntime
    from onnx.reference import ReferenceEvaluator

    from aicl_fast.export.formats import exported_onnx
    from aicl_fast.weights import load_model

    calibrate = tiny_dataset if precision in CALIBRATED else None
    options = ExportOptions("onnx", precision, calibrate=calibrate)
    model = exported_onnx(*load_model(tiny_model), options)[0]
    found = ReferenceEvaluator(model).run(None, {"features": batch})
    for name, a, b in zip(NetworkOutputs._fields, found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCES[precision].absolute, rtol=0, err_msg=name)
    if precision == "bf16":
        return  # ONNX Runtime has no such convolution
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for a, b in zip(session.run(None, {"features": batch}), found, strict=True):
        # A rounding step in an odd place.
        np.testing.assert_allclose(a, b, atol=1e-1 if saturates(precision) else 2e-3)


def test_int8_stays_int8_in_onnx_runtime(tiny_model: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    """What it makes of the graph has three int8 convolutions; the three that are left are the heads."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    model = quantised(tiny_model, tiny_dataset, "int8")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 3
    assert sum(kind.endswith("Conv") for kind in kinds) == 6


def test_winograds_products_are_quantised(tiny_model: Path, tiny_dataset: Path) -> None:
    """Six a stream and embedding, each input on its own scale, weights a column; nothing else."""
    import onnx

    from aicl_fast.export.formats import exported_onnx
    from aicl_fast.weights import load_model

    options = ExportOptions("openvino", "int8", calibrate=tiny_dataset)
    graph = exported_onnx(*load_model(tiny_model), options)[0].graph
    tensors = {each.name: each for each in graph.initializer}
    producer = {name: node for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in producer]
    heads = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in tensors]
    assert (len(products), len(heads)) == (18, 3)
    assert all(tensors[node.input[1]].data_type == onnx.TensorProto.FLOAT for node in heads)
    scales = set()
    for node in products:
        weight, scale, _ = (tensors[name] for name in producer[node.input[1]].input)
        assert (weight.data_type, list(scale.dims)) == (onnx.TensorProto.INT8, [8])
        _, scale, zero = producer[node.input[0]].input
        assert (list(tensors[scale].dims), tensors[zero].data_type) == ([], onnx.TensorProto.INT8)
        scales.add(scale)
    assert len(scales) == 18
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) == 18


def test_streams_are_sliced_before_they_are_turned(tiny_model: Path, batch: np.ndarray) -> None:
    import onnx
    import onnxruntime

    from aicl_fast.export.quantize import slices_first

    model = onnx.load(tiny_model.with_suffix(".onnx"))
    before = model.SerializeToString()
    changed = slices_first(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(changed, full_check=True)
    producer = {name: node.op_type for node in changed.graph.node for name in node.output}
    wide = [node for node in changed.graph.node if node.op_type == "Conv" and "embed" in node.input[1]]
    inputs = [node.input[0] for node in wide]
    assert [producer[name] for name in inputs] == ["Transpose"] * 3
    every = [name for node in changed.graph.node for name in node.input]
    assert [every.count(name) for name in inputs] == [1] * 3
    results = [
        onnxruntime.InferenceSession(each.SerializeToString()).run(None, {"features": batch})
        for each in (model, changed)
    ]
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_server_repository(tmp_path: Path, tiny_model: Path, batch, expected) -> None:
    options = ExportOptions(
        "triton-repository",
        segments=Range(8, 32, 64),
        server=ServerOptions(name="actions", instances=2, kind="cpu", delay_us=500),
    )
    root = export_model(tiny_model, tmp_path / "repository", options)
    root = export_model(tiny_model, root, options)  # over itself
    assert [each.name for each in root.iterdir()] == ["actions"]
    home = root / "actions"
    assert {each.name for each in home.iterdir()} == {"1", "config.pbtxt", "labels.txt"}
    assert (home / "labels.txt").read_text().split() == ["Jump", "Run", "Throw"]
    config = check_config((home / "config.pbtxt").read_text())
    assert (config.name, config.platform, config.max_batch_size) == ("actions", "onnxruntime_onnx", 64)
    assert [(i.name, list(i.dims)) for i in config.input] == [("features", [-1, 11])]
    assert [(o.name, list(o.dims)) for o in config.output] == [
        ("scores", [-1, 3]),
        ("video_scores", [3]),
        ("actionness", [-1]),
        ("actionness_agnostic", [-1]),
    ]
    assert (config.instance_group[0].count, config.dynamic_batching.max_queue_delay_microseconds) == (2, 500)
    assert [list(warm.inputs["features"].dims) for warm in config.model_warmup] == [[32, 11]] * 2
    actual = Detector(home / "1" / "model.onnx", threads=1).engine(batch)
    np.testing.assert_allclose(actual.scores, expected.scores, atol=1e-6)
    (home / "2").mkdir()
    (home / "2" / "model.onnx").write_bytes(b"of another day")
    with pytest.raises(DataError, match=r"holds 2, 2/model\.onnx, which .* would delete"):
        export_model(tiny_model, root, options)
    assert (home / "2" / "model.onnx").read_bytes() == b"of another day"


def test_labels_are_a_line_each(tiny_model: Path, tiny_config, tmp_path: Path) -> None:
    from aicl_fast.export.onnx import model_info
    from aicl_fast.export.triton_repository import export_triton_repository
    from aicl_fast.weights import load_model

    net, _ = load_model(tiny_model)
    info = model_info(net, tiny_config)
    info = replace(info, config=replace(info.config, classes=("Jump", "Run\nand hide", "Throw")))
    with pytest.raises(DataError, match=r"'Run\\nand hide' cannot be a line of the server's labels\.txt"):
        export_triton_repository(None, info, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "config", [None, 'name: "actions"\nbackend: "python"\noptimization { cuda { graphs: true } }\n', "?"]
)
def test_models_of_others_stay(tmp_path: Path, tiny_model: Path, config: str | None) -> None:
    home = tmp_path / "repository" / "actions"
    (home / "1").mkdir(parents=True)
    (home / "1" / "model.py").write_text("thesis")
    if config is not None:
        (home / "config.pbtxt").write_text(config)
    options = ExportOptions("triton-repository", server=ServerOptions(name="actions"))
    with pytest.raises(DataError, match="is not a model of a server that"):
        export_model(tiny_model, home.parent, options)
    assert (home / "1" / "model.py").read_text() == "thesis"


def test_a_model_stays_until_the_next_is_in_its_place(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    options = ExportOptions("triton-repository")
    root = export_model(tiny_model, tmp_path / "repository", options)
    (root / "aicl" / "labels.txt").write_text("old")
    replace = os.replace

    def fail(source: Any, target: Any) -> None:
        if Path(source).name == "whole":
            assert not Path(target).exists()
            raise OSError(5, "the disk is broken")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(DataError, match="aicl"):
            export_model(tiny_model, root, options)
    assert (root / "aicl" / "labels.txt").read_text() == "old"
    assert [each.name for each in root.iterdir()] == ["aicl"]
    export_model(tiny_model, root, options)
    assert (root / "aicl" / "labels.txt").read_text() == "Jump\nRun\nThrow\n"


def test_a_plan_in_a_repository_says_what_it_is_for(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    import aicl_fast.export.triton_repository as repository
    from aicl_fast.engines.container import write_container
    from aicl_fast.export.onnx import model_info
    from aicl_fast.weights import load_model

    builder = {"name": "tensorrt", "version": "10.1", "compute_capability": ["8.6"]}

    def build(kind: str, model: Any, info: Any, path: Path, options: Any) -> None:
        write_container(path, kind, info, builder, {"plan": b"plan"})

    monkeypatch.setattr(repository, "export_tensorrt", build)
    info = model_info(*load_model(tiny_model))
    repository.export_triton_repository(None, info, tmp_path, ServerOptions(backend="tensorrt"))
    assert (tmp_path / "aicl" / "1" / "model.plan").read_bytes() == b"plan"
    config = check_config((tmp_path / "aicl" / "config.pbtxt").read_text())
    assert json.loads(config.parameters["aicl_fast_builder"].string_value) == builder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("max_batch_size", "max_batch"), "schema"),
        (("TYPE_FP32", "TYPE_FLOAT"), "schema"),
        (('name: "scores"', 'name: "features"'), "each input and output once"),
        (("preferred_batch_size: 8", "preferred_batch_size: 99"), "preferred batch size"),
        (("dims: 3\n", "dims: 0\n"), "has dims"),
        (("platform", "backend"), "expected name, platform"),
    ],
)
def test_server_configurations_are_checked(tiny_model: Path, change: tuple[str, str], words: str) -> None:
    from aicl_fast.export.onnx import model_info
    from aicl_fast.export.triton_repository import server_config
    from aicl_fast.weights import load_model

    text = server_config(model_info(*load_model(tiny_model)), ServerOptions())
    assert change[0] in text
    with pytest.raises(ConfigError, match=words):
        check_config(text.replace(*change))


def test_parity(tiny_model: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    from aicl_fast.data.dataset import Dataset

    half = export_model(tiny_model, tmp_path / "half.onnx", ExportOptions(precision="fp16"))
    detectors = [Detector(tiny_model), Detector(tiny_model.with_suffix(".onnx")), Detector(half)]
    dataset = Dataset.open(tiny_dataset, detectors[0].config, splits=("test",))
    results = compare_detectors(detectors, dataset, runs=2)
    assert [each.passed for each in results] == [True, True, True]
    assert results[0].differences == ()
    assert results[0].mAP is not None
    assert 0 < results[2].differences[0].absolute < 1e-3
    assert results[1].tolerance == TOLERANCES["fp32"]
    assert results[2].tolerance == TOLERANCES["fp16"]
    assert all(each.milliseconds > 0 for each in results)
    with pytest.raises(DataError, match="at least two"):
        compare_detectors(detectors[:1])


def test_parity_is_of_a_length_that_all_take(tiny_model: Path, tmp_path: Path) -> None:
    sizes = {"any": Range(8, 32, 64), "short": Range(16, 16, 16), "long": Range(40, 48, 64)}
    files = {
        name: Detector(export_model(tiny_model, tmp_path / f"{name}.onnx", ExportOptions(segments=each)))
        for name, each in sizes.items()
    }
    for names, length in ((("any", "short"), 16), (("any", "long"), 40), (("long", "any"), 48)):
        detectors = [files[name] for name in names]
        before = [each.segments for each in detectors]
        results = compare_detectors(detectors, runs=1)
        assert all(each.passed for each in results)
        assert max(each.where[1] for each in results[1].differences if len(each.where) > 1) < length
        assert [each.segments for each in detectors] == before
    with pytest.raises(DataError, match="expected a T that all files allow, got 16, 40:48:64"):
        compare_detectors([files["short"], files["long"]])


def test_latencies_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    import aicl_fast.export.parity as parity

    order: list[str] = []
    detectors: Any = [SimpleNamespace(engine=lambda _, name=name: order.append(name)) for name in "ab"]
    monkeypatch.setattr(time, "sleep", lambda seconds: order.append("rest"))
    parity._latencies(detectors, np.zeros(1, np.float32), 7)
    assert order == [*("rest", *"a" * 8), *("rest", *"b" * 8), *("rest", *"a" * 5), *("rest", *"b" * 5)]


@pytest.mark.parametrize("precision", TOLERANCES)
def test_the_table_shows_the_tolerance_that_holds(precision: str) -> None:
    from aicl_fast.cli.exporting import parity_table
    from aicl_fast.export.parity import Parity

    made = [
        Parity(name, precision, "onnxruntime", (), TOLERANCES[precision], 1.0, None, None) for name in "ab"
    ]
    (shown,) = [cell for cell in parity_table("", made).columns[1].cells if cell]
    assert float(str(shown).removeprefix("≤ ")) == TOLERANCES[precision].absolute


def test_differences_say_where(expected: NetworkOutputs) -> None:
    other = NetworkOutputs(*(each.copy() for each in expected))
    other.scores[3, 17, 2] += 0.25
    other.actionness[1, 5] = np.nan
    scores, video, actionness, agnostic = differences(expected, other)
    assert (scores.where, round(scores.absolute, 6)) == ((3, 17, 2), 0.25)
    assert scores.relative == pytest.approx(0.25 / expected.scores[3, 17, 2], rel=1e-4)
    assert (video.absolute, agnostic.relative) == (0, 0)
    assert (actionness.where, actionness.absolute) == ((1, 5), np.inf)


def test_parity_command(run, tiny_model: Path, tmp_path: Path, tiny_config) -> None:
    import torch

    from aicl_fast.model import TwoBranchNet
    from aicl_fast.weights import save_model

    onnx = tiny_model.with_suffix(".onnx")
    status, out, _ = run("parity", onnx, f"onnxruntime:{onnx}", "--runs", 1)
    assert status == 0
    assert "reference" in out
    assert "actionness_agnostic" in out
    torch.manual_seed(1)
    save_model(tmp_path / "other.safetensors", TwoBranchNet(tiny_config), tiny_config)
    status, out, _ = run("parity", onnx, "other.safetensors", "--runs", 1)
    assert status == 1
    assert "FAILS" in out
    assert "past tolerance: other.safetensors" in out


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


def test_parity_with_options(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file gets those that its engine has."""
    import aicl_fast.detector as detector
    from aicl_fast.cli.exporting import run_parity

    given: dict[str, Any] = {}
    real = detector.open_engine

    def spy(path: Any, *, engine: str | None, **options: Any) -> Any:
        given[str(engine)] = {name: value for name, value in options.items() if value not in (None, False)}
        return real(path, engine=engine, **options)

    monkeypatch.setattr(detector, "open_engine", spy)
    onnx = tiny_model.with_suffix(".onnx")
    models = [str(tiny_model), f"onnxruntime:{onnx}", f"openvino:{onnx}"]
    provider = "CPUExecutionProvider"
    run_parity(models, None, 2, 1, 0, device="cpu", providers=[provider], pin_threads=True)
    both = {"threads": 2, "pin_threads": True, "device": "cpu"}
    assert given == {
        "None": {"threads": 2, "device": "cpu"},
        "onnxruntime": {**both, "providers": [provider]},
        "openvino": both,
    }


def test_info_command(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of files that nothing here can run."""
    from aicl_fast.cli.info import run_info

    brain = export_model(tiny_model, tmp_path / "b.onnx", ExportOptions(precision="bf16"))
    run_info(brain, None)
    text = capsys.readouterr().out
    assert "bf16" in text
    assert "1:8:64" in text
    assert Detector(tiny_model).engine.info.weights[:16] in text
    brain.write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"b\.onnx: the ONNX model cannot be read"):
        run_info(brain, None)


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

"""I3D exported: one interface, one hash, the same numbers in torch, ONNX Runtime and OpenVINO."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

import aicl_fast.export.i3d as exporting  # noqa: E402
from aicl_fast import Detector  # noqa: E402
from aicl_fast.engines import checksum  # noqa: E402
from aicl_fast.engines.cuda.driver import Cuda  # noqa: E402
from aicl_fast.errors import ConfigError, ModelError, UnavailableError  # noqa: E402
from aicl_fast.export.i3d import TOLERANCES, export_i3d, random_clips, verify_i3d  # noqa: E402
from aicl_fast.export.onnx import check_signature  # noqa: E402
from aicl_fast.export.options import ExportOptions  # noqa: E402
from aicl_fast.export.tensorrt.build import check_network, network_from_onnx  # noqa: E402
from aicl_fast.metadata import METADATA_KEY, Range  # noqa: E402
from aicl_fast.video.i3d_weights import i3d_hash  # noqa: E402
from aicl_fast.video.networks import SegmentNetwork, open_network  # noqa: E402

UINT8, FLOAT, FLOAT16 = (getattr(onnx.TensorProto, name) for name in ("UINT8", "FLOAT", "FLOAT16"))


@pytest.fixture(scope="module")
def weights(random_i3d, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with untrained weights of both streams."""
    folder = tmp_path_factory.mktemp("i3d")
    for stream in ("rgb", "flow"):
        torch.save(random_i3d(stream).state_dict(), folder / f"{stream}.pt")
    return folder


@pytest.fixture(scope="module")
def rgb(weights: Path) -> Path:
    """RGB in float32, beside its weights."""
    return export_i3d("i3d-rgb", weights / "rgb.pt")


@pytest.fixture(scope="module")
def flow(weights: Path) -> Path:
    """Flow in float16, two segments at a time."""
    options = ExportOptions(precision="fp16", batch=Range(2, 2, 2))
    return export_i3d("i3d-flow", weights / "flow.pt", weights / "narrow.onnx", options)


@pytest.fixture(scope="module")
def reference(weights: Path) -> SegmentNetwork:
    """RGB in float32 torch."""
    return open_network(weights / "rgb.pt")


def apart(network: SegmentNetwork, reference: SegmentNetwork, count: int) -> float:
    """How far features are from the reference's, as a share of the largest."""
    clips = random_clips(reference, count)
    found, expected = network(clips), reference(clips)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_the_graphs_interface(rgb: Path, random_i3d) -> None:
    assert rgb.name == "rgb.onnx"
    model = onnx.load(rgb)
    (clips,) = model.graph.input
    assert (clips.name, clips.type.tensor_type.elem_type) == ("clips", UINT8)
    sizes = [dim.dim_param or dim.dim_value for dim in clips.type.tensor_type.shape.dim]
    assert sizes == ["batch", 16, 224, 224, 3]
    assert [output.name for output in model.graph.output] == ["features", "logits"]
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds.count("Conv"), kinds.count("MaxPool")) == (58, 13)
    assert not {"BatchNormalization", "Pad"} & set(kinds)  # both are in the convolutions
    properties = {each.key: each.value for each in model.metadata_props}
    about = json.loads(properties[METADATA_KEY])
    assert (about["kind"], about["stream"], about["frames"], about["size"]) == ("i3d", "rgb", 16, 224)
    assert about["weights_sha256"] == properties["weights_sha256"] == i3d_hash(random_i3d("rgb"))
    assert about["version"]


def test_onnx_runtime_equals_torch(rgb: Path, reference: SegmentNetwork) -> None:
    network = open_network(rgb, stream="rgb", threads=1)
    assert (network.name, network.precision, network.frames) == ("i3d-rgb", "fp32", 16)
    assert network.weights_hash == reference.weights_hash
    clips = random_clips(reference, 1)
    outputs, expected = network.session.run(clips), reference.session.run(clips)
    for a, b in zip(outputs, expected, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() < 1e-5 * np.abs(b).max()
    with pytest.raises(ModelError, match="is of the rgb stream, not of flow"):
        open_network(rgb, stream="flow")
    with pytest.raises(ModelError, match=r"precision: is not an option .*has its precision in it"):
        open_network(rgb, precision="bf16")


def test_float16_and_a_fixed_batch(flow: Path, weights: Path) -> None:
    model = onnx.load(flow)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    types |= {value.name: value.type.tensor_type.elem_type for value in inferred.graph.output}
    convolutions = [types[node.output[0]] for node in inferred.graph.node if node.op_type == "Conv"]
    assert convolutions == [FLOAT16] * 57 + [FLOAT]  # the head
    assert model.graph.input[0].type.tensor_type.elem_type == FLOAT
    network = open_network(flow, threads=1)
    assert (network.stream, network.precision) == ("flow", "fp16")
    assert 1e-6 < apart(network, open_network(weights / "flow.pt"), 1) < 1e-2


def test_openvino_equals_torch(rgb: Path, weights: Path, reference, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    options = ExportOptions("openvino", "bf16")
    path = export_i3d("i3d-rgb", weights / "rgb.pt", tmp_path / "m.openvino", options)
    exact = open_network(path, precision="fp32", threads=1)
    assert exact.weights_hash == reference.weights_hash
    assert apart(exact, reference, 1) < 1e-5
    # What OpenVINO's own converter makes of the ONNX file.
    openvino.save_model(openvino.convert_model(rgb), tmp_path / "m.xml", compress_to_fp16=False)
    can = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    precision = "bf16" if "BF16" in can else "fp32"
    converted = open_network(tmp_path / "m.xml", precision=precision, threads=1)
    assert (converted.precision, converted.weights_hash) == (precision, reference.weights_hash)
    assert apart(converted, reference, 1) < TOLERANCES[precision]
    with pytest.raises(ModelError, match="OpenVINO runs on the CPU here"):
        open_network(path, device="cuda")
    with pytest.raises(ModelError, match=r"is a network of kind 'i3d', which reads video.*open_network"):
        Detector(path)


def test_an_exported_file_needs_no_torch(rgb: Path, tmp_path: Path) -> None:
    program = (
        "import sys, numpy; from aicl_fast.video.networks import open_network\n"
        "open_network(sys.argv[1], threads=1)(numpy.zeros((1, 16, 224, 224, 3), 'uint8'))\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(rgb)], cwd=tmp_path, check=False)
    assert done.returncode == 0


def test_the_two_kinds_of_model_are_told_apart(rgb: Path, tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"rgb\.onnx: is a network of kind 'i3d', which reads video"):
        Detector(rgb)
    with pytest.raises(ModelError, match=r"is a detector's model, which reads features.*aicl_fast\.Detector"):
        open_network(tiny_model.with_suffix(".onnx"))


def test_tensorrt_takes_the_graph(weights: Path, random_i3d) -> None:
    info = exporting.i3d_info(random_i3d("rgb"))
    model = exporting.build_i3d_onnx(random_i3d("rgb"), info)
    try:
        parsed = network_from_onnx("tensorrt-rtx", model.SerializeToString())
    except UnavailableError as error:
        pytest.skip(str(error))
    found = check_network(parsed, info)
    assert found["clips"] == ("UINT8", (-1, 16, 224, 224, 3))
    assert found["features"] == ("FLOAT", (-1, 1024))
    with pytest.raises(ModelError, match="the parsed network differs"):
        check_network(parsed, exporting.i3d_info(random_i3d("flow")))


@pytest.mark.long
def test_tensorrt_rtx_builds_it(weights: Path, tmp_path: Path) -> None:
    options = ExportOptions("tensorrt-rtx", "bf16")
    try:
        path = export_i3d("i3d-rgb", weights / "rgb.pt", tmp_path / "m.engine", options)
    except UnavailableError as error:
        pytest.skip(str(error))
    assert path.stat().st_size > 2e7


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_torch_on_a_gpu(weights: Path, precision: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    for stream in ("rgb", "flow"):
        path = weights / f"{stream}.pt"
        network = open_network(path, device="cuda", precision=precision)
        # float32 products are rounded to ten bits there.
        assert (
            apart(network, open_network(path), 3) < TOLERANCES["tf32" if precision == "fp32" else precision]
        )


@pytest.mark.gpu
@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_an_engine_on_a_gpu(weights: Path, tmp_path: Path, stream: str) -> None:
    options = ExportOptions("tensorrt-rtx", "fp16", batch=Range(1, 2, 4))
    try:
        Cuda(0).close()
        path = export_i3d(f"i3d-{stream}", weights / f"{stream}.pt", tmp_path / "m.engine", options)
    except UnavailableError as error:
        pytest.skip(str(error))
    with open_network(path) as network:
        for count in (1, 6, 2, 2, 2):
            assert apart(network, open_network(weights / f"{stream}.pt"), count) < TOLERANCES["fp16"]


def test_a_wrong_interface_is_a_fault_of_ours(random_i3d) -> None:
    info = exporting.i3d_info(random_i3d("rgb"))
    model = exporting.build_i3d_onnx(random_i3d("rgb"), info)
    with pytest.raises(RuntimeError, match=r"expected inputs and outputs .*, 8\]"):
        check_signature(model, replace(info, classes=8))


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ("i3d", ExportOptions(), "--model: expected i3d-rgb or i3d-flow, got 'i3d'"),
        (
            "i3d-rgb",
            ExportOptions(precision="int8"),
            "--precision: expected fp32, .* for i3d-rgb, got 'int8'",
        ),
        (
            "i3d-rgb",
            ExportOptions("triton-repository"),
            "--format: expected onnx, .*, got 'triton-repository'",
        ),
        ("i3d-rgb", ExportOptions("openvino", "tf32"), "--precision: expected .* for --format openvino"),
        ("i3d-rgb", ExportOptions(segments=Range(8, 8, 8)), "--segments: is not of i3d-rgb"),
        ("i3d-rgb", ExportOptions(convolution="direct"), "--convolution: is not of i3d-rgb"),
    ],
)
def test_options_that_do_not_exist(weights: Path, network: str, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export_i3d(network, weights / "rgb.pt", weights / "none.onnx", options)
    assert not (weights / "none.onnx").exists()


def test_other_numbers_are_found(rgb: Path, weights: Path, tmp_path: Path) -> None:
    model = onnx.load(rgb)
    bias = next(each for each in model.graph.initializer if each.name.endswith("5c.b0.conv3d.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    for each in [each for each in model.metadata_props if each.key in (checksum.NAME, checksum.KIND)]:
        model.metadata_props.remove(each)
    onnx.save(model, tmp_path / "other.onnx")
    assert not verify_i3d(weights / "rgb.pt", tmp_path / "other.onnx", segments=1).passed


def test_on_the_command_line(run: Any, rgb: Path, weights: Path, tmp_path: Path) -> None:
    command = ("export", weights / "rgb.pt", "--model", "i3d-rgb")
    text = run(*command, "--out", "m.onnx", "--verify")
    assert f"m.onnx: {rgb.stat().st_size / 1e6:.1f} MB" in text
    assert "m.onnx, fp32: features differ from float32 torch by" in text
    text = run(*command, "--precision", "bf16", "--verify", "--out", "b.onnx", expect=2)
    assert "--verify: compares i3d-rgb on this processor" in text
    assert not (tmp_path / "b.onnx").exists()
    for options in (("--data", tmp_path), ("--refit", rgb)):
        text = run(*command, *options, expect=2)
        assert "are for a detector's weights; got --model i3d-rgb" in text


def test_what_a_file_says_is_shown(run: Any, rgb: Path, random_i3d) -> None:
    shown = run("info", rgb)
    # A narrow terminal breaks the hash.
    for text in ("i3d-rgb", "16 frames of 224 x 224", "7 classes", i3d_hash(random_i3d("rgb"))[:32]):
        assert text in shown

"""int8 and fp8: what is quantised, from which features, and what other consumers make of it."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from aicl_fast.errors import DataError  # noqa: E402
from aicl_fast.export.export import export_model, exported_onnx  # noqa: E402
from aicl_fast.export.formats import FORMATS  # noqa: E402
from aicl_fast.export.options import CALIBRATED, ExportOptions  # noqa: E402
from aicl_fast.export.parity import TOLERANCES  # noqa: E402
from aicl_fast.export.quantize import calibration_features, quantize_onnx, slices_first  # noqa: E402
from aicl_fast.weights import load_model  # noqa: E402


def saturates(precision: str) -> bool:
    """Whether engines clip sums of int8 products to 16 bits here, as they do on x86 without VNNI."""
    flags = Path("/proc/cpuinfo")
    x86 = platform.machine() in ("x86_64", "AMD64")
    return precision == "int8" and x86 and not (flags.is_file() and "vnni" in flags.read_text())


def test_calibration_features_are_read_before_the_graph_is_built(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import aicl_fast.export.export as exporting

    monkeypatch.setattr(exporting, "build_onnx", None)
    with pytest.raises(DataError, match="the data set folder does not exist"):
        export_model(tiny_model, None, ExportOptions("onnx", "int8", calibrate=tmp_path / "none"))


def test_calibration_is_reproducible(tiny_model: Path, tiny_dataset: Path, tiny_config) -> None:
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


@pytest.mark.parametrize(
    ("precision", "largest", "accuracy"), [("int8", 127, 1 / 254), ("fp8", 448, 1 / 16)], ids=["int8", "fp8"]
)
def test_only_the_embeddings_are_quantised(
    tiny_model: Path, graph, precision: str, largest: float, accuracy: float
) -> None:
    """Weights a channel, activations a tensor, no zero points; heads and biases stay in float32."""
    model, _ = graph("onnx", precision)
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


@pytest.mark.parametrize("precision", FORMATS["onnx"].precisions)
def test_narrow_graphs_in_a_second_consumer(
    graph, batch: np.ndarray, expected, assert_close, precision: str
) -> None:
    """onnx's own evaluator, which rounds for itself."""
    from onnx.reference import ReferenceEvaluator

    model, _ = graph("onnx", precision)
    outputs = ReferenceEvaluator(model).run(None, {"features": batch})
    assert_close(outputs, expected, TOLERANCES[precision].absolute)
    if precision == "bf16":
        return  # ONNX Runtime has no such convolution
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for a, b in zip(session.run(None, {"features": batch}), outputs, strict=True):
        # A rounding step in an odd place.
        np.testing.assert_allclose(a, b, atol=1e-1 if saturates(precision) else 2e-3)


def test_int8_stays_int8_in_onnx_runtime(graph, tmp_path: Path) -> None:
    """What it makes of the graph has three int8 convolutions; the three that are left are the heads."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    model, _ = graph("onnx", "int8")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 3
    assert sum(kind.endswith("Conv") for kind in kinds) == 6


def test_winograds_products_are_quantised(graph) -> None:
    """Six per stream and embedding, one scale per input, one per column of the weights; nothing else."""
    network = graph("openvino", "int8")[0].graph
    tensors = {each.name: each for each in network.initializer}
    producer = {name: node for node in network.node for name in node.output}
    products = [node for node in network.node if node.op_type == "MatMul" and node.input[1] in producer]
    heads = [node for node in network.node if node.op_type == "MatMul" and node.input[1] in tensors]
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
    assert sum(node.op_type == "QuantizeLinear" for node in network.node) == 18


def test_streams_are_sliced_before_they_are_turned(tiny_model: Path, batch: np.ndarray) -> None:
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

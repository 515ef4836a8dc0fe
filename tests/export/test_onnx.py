"""The exported graph: its interface, its precision, its sizes, and that a failure leaves nothing behind."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from aicl_fast import Detector  # noqa: E402
from aicl_fast.config import Config, load_config  # noqa: E402
from aicl_fast.engines.onnxruntime import OnnxRuntimeSession  # noqa: E402
from aicl_fast.errors import ConfigError, DataError, ModelError  # noqa: E402
from aicl_fast.export.onnx import (  # noqa: E402
    OPSET,
    OPSET_BF16,
    build_onnx,
    check_signature,
    export_onnx,
    in_opset,
    model_info,
    set_metadata,
)
from aicl_fast.export.options import parse_range  # noqa: E402
from aicl_fast.export.quantize import quantize_onnx  # noqa: E402
from aicl_fast.kernels import topk_pool  # noqa: E402
from aicl_fast.metadata import METADATA_KEY, Range  # noqa: E402
from aicl_fast.model import TwoBranchNet  # noqa: E402
from aicl_fast.signature import NetworkOutputs  # noqa: E402
from aicl_fast.weights import load_model, weights_hash  # noqa: E402


def reference(net: TwoBranchNet, features: np.ndarray, k: int) -> NetworkOutputs:
    """What torch says in float32."""
    with torch.no_grad():
        outputs = net(torch.from_numpy(features))
        logits, _ = topk_pool(outputs.CAS, outputs.A_score, k)
    found = (outputs.A_score, logits.softmax(1), outputs.A, outputs.A_ca)
    return NetworkOutputs(*(output.numpy() for output in found))


@pytest.fixture(scope="module")
def real() -> tuple[TwoBranchNet, Config]:
    """An untrained network of THUMOS14's size, standardised so that this is in the graph too."""
    config = load_config("thumos14").with_values({"standardize_input": True})
    torch.manual_seed(0)
    net = TwoBranchNet(config).eval()
    net.set_input_statistics(torch.full((2048,), 0.5), torch.full((2048,), 0.3))
    return net, config


def test_the_graphs_interface(tiny_model: Path, tiny_config: Config) -> None:
    model = onnx.load(tiny_model.with_suffix(".onnx"))
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
    assert [i.name for i in model.graph.input] == ["features"]
    assert tuple(o.name for o in model.graph.output) == NetworkOutputs._fields
    (batch, segments, width) = model.graph.input[0].type.tensor_type.shape.dim
    assert (batch.dim_param, segments.dim_value, width.dim_value) == ("batch", 32, 11)
    properties = {p.key: p.value for p in model.metadata_props}
    assert json.loads(properties["classes"]) == ["Jump", "Run", "Throw"]
    assert float(properties["frame_rate"]) == 50.0
    assert properties["normalisation"] == "in the graph"
    about = json.loads(properties[METADATA_KEY])
    net, _ = load_model(tiny_model)
    assert about["weights_sha256"] == properties["weights_sha256"] == weights_hash(net.state_dict())
    assert (about["precision"], about["batch"], about["segments"]) == ("fp32", [1, 8, 64], [32, 32, 32])
    assert about["version"]
    with pytest.raises(RuntimeError, match="expected inputs and outputs"):
        check_signature(model, model_info(net, tiny_config, batch=Range(3, 3, 3)))


def test_the_hash_is_of_the_weights_alone(tiny_config: Config) -> None:
    torch.manual_seed(0)
    net = TwoBranchNet(tiny_config)
    other = copy.deepcopy(net)
    assert weights_hash(net.state_dict()) == weights_hash(dict(reversed(other.state_dict().items())))
    with torch.no_grad():
        other.classify.bias[0] += 1e-3
    assert weights_hash(net.state_dict()) != weights_hash(other.state_dict())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_only_the_embeddings_are_narrow(tiny_model: Path, precision) -> None:
    net, config = load_model(tiny_model)
    before = {name: value.dtype for name, value in net.state_dict().items()}
    model = build_onnx.__wrapped__(net, model_info(net, config, precision=precision))
    assert {name: value.dtype for name, value in net.state_dict().items()} == before
    assert model.opset_import[0].version == (OPSET_BF16 if precision == "bf16" else OPSET)
    narrow = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.BFLOAT16
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    types |= {value.name: value.type.tensor_type.elem_type for value in inferred.graph.output}
    kinds: dict[str, list[int]] = {}
    for node in inferred.graph.node:
        kinds.setdefault(node.op_type, []).append(types[node.output[0]])
    assert sorted(kinds["Conv"]) == sorted([narrow] * 3 + [onnx.TensorProto.FLOAT] * 3)
    assert kinds["Relu"] == [narrow] * 3  # once each, in the narrow type
    for name in ("Softmax", "Sigmoid", "ReduceSum", "ReduceMean", "Sub", "Mul"):
        assert set(kinds[name]) == {onnx.TensorProto.FLOAT}, name


@pytest.mark.parametrize("batch", [1, 5])
def test_real_size_equals_torch(tmp_path: Path, real, batch: int, assert_close) -> None:
    net, config = real
    export_onnx(net, config, tmp_path / "m.onnx")
    features = np.random.default_rng(batch).random((batch, 750, 2048), dtype=np.float32)
    actual = OnnxRuntimeSession(tmp_path / "m.onnx", threads=1)(features)
    assert_close(actual, reference(net, features, config.topk), 2e-6)


@pytest.mark.parametrize(
    "segments",
    [
        pytest.param(None, marks=pytest.mark.long, id="fixed"),
        pytest.param(Range(50, 750, 3000), id="any-length"),
    ],
)
def test_winograd_gives_the_same_without_a_convolution(
    tmp_path: Path, real, segments: Range | None, assert_close
) -> None:
    net, config = real
    model = build_onnx.__wrapped__(net, model_info(net, config, segments=segments), winograd=True)
    products = [node.op_type for node in model.graph.node].count("MatMul")
    assert products >= 18  # six an embedding
    assert not net.winograd  # the network itself is left as it was
    onnx.save(model, tmp_path / "m.onnx")
    engine = OnnxRuntimeSession(tmp_path / "m.onnx", threads=1)
    clear = 0
    for length in [750] if segments is None else [751, 61, 3000]:
        count = 2 if length < 1000 else 1
        features = np.random.default_rng(length).random((count, length, 2048), dtype=np.float32)
        k = length // config.model.topk_divisor
        actual, expected = engine(features), reference(net, features, k)
        # Where two segments nearly tie for the last place in a top k, rounding decides which one is pooled.
        ranked = -np.sort(-expected.scores, axis=1)
        kept = (ranked[:, k - 1] - ranked[:, k] > 4e-6).all(1)
        clear += int(kept.sum())
        assert_close(
            *(each._replace(video_scores=each.video_scores[kept]) for each in (actual, expected)), 2e-6
        )
    assert clear


def test_real_size_in_half_precision(tmp_path: Path, real, assert_close) -> None:
    net, config = real
    features = np.random.default_rng(1).random((2, 750, 2048), dtype=np.float32)
    expected = reference(net, features, config.topk)
    export_onnx(net, config, tmp_path / "half.onnx", precision="fp16")
    assert_close(OnnxRuntimeSession(tmp_path / "half.onnx", threads=1)(features), expected, 1e-3)
    assert (tmp_path / "half.onnx").stat().st_size < 13.5e6  # 6.3 M parameters of two bytes
    export_onnx(net, config, tmp_path / "brain.onnx", precision="bf16")
    with pytest.raises(ModelError, match=r"brain\.onnx: ONNX Runtime has no kernels.*engine='openvino'"):
        Detector(tmp_path / "brain.onnx")
    pytest.importorskip("openvino")
    brain = Detector(tmp_path / "brain.onnx", engine="openvino", threads=1)
    assert_close(brain.engine(features), expected, 1e-2)


def test_a_second_consumer_reads_it(tiny_model: Path, assert_close) -> None:
    """onnx's own evaluator, which shares nothing with ONNX Runtime."""
    from onnx.reference import ReferenceEvaluator

    net, config = load_model(tiny_model)
    features = np.random.default_rng(0).random((2, 32, 11), dtype=np.float32)
    expected = reference(net, features, config.topk)
    plain = ReferenceEvaluator(str(tiny_model.with_suffix(".onnx")))
    assert_close(NetworkOutputs(*plain.run(None, {"features": features})), expected, 1e-6)


def test_any_length_in_the_range(tmp_path: Path, tiny_model: Path, assert_close) -> None:
    net, config = load_model(tiny_model)
    path = tmp_path / "any.onnx"
    export_onnx(net, config, path, batch=Range(1, 2, 4), segments=Range(8, 40, 200))
    engine = OnnxRuntimeSession(path, threads=1)
    assert engine.info.config.data.segments == 40
    assert engine.info.segments == Range(8, 40, 200)
    for length in (8, 9, 15, 16, 40, 200):
        features = np.random.default_rng(length).random((3, length, 11), dtype=np.float32)
        k = length // config.model.topk_divisor
        assert_close(engine(features), reference(net, features, k), 2e-6)
    for length in (7, 201):
        with pytest.raises(DataError, match=rf"T 8 to 200 and D 11; got \(1, {length}, 11\)"):
            engine(np.zeros((1, length, 11), np.float32))
    recording = np.random.default_rng(0).random((300, 11), dtype=np.float32)
    assert Detector(path, segments=100).scores(recording).fused.shape == (100, 3)
    assert Detector(path).scores(recording).fused.shape == (40, 3)
    with pytest.raises(DataError, match=r"segments: .* takes 8 to 200 segments, got 201"):
        Detector(path, segments=201)


@pytest.mark.parametrize("batch", [Range(4, 4, 4), Range(2, 3, 4)])
def test_any_number_of_videos_fits_the_files_batch(
    tmp_path: Path, tiny_model: Path, batch: Range, assert_close
) -> None:
    net, config = load_model(tiny_model)
    export_onnx(net, config, tmp_path / "m.onnx", batch=batch)
    engine = OnnxRuntimeSession(tmp_path / "m.onnx", threads=1)
    for count in (1, 4, 9):
        features = np.random.default_rng(count).random((count, 32, 11), dtype=np.float32)
        assert_close(engine(features), reference(net, features, config.topk), 2e-6)
    with pytest.raises(DataError, match="B at least 1"):
        engine(np.zeros((0, 32, 11), np.float32))


@pytest.mark.parametrize("text", ["", "0", "4:2:8", "1:9:8", "1:2", "a", "-1", "1:2:3:4"])
def test_ranges_are_checked(text: str) -> None:
    with pytest.raises(ConfigError, match="--batch: expected one size or smallest:usual:largest"):
        parse_range(text, "--batch")


def test_a_range_that_pooling_cannot_follow(tiny_model: Path) -> None:
    net, config = load_model(tiny_model)
    with pytest.raises(ConfigError, match="smallest T of at least 8"):
        model_info(net, config, segments=Range(4, 32, 64))
    assert parse_range(" 1:8:64", "--batch") == Range(1, 8, 64)
    assert str(parse_range("8", "--batch")) == "8"


def test_equal_scores_are_ranked_by_index(tmp_path: Path, tiny_config) -> None:
    """All fused scores alike: the first k segments are pooled, here as in torch."""
    torch.manual_seed(0)
    net = TwoBranchNet(tiny_config.with_values({"fusion_gamma": 0.0}))
    for head in (net.actionness_rgb, net.actionness_flow):
        torch.nn.init.zeros_(head.weight)
    export_onnx(net, tiny_config, tmp_path / "m.onnx")
    features = np.random.default_rng(0).random((3, 32, 11), dtype=np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(features)).CAS[:, : tiny_config.topk].mean(1).softmax(1)
    actual = OnnxRuntimeSession(tmp_path / "m.onnx")(features)
    np.testing.assert_allclose(actual.video_scores, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("streams", ["rgb", "flow"])
def test_one_stream(tmp_path: Path, tiny_config: Config, streams: str, assert_close) -> None:
    config = tiny_config.with_values({"streams": streams})
    torch.manual_seed(0)
    net = TwoBranchNet(config).eval()
    export_onnx(net, config, tmp_path / "m.onnx", precision="fp16")
    features = np.random.default_rng(0).random((2, 32, config.data.input_width), dtype=np.float32)
    actual = OnnxRuntimeSession(tmp_path / "m.onnx")(features)
    assert_close(actual, reference(net, features, config.topk), 2e-3)


def _notes(message) -> list[str]:
    """Every doc string and property, at any depth."""
    found = []
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            found.append(f"{field.full_name}: {value}")
        elif field.message_type is not None:
            for each in [value] if hasattr(value, "ListFields") else value:
                found += _notes(each)
    return found


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_the_exporters_notes_are_not_in_the_file(tiny_model: Path, batch: np.ndarray, precision) -> None:
    net, config = load_model(tiny_model)
    info = model_info(net, config, precision=precision)
    if precision in ("int8", "fp8"):
        pytest.importorskip("onnxruntime.quantization")
        model = quantize_onnx(build_onnx(net, replace(info, precision="fp32")), info, list(batch[:2, None]))
    else:
        model = build_onnx(net, info)
    assert METADATA_KEY in {p.key for p in model.metadata_props}
    assert len(model.graph.node) > 10
    del model.metadata_props[:]
    assert _notes(model) == []
    assert str(Path(__file__).parents[2]).encode() not in model.SerializeToString()


@pytest.mark.parametrize(
    ("precision", "winograd", "opsets"),
    [
        ("fp32", True, (15, 17, 20, 23)),
        ("fp16", False, (15, 23)),
        ("int8", False, (23,)),
        ("fp8", False, (22,)),
    ],
)
def test_any_opset_computes_the_same(
    tiny_model, batch, tmp_path, precision, winograd, opsets, assert_close
) -> None:
    net, config = load_model(tiny_model)
    quantised = precision in ("int8", "fp8")
    # Where T varies, the graph has operators that changed from one opset to the next.
    info = model_info(net, config, precision=precision, segments=None if quantised else Range(16, 32, 64))
    plain = build_onnx(net, replace(info, precision="fp32") if quantised else info, winograd=winograd)
    expected = None
    for opset in (None, *opsets):
        model = copy.deepcopy(plain)
        if quantised:
            model = quantize_onnx(plain, info, list(batch[:2, None]), opset=opset)
        elif opset is not None:
            model = in_opset(model, opset)
            set_metadata(model, info)
        onnx.checker.check_model(model, full_check=True)
        own = opset or {"int8": 19, "fp8": 21}.get(precision, OPSET)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", own)]
        # The release that brought the opset, by ONNX's own table.
        assert model.ir_version == {15: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}[own]
        onnx.save(model, tmp_path / "m.onnx")
        actual = OnnxRuntimeSession(tmp_path / "m.onnx", threads=1)(batch)
        expected = expected or actual
        assert_close(actual, expected, 1e-3 if precision == "fp16" else 1e-6)


@pytest.mark.parametrize(
    ("precision", "opset", "words"),
    [
        ("fp32", 14, r"--opset: expected 15 to 23 for fp32, got 14\. Left out, it is 18\."),
        ("fp32", 24, "got 24"),
        ("fp32", True, "got True"),
        ("fp16", -1, "got -1"),
        ("bf16", 21, "expected 22 to 23 for bf16"),
    ],
)
def test_an_opset_that_cannot_be_written(tmp_path, tiny_config, precision, opset, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        export_onnx(
            TwoBranchNet(tiny_config), tiny_config, tmp_path / "m.onnx", precision=precision, opset=opset
        )
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_no_file(tmp_path: Path, tiny_config, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(onnx, "save", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        export_onnx(TwoBranchNet(tiny_config), tiny_config, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_metadata_apart_loses_nothing(tiny_model: Path, tiny_config: Config) -> None:
    net, _ = load_model(tiny_model)
    classes = ["Jump, high", 'Run "fast"', "Wurf"]
    config = tiny_config.with_values({"fps": 30000 / 1001}).with_classes(classes)
    model = onnx.load(tiny_model.with_suffix(".onnx"))
    set_metadata(model, model_info(net, config))
    properties = {p.key: p.value for p in model.metadata_props}
    assert json.loads(properties["classes"]) == classes
    assert float(properties["frame_rate"]) == 30000 / 1001

"""Model files from strangers: refused before an engine sees them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aicl_fast import Detector
from aicl_fast.engines.checksum import KIND, NAME
from aicl_fast.engines.container import read_container, write_container
from aicl_fast.engines.ir_file import check_ir
from aicl_fast.engines.onnx_file import read_onnx
from aicl_fast.engines.openvino import open_model
from aicl_fast.engines.registry import open_session
from aicl_fast.errors import ModelError
from aicl_fast.limits import MAX_UNPACKED
from aicl_fast.metadata import METADATA_KEY, Range

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def changed(path: Path, tmp_path: Path, change: Callable[[Any], None]) -> Path:
    """An ONNX file as someone else might have made it, without a checksum."""
    model = onnx.load(path)
    kept = [each for each in model.metadata_props if each.key not in (NAME, KIND)]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    change(model)
    target = tmp_path / "stranger.onnx"
    target.write_bytes(model.SerializeToString())
    return target


def external(tensor: Any, location: str = "*/_ORT_MEM_ADDR_/*") -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "4096"), ("length", "64")):
        tensor.external_data.add(key=key, value=value)


def in_an_initializer(model: Any) -> None:
    external(model.graph.initializer[0])


def in_a_file(model: Any) -> None:
    external(model.graph.initializer[-1], "weights.bin")


def listed_but_not_used(model: Any) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="x")


def in_an_attribute(model: Any) -> None:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32))
    external(tensor)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["outside"], value=tensor))


def in_a_sparse_one(model: Any) -> None:
    model.graph.sparse_initializer.add().dims.append(4)


def a_branch(model: Any) -> None:
    inner = helper.make_graph([], "inner", [], [])
    node = helper.make_node("If", ["features"], ["out"], then_branch=inner, else_branch=inner)
    model.graph.node.append(node)


def a_branch_of_a_known_operator(model: Any) -> None:
    model.graph.node[0].attribute.append(
        helper.make_attribute("body", helper.make_graph([], "inner", [], []))
    )


def a_function(model: Any) -> None:
    model.functions.append(helper.make_function("x", "f", [], [], [], [helper.make_opsetid("", 18)]))


def training(model: Any) -> None:
    model.training_info.add().algorithm.name = "x"


def another_domain(model: Any) -> None:
    model.graph.node.append(helper.make_node("Relu", ["features"], ["out"], domain="com.microsoft"))


def another_opset(model: Any) -> None:
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))


def an_operator(model: Any) -> None:
    model.graph.node.append(helper.make_node("RandomUniform", [], ["out"], shape=[1 << 20]))


def an_unfolding_shape(model: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 30]), "huge"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["huge"], ["out"]))


def unfolding_constants(model: Any) -> None:
    for name, shape in (("column", (8000, 1)), ("row", (1, 8000))):
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.int8), name))
    model.graph.node.insert(0, helper.make_node("Add", ["column", "row"], ["out"]))


def constants_in_disorder(model: Any) -> None:
    unfolding_constants(model)
    model.graph.initializer[-1].name = "later"
    model.graph.node.append(helper.make_node("Identity", ["later"], ["row"]))


def a_wide_pad(model: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 1 << 40]), "pads"))
    model.graph.node.append(helper.make_node("Pad", ["features", "pads"], ["out"]))


def a_computed_pad(model: Any) -> None:
    for name in ("first", "second"):
        model.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 1 << 15]), name))
    model.graph.node.append(helper.make_node("Mul", ["first", "second"], ["pads"]))
    model.graph.node.append(helper.make_node("Pad", ["features", "pads"], ["out"]))


def a_pad_in_an_operator(model: Any) -> None:
    pads = numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 1 << 30]))
    model.graph.node.append(helper.make_node("Constant", [], ["pads"], value=pads))
    model.graph.node.append(helper.make_node("Pad", ["features", "pads"], ["out"]))


def a_pad_of_features(model: Any) -> None:
    model.graph.node.append(helper.make_node("Cast", ["features"], ["pads"], to=TensorProto.INT64))
    model.graph.node.append(helper.make_node("Pad", ["features", "pads"], ["out"]))


def a_chain(operator: str, count: int, model: Any, *more: str, **attributes: Any) -> None:
    names = ["features", *(f"x{number}" for number in range(count))]
    for before, after in pairwise(names):
        inputs = [before, *more] if more else [before, before]
        model.graph.node.append(helper.make_node(operator, inputs, [after], **attributes))


def doubling(model: Any) -> None:
    a_chain("Concat", 40, model, axis=1)


def doubling_the_batch(model: Any) -> None:
    a_chain("Concat", 40, model, axis=0)


def doubling_by_a_split(model: Any) -> None:
    model.graph.node.append(helper.make_node("Split", ["features"], ["half", "rest"], axis=1, num_outputs=2))
    a_chain("Concat", 40, model, axis=1)
    model.graph.node[-40].input[:] = ["half", "rest"]


def many_pads(model: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 9, 9, 0, 9, 9]), "pads"))
    a_chain("Pad", 4000, model, "pads")


def a_square(model: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 1]), "column"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, -1]), "row"))
    for name in ("column", "row"):
        model.graph.node.append(helper.make_node("Reshape", ["features", name], [f"{name}s"]))


def a_broadcast_of_features(model: Any) -> None:
    a_square(model)
    model.graph.node.append(helper.make_node("Add", ["columns", "rows"], ["out"]))
    a_chain("Concat", 8, model, axis=0)
    model.graph.node[-8].input[:] = ["out", "out"]


def products_of_features(model: Any) -> None:
    a_square(model)
    model.graph.node.append(helper.make_node("MatMul", ["columns", "rows"], ["x"]))
    for axis in (0, 2):
        axes = numpy_helper.from_array(np.array([axis, axis + 1]), f"axes{axis}")
        model.graph.initializer.append(axes)
        model.graph.node.append(helper.make_node("Unsqueeze", ["x", axes.name], [f"x{axis}"]))
    model.graph.node.append(helper.make_node("Mul", ["x0", "x2"], ["out"]))


def gathered_again(model: Any) -> None:
    model.graph.node.append(helper.make_node("Cast", ["features"], ["indices"], to=TensorProto.INT64))
    a_chain("Gather", 5, model, "indices", axis=0)


def gathered_elements(model: Any) -> None:
    indices = numpy_helper.from_array(np.zeros((1, 1, 1 << 16), np.uint8), "indices")
    model.graph.initializer.append(indices)
    a_chain("GatherElements", 1, model, "indices", axis=2)
    a_chain("Concat", 16, model, axis=1)
    model.graph.node[-16].input[:] = ["x0", "x0"]


def a_wide_convolution(model: Any) -> None:
    weights = numpy_helper.from_array(np.zeros((8, 8, 1), np.float32), "weights")
    model.graph.initializer.append(weights)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    a_chain("Conv", 3, model, "weights", pads=[1 << 26, 1 << 26])
    model.graph.node[-3].input[0] = first.output[0]


def sums_over_nothing(model: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1 << 40, 0), np.float32), "nothing"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    model.graph.node.append(helper.make_node("ReduceSum", ["nothing", "axes"], ["out"]))


def more_by_every_segment(model: Any) -> None:
    """With T = 1,000 it is small, and it is larger by T squared."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[1].dim_param = "segments"
    dims[2].dim_value = 1
    a_square(model)
    model.graph.node.append(helper.make_node("MatMul", ["columns", "rows"], ["out"]))


def pads_in_many_dimensions(model: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 30] * 80), "pads"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros([1] * 40), "one"))
    model.graph.node.append(helper.make_node("Pad", ["one", "pads"], ["out"]))


def a_padded_constant(model: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([60] * 10), "pads"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros([1] * 5), "one"))
    model.graph.node.append(helper.make_node("Pad", ["one", "pads"], ["out"]))


def a_pool_over_a_padded_constant(model: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros([1] * 5, np.float32), "one"))
    pool = helper.make_node("AveragePool", ["one"], ["out"], kernel_shape=[61] * 3, pads=[600] * 6)
    model.graph.node.append(pool)


def two_constants_of_one_name(model: Any) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def many_operators(model: Any) -> None:
    names = ["features", *map(str, range(20_001))]
    model.graph.node.extend(helper.make_node("Relu", [before], [after]) for before, after in pairwise(names))


def a_shape_without_values(model: Any) -> None:
    model.graph.initializer[0].dims[:] = [1 << 40]


def a_negative_shape(model: Any) -> None:
    model.graph.initializer[0].dims[:] = [-1, -4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (in_an_initializer, "holds data outside the file"),
        (in_a_file, "holds data outside the file"),
        (listed_but_not_used, "holds data outside the file"),
        (in_an_attribute, "holds data outside the file"),
        (in_a_sparse_one, "holds sparse constants"),
        (a_branch, "graphs within its graph|the operator 'If'"),
        (a_branch_of_a_known_operator, "graphs within its graph"),
        (a_function, "holds functions"),
        (training, "holds training information"),
        (another_domain, "operators of the domain 'com.microsoft'"),
        (another_opset, "operators of the domain 'ai.onnx.ml'"),
        (an_operator, "the operator 'RandomUniform'"),
        (an_unfolding_shape, "the operator 'ConstantOfShape'"),
        (unfolding_constants, "computing its constants would take 488 MiB"),
        (constants_in_disorder, "what does not come before it"),
        (a_wide_pad, "running it would take"),
        (a_computed_pad, "running it would take"),
        (a_pad_in_an_operator, "running it would take"),
        (a_pad_of_features, "pads by what cannot be known"),
        (doubling, "running it would take .* MiB of memory.*--max-unpacked"),
        (doubling_the_batch, "running it would take"),
        (doubling_by_a_split, "running it would take"),
        (many_pads, "running it would take"),
        (a_broadcast_of_features, "running it would take"),
        (products_of_features, "running it would take"),
        (gathered_again, "running it would take"),
        (gathered_elements, "running it would take"),
        (a_wide_convolution, "running it would take"),
        (more_by_every_segment, "running it would take"),
        (sums_over_nothing, "computing its constants would take"),
        (pads_in_many_dimensions, "pads by what cannot be known"),
        (a_padded_constant, "computing its constants would take"),
        (a_pool_over_a_padded_constant, "computing its constants would take"),
        (two_constants_of_one_name, "two constants of one name"),
        (many_operators, "more than 20000 operators"),
        (a_shape_without_values, "has .* values"),
        (a_negative_shape, "a constant of type"),
    ],
)
def test_what_no_export_holds(tiny_model: Path, tmp_path: Path, change: Any, words: str) -> None:
    path = changed(tiny_model.with_suffix(".onnx"), tmp_path, change)
    for engine in ("onnxruntime", "openvino"):
        with pytest.raises(ModelError, match=words) as caught:
            Detector(path, engine=engine)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("segments", "winograd"),
    [
        (None, False),
        (Range(16, 32, 64), True),
        pytest.param(None, True, marks=pytest.mark.long),
        pytest.param(Range(16, 32, 64), False, marks=pytest.mark.long),
    ],
)
def test_exports_are_far_from_the_limit(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segments: Range | None, winograd: bool
) -> None:
    pytest.importorskip("openvino")
    from aicl_fast.export.export import export_model
    from aicl_fast.export.options import ExportOptions

    monkeypatch.setattr("aicl_fast.engines.graph.allowed_size", lambda on_disk, times=1: 16 << 20)
    for name in ("onnx", "openvino"):
        options = ExportOptions(name, segments=segments, convolution="winograd" if winograd else "direct")
        out = export_model(tiny_model, tmp_path / f"m.{name}", options)
        assert read_onnx(out) if name == "onnx" else open_model(out)


def test_a_file_without_settings_meets_no_engine(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")

    def none(*_: object, **__: object) -> None:
        raise AssertionError("an engine read the file")

    monkeypatch.setattr(onnxruntime, "InferenceSession", none)
    path = changed(
        tiny_model.with_suffix(".onnx"), tmp_path, lambda model: model.ClearField("metadata_props")
    )
    with pytest.raises(ModelError, match="is not an aicl_fast model"):
        Detector(path)


def settings(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read_onnx(path))
    return found


def with_settings(path: Path, tmp_path: Path, text: str) -> Path:
    def put(model: Any) -> None:
        next(each for each in model.metadata_props if each.key == METADATA_KEY).value = text

    return changed(path, tmp_path, put)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("batch",), [1 << 30, 1 << 30, 1 << 30], "would take .* MiB of memory.*--max-unpacked"),
        (("segments",), [2, 1 << 30, 1 << 30], "cannot be read|would take"),
        (("batch",), [0, 8, 64], "whole numbers that rise from 1"),
        (("batch",), [1, 8], "settings cannot be read"),
        (("batch",), [1, 8, float("inf")], "whole numbers that rise"),
        (("precision",), [], "precision: expected one of"),
        (("config", "model"), None, "settings cannot be read"),
        (("config", "data", "segments"), 10**30, "settings cannot be read"),
        (("config", "classes"), [["x"]], "settings cannot be read"),
        (("format",), {}, "metadata format"),
    ],
)
def test_settings_out_of_proportion(
    tiny_model: Path, tmp_path: Path, place: tuple[str, ...], value: Any, words: str
) -> None:
    document = settings(tiny_model.with_suffix(".onnx"))
    inner = document
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    path = with_settings(tiny_model.with_suffix(".onnx"), tmp_path, json.dumps(document))
    with pytest.raises(ModelError, match=words):
        Detector(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"format": 1, "format": 1}', "7" * 9000])
def test_metadata_that_is_no_document(tiny_model: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelError, match=r"settings cannot be read|stranger"):
        Detector(with_settings(tiny_model.with_suffix(".onnx"), tmp_path, text))


def test_the_user_may_allow_more(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = changed(tiny_model.with_suffix(".onnx"), tmp_path, unfolding_constants)
    monkeypatch.setenv(MAX_UNPACKED, "1GiB")
    assert read_onnx(path)


def test_class_names_are_clean(tiny_model: Path, tmp_path: Path) -> None:
    document = settings(tiny_model.with_suffix(".onnx"))
    document["config"]["classes"] = ["Jump\ud800", "R\x1bun", "Thr\u202eow"]
    path = with_settings(tiny_model.with_suffix(".onnx"), tmp_path, json.dumps(document))
    assert Detector(path, threads=1).classes == ("Jump\ufffd", "R\ufffdun", "Throw")


def test_a_graph_that_fails_when_it_runs(tiny_model: Path, tmp_path: Path) -> None:
    def swap(model: Any) -> None:
        first, *_ = [node for node in model.graph.node if node.op_type == "Sigmoid"]
        first.op_type = "Relu"
        gather = next(node for node in model.graph.node if node.op_type == "GatherElements")
        model.graph.node.remove(gather)
        del model.graph.output[1:]

    with (
        pytest.raises(ModelError, match=r"stranger\.onnx: "),
        Detector(changed(tiny_model.with_suffix(".onnx"), tmp_path, swap), threads=1) as detector,
    ):
        detector(np.zeros((40, 11), np.float32))


def test_outputs_that_differ_from_the_settings(tiny_model: Path, tmp_path: Path) -> None:
    document = settings(tiny_model.with_suffix(".onnx"))
    document["config"]["model"]["num_classes"] = 2
    document["config"]["classes"] = ["Jump", "Run"]
    path = with_settings(tiny_model.with_suffix(".onnx"), tmp_path, json.dumps(document))
    with (
        Detector(path, threads=1) as detector,
        pytest.raises(ModelError, match=r"gives scores of shape .*3\)"),
    ):
        detector(np.zeros((40, 11), np.float32))


NET = """<net name="x" version="11"><layers>
<layer id="0" name="a" type="Parameter" version="opset1"><data shape="1,2" element_type="f32"/></layer>
<layer id="1" name="b" type="Const" version="opset1">{const}</layer>
<layer id="2" name="c" type="{kind}" version="{version}">{more}</layer></layers>
<edges><edge from-layer="{source}" from-port="0" to-layer="2" to-port="0"/>
<edge from-layer="1" from-port="0" to-layer="2" to-port="1"/></edges></net>"""
CONST = '<data element_type="f32" shape="{shape}" offset="{offset}" size="{size}"/>'


def network(shape: str = "2", offset: int = 0, size: int = 8, **more: str) -> bytes:
    given = {"kind": "Add", "version": "opset1", "more": "", "source": "0", **more}
    return NET.format(const=CONST.format(shape=shape, offset=offset, size=size), **given).encode()


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        (network(offset=4), "has 8 bytes"),
        (network(shape="9999999"), "has 8 bytes"),
        (network(shape="-1,-2"), "a constant of type"),
        (network(kind="Loop"), "the layer 'Loop of opset1'"),
        (network(kind="Interpolate"), "the layer 'Interpolate of opset1'"),
        (network(kind="Broadcast"), "the layer 'Broadcast of opset1'"),
        (network(version="extension"), "the layer 'Add of extension'"),
        (network(more="<body/>"), "the layer"),
        (network(kind="MaxPool", more='<data kernel="1" pads_begin="1" pads_end="1"/>'), "cannot be read"),
        (network(source="7"), "what does not come before it"),
        (b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + network(), "declarations"),
        (network()[:200], "cannot be read"),
        (b"<net/>", "no layers"),
        (network("4000", 0, 16000, source="1", kind="MatMul"), "computing its constants"),
    ],
)
def test_openvinos_own_form(xml: bytes, words: str) -> None:
    weights = bytes(16000) if b'size="16000"' in xml else bytes(8)
    check_ir(network(), bytes(8), Path("m.xml"))
    with pytest.raises(ModelError, match=words) as caught:
        check_ir(xml, weights, Path("m.xml"))
    assert "m.xml" in str(caught.value)


CHAIN = """<net name="x" version="11"><layers>
<layer id="0" name="a" type="Parameter" version="opset1"><data shape="?,1..9,4" element_type="f32"/></layer>
<layer id="p" name="b" type="Const" version="opset1">{const}</layer>{layers}</layers>
<edges>{edges}</edges></net>"""
LAYER = '<layer id="{id}" name="x{id}" type="{kind}" version="opset1"><data axis="1" {more}/></layer>'
EDGE = '<edge from-layer="{source}" from-port="1" to-layer="{id}" to-port="{port}"/>'


def ir_chain(kind: str, count: int, more: str, constants: bool) -> bytes:
    """A network of one layer again and again, that reads what comes before it, and that or a constant."""
    ids = range(1, count + 1)
    layers = [LAYER.format(id=number, kind=kind, more=more) for number in ids]
    edges = [
        EDGE.format(source=source, id=number, port=port)
        for number in ids
        for port, source in enumerate([number - 1, *(["p", "p"] if constants else [number - 1])])
    ]
    const = '<data element_type="i64" shape="3" offset="0" size="24"/>'
    return CHAIN.format(const=const, layers="".join(layers), edges="".join(edges)).encode()


@pytest.mark.parametrize(
    ("kind", "count", "more", "constants"),
    [
        ("Concat", 40, "", False),
        ("MatMul", 4, 'transpose_b="true"', False),
        ("Pad", 4000, "", True),
        ("Gather", 4, "", False),
    ],
)
def test_openvinos_own_form_that_grows(kind: str, count: int, more: str, constants: bool) -> None:
    weights = np.array([0, 1, 100]).tobytes()
    with pytest.raises(ModelError, match=r"m\.xml: running it would take"):
        check_ir(ir_chain(kind, count, more, constants), weights, Path("m.xml"))


@pytest.mark.parametrize(
    "document",
    [
        {"kind": []},
        {"kind": "openvino", "sections": []},
        {"kind": "openvino", "sections": {}},
        {"kind": "openvino", "sections": {"a": {"size": -5}}},
        {"kind": "openvino", "sections": {"a": {"size": 1e400, "sha256": ""}}},
        {"kind": "openvino", "builder": 7, "sections": {"a": {"size": 1, "sha256": ""}}},
    ],
)
def test_a_containers_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: Any) -> None:
    class Info:
        precision = "fp32"

        def to_json(self) -> str:
            return "{}"

    from aicl_fast.engines import container

    real = json.dumps
    monkeypatch.setattr(container.json, "dumps", lambda value, **_: real(document))
    write_container(tmp_path / "m.openvino", "openvino", Info(), {}, {"a": b"1"})
    monkeypatch.undo()
    with pytest.raises(ModelError, match=r"m\.openvino"):
        read_container(tmp_path / "m.openvino")


def test_settings_of_weights_that_claim_more(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    from aicl_fast.metadata import model_metadata
    from aicl_fast.weights import load_model

    _, config = load_model(tiny_model)
    tensors = load_file(tiny_model)
    for values, words in (
        ({"embedding_width": 16_384, "rgb_width": 65_536}, "do not fit its settings: expected"),
        ({"segments": 100_000, "upscale": 10_000}, "would take"),
    ):
        text = model_metadata(config.with_values(values))
        save_file(tensors, tmp_path / "m.safetensors", metadata={METADATA_KEY: text})
        with pytest.raises(ModelError, match=words):
            load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("detections.json", b'{"results": {}}'),
        ("clip.mp4", b"\0\0\0\x20ftypisom"),
        ("weights.pt", b"PK\3\4"),
        ("empty", b""),
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        ModelError, match=rf"{name}: is no model file\. Expected a file of `aicl-fast export`"
    ):
        open_session(tmp_path / name)


def test_what_a_file_holds_counts(tiny_model: Path, tmp_path: Path) -> None:
    for own, engine in ((tiny_model, "torch"), (tiny_model.with_suffix(".onnx"), "onnxruntime")):
        shutil.copy(own, tmp_path / "model")
        with open_session(tmp_path / "model") as opened:
            assert opened.name == engine

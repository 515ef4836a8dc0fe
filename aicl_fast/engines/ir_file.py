"""A network in OpenVINO's form, XML and a block of weights, looked through before OpenVINO reads it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from aicl_fast.engines.graph import Graph, UnlikeExportError, checking
from aicl_fast.metadata import METADATA_KEY
from aicl_fast.text import clean_text

LAYERS = {
    **{name: name for name in (
        "Add", "Concat", "Const", "FakeQuantize", "Gather", "GatherElements", "MatMul", "MaxPool", "Pad",
        "Parameter", "ReduceMax", "ReduceMean", "ReduceSum", "Reshape", "Sigmoid", "Slice", "Split",
        "Squeeze", "TopK", "Transpose", "Unsqueeze",
    )},
    "AvgPool": "AveragePool", "Clamp": "Clip", "Convert": "Cast", "Convolution": "Conv", "Divide": "Div",
    "FakeConvert": "FakeQuantize", "Maximum": "Max", "Minimum": "Min", "Multiply": "Mul", "ReLU": "Relu",
    "Result": "Identity", "ShapeOf": "Shape", "SoftMax": "Softmax", "StridedSlice": "Slice",
    "Subtract": "Sub", "VariadicSplit": "Split",
}  # fmt: skip
"""What exports of any version hold, and their like, with ONNX's names."""
_NAMES = {
    "axis": "axis", "batch_dims": "batch_dims", "kernel": "kernel_shape", "num_splits": "num_outputs",
    "pads_begin": "pads_begin", "pads_end": "pads_end", "strides": "strides",
}  # fmt: skip
_BITS = {
    "boolean": 8, "i8": 8, "u8": 8, "f8e4m3": 8, "f8e5m2": 8, "i16": 16, "u16": 16, "f16": 16, "bf16": 16,
    "i32": 32, "u32": 32, "f32": 32, "i64": 64, "u64": 64, "f64": 64,
}  # fmt: skip


def check_ir(xml: bytes, weights: bytes | memoryview, path: Path) -> str | None:
    """Look through a network in OpenVINO's form.

    Args:
        xml: the network.
        weights: what its constants lie in.
        path: the file, for messages.
    Returns:
        Our metadata in it, if there is.
    Raises:
        ModelError: it is damaged, or holds what exports never do: other layers, graphs within the graph,
            constants outside the weights, or constants that would unfold.
    """
    with checking(path, "OpenVINO model"):
        if b"<!" in xml:
            raise UnlikeExportError("declarations in XML")
        net = ElementTree.fromstring(xml)
        layers, edges = net.find("layers"), net.find("edges")
        if net.tag != "net" or layers is None or edges is None:
            raise ValueError("it has no layers")
        sources = defaultdict[str, list[tuple[int, str]]](list)
        for edge in edges:
            sources[edge.attrib["to-layer"]].append((int(edge.attrib["to-port"]), edge.attrib["from-layer"]))
        graph = Graph()
        for layer in layers:
            inputs = [name for _, name in sorted(sources[layer.attrib["id"]])]
            _check_layer(layer, inputs, graph, weights)
        graph.check(len(xml) + len(weights), path)
        ours = net.find(f"rt_info/framework/{METADATA_KEY}")
        return None if ours is None else ours.get("value")


def _check_layer(
    layer: ElementTree.Element, inputs: list[str], graph: Graph, weights: bytes | memoryview
) -> None:
    name, kind = layer.attrib["id"], layer.attrib["type"]
    version = layer.attrib.get("version", "")
    if kind not in LAYERS or not version.startswith("opset") or layer.find("body") is not None:
        raise UnlikeExportError(f"the layer {clean_text(f'{kind} of {version}')[:40]!r}")
    data = layer.find("data")
    found: Mapping[str, str] = {} if data is None else data.attrib
    if kind == "Parameter":
        sizes = [size.strip() for size in found["shape"].split(",") if size.strip()]
        graph.add_input(name, [int(size) if size.isdecimal() else None for size in sizes])
    elif kind == "Const":
        dims = _integers(found.get("shape", ""))
        offset, size = int(found["offset"]), int(found["size"])
        bits = _BITS.get(found["element_type"])
        if bits is None or min((*dims, offset, size)) < 0:
            raise UnlikeExportError(f"a constant of type {clean_text(found['element_type'])[:40]!r}")
        count = math.prod(dims)
        if count * bits != 8 * size or offset + size > len(weights):
            raise ValueError(f"a constant of shape {dims[:8]} has {size} bytes")
        whole = None
        if found["element_type"] in ("i32", "i64") and size <= 512:
            whole = np.frombuffer(weights, f"<i{bits // 8}", count, offset).tolist()
        graph.add(name, dims, whole)
    else:
        masks = [text for key, text in found.items() if key.endswith("_mask") and key[0] in "nse"]
        plain = kind != "StridedSlice" or "1" not in "".join(masks)
        graph.add_node(LAYERS[kind] if plain else "Flatten", inputs, [name], _settings(found))


def _settings(found: Mapping[str, str]) -> dict[str, list[int]]:
    """A layer's whole numbers by ONNX's names."""
    settings = {ours: _integers(found[theirs]) for theirs, ours in _NAMES.items() if theirs in found}
    settings["pads"] = [*settings.pop("pads_begin", []), *settings.pop("pads_end", [])]
    if not settings["pads"]:
        del settings["pads"]
    if found.get("auto_pad", "explicit") not in ("explicit", "valid"):
        settings["auto_pad"] = []
    for theirs, ours in (("keep_dims", "keepdims"), ("transpose_a", "transA"), ("transpose_b", "transB")):
        settings[ours] = [int(found.get(theirs) in ("true", "1"))]
    return settings


def _integers(text: str) -> list[int]:
    return [int(each) for each in text.split(",") if each.strip()]

"""A network in OpenVINO's form, XML and a block of weights, looked through before OpenVINO reads it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from aicl_fast.engines.graph import Constants, UnlikeExportError, checking, require_padding
from aicl_fast.metadata import METADATA_KEY
from aicl_fast.text import clean_text

LAYERS = (
    "Add", "AvgPool", "Clamp", "Concat", "Const", "Convert", "Convolution", "Divide", "FakeConvert",
    "FakeQuantize", "Gather", "GatherElements", "MatMul", "MaxPool", "Maximum", "Minimum",
    "Multiply", "Pad", "Parameter", "ReLU", "ReduceMax", "ReduceMean", "ReduceSum", "Reshape", "Result",
    "ShapeOf", "Sigmoid", "Slice", "SoftMax", "Split", "Squeeze", "StridedSlice", "Subtract", "TopK",
    "Transpose", "Unsqueeze", "VariadicSplit",
)  # fmt: skip
"""What exports of any version hold, and their like."""
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
        constants, values = Constants(), dict[str, memoryview]()
        for layer in layers:
            _check_layer(
                layer, [name for _, name in sorted(sources[layer.attrib["id"]])], constants, values, weights
            )
        constants.check(len(xml) + len(weights), path)
        ours = net.find(f"rt_info/framework/{METADATA_KEY}")
        return None if ours is None else ours.get("value")


def _check_layer(
    layer: ElementTree.Element,
    inputs: list[str],
    constants: Constants,
    values: dict[str, memoryview],
    weights: bytes | memoryview,
) -> None:
    name, kind = layer.attrib["id"], layer.attrib["type"]
    version = layer.attrib.get("version", "")
    if kind not in LAYERS or not version.startswith("opset") or layer.find("body") is not None:
        raise UnlikeExportError(f"the layer {clean_text(f'{kind} of {version}')[:40]!r}")
    data = layer.find("data")
    settings: Mapping[str, str] = {} if data is None else data.attrib
    growth = 1
    for side in ("pads_begin", "pads_end"):
        growth *= require_padding([int(size) for size in settings.get(side, "").split(",") if size.strip()])
    if kind == "Parameter":
        constants.add_input(name)
    elif kind == "Const":
        dims = [int(size) for size in settings.get("shape", "").split(",") if size.strip()]
        offset, size = int(settings["offset"]), int(settings["size"])
        bits = _BITS.get(settings["element_type"])
        if bits is None or min((*dims, offset, size)) < 0:
            raise UnlikeExportError(f"a constant of type {clean_text(settings['element_type'])[:40]!r}")
        count = math.prod(dims)
        if count * bits != 8 * size or offset + size > len(weights):
            raise ValueError(f"a constant of shape {dims[:8]} has {size} bytes")
        constants.add(name, dims)
        values[name] = memoryview(weights)[offset : offset + size]
    else:
        if kind == "Pad":
            for each in inputs[1:3]:
                pads = np.frombuffer(values.get(each, b""), np.int64).tolist()
                constants.require_values(each, pads)
                growth *= require_padding(pads)
        constants.add_node(kind, inputs, [name], growth=growth)

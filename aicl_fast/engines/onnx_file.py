"""An ONNX file looked through before an engine reads it, without the onnx package.

Engines run whatever a file says: they open other files and memory that it points at, unfold constants to any
size, and run operators of any kind. Our exports need little of that. What they never hold is refused here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from aicl_fast.engines.checksum import NAME, check_checksum, mapped
from aicl_fast.engines.graph import Graph, UnlikeExportError, checking
from aicl_fast.errors import ModelError
from aicl_fast.metadata import METADATA_KEY
from aicl_fast.text import clean_text

OPERATORS = (
    "Add", "AveragePool", "Cast", "Clip", "Concat", "Constant", "Conv", "DequantizeLinear", "Div",
    "Flatten", "Gather", "GatherElements", "Gemm", "GlobalAveragePool", "Identity", "MatMul", "Max",
    "MaxPool", "Min", "Mul", "Pad", "QuantizeLinear", "ReduceMax", "ReduceMean", "ReduceSum", "Relu",
    "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze", "Sub", "TopK", "Transpose",
    "Unsqueeze",
)  # fmt: skip
"""What exports of any version hold, and their like. None makes much of little but by its inputs' sizes."""
_BITS = {
    1: 32, 2: 8, 3: 8, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 17: 8, 18: 8, 19: 8,
    20: 8,
}  # fmt: skip
"""Of a value, by ONNX's number of the type."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NONE: Mapping[int, int] = {}

# By message: field number to wire type. A field that is not here is refused, since no export has it.
_MODEL = {1: _VARINT, 2: _BYTES, 3: _BYTES, 4: _BYTES, 5: _VARINT, 7: _BYTES, 8: _BYTES, 14: _BYTES}
_GRAPH = dict.fromkeys((1, 2, 5, 11, 12, 13, 14, 16), _BYTES)
_NODE = dict.fromkeys((1, 2, 3, 4, 5, 6, 7, 9), _BYTES)
_ATTRIBUTE = {1: _BYTES, 2: _FIXED32, 3: _VARINT, 4: _BYTES, 5: _BYTES, 9: _BYTES, 13: _BYTES, 20: _VARINT}
_TENSOR = {2: _VARINT, 8: _BYTES, 9: _BYTES, 12: _BYTES, 14: _VARINT}
_VALUE = dict.fromkeys((1, 2, 3, 4), _BYTES)
_ENTRY = dict.fromkeys((1, 2), _BYTES)
_OPSET = {1: _BYTES, 2: _VARINT}

# Fields whose values lie one by one or in one piece: number to wire type of one.
_ATTRIBUTE_LISTS = {7: _FIXED32, 8: _VARINT}
_TENSOR_LISTS = {1: _VARINT, 4: _FIXED32, 5: _VARINT, 7: _VARINT, 10: _FIXED64, 11: _VARINT}

_REFUSED = {
    (id(_MODEL), 20): "training information",
    (id(_MODEL), 25): "functions",
    (id(_GRAPH), 15): "sparse constants",
    (id(_ATTRIBUTE), 6): "graphs within its graph",
    (id(_ATTRIBUTE), 11): "graphs within its graph",
    (id(_ATTRIBUTE), 22): "sparse constants",
    (id(_ATTRIBUTE), 23): "sparse constants",
    (id(_TENSOR), 3): "data outside the file",
    (id(_TENSOR), 6): "text for constants",
    (id(_TENSOR), 13): "data outside the file",
}

Buffer = bytes | memoryview


class Field(NamedTuple):
    """One field of a message."""

    number: int
    wire: int
    value: Any
    """An int of a varint, else its bytes."""
    start: int
    """Of its bytes in the message."""


def read_onnx(path: Path) -> str:
    """Look through an ONNX file.

    Returns:
        Our metadata in it.
    Raises:
        ModelError: it is not ONNX, is damaged, has no metadata of ours, or holds what exports never do: data
            outside the file, other operators, graphs within graphs, or constants that would unfold.
    """
    with checking(path, "ONNX model"), mapped(path) as data:
        return _metadata(data, path)


def _metadata(data: memoryview, path: Path) -> str:
    properties: dict[str, str] = {}
    graphs, at = [], 0
    for field in _fields(data, _MODEL):
        if field.number == 14:
            entry = {each.number: each for each in _fields(field.value, _ENTRY)}
            name, value = _text(entry[1].value), _text(entry[2].value)
            if name in properties:
                raise ValueError(f"two properties {name}")
            properties[name] = value
            if name == NAME:
                at = field.start + entry[2].start
        elif field.number == 7:
            graphs.append(field.value)
        elif field.number == 8:
            _check_domain(
                next((each.value for each in _fields(field.value, _OPSET) if each.number == 1), b"")
            )
    text = properties.get(METADATA_KEY)
    # The sums run beside what is Python; where both find a fault, the checksum's says more.
    with ThreadPoolExecutor(1) as beside:
        checked = beside.submit(check_checksum, data, properties, at, path)
        try:
            graph = _check_graph(graphs[0]) if text is not None and len(graphs) == 1 else None
        finally:
            checked.result()
    if text is None or graph is None:
        raise ModelError(
            f"{path}: is not an aicl_fast model: it carries no settings. Expected a file written by "
            "`aicl-fast train` or `aicl-fast export`."
        )
    graph.check(len(data), path)
    return text


def _check_graph(message: Buffer) -> Graph:
    graph, nodes = Graph(), []
    for field in _fields(message, _GRAPH):
        if field.number == 5:
            graph.add(*_tensor(field.value))
        elif field.number == 1:
            nodes.append(bytes(field.value))
        elif field.number == 11:
            found = {each.number: each.value for each in _fields(field.value, _VALUE)}
            graph.add_input(_text(found[1]), _input_shape(found[2]))
    for node in nodes:
        _check_node(node, graph)
    return graph


def _input_shape(type_: Buffer) -> list[int | None]:
    """The sizes of an input; None are open."""
    ((_, _, tensor, _),) = _fields(type_, {1: _BYTES})
    shapes = [each.value for each in _fields(tensor, {1: _VARINT, 2: _BYTES}) if each.number == 2]
    sizes: list[int | None] = []
    for field in _fields(shapes[0], {1: _BYTES}):
        size = {each.number: each.value for each in _fields(field.value, {1: _VARINT, 2: _BYTES})}
        sizes.append(size.get(1))
    return sizes


def _check_node(node: bytes, graph: Graph) -> None:
    inputs, outputs, kind = [], [], ""
    settings: dict[str, list[int]] = {}
    constant: tuple[list[int], list[int] | None] = [], None
    for number, _, value, _ in _fields(node, _NODE):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 4:
            kind = _text(value)
        elif number == 5:
            name, whole, tensor = _attribute(value)
            if name.startswith("value"):
                constant = tensor or ([len(whole)] if name == "value_ints" else [], whole or None)
            settings[name] = whole
        elif number == 7:
            _check_domain(value)
    if kind not in OPERATORS:
        raise UnlikeExportError(f"the operator {clean_text(kind)[:40]!r}")
    if kind == "Constant":
        for name in outputs:
            graph.add(name, *constant)
    else:
        graph.add_node(kind, inputs, outputs, settings)


def _attribute(attribute: Buffer) -> tuple[str, list[int], tuple[list[int], list[int] | None] | None]:
    """Look through an attribute: its name, its whole numbers, and the shape and values of its tensor."""
    name, whole, tensor = "", list[int](), None
    for field in _fields(attribute, _ATTRIBUTE, _ATTRIBUTE_LISTS):
        if field.number == 1:
            name = _text(field.value)
        elif field.number in (3, 8):
            whole += _integers(field)
        elif field.number == 4 and bytes(field.value) in (b"NOTSET", b"VALID"):
            name = ""  # auto_pad that pads nothing
        elif field.number == 5:
            tensor = _tensor(field.value)[1:]
    return name, whole, tensor


def _check_domain(name: Buffer) -> None:
    if bytes(name) not in (b"", b"ai.onnx"):
        raise UnlikeExportError(f"operators of the domain {clean_text(_text(name))[:40]!r}")


def _tensor(tensor: Buffer) -> tuple[str, list[int], list[int] | None]:
    """Look through a constant: its name, its shape, and its values where they are few and whole."""
    dims, whole, kind, name, count = list[int](), list[int](), 0, "", 0
    raw: Buffer | None = None
    for field in _fields(tensor, _TENSOR, _TENSOR_LISTS):
        if field.number == 1:
            dims += _integers(field)
        elif field.number == 2:
            kind = field.value
        elif field.number == 8:
            name = _text(field.value)
        elif field.number == 9:
            raw = field.value
        elif field.number == 14 and field.value != 0:
            raise UnlikeExportError("data outside the file")
        elif field.number in _TENSOR_LISTS:
            wire = _TENSOR_LISTS[field.number]
            if wire == _VARINT:
                whole += _integers(field)
            else:
                count += len(field.value) // (4 if wire == _FIXED32 else 8)
    if kind not in _BITS or any(size < 0 for size in dims):
        raise UnlikeExportError(f"a constant of type {kind} and shape {dims[:8]}")
    if raw is not None:
        count += len(raw) * 8 // _BITS[kind]
        if kind == 7 and len(raw) <= 512:
            whole = [*memoryview(bytes(raw)).cast("q")]
            count -= len(whole)
    count += len(whole)
    if count != math.prod(dims):
        raise ValueError(f"a constant of shape {dims[:8]} has {count} values")
    return name, dims, whole if kind in (6, 7) and len(whole) == count else None


def _fields(message: Buffer, known: Mapping[int, int], lists: Mapping[int, int] = _NONE) -> Iterator[Field]:
    """The fields of a message.

    Raises:
        ValueError: it is damaged.
        UnlikeExportError: it has a field that is neither in ``known`` nor in ``lists``.
    """
    start, end = 0, len(message)
    while start < end:
        key = message[start]
        start += 1
        if key > 127:
            key, start = _varint(message, start - 1)
        number, wire = key >> 3, key & 7
        if known.get(number) != wire and not (number in lists and wire in (_BYTES, lists[number])):
            what = _REFUSED.get((id(known), number))
            raise UnlikeExportError(what) if what else ValueError(f"a field {number} of type {wire}")
        if wire in (_BYTES, _VARINT):
            value: Any = message[start]
            start += 1
            if value > 127:
                value, start = _varint(message, start - 1)
            if wire == _VARINT:
                yield Field(number, wire, value, start)
                continue
            length = value
        else:
            length = 4 if wire == _FIXED32 else 8
        if start + length > end:
            raise ValueError("it ends too early")
        yield Field(number, wire, message[start : start + length], start)
        start += length


def _varint(message: Buffer, start: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, start
    raise ValueError("a number that does not end")


def _integers(field: Field) -> list[int]:
    """The whole numbers of a field, one or many, with their signs."""
    found, start = [], 0
    if field.wire == _VARINT:
        found.append(field.value)
    else:
        while start < len(field.value):
            value, start = _varint(field.value, start)
            found.append(value)
    return [value - (1 << 64) if value >> 63 else value for value in found]


def _text(value: Buffer) -> str:
    return str(value, "utf-8")

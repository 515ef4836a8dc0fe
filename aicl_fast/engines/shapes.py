"""How large the results of a network's operators are at most, from the sizes of what they read.

Every size is one that the real one never exceeds. Operators have ONNX's names here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

Shape = Sequence[int]
Settings = Mapping[str, Sequence[int]]
"""An operator's whole numbers by ONNX's names, a single one as a list of one."""
Whole = Sequence[tuple[int, int]]
"""Whole numbers that are known as far as that: the least and the most that each can be."""

_FEW = 64
"""Whole numbers that are followed, and dimensions."""
_AS_FIRST = frozenset((
    "Cast", "Clip", "DequantizeLinear", "GlobalAveragePool", "Identity", "QuantizeLinear", "Relu", "Sigmoid",
    "Slice", "Softmax", "Split", "TopK",
))  # fmt: skip
"""Operators whose results are no larger in any dimension than their first input."""
_NO_MORE = _AS_FIRST | {
    "Flatten", "ReduceMax", "ReduceMean", "ReduceSum", "Reshape", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
"""Operators that give no more values than their first input has."""
_BROADCAST = frozenset(("Add", "Div", "FakeQuantize", "Max", "Min", "Mul", "Sub"))
"""Operators whose inputs are stretched to one shape."""
_OF_WHOLE = frozenset((
    "Add", "Concat", "Div", "Flatten", "Gather", "Identity", "Mul", "Reshape", "Shape", "Split", "Squeeze",
    "Sub", "Unsqueeze",
))  # fmt: skip
"""Operators whose whole numbers are followed."""


class Value(NamedTuple):
    """What is known of an input, a constant or a result."""

    total: int
    """Of its values, at most."""
    shape: Shape | None
    """At most in each dimension; None is unknown."""
    whole: Whole | None = None
    fixed: bool = False
    """Computed without an input of the network."""


def value_of(shape: Shape, whole: Sequence[int] | None = None, fixed: bool = False) -> Value:
    """A value of this shape. A dimension of nothing counts as one: a sum over it has values again.

    Args:
        whole: what it holds, where that is known.
    """
    shape = [max(1, size) for size in shape]
    exact = None if not whole else [(each, each) for each in whole]
    return Value(math.prod(shape), shape, exact, fixed)


def result(kind: str, inputs: Sequence[Value], settings: Settings) -> Value:
    """What an operator gives, each of its outputs alike.

    Raises:
        ValueError: its inputs do not fit together, or it pads by what is not known.
    """
    fixed = all(each.fixed for each in inputs)
    shape = _shape(kind, inputs, settings)
    whole = _whole(kind, inputs, settings) if kind in _OF_WHOLE else None
    if whole is not None and (len(whole) > _FEW or any(abs(each) >> 63 for pair in whole for each in pair)):
        whole = None
    if shape is not None:
        if len(shape) > _FEW:
            raise ValueError(f"{kind} gives more than {_FEW} dimensions")
        return Value(math.prod(shape), shape, whole, fixed)
    counts = [each.total for each in inputs]
    if kind in _NO_MORE:
        count = counts[0]
    elif kind == "Concat":
        count = sum(counts)
    else:
        count = math.prod(counts) * math.prod(1 + abs(size) for size in settings.get("pads", ()))
    return Value(count, None, whole, fixed)


def _shape(kind: str, inputs: Sequence[Value], settings: Settings) -> Shape | None:
    if kind in _AS_FIRST:
        return inputs[0].shape
    shapes = [each.shape for each in inputs if each.shape is not None]
    if kind == "Pad":
        return _padded(inputs[0].shape, inputs)
    if not inputs or (len(shapes) < len(inputs) and (inputs[0].shape is None or kind in _BROADCAST)):
        return _reshaped(inputs, None) if kind == "Reshape" else None
    first = shapes[0]
    if kind in _BROADCAST:
        return _broadcast(shapes)
    if kind == "Shape":
        return [len(first)]
    if kind == "Reshape":
        return _reshaped(inputs, first)
    if kind in ("AveragePool", "MaxPool"):
        return [*first[:2], *_windows(first[2:], settings.get("kernel_shape", ()), settings)]
    if kind in ("Squeeze", "Unsqueeze", "Transpose") or kind.startswith("Reduce"):
        return _moved(kind, first, settings.get("axes", _exact(inputs[1:2])), settings)
    if len(shapes) < len(inputs):
        return None
    if kind == "Conv":
        return [first[0], shapes[1][0], *_windows(first[2:], shapes[1][2:], settings)]
    if kind == "Concat":
        joined = [max(sizes) for sizes in zip(*shapes, strict=True)]
        axis = settings["axis"][0]
        joined[axis] = sum(shape[axis] for shape in shapes)
        return joined
    if kind == "GatherElements":
        return shapes[1]
    if kind == "Gather" and not any(settings.get("batch_dims", ())):
        axis = settings.get("axis", _exact(inputs[2:3]) or [0])[0] % max(1, len(first))
        return [*first[:axis], *shapes[1], *first[axis + 1 :]]
    if kind in ("Gemm", "MatMul") and min(len(first), len(shapes[1])) > 1:
        rows = first[-1 if any(settings.get("transA", ())) else -2]
        columns = shapes[1][-2 if any(settings.get("transB", ())) else -1]
        return [*_broadcast([first[:-2], shapes[1][:-2]]), rows, columns]
    return None


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    """The shape to which all are stretched."""
    return [*map(max, zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1))][::-1]


def _exact(values: Sequence[Value]) -> Sequence[int] | None:
    """The whole numbers of the first, if all are known."""
    whole = values[0].whole if values else None
    return [least for least, _ in whole] if whole is not None and all(a == b for a, b in whole) else None


def _moved(kind: str, first: Shape, axes: Sequence[int] | None, settings: Settings) -> Shape | None:
    """Dimensions taken out, put in, or in another order."""
    if kind == "Transpose":
        order = settings.get("perm", axes)
        return first[::-1] if order is None else [first[axis] for axis in order]
    if axes is None:
        return None
    rank = len(first) + (len(axes) if kind == "Unsqueeze" else 0)
    places = {axis % max(1, rank) for axis in axes}
    if kind == "Unsqueeze":
        rest = iter(first)
        return [1 if axis in places else next(rest) for axis in range(rank)]
    kept = kind != "Squeeze" and any(settings.get("keepdims", (1,)))
    return [1 if axis in places else size for axis, size in enumerate(first) if kept or axis not in places]


def _reshaped(inputs: Sequence[Value], first: Shape | None) -> Shape | None:
    target = inputs[1].whole if len(inputs) > 1 else None
    if target is None or (first is None and (0, 0) in target):
        return None
    shape, others = [], 1
    for axis, (least, most) in enumerate(target):
        if (least, most) == (0, 0) and first is not None:
            least = most = first[axis]
        elif (least, most) != (-1, -1) and least < 1:
            return None
        shape.append(most)
        others *= least if least > 0 else 1
    count = inputs[0].total if first is None else math.prod(first)
    return [max(1, count // others) if size == -1 else size for size in shape]


def _padded(first: Shape | None, inputs: Sequence[Value]) -> Shape:
    """ONNX has what comes before and after in one input, OpenVINO in two."""
    first = first or ()
    both: list[tuple[int, int]] = []
    for each in inputs[1:3]:
        both += each.whole or () if len(both) < 2 * len(first) else ()
    if not both or len(both) != 2 * len(first):
        raise ValueError("it pads by what cannot be known")
    most = [max(abs(least), abs(most)) for least, most in both]
    return [size + most[axis] + most[axis + len(first)] for axis, size in enumerate(first)]


def _windows(sizes: Shape, kernel: Shape, settings: Settings) -> Shape:
    """The places in which a kernel of this size fits."""
    pads = [abs(size) for size in settings.get("pads", [0, 0] * len(sizes))]
    strides = settings.get("strides", [1] * len(sizes))
    found = []
    for place, (size, width, stride) in enumerate(zip(sizes, kernel, strides, strict=True)):
        padded = size + pads[place] + pads[place + len(sizes)]
        width = 1 if "auto_pad" in settings else width  # it pads by itself, to no more than one place each
        found.append(max(1, -((width - padded) // max(1, stride)) + 1))
    return found


def _whole(kind: str, inputs: Sequence[Value], settings: Settings) -> Whole | None:
    if kind == "Shape" and inputs[0].shape is not None:
        start, end = settings.get("start", (0,))[0], settings.get("end", (_FEW,))[0]
        return [(1, size) for size in inputs[0].shape][start:end]
    known = [each.whole for each in inputs if each.whole is not None]
    if inputs[0].whole is None:
        return None
    first = known[0]
    if kind in ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"):
        return first
    if kind == "Split":  # all parts at once
        size = max(1, len(first) // settings.get("num_outputs", (1,))[0])
        parts = [first[place::size] for place in range(size)]
        return [(min(each[0] for each in part), max(each[1] for each in part)) for part in parts]
    if len(known) < 2:
        return None
    if kind == "Gather":
        return [first[index] for index in _exact(inputs[1:2]) or ()]
    if len(known) < len(inputs):
        return None
    if kind == "Concat":
        return [pair for each in known for pair in each]
    if kind in ("Add", "Sub", "Mul", "Div") and (len(known[1]) in (1, len(first)) or len(first) == 1):
        count = max(len(first), len(known[1]))
        pairs = zip(*(each if len(each) == count else list(each) * count for each in known), strict=True)
        return _computed(kind, list(pairs))
    return None


def _computed(kind: str, pairs: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> Whole | None:
    if kind == "Add":
        return [(a[0] + b[0], a[1] + b[1]) for a, b in pairs]
    if kind == "Sub":
        return [(a[0] - b[1], a[1] - b[0]) for a, b in pairs]
    if kind == "Mul":
        products = [[x * y for x in a for y in b] for a, b in pairs]
        return [(min(each), max(each)) for each in products]
    if any(a[0] < 0 or b[0] < 1 for a, b in pairs):
        return None
    return [(a[0] // b[1], a[1] // b[0]) for a, b in pairs]

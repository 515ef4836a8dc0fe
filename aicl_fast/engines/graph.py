"""What is checked of a network's graph, whatever its format, before an engine computes anything of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest

from aicl_fast.errors import ModelError
from aicl_fast.limits import reading, require_size

_VALUE = 8
"""Bytes that a value may take."""
_LARGEST_PAD = 64
_MOST_NODES = 20_000
_SAME = (
    "Cast", "Clip", "Constant", "Convert", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear",
    "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Shape", "ShapeOf", "Sigmoid", "Slice",
    "Softmax", "Split", "Squeeze", "StridedSlice", "TopK", "Transpose", "Unsqueeze", "VariadicSplit",
)  # fmt: skip
"""Operators that leave at most as many values as their largest input has."""
_EACH = ("Cast", "Clip", "Convert", "DequantizeLinear", "Identity", "QuantizeLinear", "Relu", "Sigmoid")
"""Those of them whose result has the shape of the first input."""
_BROADCAST = (
    "Add", "Div", "Divide", "FakeConvert", "FakeQuantize", "Max", "Maximum", "Min", "Minimum", "Mul",
    "Multiply", "Sub", "Subtract",
)  # fmt: skip
"""Operators whose inputs are stretched to one shape."""


class UnlikeExportError(Exception):
    """A file holds what none of our exports does; the text is what, as a noun phrase."""


@contextmanager
def checking(path: object, what: str) -> Iterator[None]:
    """What is wrong with a stranger's network, as a ModelError that names its file.

    Args:
        path: the file.
        what: what it is, as a noun phrase.
    """
    advice = (
        "Expected a file written by `aicl-fast export`; if it was cut off while being copied, copy it again."
    )
    with reading(path, what, error=ModelError, advice=advice):
        try:
            yield
        except UnlikeExportError as error:
            raise ModelError(
                f"{path}: holds {error}, which no export of aicl_fast does, and is not opened. Export the "
                "weights again."
            ) from error


class Constants:
    """Upper bounds of what can be computed without an input of the network."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._shapes: dict[str, Sequence[int]] = {}
        self._computed = 0
        self._known: set[str] = set()
        self._nodes = 0

    def add_input(self, name: str) -> None:
        """An input of the network."""
        self._known.add(name)

    def add(self, name: str, shape: Sequence[int]) -> None:
        """A constant of this shape."""
        if name in self._known:
            raise ValueError("two constants of one name")
        self._counts[name] = math.prod(shape)
        self._shapes[name] = shape
        self._known.add(name)

    def require_values(self, name: str, values: Sequence[int]) -> None:
        """Refuse to pad by what is computed without an input, whose values are not known here.

        Args:
            values: of the constant, as far as they are known.
        Raises:
            UnlikeExportError: they are not known.
        """
        if name in self._counts and len(values) != self._counts[name]:
            raise UnlikeExportError("padding that is computed from constants")

    def add_node(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], own: int = 0, growth: int = 1
    ) -> None:
        """An operator.

        Args:
            own: values that it holds itself.
            growth: how many times more values its padding makes, from :func:`require_padding`.
        Raises:
            ValueError: one of its inputs does not come before it.
            UnlikeExportError: it is one too many.
        """
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise UnlikeExportError(f"more than {_MOST_NODES} operators")
        names = [name for name in inputs if name]
        if not self._known.issuperset(names):
            raise ValueError(f"{kind} reads what does not come before it")
        self._known.update(outputs)
        if not all(name in self._counts for name in names):
            return
        counts = [max(1, self._counts[name]) for name in names]
        if own or not counts:
            count = own
        elif kind in _SAME:
            count = max(counts)
        elif kind == "Concat":
            count = sum(counts)
        elif kind in _BROADCAST and all(name in self._shapes for name in names):
            shape = _broadcast([self._shapes[name] for name in names])
            count = math.prod(shape)
            self._shapes.update(dict.fromkeys(outputs, shape))
        else:
            count = math.prod(counts) * growth
        if kind in _EACH and names and names[0] in self._shapes:
            self._shapes.update(dict.fromkeys(outputs, self._shapes[names[0]]))
        for name in outputs:
            self._counts[name] = count
        self._computed += count

    def check(self, on_disk: int, source: object) -> None:
        """Compare with what the file's size warrants.

        Raises:
            ModelError: it is much more.
        """
        require_size(self._computed * _VALUE, on_disk, source, "computing its constants", error=ModelError)


def _broadcast(shapes: Iterable[Sequence[int]]) -> list[int]:
    """The shape to which all are stretched; if they fit together, it is no smaller than the engine's."""
    backwards = zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)
    return [max(sizes) for sizes in backwards][::-1]


def require_padding(sizes: Sequence[int]) -> int:
    """Refuse to pad by more than a network of ours may.

    Returns:
        The most times that the number of values grows.
    Raises:
        UnlikeExportError: more.
    """
    if any(abs(size) > _LARGEST_PAD for size in sizes):
        raise UnlikeExportError(f"padding by more than {_LARGEST_PAD}")
    return math.prod(1 + abs(size) for size in sizes)

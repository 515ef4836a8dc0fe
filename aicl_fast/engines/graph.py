"""How large the constant parts of a network's graph become when an engine computes them ahead."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aicl_fast.errors import ModelError
from aicl_fast.limits import require_size

_VALUE = 8
"""Bytes that a value may take."""
_SAME = frozenset(
    "Cast Clip Constant Convert DequantizeLinear Flatten Identity QuantizeLinear ReduceMax ReduceMean ReduceSum "
    "Relu Reshape Shape ShapeOf Sigmoid Slice Softmax Split Squeeze StridedSlice TopK Transpose "
    "Unsqueeze VariadicSplit".split()
)
"""Operators that leave at most as many values as their largest input has."""


class Constants:
    """Upper bounds of what can be computed without an input of the network."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._computed = 0

    def add(self, name: str, count: int) -> None:
        """A constant of so many values."""
        self._counts[name] = count

    def add_node(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], own: int = 0) -> None:
        """An operator; its inputs come before it.

        Args:
            own: values that it holds itself.
        """
        names = [name for name in inputs if name]
        if not all(name in self._counts for name in names):
            return
        counts = [max(1, self._counts[name]) for name in names]
        if own or not counts:
            count = own
        elif kind in _SAME:
            count = max(counts)
        elif kind == "Concat":
            count = sum(counts)
        else:
            count = math.prod(counts)
        for name in outputs:
            self._counts[name] = count
        self._computed += count

    def check(self, on_disk: int, source: object) -> None:
        """Compare with what the file's size warrants.

        Raises:
            ModelError: it is much more.
        """
        require_size(self._computed * _VALUE, on_disk, source, "computing its constants", error=ModelError)

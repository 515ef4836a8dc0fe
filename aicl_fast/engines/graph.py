"""What is checked of a network's graph, whatever its format, before an engine computes anything of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from aicl_fast.engines.shapes import Settings, Value, result, value_of
from aicl_fast.errors import ModelError
from aicl_fast.limits import allowed_size, reading, require_size

_CONSTANT, _RESULT = 8, 4
"""Bytes of a value that is computed once, and of one that is computed in every run."""
_MOST_NODES = 20_000
_RUNNING = 32
"""A network may take so many times more while it runs than its constants may."""
_SMALL = 4 << 20
"""Files and inputs of fewer bytes are all allowed the same."""
_ONE, _FEW, _MANY = (1, 1_000), (2, 1_000), (1_000, 1_000_000)
"""Videos and segments for a network that leaves these open."""
_PRODUCTS = ("Conv", "Gather", "Gemm", "MatMul")
"""Operators whose result may grow faster than both inputs, and be smaller."""


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


class Graph:
    """A network's operators, and what they compute at most."""

    def __init__(self) -> None:
        self._inputs: dict[str, Sequence[int | None]] = {}
        self._constants: dict[str, Value] = {}
        self._known: set[str] = set()
        self._nodes: list[tuple[str, list[str], Sequence[str], Settings]] = []

    def add_input(self, name: str, shape: Sequence[int | None]) -> None:
        """An input of the network.

        Args:
            shape: None are sizes that the file leaves open.
        """
        self._inputs[name] = shape
        self._known.add(name)

    def add(self, name: str, shape: Sequence[int], whole: Sequence[int] | None = None) -> None:
        """A constant.

        Args:
            whole: the whole numbers that it holds, if these are known.
        """
        if name in self._known:
            raise ValueError("two constants of one name")
        self._constants[name] = value_of(shape, whole, fixed=True)
        self._known.add(name)

    def add_node(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], settings: Settings) -> None:
        """An operator, by ONNX's name.

        Raises:
            ValueError: one of its inputs does not come before it.
            UnlikeExportError: it is one too many.
        """
        names = [name for name in inputs if name]
        if not self._known.issuperset(names):
            raise ValueError(f"{kind} reads what does not come before it")
        if len(self._nodes) >= _MOST_NODES:
            raise UnlikeExportError(f"more than {_MOST_NODES} operators")
        self._nodes.append((kind, names, outputs, settings))
        self._known.update(outputs)

    def check(self, on_disk: int, source: object) -> None:
        """Compare what it computes with what the file's size and that of one video warrant.

        Sizes that the file leaves open are tried twice if results may grow faster than the input: many
        segments may take more than few, but not more for each.

        Raises:
            ModelError: it is much more.
        """
        one = self._given(*_ONE)
        if self._check(self._given(*_FEW), one, on_disk, source):
            self._check(self._given(*_MANY), one, on_disk, source)

    def _given(self, videos: int, segments: int) -> dict[str, Value]:
        """The inputs, where the sizes that the file leaves open are these."""
        return {
            name: value_of(
                [(segments if axis else videos) if size is None else size for axis, size in enumerate(shape)]
            )
            for name, shape in self._inputs.items()
        }

    def _check(self, given: dict[str, Value], one: dict[str, Value], on_disk: int, source: object) -> bool:
        """The check for inputs of one size. Returns whether results may grow faster than the input."""
        values = {**self._constants, **given}
        unit = sum(each.total for each in one.values())
        more = max(1, sum(each.total for each in given.values()) // max(1, unit))
        times = _RUNNING * max(1, unit * _RESULT // max(_SMALL, on_disk))
        most, most_constant = allowed_size(on_disk, times), allowed_size(on_disk)
        constant, running, faster = 0, 0, False
        for kind, inputs, outputs, settings in self._nodes:
            read = [values[name] for name in inputs]
            found = result(kind, read, settings)
            values.update(dict.fromkeys(outputs, found))
            if found.fixed:
                constant += found.total * _CONSTANT
                if constant > most_constant:
                    require_size(constant, on_disk, source, "computing its constants", error=ModelError)
                continue
            running += found.total * _RESULT
            if running // more > most:
                require_size(running // more, on_disk, source, "running it", error=ModelError, times=times)
            counts = [each.total for each in read if not each.fixed]
            if len(counts) > 1 and kind != "Concat":
                faster = faster or kind in _PRODUCTS or found.total > max(counts)
        return faster

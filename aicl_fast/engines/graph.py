"""What is checked of a network's graph, whatever its format, before an engine computes anything of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from aicl_fast.engines.shapes import Settings, Value, result, value_of
from aicl_fast.errors import ModelError
from aicl_fast.limits import reading, require_size

_CONSTANT, _RESULT = 8, 4
"""Bytes of a value that is computed once, and of one that is computed in every run."""
_MOST_NODES = 20_000
_RUNNING = 32
"""A network may take so many times more while it runs than its constants may."""
_SMALL = 4 << 20
"""Files and inputs of fewer bytes are all allowed the same, which is more than this."""
_OPEN = ((1, 1_000), (1_000, 1_000_000))
"""Videos and segments for which a network is looked at that leaves these open: usual ones, and many."""


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
        """Compare what it computes with what the file's size and that of its input warrant.

        Sizes that the file leaves open are tried twice: for many segments it may take more than for few, but
        not more for each.

        Raises:
            ModelError: it is much more.
        """
        usual = self._check(_OPEN[0], 0, on_disk, source)
        if any(None in shape for shape in self._inputs.values()):
            self._check(_OPEN[1], usual, on_disk, source)

    def _check(self, sizes: tuple[int, int], usual: int, on_disk: int, source: object) -> int:
        """The check for one size of the input. Returns its number of values."""
        values = dict(self._constants)
        for name, shape in self._inputs.items():
            filled = [sizes[axis > 0] if size is None else size for axis, size in enumerate(shape)]
            values[name] = value_of(filled)
        given = sum(values[name].count for name in self._inputs)
        more = max(1, given // usual) if usual else 1
        times = _RUNNING * max(1, given * _RESULT // more // max(_SMALL, on_disk))
        constant, running = 0, 0
        for kind, inputs, outputs, settings in self._nodes:
            found = result(kind, [values[name] for name in inputs], settings)
            values.update(dict.fromkeys(outputs, found))
            if found.fixed:
                constant += found.count
            else:
                running += found.count
            if max(constant, running) * _CONSTANT > _SMALL:
                needed = constant * _CONSTANT
                require_size(needed, on_disk, source, "computing its constants", error=ModelError)
                needed = running * _RESULT // more
                require_size(needed, on_disk, source, "running it", error=ModelError, times=times)
        return given

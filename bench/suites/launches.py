"""Which launch settings of the Triton kernels are swept: the shipped ones, and candidates around them."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from aicl_fast.bench.suites.kernel_cases import case_of, variants
from aicl_fast.kernels import contrast, fusion, mining, pooling, two_branch, two_branch_weights
from aicl_fast.kernels.cases import F8, specs
from aicl_fast.kernels.harness import Case

Settings = Any
"""A frozen dataclass of a kernel's file."""
_REACH = ("max_rows", "max_length")
"""The fields that say for which sizes settings are, not how to launch."""
_SPLIT_TO = 8
"""Videos up to which both halves of a fused tile by two programs are tried."""
# What spills on compute capability 9.0 or exceeds its shared memory (`sweep --compile 90`, Triton 3.9) is not
# in these lists.
_TILES = ((128, 256, 8), (256, 128, 8), (128, 128, 4), (128, 128, 8))
"""Of the product: rows, columns and warps."""
_STREAM = "elements num_warps"
_CONTRAST = {
    "FORWARD": ((4096, 4), (4096, 8), (4096, 16), (8192, 4), (8192, 8), (8192, 16), (16384, 8), (16384, 16)),
    "FORWARD_PLANAR": ((4096, 4), (4096, 8), (4096, 16), (8192, 4), (8192, 8), (8192, 16)),
}
"""Values a tile, and warps."""
_CONTRAST_BACKWARD = ((2048, 4), (2048, 8), (2048, 16), (4096, 4), (4096, 8), (4096, 16), (8192, 8))
_FUSION = (
    (1024, 8),
    (1024, 16),
    (1024, 32),
    (2048, 8),
    (2048, 16),
    (2048, 32),
    (4096, 16),
    (4096, 32),
    (8192, 32),
)
"""Values a program and a thread; a program has eight warps at most."""
_POOLING = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 2), (2, 4), (2, 8), (4, 4))
"""Classes and warps."""


@dataclass(frozen=True, eq=False)
class Launch:
    """The settings of one kernel, where it looks them up, and what to try in their place."""

    name: str
    module: ModuleType
    attribute: str
    shipped: Settings
    candidates: tuple[Settings, ...]

    @property
    def choices(self) -> tuple[Settings, ...]:
        """The shipped settings, then the candidates."""
        return (self.shipped, *self.candidates)


@dataclass(frozen=True, eq=False)
class Swept:
    """One operation at one size, and the kernel of it whose settings are varied."""

    case: Case
    launch: Launch

    @property
    def name(self) -> tuple[str, str]:
        """Family, and the rest."""
        return self.case.family, f"{self.case.name}: {self.launch.name}"


@contextlib.contextmanager
def replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Within the block a module's attribute has another value; after it the one before, in any case."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextlib.contextmanager
def launched_with(launch: Launch, settings: Settings) -> Iterator[None]:
    """Within the block a kernel is launched with these settings in place of the shipped ones."""
    held = getattr(launch.module, launch.attribute)
    with replaced(launch.module, launch.attribute, _exchanged(held, launch.shipped, settings)):
        yield


def _exchanged(held: Any, old: Settings, new: Settings) -> Any:
    """Settings, or a tuple or dictionary of them, with one object for another."""
    if held is old:
        return new
    if isinstance(held, tuple):
        return tuple(_exchanged(each, old, new) for each in held)
    if isinstance(held, dict):
        return {name: _exchanged(each, old, new) for name, each in held.items()}
    return held


def fields(settings: Settings) -> dict[str, Any]:
    """How to launch, by name."""
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in _REACH}


def _around(shipped: Settings, names: str, *values: Sequence[Any]) -> tuple[Settings, ...]:
    """The shipped settings with other values of some fields, row by row, but theirs."""
    fields = names.split()
    made = (dataclasses.replace(shipped, **dict(zip(fields, row, strict=True))) for row in values)
    return tuple(each for each in made if each != shipped)


def _varied(name: str, module: ModuleType, attribute: str, names: str, *values: Sequence[Any]) -> Launch:
    """A kernel's own settings, the first of several, and others around them."""
    held = getattr(module, attribute)
    shipped = held[0] if isinstance(held, tuple) else held
    return Launch(name, module, attribute, shipped, _around(shipped, names, *values))


def _product(case: Case, device: torch.device) -> Launch:
    """The network's product: who reads, how large a tile is, how many steps are in flight, whole or split."""
    batch, length, *_ = case.spec.shape
    shipped = two_branch._settings(batch * length, torch.empty(0, dtype=case.dtype, device=device))
    rows = [
        (split, boxes, *tile, stages)
        for split in ((False, True) if batch <= _SPLIT_TO else (False,))
        for boxes, tile, stages in itertools.product((True, False), _TILES, (3, 4, 5, 6))
        if _fits(case.dtype == F8, split, boxes, *tile, stages)
    ]
    names = "split boxes block_m block_n num_warps num_stages"
    return Launch("product", two_branch, "LAUNCHES", shipped, _around(shipped, names, *rows))


def _fits(float8: bool, split: bool, boxes: bool, rows: int, columns: int, warps: int, stages: int) -> bool:
    """Whether Hopper has the shared memory and the registers."""
    wide = rows * columns > 128 * 128
    if wide and stages > 4:
        return False
    if float8:
        # A second set of results, which is added to the first.
        return not wide and warps == 8
    return boxes or split or warps == 8 or stages == 3


def _launches(case: Case, device: torch.device) -> Iterator[Launch]:
    """The kernels of a case, each with what to try."""
    family, batch, float8 = case.family, case.spec.shape[0], case.dtype == F8
    if family == "network":
        yield _product(case, device)
        if float8:
            sizes = itertools.product((2048, 4096, 8192), (4, 8))
            yield _varied("rounding", two_branch_weights, "LAUNCH", _STREAM, *sizes)
        elif batch in (1, 64):
            # Only split launches multiply by the classes' weights here.
            sizes = itertools.product((16, 32, 64), (1024, 8192) if batch == 1 else (8192,))
            yield _varied("heads", two_branch, "HEADS", "block_m weights", *sizes)
    elif family == "contrast":
        forward = "FORWARD_PLANAR" if case.spec.layout == "planar" else "FORWARD"
        yield _varied("forward", contrast, forward, _STREAM, *_CONTRAST[forward])
        yield _varied("backward", contrast, "BACKWARD", _STREAM, *_CONTRAST_BACKWARD)
    elif family == "fusion":
        both = "PLANAR" if case.spec.layout == "planar" else "ROWS"
        yield _varied("both", fusion, both, "elements per_thread", *_FUSION)
    elif family == "pooling" and case.leaves:
        sizes = itertools.product((1024, 2048, 4096), (2, 4, 8))
        yield _varied("backward", pooling, "BACKWARD", _STREAM, *sizes)
    elif family == "pooling":
        yield _varied("forward", pooling, "LAUNCHES", "block_c num_warps", *_POOLING)
    elif family == "mining":
        yield _varied("forward", mining, "LAUNCHES", "num_warps", (2,), (4,), (16,))


def swept(only: str, small: bool, device: torch.device, *, float8: bool) -> Iterator[Swept]:
    """What is swept, of the families whose name contains ``only``, the most wanted first.

    Args:
        only: part of a family's name.
        small: for a rehearsal.
        device: of the launches.
        float8: whether it has float8 products.
    """
    for spec in sorted(specs("sweep", only), key=lambda spec: spec.rank):
        if float8 or spec.dtype != F8:
            for case in variants(case_of(spec, small, device)):
                yield from (Swept(case, launch) for launch in _launches(case, device))

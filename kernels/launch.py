"""How kernels are launched: the one place that calls them, and what launchers need to choose settings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from aicl_fast.extras import needs

with needs("triton"):
    import torch
    from torch import Tensor

from aicl_fast.kernels import dispatch

Taker = Callable[[Any, tuple[int, ...], tuple[Any, ...], dict[str, Any]], object]
"""Takes a launch: the ``triton.jit`` function, the grid, its arguments, and its constants and settings."""

CAPABILITY: int | None = None
"""A compute capability (times ten) to choose launch settings for; None asks the device of the tensors."""
_taker: Taker | None = None


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **settings: Any) -> None:
    """Launch a ``triton.jit`` function, or hand the launch to whoever asked for it by :func:`intercepted`."""
    if _taker is None:
        kernel[grid](*arguments, **settings)
    else:
        _taker(kernel, grid, arguments, settings)


@contextlib.contextmanager
def intercepted(taker: Taker, capability: int | None = None) -> Iterator[None]:
    """Within the block CPU tensors go to the kernels, and every launch goes to ``taker`` in place of a GPU.

    Args:
        taker: what to do with a launch.
        capability: compute capability, times ten, to choose settings for; None leaves the choice as it was.
    """
    global _taker, CAPABILITY
    before = _taker, CAPABILITY, dispatch.INTERPRET
    _taker, dispatch.INTERPRET = taker, True
    CAPABILITY = capability or CAPABILITY
    try:
        yield
    finally:
        _taker, CAPABILITY, dispatch.INTERPRET = before


def capability(device: torch.device) -> int:
    """The compute capability, times ten, whose launch settings are meant: Hopper's where there is no GPU."""
    if CAPABILITY is not None:
        return CAPABILITY
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def next_power_of_2(n: int) -> int:
    """The lowest power of two that is at least ``n``."""
    return 1 << max(0, n - 1).bit_length()


def unused_low_bits(dtype: torch.dtype) -> int:
    """Low bits of a float32 that are all alike in every value raised from ``dtype``."""
    return {torch.float32: 0, torch.float16: 13, torch.bfloat16: 16}[dtype]


def _strides(tensor: Tensor) -> list[int]:
    """The strides, as those of a contiguous tensor where a dimension has one element and any would do."""
    strides = list(tensor.stride())
    for i in range(tensor.ndim - 2, -1, -1):
        if tensor.shape[i] == 1:
            strides[i] = tensor.shape[i + 1] * strides[i + 1]
    return strides


def fits_boxes(tensor: Tensor) -> bool:
    """Whether a GPU's copy engine can read boxes of a tensor: all its steps are multiples of 16 bytes."""
    *steps, last = _strides(tensor)
    aligned = all(step > 0 and step * tensor.element_size() % 16 == 0 for step in steps)
    return aligned and tensor.data_ptr() % 16 == 0 and last == 1


def boxes(tensor: Tensor, box: Sequence[int]) -> Any:
    """A descriptor that a kernel loads boxes of a tensor by; zeros beyond the tensor's ends on every side."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor(tensor, list(tensor.shape), _strides(tensor), list(box))

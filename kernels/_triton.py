"""How the operations choose between their Triton kernel and their reference, and what the kernels share.

Triton is imported by the first launch and by nothing before it: on a machine without a GPU, or without
Triton, importing :mod:`aicl_fast.kernels` costs neither time nor an error.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from aicl_fast.extras import needs

with needs("triton"):
    import torch
    from torch import Tensor

if TYPE_CHECKING:
    import triton.language as tl
    from torch._library.custom_ops import CustomOpDef

# mypy: disable-error-code="no-untyped-def"


def _switched_on(name: str) -> bool:
    """Whether an environment variable does not say 0, false, off or no."""
    return os.environ.get(name, "").strip().lower() not in ("0", "false", "off", "no")


# Both are read at every call, so a test may set them; the environment gives their first value.
ENABLED = importlib.util.find_spec("triton") is not None and _switched_on("AICL_FAST_TRITON")
"""Whether kernels are used at all. ``AICL_FAST_TRITON=0`` (or false, off, no) turns them off."""
INTERPRET = os.environ.get("TRITON_INTERPRET", "0") == "1"
"""Whether CPU tensors go to the kernels, which Triton's interpreter then runs."""

MAX_LENGTH = 4096
"""Segments that a program holds at once, in the operations that rank along T."""

MAX_BATCH = 65_535
"""Videos that a launch takes where a grid's second dimension counts them."""

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def operation(name: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Register ``aicl_fast::name`` with torch.library; it writes to none of its inputs.

    The kernels index by how their inputs lie in memory, so a compiler is asked to keep that. Triton launches
    on the current device, so the first tensor's is made current.
    """
    exact = getattr(torch.Tag, "needs_exact_strides", None)
    more: dict[str, Any] = {} if exact is None else {"tags": (exact,)}

    def register(function: Callable[..., Any]) -> CustomOpDef:
        def on_device(first: Tensor | Sequence[Tensor], *rest: Any) -> Any:
            one = first if isinstance(first, Tensor) else first[0]
            with torch.cuda.device_of(one):  # type: ignore[no-untyped-call]
                return function(first, *rest)

        schema = torch.library.infer_schema(function, mutates_args=())
        return torch.library.custom_op(
            f"aicl_fast::{name}", on_device, mutates_args=(), schema=schema, **more
        )

    return register


def use_kernels(*tensors: Tensor, masks: Sequence[Tensor] = ()) -> bool:
    """Whether these inputs are for the kernels: on one CUDA device (or interpreting), none in float64, none
    empty.

    Decided from the inputs alone, so that ``torch.compile`` folds it away.

    Args:
        tensors: values, of a float type.
        masks: bool.
    """
    if not ENABLED:
        return False
    device = tensors[0].device
    if any(tensor.dtype not in _DTYPES for tensor in tensors):
        return False
    if any(mask.dtype != torch.bool for mask in masks):
        return False
    for tensor in (*tensors, *masks):
        if not (tensor.is_cuda or INTERPRET) or tensor.device != device or tensor.numel() == 0:
            return False
    return True


CAPABILITY: int | None = None
"""A compute capability (times ten) to choose launch settings for; None asks the device of the tensors."""


def capability(device: torch.device) -> int:
    """The compute capability, times ten, whose launch settings are meant: Hopper's where there is no GPU."""
    if CAPABILITY is not None:
        return CAPABILITY
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


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


def next_power_of_2(n: int) -> int:
    """The lowest power of two that is at least ``n``."""
    return 1 << max(0, n - 1).bit_length()


class _Kernel:
    """A Triton function that is handed to ``triton.jit`` when it is first launched.

    It then takes its own place in its module, and every kernel it calls likewise, because Triton resolves
    the names in a kernel's body (``tl`` among them) in the module's globals.
    """

    def __init__(self, function: Callable[..., Any], general: Sequence[str] = ()) -> None:
        self.function = function
        self.general = list(general)
        self.__doc__ = function.__doc__
        self._jitted: Any = None

    def jitted(self) -> Any:
        """The ``triton.jit`` function."""
        if self._jitted is None:
            import triton
            import triton.language

            self._jitted = triton.jit(self.function, do_not_specialize=self.general)
            namespace = self.function.__globals__
            namespace["tl"] = triton.language
            for name, value in list(namespace.items()):
                if isinstance(value, _Kernel):
                    namespace[name] = value.jitted()
        return self._jitted

    def __getitem__(self, grid: Any) -> Any:
        return self.jitted()[grid]


def kernel(function: Callable[..., Any]) -> Any:
    """Mark a Triton kernel, or a function that kernels call; ``kernel[grid](...)`` launches it."""
    return _Kernel(function)


def kernel_general_in(*names: str) -> Callable[[Callable[..., Any]], Any]:
    """As :func:`kernel`, compiled once for all values of these integers.

    Triton compiles anew for a value of 1 and for multiples of 16: what the width of an access hangs on gains
    by it, a mere count does not.
    """
    return lambda function: _Kernel(function, names)


def jitted(marked: Any) -> Any:
    """The ``triton.jit`` function of a marked kernel, launched before or not."""
    return marked.jitted() if isinstance(marked, _Kernel) else marked


def is_planar(tensor: Tensor) -> bool:
    """Whether a (B, T, C) tensor lies in memory as (B, C, T), as a transposed convolution output does."""
    return not tensor.is_contiguous() and tensor.transpose(1, 2).is_contiguous()


def as_layout(tensor: Tensor, planar: bool) -> Tensor:
    """The (B, T, C) tensor, copied only if it does not lie in memory as (B, T, C) or, planar, (B, C, T)."""
    if planar:
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)
    return tensor.contiguous()


def empty_layout(like: Tensor, planar: bool, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised (B, T, C) tensor of either layout."""
    batch, length, classes = like.shape
    shape = (batch, classes, length) if planar else (batch, length, classes)
    out = torch.empty(shape, dtype=dtype or like.dtype, device=like.device)
    return out.transpose(1, 2) if planar else out


@kernel
def order_key(b_x, SHIFT: tl.constexpr):
    """uint32 keys in the order of float32 values, equal where they are (-0.0 is 0.0), without low bits.

    A float's bits grow with its magnitude, so the negative ones are flipped and the others put above them.
    Dropping SHIFT low bits is exact for values that were raised from a narrower type.
    """
    b_bits = tl.where(b_x == 0.0, 0.0, b_x).to(tl.uint32, bitcast=True)
    b_sign = b_bits >> 31
    b_key = tl.where(b_sign != 0, b_bits ^ 0xFFFFFFFF, b_bits | 0x80000000)
    return b_key >> SHIFT


@kernel
def kth_key(b_key, b_k, AXIS: tl.constexpr, SHIFT: tl.constexpr):
    """The k-th highest key along an axis, found bit by bit: one count a bit, no sort.

    Args:
        b_key: 2D uint32 keys of at most 32 - SHIFT bits; what is to be passed over has key 0.
        b_k: how many keys are to be at or above the result, of the shape that remains.
    """
    b_kth = tl.zeros_like(b_k).to(tl.uint32)
    b_bit = tl.full(b_k.shape, 0x80000000 >> SHIFT, tl.uint32)
    for _ in range(32 - SHIFT):
        b_try = b_kth | b_bit
        b_count = tl.sum((b_key >= tl.expand_dims(b_try, AXIS)).to(tl.int32), AXIS)
        b_kth = tl.where(b_count >= b_k, b_try, b_kth)
        b_bit = b_bit >> 1
    return b_kth


@kernel
def highest(b_key, b_member, b_k, AXIS: tl.constexpr, SHIFT: tl.constexpr):
    """Mask of the ``b_k`` members of highest key along an axis, ties by lowest index.

    ``b_k`` is at most the number of members, whose keys are above 0; all others have key 0.
    """
    b_kth = tl.expand_dims(kth_key(b_key, b_k, AXIS, SHIFT), AXIS)
    b_above = b_key > b_kth
    b_room = tl.expand_dims(b_k - tl.sum(b_above.to(tl.int32), AXIS), AXIS)
    b_tied = (b_key == b_kth) & b_member
    b_rank = tl.cumsum(b_tied.to(tl.int32), AXIS)
    return b_above | (b_tied & (b_rank <= b_room))


def unused_low_bits(dtype: torch.dtype) -> int:
    """Low bits of a float32 that are all alike in every value raised from ``dtype``."""
    return {torch.float32: 0, torch.float16: 13, torch.bfloat16: 16}[dtype]

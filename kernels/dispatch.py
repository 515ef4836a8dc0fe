"""Which path an operation takes, its Triton kernel or its reference, and its registration with torch.

Triton and the files in ``gpu/`` are imported by the first launch and by nothing before it: on a machine
without a GPU, or without Triton, importing :mod:`aicl_fast.kernels` costs neither time nor an error.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from aicl_fast.extras import needs

with needs("triton"):
    import torch
    from torch import Tensor

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef


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


def operation(name: str) -> Callable[[Callable[..., Iterator[Any]]], CustomOpDef]:
    """Register a launcher as ``aicl_fast::name`` with torch.library; it writes to none of its inputs.

    The launcher yields the operation's results as they are allocated, then launches the kernel that fills
    them. Tracing takes what it yields and goes no further.

    The kernels index by how their inputs lie in memory, so a compiler is asked to keep that. Triton launches
    on the current device, so the first tensor's is made current.
    """
    exact = getattr(torch.Tag, "needs_exact_strides", None)
    more: dict[str, Any] = {} if exact is None else {"tags": (exact,)}

    def register(launcher: Callable[..., Iterator[Any]]) -> CustomOpDef:
        def outputs(*inputs: Any) -> Any:
            return next(launcher(*inputs))

        def run(first: Tensor | Sequence[Tensor], *rest: Any) -> Any:
            one = first if isinstance(first, Tensor) else first[0]
            with torch.cuda.device_of(one):  # type: ignore[no-untyped-call]
                (results,) = launcher(first, *rest)
            return results

        types = get_type_hints(launcher)
        (results,) = get_args(types.pop("return"))
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        inputs = [inspect.Parameter(key, kind, annotation=value) for key, value in types.items()]
        outputs.__signature__ = inspect.Signature(inputs, return_annotation=results)  # type: ignore[attr-defined]
        schema = torch.library.infer_schema(outputs, mutates_args=())
        defined = torch.library.custom_op(f"aicl_fast::{name}", run, mutates_args=(), schema=schema, **more)
        defined.register_fake(outputs)
        return defined

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


def is_planar(tensor: Tensor) -> bool:
    """Whether a (B, T, C) tensor lies in memory as (B, C, T), as a transposed convolution output does."""
    return not tensor.is_contiguous() and tensor.transpose(1, 2).is_contiguous()


def as_layout(tensor: Tensor, planar: bool) -> Tensor:
    """The (B, T, C) tensor, copied only if it does not lie in memory as (B, T, C) or, planar, (B, C, T)."""
    if planar:
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)
    return tensor.contiguous()


def empty_layout(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised (B, T, C) tensor that lies in memory as another does, planar or in rows."""
    planar = is_planar(like)
    batch, length, classes = like.shape
    shape = (batch, classes, length) if planar else (batch, length, classes)
    out = torch.empty(shape, dtype=dtype or like.dtype, device=like.device)
    return out.transpose(1, 2) if planar else out

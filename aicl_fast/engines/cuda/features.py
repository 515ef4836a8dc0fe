"""Recordings whose features are in GPU memory: read and checked without a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aicl_fast.data.features import check_rows
from aicl_fast.errors import DataError
from aicl_fast.extras import needs

if TYPE_CHECKING:
    import torch


def as_tensor(array: Any, name: str) -> torch.Tensor:
    """An array on a GPU as torch sees it, without a copy.

    Args:
        array: a torch tensor, or what offers DLPack or, on torch's current GPU, ``__cuda_array_interface__``.
        name: what it is, for messages.
    Raises:
        DataError: its owner does not give it away.
        UnavailableError: torch is not installed, or not for GPUs.
    """
    with needs("train", f"{name}: sampling features on a GPU (copy them to the host to do without)"):
        import torch
        import torch.utils.dlpack
    if isinstance(array, torch.Tensor):
        return array.detach()
    try:
        if hasattr(array, "__dlpack__"):
            return torch.utils.dlpack.from_dlpack(array)
        stream = array.__cuda_array_interface__.get("stream")
        if stream:  # what still writes it; torch does not look
            torch.cuda.ExternalStream(stream).synchronize()  # type: ignore[no-untyped-call]
        return torch.as_tensor(array, device="cuda")
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"{name}: torch cannot read this {type(array).__name__} ({error}).") from error


def check_on_gpu(array: Any, name: str, *, width: int | None = None) -> torch.Tensor:
    """One stream's features as a tensor. Values are not looked at, which the host would have to wait for.

    Args:
        array: ``(n, D)`` of a floating-point type, one row per segment, n >= 1.
        name: the argument, for messages.
        width: the D that the model expects; None accepts any.
    Raises:
        DataError: not 2-D, empty, integers, or the wrong width.
        UnavailableError: there is no torch.
    """
    tensor = as_tensor(array, name)
    dtype = str(tensor.dtype).removeprefix("torch.")
    check_rows(tuple(tensor.shape), tensor.is_floating_point(), dtype, name, width=width)
    return tensor

"""Arrays in GPU memory, of whatever library: where they are and what is in them, without a copy."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from aicl_fast.errors import DataError

_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged


@dataclass(frozen=True)
class GpuArray:
    """A float32 array in C order on a GPU.

    Attributes:
        pointer: its address.
        shape: its dimensions.
        device: the GPU's number; None where the producer does not say (``__cuda_array_interface__``).
        stream: the producer's stream that must be waited for; None where the producer has seen to it.
        owner: what must stay alive while the array is in use.
    """

    pointer: int
    shape: tuple[int, ...]
    device: int | None
    stream: int | None
    owner: Any


class _Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("id", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def is_gpu_array(value: Any) -> bool:
    """Whether a value offers its memory by ``__cuda_array_interface__``, or by DLPack from a GPU."""
    if hasattr(value, "__dlpack_device__"):
        return value.__dlpack_device__()[0] in _CUDA
    return hasattr(value, "__cuda_array_interface__")


def read_array(value: Any, stream: int) -> GpuArray:
    """Where an array's memory is.

    Args:
        value: with ``__dlpack__`` or ``__cuda_array_interface__``.
        stream: the CUDA stream that will read it; by DLPack the producer makes it wait for its own work.
    Raises:
        DataError: not float32, not in C order, not on a GPU, or its owner does not give it away.
    """
    if hasattr(value, "__dlpack__"):
        return _from_dlpack(value, stream)
    return _from_interface(value)


def _from_dlpack(value: Any, stream: int) -> GpuArray:
    kind, device = value.__dlpack_device__()
    if kind not in _CUDA:
        raise DataError("features: this array is not on a GPU; give it as a numpy array.")
    # The capsule frees the tensor when it is released, since it is not renamed: it is the owner.
    try:
        capsule = value.__dlpack__(stream=stream)
    except (BufferError, RuntimeError) as error:  # torch's, of a tensor that needs its gradient
        raise DataError(f"features: cannot be read where they are ({error}).") from error
    tensor = read_capsule(capsule)
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    dtype = (tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes)
    strides = tuple(tensor.strides[axis] for axis in range(tensor.ndim)) if tensor.strides else None
    _check(dtype == (2, 32, 1), f"DLPack type {dtype}", shape, strides)
    return GpuArray(int(tensor.data or 0) + int(tensor.byte_offset), shape, int(device), None, capsule)


def read_capsule(capsule: Any) -> Any:
    """The DLTensor in a DLPack capsule."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return _Tensor.from_address(get(capsule, b"dltensor"))


def _from_interface(value: Any) -> GpuArray:
    interface = value.__cuda_array_interface__
    shape = tuple(interface["shape"])
    strides = interface.get("strides")
    elements = None if strides is None else tuple(stride / 4 for stride in strides)
    _check(interface["typestr"] == "<f4", f"type {interface['typestr']}", shape, elements)
    # 1 is the legacy default stream and 2 the per-thread one; both are handles that CUDA takes.
    return GpuArray(int(interface["data"][0]), shape, None, interface.get("stream"), value)


def _check(is_float: bool, dtype: str, shape: tuple[int, ...], strides: tuple[float, ...] | None) -> None:
    if not is_float:
        raise DataError(f"features: expected float32 on the GPU, got {dtype}. Convert them there.")
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides or ()), strict=False):
        if size != 1 and stride != step:
            raise DataError(
                f"features: expected an array in C order, got strides {strides} for shape {shape}. Make it "
                "contiguous."
            )
        step *= size

"""Runs the public functions of ``aicl_fast.kernels`` with each launch compiled for sm_90 and emulated.

Needs Triton as a compiler: a process without ``TRITON_INTERPRET``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.tools.tensor_descriptor import TensorDescriptor

from aicl_fast.kernels import aot, dispatch
from aicl_fast.kernels.launch import intercepted
from ptx_emulator.asynchronous import TensorMap
from ptx_emulator.formats import Array
from ptx_emulator.kernel import Kernel
from ptx_emulator.memory import Memory

_BASE = 0x7000_0000_0000
"""Far above 32 bits: an address that loses its upper half is out of bounds."""
_GAP = 1024
_SWIZZLE = {0: 0, 1: 32, 2: 64, 3: 128}  # the driver's CU_TENSOR_MAP_SWIZZLE_…


class Emulated:
    """What was compiled and what ran."""

    def __init__(self) -> None:
        self.lazy = False
        self.launched: list[str] = []
        """Kernels in the order of their launches."""
        self._compiled: dict[str, tuple[Kernel, Any]] = {}
        self._written: dict[int, tuple[torch.Tensor, Array]] = {}

    def allocate(self, tensor: torch.Tensor) -> None:
        """Take a new tensor for uninitialised; it is kept, so that its address is its own."""
        storage = tensor.untyped_storage()
        self._written[storage.data_ptr()] = tensor, np.zeros(storage.nbytes(), bool)

    def forget(self) -> None:
        """Let go of the tensors that were allocated."""
        self._written.clear()

    def compile(self, launch: Any) -> tuple[Kernel, Any, Any]:
        """The kernel of a launch, what Triton says of it, and how its arguments are passed."""
        source, options = aot.source_of(launch)
        key = repr((source.fn.__name__, source.signature, source.constants, source.attrs, options))
        if key not in self._compiled:
            built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
            self._compiled[key] = Kernel(built.asm["ptx"], built.metadata.shared), built.metadata
        return *self._compiled[key], source

    def launch(
        self, function: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], settings: dict[str, Any]
    ) -> None:
        """Emulate one launch."""
        kernel, metadata, source = self.compile(aot.Launch(function, "", arguments, settings))
        values = dict(zip(source.fn.arg_names, arguments, strict=False)) | settings
        passed = [values[name] for name, kind in source.signature.items() if kind != "constexpr"]
        tensors = [value.base if isinstance(value, TensorDescriptor) else value for value in passed]
        memory = _Placed([value for value in tensors if isinstance(value, torch.Tensor)], self._written)
        maps = iter(metadata.tensordesc_meta or ())
        words: list[Any] = []
        for value in passed:
            if isinstance(value, TensorDescriptor):
                # Triton passes a descriptor as a tensor map, its shape and its strides.
                words += [_tensor_map(value, next(maps), memory), *value.shape, *value.strides]
            elif isinstance(value, torch.Tensor):
                words.append(memory.address(value))
            else:
                words.append(value)
        words += [0, 0]  # scratch memory of the launch and of profilers, which no kernel asks for
        assert metadata.global_scratch_size == metadata.profile_scratch_size == 0
        assert kernel.program.threads == 32 * metadata.num_warps
        kernel.run(memory.memory, grid, words, lazy=self.lazy)
        memory.copy_back(self._written)
        self.launched.append(source.fn.__name__)


class _Placed:
    """Tensors' storages in an emulated global memory, with gaps between them that nobody may touch."""

    def __init__(self, tensors: list[torch.Tensor], written: dict[int, tuple[torch.Tensor, Array]]) -> None:
        self._at: dict[int, tuple[int, Array]] = {}
        top = _GAP
        for tensor in tensors:
            storage = tensor.untyped_storage()
            pointer = storage.data_ptr()
            if pointer not in self._at:
                # As aligned as on this machine, which is what the launch was compiled for.
                at = -(-top // 512) * 512 + pointer % 512
                whole = torch.tensor([], dtype=torch.uint8).set_(storage)
                self._at[pointer] = at, whole.numpy()
                top = at + storage.nbytes() + _GAP
        self.memory = Memory("global memory", _BASE, top)
        for pointer, (at, content) in self._at.items():
            part = slice(at, at + content.size)
            self.memory.data[part] = content
            self.memory.allocated[part] = True
            self.memory.initialised[part] = written[pointer][1] if pointer in written else True

    def address(self, tensor: torch.Tensor) -> int:
        """Where the tensor's first element is."""
        pointer = tensor.untyped_storage().data_ptr()
        return _BASE + self._at[pointer][0] + tensor.data_ptr() - pointer

    def copy_back(self, written: dict[int, tuple[torch.Tensor, Array]]) -> None:
        """What the kernel wrote, into the tensors."""
        for pointer, (at, whole) in self._at.items():
            part = slice(at, at + whole.size)
            whole[:] = self.memory.data[part]
            if pointer in written:
                written[pointer][1][:] = self.memory.initialised[part]


def _tensor_map(descriptor: Any, metadata: Any, memory: _Placed) -> TensorMap:
    if metadata.get("fp4_padded"):
        raise NotImplementedError("tensor maps of 4-bit elements")
    return TensorMap(
        base=memory.address(descriptor.base),
        shape=tuple(descriptor.shape),
        strides=tuple(descriptor.strides),
        element=descriptor.base.element_size(),
        box=tuple(metadata["block_size"]),
        swizzle=_SWIZZLE[metadata["swizzle"]],
    )


@contextmanager
def emulation() -> Iterator[Emulated]:
    """Within, CPU tensors go to the kernels, and these to the emulator.

    ``torch.empty`` gives NaN, and the emulator knows it for unwritten: make inputs outside.
    """
    emulated = Emulated()
    empty = torch.empty

    def poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
        out = empty(*args, **kwargs)
        if out.device.type == "cpu" and out.numel():
            out.view(torch.uint8).fill_(0x7F) if out.dtype != torch.bool else out.fill_(True)
            emulated.allocate(out)
        return out

    enabled = dispatch.ENABLED
    torch.empty, dispatch.ENABLED = poisoned, True
    try:
        with intercepted(emulated.launch, 90):
            yield emulated
    finally:
        torch.empty, dispatch.ENABLED = empty, enabled

"""What one batch in flight on a GPU needs: an execution context, a stream, buffers on both sides, a graph."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from aicl_fast.data.features import Floats
from aicl_fast.engines.cuda.arrays import GpuArray, read_array
from aicl_fast.engines.cuda.driver import Cuda
from aicl_fast.engines.tensorrt.plan import Plan
from aicl_fast.errors import DataError, ModelError, UnavailableError
from aicl_fast.signature import Signature

_ALIGN = 256
"""Bytes that the address of a tensor is a multiple of, as TensorRT asks for."""


class Slot:
    """One batch in flight, of one shape.

    Args:
        cuda: the GPU, current in the calling thread.
        plan: loaded on it.
        signature: the plan's input and outputs.
        shape: of the input.
    Raises:
        ModelError: TensorRT does not take the shape.
        UnavailableError: CUDA has no memory left for it; nothing that it had already is kept.
    """

    def __init__(self, cuda: Cuda, plan: Plan, signature: Signature, shape: tuple[int, ...]) -> None:
        self.cuda = cuda
        self.plan = plan
        self.signature = signature
        self.shape = shape
        self.context: Any = None
        self.graph: Any = None
        self.prepared = False
        self.capturable = True
        self.busy = False  # the stream has work that nobody has waited for
        self.closed = False
        # Another thread may close the slot; and so may this one, where it collects garbage.
        self._lock = threading.RLock()
        self._held = contextlib.ExitStack()  # each is given back, whatever the others raise; the last first
        try:
            self._prepare()
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong first is on its way up
                self.close()
            raise

    def _prepare(self) -> None:
        cuda, plan, shape = self.cuda, self.plan, self.shape
        self.stream = cuda.stream()
        self._held.callback(cuda.destroy_stream, self.stream)
        self.event = cuda.event()
        self._held.callback(cuda.destroy_event, self.event)
        self._held.callback(self._release)
        self.context = plan.context()
        if self.context is None or not self.context.set_input_shape(self.signature.input.name, shape):
            raise ModelError(f"{plan.path}: no context for shape {shape} ({plan.reason()}).")
        if plan.managed is not None:
            scratch = max(_ALIGN, self.context.update_device_memory_size_for_shapes())
            self.context.set_device_memory(int(self._allocate(scratch)), scratch)
        dtype = self.signature.input.dtype
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.features = self._allocate(size)
        staging, self._host_in = self._pinned(-(-size // 4))
        self.host_features = staging.view(np.uint8)[:size].view(dtype).reshape(shape)
        # The outputs are in one block, so that they come back in one copy.
        offsets, end = [], 0
        names = [tensor.name for tensor in self.signature.outputs]
        shapes = [tuple(self.context.get_tensor_shape(name)) for name in names]
        for one in shapes:
            offsets.append(end)
            end += -(-4 * int(np.prod(one)) // _ALIGN) * _ALIGN
        self.outputs = self._allocate(end)
        block, self._host_out = self._pinned(end // 4)
        self.size = end
        self.views = [
            block[start // 4 : start // 4 + int(np.prod(one))].reshape(one)
            for start, one in zip(offsets, shapes, strict=True)
        ]
        for name, start in zip(names, offsets, strict=True):
            self._place(name, int(self.outputs) + start)

    def _allocate(self, size: int) -> Any:
        address = self.cuda.allocate(size)
        self._held.callback(self.cuda.free, address)
        return address

    def _pinned(self, count: int) -> tuple[Floats, int]:
        array, address = self.cuda.pinned((count,))
        self._held.callback(self.cuda.free_pinned, address)
        return array, address

    def _place(self, name: str, address: int) -> None:
        if not self.context.set_tensor_address(name, address):
            raise ModelError(f"{self.plan.path}: takes no address for {name} ({self.plan.reason()}).")

    @property
    def stream_number(self) -> int:
        return int(self.stream)

    def launch(self, features: npt.NDArray[Any]) -> bool:
        """Copy in, run, copy out: as a graph, captured at the second run (the first compiles kernels).

        Returns:
            Whether the graph was captured just now.
        """
        with self._open():
            self._wait()
            np.copyto(self.host_features, features, casting="same_kind")
            self.busy = True
            return self._launch()

    def _wait(self) -> None:
        """For what the stream was given last, if nobody has."""
        if self.busy:
            self.cuda.synchronize(self.stream)
            self.busy = False

    def _launch(self) -> bool:
        captured = False
        if self.graph is None:
            self._place(self.signature.input.name, int(self.features))
            if not self.prepared or not self._capturable() or not self._capture():
                self._enqueue(self.host_features.nbytes)
                self.prepared = True
                return False
            captured = True
        self.cuda.launch(self.graph, self.stream)
        return captured

    def _capture(self) -> bool:
        """Make the graph. What TensorRT runs and cannot be captured is run as it is from now on."""
        try:
            with self.cuda.capture(self.stream) as captured:
                self._enqueue(self.host_features.nbytes)
        except UnavailableError:
            self.capturable = False
            return False
        self.graph = captured.graph
        return True

    def _capturable(self) -> bool:
        if not self.capturable:
            return False
        # TensorRT-RTX says no while it still compiles kernels; TensorRT has no such question.
        ask = getattr(self.context, "is_stream_capturable", None)
        return ask is None or bool(ask(self.stream_number))

    def launch_on(self, features: Any) -> GpuArray:
        """Run on features in GPU memory, without a copy. There is no graph: their address differs each time.

        Where their address is not one that TensorRT takes, they are copied, on the GPU.

        Returns:
            Where they are; to be held until :meth:`finish` returns.
        Raises:
            DataError: not float32 in C order on this GPU.
        """
        with self._open():  # the producer is given the stream, which close() destroys
            self._wait()
            array = read_array(features, self.stream_number)
            self.cuda.make_current()  # the producer's own code has run
            device = self.cuda.number_of(array.pointer) if array.device is None else array.device
            if device != self.cuda.number:
                raise DataError(
                    f"features: are on GPU {device}, the engine is on {self.cuda.number}. Move them."
                )
            self.busy = True
            if array.stream not in (None, 0):
                self.cuda.wait_for(self.stream, array.stream, self.event)
            if array.pointer % _ALIGN:
                size = self.host_features.nbytes
                self.cuda.copy_on(self.features, array.pointer, size, self.stream)
                self._place(self.signature.input.name, int(self.features))
            else:
                self._place(self.signature.input.name, array.pointer)
            self._enqueue()
        return array

    def _enqueue(self, copied_in: int = 0) -> None:
        if copied_in:
            self.cuda.copy_in(self.features, self._host_in, copied_in, self.stream)
        if not self.context.execute_async_v3(self.stream_number):
            raise UnavailableError(f"{self.plan.path}: TensorRT could not run it ({self.plan.reason()}).")
        self.cuda.copy_out(self._host_out, self.outputs, self.size, self.stream)

    def finish(self) -> Any:
        """Wait, and copy the results out of the staging buffers."""
        with self._open():
            self.cuda.make_current()
            self._wait()
            return self.signature.result(*(view.copy() for view in self.views))

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        with self._lock:
            if self.closed:
                raise UnavailableError(f"{self.plan.path}: was closed before this result was asked for.")
            yield

    def close(self) -> None:
        """Wait, and free everything, the graph first."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            if self.graph is not None:
                self._held.callback(self.cuda.destroy_graph, self.graph)
            if self.busy:
                self._held.callback(self.cuda.synchronize, self.stream)
            self._held.close()

    def _release(self) -> None:
        self.graph = self.context = None
        self.views = []

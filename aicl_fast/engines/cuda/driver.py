"""One GPU by CUDA's driver and cuda-python: memory, streams and graphs. Nothing of TensorRT is in here."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from aicl_fast.data.features import Floats
from aicl_fast.errors import DataError, UnavailableError
from aicl_fast.extras import needs


class Cuda:
    """The little of CUDA's driver that running an engine takes, with errors that say what failed.

    Args:
        number: the GPU.
    Raises:
        UnavailableError: cuda-python or the driver is missing, or there is no such GPU.
    """

    def __init__(self, number: int) -> None:
        with needs("cuda", "running a TensorRT engine"):
            from cuda.bindings import driver
        self._driver: Any = driver
        self.number = number
        try:
            self._do("cuInit", 0)
            count = int(self._do("cuDeviceGetCount"))
        except Exception as error:  # cuda-python raises classes of its own where there is no driver
            raise UnavailableError(
                f"a TensorRT engine runs on an NVIDIA GPU, and CUDA's driver does not start here ({error}). "
                "On this machine use an .onnx or .openvino file."
            ) from error
        if not 0 <= number < count:
            raise UnavailableError(f"device: there is no GPU {number}; this machine has {count}.")
        self.device = self._do("cuDeviceGet", number)
        self._context = self._do("cuDevicePrimaryCtxRetain", self.device)
        self.make_current()

    @property
    def capability(self) -> tuple[int, int]:
        """The card's compute capability."""
        names = self._driver.CUdevice_attribute
        major = names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        minor = names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
        return tuple(int(self._do("cuDeviceGetAttribute", name, self.device)) for name in (major, minor))  # type: ignore[return-value]

    def make_current(self) -> None:
        """Use this GPU in the calling thread."""
        self._do("cuCtxSetCurrent", self._context)

    def stream(self) -> Any:
        """A stream that does not wait for the default one."""
        return self._do("cuStreamCreate", int(self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING))

    def event(self) -> Any:
        """An event without a time."""
        return self._do("cuEventCreate", int(self._driver.CUevent_flags.CU_EVENT_DISABLE_TIMING))

    def allocate(self, size: int) -> Any:
        """Memory on the GPU, in bytes."""
        return self._do("cuMemAlloc", size)

    def pinned(self, shape: tuple[int, ...]) -> tuple[Floats, int]:
        """A float32 array in page-locked memory, and its address."""
        count = int(np.prod(shape))
        address = int(self._do("cuMemHostAlloc", 4 * count, 0))
        array = np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))
        return array.reshape(shape), address

    def copy_in(self, device: Any, host: int, size: int, stream: Any) -> None:
        """Host to GPU, in bytes, without waiting."""
        self._do("cuMemcpyHtoDAsync", device, host, size, stream)

    def copy_out(self, host: int, device: Any, size: int, stream: Any) -> None:
        """GPU to host, in bytes, without waiting."""
        self._do("cuMemcpyDtoHAsync", host, device, size, stream)

    def copy_on(self, device: Any, source: int, size: int, stream: Any) -> None:
        """GPU to the same GPU, in bytes, without waiting."""
        self._do("cuMemcpyDtoDAsync", device, source, size, stream)

    def number_of(self, address: int) -> int:
        """The GPU that memory is on.

        Raises:
            DataError: CUDA does not know the address.
        """
        name = self._driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        try:
            return int(self._do("cuPointerGetAttribute", name, address))
        except UnavailableError as error:
            raise DataError(f"features: {address:#x} is not memory of a GPU ({error}).") from error

    def synchronize(self, stream: Any) -> None:
        """Wait for a stream."""
        self._do("cuStreamSynchronize", stream)

    def wait_for(self, stream: Any, other: int, event: Any) -> None:
        """Let a stream wait for what another has been given so far."""
        self._do("cuEventRecord", event, other)
        self._do("cuStreamWaitEvent", stream, event, 0)

    def capture(self, stream: Any) -> _Capture:
        """``with capture(stream) as captured: …``; then ``captured.graph`` can be launched."""
        return _Capture(self, stream)

    def launch(self, graph: Any, stream: Any) -> None:
        """Launch an instantiated graph."""
        self._do("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        """Free an instantiated graph."""
        self._do("cuGraphExecDestroy", graph)

    def free(self, *addresses: Any) -> None:
        """Free memory on the GPU."""
        for address in addresses:
            self._do("cuMemFree", address)

    def free_pinned(self, *addresses: int) -> None:
        """Free page-locked memory."""
        for address in addresses:
            self._do("cuMemFreeHost", address)

    def destroy_event(self, event: Any) -> None:
        """Free an event."""
        self._do("cuEventDestroy", event)

    def destroy_stream(self, stream: Any) -> None:
        """Free a stream."""
        self._do("cuStreamDestroy", stream)

    def close(self) -> None:
        """Let go of the GPU. Where nobody else holds it, this thread has no context afterwards."""
        self._do("cuDevicePrimaryCtxRelease", self.device)
        status, _, active = self._driver.cuDevicePrimaryCtxGetState(self.device)
        if int(status) != 0 or not active:
            self._do("cuCtxSetCurrent", 0)  # it is gone, and would be met by whoever asks CUDA next

    def _do(self, name: str, *arguments: Any) -> Any:
        """Call the driver; its first result is a status, and the rest (if any) is returned."""
        status, *values = getattr(self._driver, name)(*arguments)
        if int(status) != 0:
            code = getattr(status, "name", str(status))
            advice = " Use a smaller batch, or fewer at once." if code.endswith("OUT_OF_MEMORY") else ""
            raise UnavailableError(f"CUDA: {name} failed: {code}.{advice}")
        return values[0] if values else None


class _Capture:
    """Captures what a stream is given as a graph, in this thread only."""

    def __init__(self, cuda: Cuda, stream: Any) -> None:
        self.cuda, self.stream = cuda, stream
        self.graph: Any = None

    def __enter__(self) -> _Capture:
        mode = self.cuda._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self.cuda._do("cuStreamBeginCapture", self.stream, mode)
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None:
            # The stream must leave capture; what else went wrong is on its way up.
            self.cuda._driver.cuStreamEndCapture(self.stream)
            return
        captured = self.cuda._do("cuStreamEndCapture", self.stream)
        try:
            self.graph = self.cuda._do("cuGraphInstantiate", captured, 0)
        finally:
            self.cuda._do("cuGraphDestroy", captured)

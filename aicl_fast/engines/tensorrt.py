"""TensorRT and TensorRT-RTX engines on a GPU, without torch: cuda-python, CUDA graphs, pinned staging.

A *slot* is all that one batch in flight needs: an execution context, a stream, buffers on both sides, and a
CUDA graph of copy in, network, copy out. Slots are made for a shape when it first comes, as many as there are
calls at once (up to ``pool``), and are used again. Of those that no call is using, the last used are kept.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import threading
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aicl_fast.engines.base import Engine, EngineOutputs
from aicl_fast.engines.container import Container, read_container
from aicl_fast.engines.gpu_array import GpuArray, gpu_array, is_gpu_array
from aicl_fast.engines.tensorrt_api import NAMES, last_error, load_tensorrt, make_logger
from aicl_fast.errors import DataError, ModelError, UnavailableError
from aicl_fast.features import Floats

INPUT = "features"
_ALIGN = 256
"""Bytes that the address of a tensor is a multiple of, as TensorRT asks for."""
_KEPT = 8
"""Slots that are kept though no call is using them; a pool of one shape is, if it is larger."""


class Pending:
    """A batch in flight, from :meth:`TensorRTEngine.submit`. Ask for its result at most once."""

    def __init__(self, engine: TensorRTEngine, slot: _Slot) -> None:
        self._engine = engine
        self._slot: _Slot | None = slot
        # One that nobody asks leaves its slot to others, who wait for what it has started.
        self._dropped = weakref.finalize(self, engine._release, slot)
        self._dropped.atexit = False

    def result(self) -> Any:
        """Wait for the GPU and return the :class:`EngineOutputs`.

        Raises:
            RuntimeError: asked for a second time.
            UnavailableError: the engine was closed meanwhile, or the GPU failed.
        """
        slot, self._slot = self._slot, None
        if slot is None:
            raise RuntimeError("TensorRTEngine: the result of this batch was taken already.")
        self._dropped.detach()
        try:
            return slot.finish()
        finally:
            self._engine._release(slot)


class TensorRTEngine(Engine):
    """An ``.engine`` file on a GPU.

    Args:
        path: written by ``aicl-fast export --format tensorrt`` or ``tensorrt-rtx``.
        device: the GPU's number.
        pool: how many batches of one shape may be in flight at once; further calls wait.
        cache: TensorRT-RTX: folder for kernels compiled at first use; None is ``aicl_fast`` in the user's
            cache folder.
    Raises:
        DataError: no such file.
        ModelError: not ours, damaged, built by another TensorRT version, or for another card.
        UnavailableError: no driver, no such GPU, or a package is missing.

    Safe to call from several threads. An engine that is not closed is when nothing refers to it any more, and
    when the interpreter ends.
    """

    name = "tensorrt"
    # What the plan's tensors are; a subclass runs plans of another network.
    _input = INPUT
    _dtype: npt.DTypeLike = np.float32
    _outputs: Any = EngineOutputs

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: int = 0,
        pool: int = 4,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        container = read_container(path)
        if container.kind not in ("tensorrt", "tensorrt-rtx"):
            raise ModelError(f"{path}: holds an {container.kind} model, not a TensorRT engine.")
        self.path, self.info = container.path, self._read_info(container)
        api = load_tensorrt("tensorrt-rtx" if container.kind == "tensorrt-rtx" else "tensorrt")
        check_builder(container, api.__version__)
        self._api = api
        self._logger = make_logger(api)
        self._runtime: Any = None
        self._engine: Any = None
        self._settings: Any = None
        self._cache = _runtime_cache_file(container, cache) if container.kind == "tensorrt-rtx" else None
        self._pool = pool
        self._changed = threading.Condition()
        self._idle: list[_Slot] = []  # the last used is last
        self._slots: list[_Slot] = []
        self._saving = threading.Lock()
        self._saved = b""
        self.cuda = Cuda(device)
        try:
            check_card(container, self.cuda.capability)
            self._load(container)
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong first is on its way up
                self.close()
            raise
        _OPEN.add(self)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # it may not have got as far as to hold anything
            self.close()

    def __call__(self, features: Any) -> EngineOutputs:
        """Run any number of videos from the host, or one batch that lies on the GPU.

        Args:
            features: (B, T, D) float32: a numpy array; or, read where it is, an array on this GPU that offers
                DLPack or ``__cuda_array_interface__``, in C order, its B within the file's range.
        Raises:
            DataError: another shape, type or place.
        """
        if isinstance(features, np.ndarray) or not is_gpu_array(features):
            return super().__call__(features)
        return self._run_on_gpu(features)

    def run(self, features: npt.NDArray[np.float32]) -> EngineOutputs:
        """Run (B, T, D) contiguous float32 features whose shape the file allows, and wait."""
        outputs: EngineOutputs = self.submit(features).result()
        return outputs

    def submit(self, features: npt.NDArray[Any]) -> Pending:
        """Start a batch and return at once; the features may be changed as soon as this returns.

        Raises:
            DataError: the shape is not one that the file allows.
        """
        self.check_shape(features.shape)
        self._check_batch(features.shape)
        slot = self._acquire(features.shape)
        try:
            captured = slot.launch(features)
        except BaseException:
            self._release(slot)
            raise
        pending = Pending(self, slot)
        if captured:  # kernels for this shape are compiled, and kept though the engine may never be closed
            self._save_runtime_cache()
        return pending

    def close(self) -> None:
        """Wait for what is in flight, keep the compiled kernels, and free everything on the GPU.

        What fails keeps nothing else from being freed. Kernels that cannot be kept are a warning.

        Raises:
            UnavailableError: the GPU failed.
        """
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()  # calls that wait for a slot
        with contextlib.ExitStack() as last_first:  # each is called, whatever the others raise
            last_first.callback(self.cuda.close)
            last_first.callback(self._let_go)
            last_first.callback(self._save_runtime_cache)
            for slot in self._slots:
                last_first.callback(slot.close)
            self.cuda.make_current()

    def _let_go(self) -> None:
        # Contexts before the engine, the engine before its runtime, all before the device.
        self._slots, self._idle = [], []
        self._settings = self._engine = self._runtime = None

    def _read_info(self, container: Container) -> Any:
        return container.info

    def _load(self, container: Container) -> None:
        self._runtime = self._api.Runtime(self._logger)
        if container.builder.get("version_compatible"):
            # Such a plan carries its own small runtime, as host code. The checksum says it is as we wrote it.
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(container.read("plan"))
        if self._engine is None:
            reason = last_error(self._logger)
            raise ModelError(f"{self.path}: {NAMES[container.kind]} cannot load the plan ({reason}).")
        self._settings = self._runtime_settings()

    def _check_batch(self, shape: tuple[int, ...]) -> None:
        low, _, high = self.info.batch
        if not low <= shape[0] <= high:
            raise DataError(
                f"features: {self.path} takes {self.info.batch} videos a run, got {shape[0]}. Split the "
                "batch, or export with another --batch."
            )

    def _run_on_gpu(self, features: Any) -> EngineOutputs:
        # The stream must exist before the producer can make it wait, the shape be known before there is one.
        shape = tuple(features.shape)
        self.check_shape(shape)
        self._check_batch(shape)
        slot = self._acquire(shape)
        try:
            array = slot.launch_on(features)
            outputs: EngineOutputs = slot.finish()
            del array  # until here the GPU may have read it
            return outputs
        finally:
            self._release(slot)

    def _acquire(self, shape: tuple[int, ...]) -> _Slot:
        with self._changed:
            while True:
                if self._closed:
                    raise UnavailableError(f"{self.path}: this engine is closed. Open the file again.")
                self.cuda.make_current()
                for place in reversed(range(len(self._idle))):
                    if self._idle[place].shape == shape:
                        return self._idle.pop(place)
                if sum(slot.shape == shape for slot in self._slots) < self._pool:
                    slot = _Slot(self, shape)
                    self._slots.append(slot)
                    return slot
                self._changed.wait()

    def _release(self, slot: _Slot) -> None:
        with self._changed:
            if self._closed:
                return
            self._idle.append(slot)
            surplus = self._idle[: -max(_KEPT, self._pool)]
            self._idle = self._idle[len(surplus) :]
            self._slots = [each for each in self._slots if each not in surplus]
            self._changed.notify_all()  # they may wait for different shapes
            for each in surplus:
                # What fails has let go of all it could, and the next call meets the same device.
                with contextlib.suppress(UnavailableError):
                    self.cuda.make_current()
                    each.close()

    def _runtime_settings(self) -> Any:
        """TensorRT-RTX compiles kernels for the card at first use; they are kept from one run to the next."""
        if self._cache is None or not hasattr(self._engine, "create_runtime_config"):
            return None
        settings = self._engine.create_runtime_config()
        kernels = settings.create_runtime_cache()
        if self._cache.is_file():
            kernels.deserialize(self._cache.read_bytes())
        settings.set_runtime_cache(kernels)
        managed = _user_managed(self._api)
        if managed is not None:
            settings.set_execution_context_allocation_strategy(managed)
        # A slot's shape never changes: kernels for it are compiled before its graph is captured.
        strategy = getattr(self._api, "DynamicShapesKernelSpecializationStrategy", None)
        if strategy is not None:
            settings.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER
        return settings

    def _save_runtime_cache(self) -> None:
        from aicl_fast.files import atomic_path

        if self._settings is None or self._cache is None:
            return
        try:
            with self._saving:
                kernels = bytes(memoryview(self._settings.get_runtime_cache().serialize()))
                if kernels == self._saved:
                    return
                self._saved = kernels
                with atomic_path(self._cache) as temporary:
                    temporary.write_bytes(kernels)
        except (DataError, OSError) as error:
            warnings.warn(
                f"the next run compiles its kernels again, since they cannot be kept: {error}",
                RuntimeWarning,
                stacklevel=1,
            )


_OPEN: weakref.WeakSet[TensorRTEngine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before the interpreter ends: later, the packages that this takes may be gone."""
    for engine in list(_OPEN):
        with contextlib.suppress(Exception):
            engine.close()


def _user_managed(api: Any) -> Any:
    """The strategy by which a context has memory for its own shape, not the largest; None is the default."""
    return getattr(getattr(api, "ExecutionContextAllocationStrategy", None), "USER_MANAGED", None)


class _Slot:
    """One batch in flight, of one shape.

    Raises:
        ModelError: TensorRT does not take the shape.
        UnavailableError: CUDA has no memory left for it; nothing that it had already is kept.
    """

    def __init__(self, engine: TensorRTEngine, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.cuda = engine.cuda
        self.path = engine.path
        self.logger = engine._logger
        self.input, self.names = engine._input, engine._outputs
        self.context: Any = None
        self.graph: Any = None
        self.prepared = False
        self.capturable = True
        self.busy = False  # the stream has work that nobody has waited for
        self.closed = False
        # Another thread may close the engine; and so may this one, where it collects garbage.
        self._lock = threading.RLock()
        self._held = contextlib.ExitStack()  # each is given back, whatever the others raise; the last first
        try:
            self._prepare(engine)
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong first is on its way up
                self.close()
            raise

    def _prepare(self, engine: TensorRTEngine) -> None:
        cuda, shape = self.cuda, self.shape
        self.stream = cuda.stream()
        self._held.callback(cuda.destroy_stream, self.stream)
        self.event = cuda.event()
        self._held.callback(cuda.destroy_event, self.event)
        self._held.callback(self._let_go)
        managed = _user_managed(engine._api)
        create = engine._engine.create_execution_context
        if engine._settings is not None:
            self.context = create(engine._settings)
        else:
            self.context = create() if managed is None else create(managed)
        if self.context is None or not self.context.set_input_shape(engine._input, shape):
            raise ModelError(f"{self.path}: no context for shape {shape} ({last_error(self.logger)}).")
        if managed is not None:
            scratch = max(_ALIGN, self.context.update_device_memory_size_for_shapes())
            self.context.set_device_memory(int(self._allocate(scratch)), scratch)
        size = int(np.prod(shape)) * np.dtype(engine._dtype).itemsize
        self.features = self._allocate(size)
        staging, self._host_in = self._pinned(-(-size // 4))
        self.host_features = staging.view(np.uint8)[:size].view(engine._dtype).reshape(shape)
        # The outputs lie in one block, so that they come back in one copy.
        offsets, end = [], 0
        shapes = [tuple(self.context.get_tensor_shape(name)) for name in self.names._fields]
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
        for name, start in zip(self.names._fields, offsets, strict=True):
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
            raise ModelError(f"{self.path}: takes no address for {name} ({last_error(self.logger)}).")

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
            self._place(self.input, int(self.features))
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
        """Run on features where they lie; their address differs from call to call, so there is no graph.

        Where their address is not one that TensorRT takes, they are copied, on the GPU.

        Returns:
            Where they are; to be held until :meth:`finish` returns.
        Raises:
            DataError: not float32 in C order on this GPU.
        """
        with self._open():  # the producer is given the stream, which close() destroys
            self._wait()
            array = gpu_array(features, self.stream_number)
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
                self._place(self.input, int(self.features))
            else:
                self._place(self.input, array.pointer)
            self._enqueue()
        return array

    def _enqueue(self, copied_in: int = 0) -> None:
        if copied_in:
            self.cuda.copy_in(self.features, self._host_in, copied_in, self.stream)
        if not self.context.execute_async_v3(self.stream_number):
            raise UnavailableError(f"{self.path}: TensorRT could not run it ({last_error(self.logger)}).")
        self.cuda.copy_out(self._host_out, self.outputs, self.size, self.stream)

    def finish(self) -> Any:
        """Wait, and copy the results out of the staging buffers."""
        with self._open():
            self.cuda.make_current()
            self._wait()
            return self.names(*(view.copy() for view in self.views))

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        with self._lock:
            if self.closed:
                raise UnavailableError(f"{self.path}: was closed before this result was asked for.")
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

    def _let_go(self) -> None:
        self.graph = self.context = None
        self.views = []


class Cuda:
    """The little of CUDA's driver that running an engine takes, with errors that say what failed.

    Args:
        number: the GPU.
    Raises:
        UnavailableError: cuda-python or the driver is missing, or there is no such GPU.
    """

    def __init__(self, number: int) -> None:
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise UnavailableError(
                f"running a TensorRT engine needs cuda-python ({error}): pip install 'aicl-fast[cuda]'"
            ) from error
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
            said = getattr(status, "name", str(status))
            advice = " Use a smaller batch, or fewer at once." if said.endswith("OUT_OF_MEMORY") else ""
            raise UnavailableError(f"CUDA: {name} failed: {said}.{advice}")
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


def check_builder(container: Container, version: str) -> None:
    """Compare the version that built a plan with the one that is to run it.

    Raises:
        ModelError: TensorRT would refuse the plan.
    """
    name, built = NAMES[container.kind], str(container.builder.get("version"))
    if container.builder.get("version_compatible"):
        if built.split(".")[0] == version.split(".")[0] and _numbers(built) <= _numbers(version):
            return
        expected = f"{name} {built.split('.')[0]}, {built} or later"
    elif built == version:
        return
    else:
        expected = f"{name} {built}, which built it"
    raise ModelError(
        f"{container.path}: expected {expected}; version {version} is installed. Install that version, or "
        "export the weights again with this one."
    )


def check_card(container: Container, capability: tuple[int, int]) -> None:
    """Compare the cards that a plan was built for with the one that is here.

    Raises:
        ModelError: the plan is for other cards.
    """
    wanted = [str(one) for one in container.builder.get("compute_capability", ())]
    here = f"{capability[0]}.{capability[1]}"
    if not wanted or here in wanted:
        return
    if any(one.endswith("+") and _numbers(one[:-1]) <= capability for one in wanted):
        return
    raise ModelError(
        f"{container.path}: was built for compute capability {', '.join(wanted)}; this card has {here}. "
        "Export the weights again on this card, or with a --compute-capability that covers it."
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _runtime_cache_file(container: Container, folder: str | os.PathLike[str] | None) -> Path:
    if folder is None:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "aicl_fast")
    return Path(folder, f"{container.sections['plan'][2][:24]}.rtx")

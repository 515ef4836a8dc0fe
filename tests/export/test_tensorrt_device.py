"""TensorRT where it meets the driver: every call as cuda-python takes it, and, on a GPU, real engines."""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from aicl_fast import Detector
from aicl_fast.engines.cuda.driver import Cuda
from aicl_fast.engines.packages import load_tensorrt
from aicl_fast.engines.tensorrt.session import TensorRTSession
from aicl_fast.errors import DataError, UnavailableError
from aicl_fast.export.export import export_model, exported_onnx
from aicl_fast.export.options import BuildOptions, ExportOptions
from aicl_fast.export.parity import TOLERANCES
from aicl_fast.export.tensorrt.refit import refit_tensorrt
from aicl_fast.metadata import Range
from aicl_fast.signature import NetworkOutputs

# --- without a GPU: the driver's own signatures, on memory of the host


class CheckedDriver:
    """cuda-python's driver module, whose calls are checked against their signatures and do nothing."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.calls: list[str] = []
        self.memory: list[Any] = []
        self.fails: str | None = None
        self.active = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.real, name)
        if not name.startswith("cu"):
            return found  # an enumeration

        def call(*arguments: Any) -> tuple[Any, ...]:
            inspect.signature(found).bind(*arguments)
            self.calls.append(name)
            if name == self.fails:
                return (self.real.CUresult.CUDA_ERROR_OUT_OF_MEMORY,)
            return (self.real.CUresult.CUDA_SUCCESS, *self.results(name, arguments))

        return call

    def results(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if name == "cuDeviceGetCount":
            return (2,)
        if name == "cuDeviceGetAttribute":
            return (8 if "MAJOR" in arguments[0].name else 9,)
        if name == "cuDevicePrimaryCtxGetState":
            return (0, self.active)
        if name == "cuPointerGetAttribute":
            return (1,)
        if name == "cuMemHostAlloc":
            self.memory.append(ctypes.create_string_buffer(arguments[0]))
            return (ctypes.addressof(self.memory[-1]),)
        makes = {
            "cuDeviceGet": self.real.CUdevice,
            "cuDevicePrimaryCtxRetain": self.real.CUcontext,
            "cuStreamCreate": self.real.CUstream,
            "cuEventCreate": self.real.CUevent,
            "cuMemAlloc": self.real.CUdeviceptr,
            "cuStreamEndCapture": self.real.CUgraph,
            "cuGraphInstantiate": self.real.CUgraphExec,
        }
        return (makes[name](1),) if name in makes else ()


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> CheckedDriver:
    bindings = pytest.importorskip("cuda.bindings")
    from cuda.bindings import driver

    checked = CheckedDriver(driver)
    monkeypatch.setattr(bindings, "driver", checked)
    return checked


def test_every_call_is_one_that_cuda_python_takes(driver: CheckedDriver) -> None:
    cuda = Cuda(1)
    assert cuda.capability == (8, 9)
    stream, event, memory = cuda.stream(), cuda.event(), cuda.allocate(64)
    array, address = cuda.pinned((2, 3))
    assert (array.shape, array.dtype, array.ctypes.data) == ((2, 3), np.float32, address)
    with cuda.capture(stream) as captured:
        cuda.copy_in(memory, address, array.nbytes, stream)
        cuda.copy_out(address, memory, array.nbytes, stream)
    cuda.launch(captured.graph, stream)
    cuda.copy_on(memory, 4096, array.nbytes, stream)
    assert cuda.number_of(4096) == 1
    cuda.wait_for(stream, 1, event)  # another library's stream is a number
    cuda.synchronize(stream)
    cuda.destroy_graph(captured.graph)
    cuda.free(memory)
    cuda.free_pinned(address)
    cuda.destroy_event(event)
    cuda.destroy_stream(stream)
    cuda.close()
    order = driver.calls
    assert order[:5] == [
        "cuInit",
        "cuDeviceGetCount",
        "cuDeviceGet",
        "cuDevicePrimaryCtxRetain",
        "cuCtxSetCurrent",
    ]
    begin = order.index("cuStreamBeginCapture")
    assert order[begin + 1 : begin + 6] == [
        "cuMemcpyHtoDAsync",
        "cuMemcpyDtoHAsync",
        "cuStreamEndCapture",
        "cuGraphInstantiate",
        "cuGraphDestroy",
    ]
    closing = ["cuDevicePrimaryCtxRelease", "cuDevicePrimaryCtxGetState", "cuCtxSetCurrent"]
    assert order[-3:] == closing
    driver.active = 1  # another library holds it, too, and may be at work in this thread
    Cuda(1).close()
    assert order[-2:] == closing[:2]


def test_what_the_driver_refuses(driver: CheckedDriver) -> None:
    with pytest.raises(UnavailableError, match="there is no GPU 2; this machine has 2"):
        Cuda(2)
    cuda = Cuda(0)
    driver.fails = "cuMemAlloc"
    with pytest.raises(UnavailableError, match=r"cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY\. Use a"):
        cuda.allocate(1 << 40)
    with pytest.raises(ValueError, match="mine"), cuda.capture(cuda.stream()):
        raise ValueError("mine")
    assert driver.calls[-1] == "cuStreamEndCapture"  # the stream is of use again
    driver.fails = "cuPointerGetAttribute"
    with pytest.raises(DataError, match="0x1000 is not memory of a GPU"):
        cuda.number_of(4096)
    driver.fails = "cuGraphInstantiate"
    with pytest.raises(UnavailableError, match="cuGraphInstantiate"), cuda.capture(cuda.stream()):
        pass
    assert driver.calls[-1] == "cuGraphDestroy"
    driver.fails = "cuInit"
    with pytest.raises(UnavailableError, match="driver does not start here"):
        Cuda(0)


def test_a_tensor_that_its_owner_keeps() -> None:
    import torch

    from aicl_fast.engines.cuda.arrays import is_gpu_array, read_array

    class OnGpu:
        def __init__(self, tensor: Any) -> None:
            self.tensor = tensor

        def __dlpack_device__(self) -> tuple[int, int]:
            return (2, 0)

        def __dlpack__(self, stream: int) -> Any:
            return self.tensor.__dlpack__()

        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            raise RuntimeError("torch says so of a tensor that needs its gradient")

    needed = OnGpu(torch.zeros(1, 2, 3, requires_grad=True))
    assert is_gpu_array(needed)
    with pytest.raises(DataError, match="features: cannot be read where they are"):
        read_array(needed, 1)


# --- on a GPU


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt-rtx"])
def kind(request: pytest.FixtureRequest) -> str:
    """A package that is here, on a card that it builds for."""
    try:
        cuda = Cuda(0)
        major, minor = cuda.capability
        cuda.close()
        api = load_tensorrt(request.param)
    except UnavailableError as error:
        pytest.skip(str(error))
    if request.param == "tensorrt-rtx" and not hasattr(api.ComputeCapability, f"SM{major}{minor}"):
        pytest.skip(f"TensorRT-RTX {api.__version__} does not build for compute capability {major}.{minor}")
    return str(request.param)


@pytest.fixture(scope="module")
def engine_file(kind: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(tiny_model, tmp_path_factory.mktemp(kind) / "m.engine", ExportOptions(kind))


@pytest.fixture
def engine(engine_file: Path, tmp_path: Path) -> Iterator[TensorRTSession]:
    with TensorRTSession(engine_file, pool=2, cache=tmp_path / "cache") as opened:
        yield opened


def close_to(actual: NetworkOutputs, expected: NetworkOutputs, precision: str = "fp32") -> None:
    for name, a, b in zip(NetworkOutputs._fields, actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCES[precision].absolute, rtol=0, err_msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16", "int8", "fp8"])
def test_equals_onnx_runtime(
    kind: str,
    tiny_model: Path,
    tiny_dataset: Path,
    batch: np.ndarray,
    tmp_path: Path,
    precision: str,
) -> None:
    calibrate = tiny_dataset if precision in ("int8", "fp8") else None
    path = tmp_path / "m.engine"
    export_model(tiny_model, path, ExportOptions(kind, precision, calibrate=calibrate))
    expected = Detector(tiny_model.with_suffix(".onnx")).engine(batch)
    with Detector(path) as detector:
        for _ in range(3):  # prepared, captured, replayed
            close_to(detector.engine(batch), expected, precision)
        found = detector(batch[0])
    if precision == "fp32":
        wanted = Detector(tiny_model.with_suffix(".onnx"))(batch[0])
        np.testing.assert_array_equal(found.labels, wanted.labels)
        np.testing.assert_allclose(found.segments, wanted.segments, atol=0.02)


@pytest.mark.gpu
def test_any_shape_in_the_profile(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    options = ExportOptions(kind, batch=Range(1, 2, 4), segments=Range(8, 32, 64))
    onnx = export_model(tiny_model, tmp_path / "m.onnx", ExportOptions(segments=Range(8, 32, 64)))
    expected = Detector(onnx).engine
    with Detector(export_model(tiny_model, tmp_path / "m.engine", options)) as detector:
        for count, length in ((1, 8), (4, 64), (2, 33), (9, 20)):
            features = np.random.default_rng(length).random((count, length, 11), dtype=np.float32)
            close_to(detector.engine(features), expected(features))


@pytest.mark.gpu
def test_a_graph_is_replayed(
    engine: TensorRTSession, batch: np.ndarray, expected: NetworkOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = []
    launch = engine.cuda.launch
    monkeypatch.setattr(engine.cuda, "launch", lambda *graph: (launched.append(1), launch(*graph)))
    for _ in range(5):
        close_to(engine(batch), expected)
    assert len(engine._slots) == 1
    assert engine._slots[0].graph is not None
    assert len(launched) >= 3
    close_to(engine(batch[::-1].copy()), NetworkOutputs(*(each[::-1] for each in expected)))


@pytest.mark.gpu
def test_batches_in_flight(engine: TensorRTSession, batch: np.ndarray, expected: NetworkOutputs) -> None:
    features = batch.copy()
    first, second = engine.submit(features), engine.submit(features[::-1].copy())
    features[:] = 0
    close_to(second.result(), NetworkOutputs(*(each[::-1] for each in expected)))
    close_to(first.result(), expected)


@pytest.mark.gpu
def test_several_threads(engine: TensorRTSession, batch: np.ndarray, expected: NetworkOutputs) -> None:
    with ThreadPoolExecutor(6) as pool:
        for number, outputs in enumerate(pool.map(lambda n: engine(batch[n % 5][None]), range(120))):
            close_to(outputs, NetworkOutputs(*(each[number % 5][None] for each in expected)))
    assert len(engine._slots) == 2


@pytest.mark.gpu
def test_arrays_on_the_gpu(engine: TensorRTSession, batch: np.ndarray, expected: NetworkOutputs) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU to make arrays on")
    tensor = torch.from_numpy(batch).cuda()
    close_to(engine(tensor), expected)  # DLPack
    bare = SimpleNamespace(
        shape=tuple(tensor.shape), __cuda_array_interface__=tensor.__cuda_array_interface__
    )
    close_to(engine(bare), expected)
    close_to(engine(batch), expected)  # the slot reads its own buffer again
    # Written on another stream, behind work that takes a while.
    late = torch.zeros_like(tensor)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        late.copy_(tensor)
        close_to(engine(late), expected)
    odd = torch.zeros(batch.size + 1, device="cuda")[1:].view(batch.shape).copy_(tensor)
    assert odd.data_ptr() % 256
    close_to(engine(odd), expected)
    for wrong, words in ((tensor.half(), "float32 on the GPU"), (tensor.transpose(1, 2), "takes")):
        with pytest.raises(DataError, match=words):
            engine(wrong)
    with pytest.raises(DataError, match="in C order"):
        engine(torch.from_numpy(np.asfortranarray(batch)).cuda().as_strided(batch.shape, (1, 5, 160)))


@pytest.mark.gpu
def test_many_shapes_take_little_memory(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    options = ExportOptions(kind, batch=Range(1, 2, 64), segments=Range(8, 32, 512))
    onnx = export_model(tiny_model, tmp_path / "m.onnx", ExportOptions(segments=Range(8, 32, 512)))
    expected = Detector(onnx).engine
    with TensorRTSession(export_model(tiny_model, tmp_path / "m.engine", options)) as opened:
        for length in (8, 512, *range(9, 40), 8):
            features = np.random.default_rng(length).random((2, length, 11), dtype=np.float32)
            for _ in range(3):
                close_to(opened(features), expected(features))
        assert len(opened._slots) == 8


@pytest.mark.gpu
def test_dropped_and_not_closed(engine_file: Path, batch: np.ndarray, expected: NetworkOutputs) -> None:
    opened = TensorRTSession(engine_file, pool=2)
    for _ in range(6):
        opened.submit(batch[::-1].copy())
    close_to(opened(batch), expected)
    del opened
    with TensorRTSession(engine_file) as again:
        close_to(again(batch), expected)


@pytest.mark.gpu
def test_compiled_kernels_are_kept(engine_file: Path, batch: np.ndarray, expected, tmp_path: Path) -> None:
    for _ in range(2):
        with TensorRTSession(engine_file, cache=tmp_path) as opened:
            close_to(opened(batch), expected)
    kept = list(tmp_path.glob("*.rtx"))
    assert len(kept) == (opened._plan.cache is not None)
    for file in kept:
        file.write_bytes(b"damaged")
        with TensorRTSession(engine_file, cache=tmp_path) as opened:
            close_to(opened(batch), expected)


@pytest.mark.gpu
def test_new_weights_in_an_old_engine(
    kind: str, tiny_model: Path, tiny_config, tmp_path: Path, batch
) -> None:
    import torch

    from aicl_fast.model import TwoBranchNet
    from aicl_fast.weights import load_model, save_model

    cuda = Cuda(0)
    here = ".".join(map(str, cuda.capability))
    cuda.close()
    build = BuildOptions(refittable=True, compute_capability=(here,) if kind == "tensorrt-rtx" else ())
    options = ExportOptions(kind, build=build)
    old = export_model(tiny_model, tmp_path / "old.engine", options)
    for seed in (7, 8):  # the second time into what the first has written
        torch.manual_seed(seed)
        save_model(tmp_path / "new.safetensors", TwoBranchNet(tiny_config), tiny_config)
        new = exported_onnx(*load_model(tmp_path / "new.safetensors"), options)
        refit_tensorrt(old, *new, tmp_path / "new.engine")
        old = tmp_path / "new.engine"
        with Detector(old) as detector:
            close_to(detector.engine(batch), Detector(tmp_path / "new.safetensors").engine(batch))


@pytest.mark.gpu
def test_closing(engine_file: Path, batch: np.ndarray) -> None:
    import torch

    free = torch.cuda.mem_get_info if torch.cuda.is_available() else lambda: (0, 0)
    with TensorRTSession(engine_file) as opened:  # what the driver keeps for good is kept now
        opened(batch)
    before = free()[0]
    for _ in range(5):
        with TensorRTSession(engine_file) as opened:
            pending = opened.submit(batch)
            opened(batch)
        opened.close()
        with pytest.raises(UnavailableError, match="was closed before this result"):
            pending.result()
        with pytest.raises(UnavailableError, match="is closed"):
            opened(batch)
    assert before - free()[0] < 16 << 20

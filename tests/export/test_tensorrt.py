"""TensorRT: real TensorRT-RTX builds, our container, and the runtime on a fake CUDA driver."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import importlib.util
import struct
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import aicl_fast.engines.tensorrt.plan as plans
import aicl_fast.engines.tensorrt.session as runtime
from aicl_fast import Detector
from aicl_fast.engines.container import KINDS, MAGIC, read_container, write_container
from aicl_fast.engines.cuda.arrays import is_gpu_array, read_array, read_capsule
from aicl_fast.engines.packages import load_tensorrt
from aicl_fast.engines.tensorrt.plan import check_builder, check_card
from aicl_fast.engines.tensorrt.session import TensorRTSession
from aicl_fast.errors import AiclError, ConfigError, DataError, ModelError, UnavailableError
from aicl_fast.export.export import export_model, exported_onnx
from aicl_fast.export.onnx import build_onnx, model_info
from aicl_fast.export.options import BuildOptions, ExportOptions
from aicl_fast.export.tensorrt.build import build_plan, check_network, export_tensorrt, network_from_onnx
from aicl_fast.export.tensorrt.cards import check_options, parse_capabilities
from aicl_fast.export.tensorrt.refit import refit_tensorrt
from aicl_fast.metadata import ModelInfo, Range, SegmentInfo
from aicl_fast.signature import NetworkOutputs
from aicl_fast.video.networks import open_network
from aicl_fast.weights import load_model


@pytest.fixture(scope="module")
def rtx() -> Any:
    try:
        return load_tensorrt("tensorrt-rtx")
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def graph(graph: Any) -> tuple[Any, ModelInfo]:
    """The tiny model as float32 ONNX."""
    model, info = graph("tensorrt-rtx")
    return model, info


@pytest.fixture(scope="module")
def engine_file(rtx: Any, graph: tuple[Any, ModelInfo], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real engine that TensorRT-RTX built."""
    path = tmp_path_factory.mktemp("engine") / "model.engine"
    export_tensorrt("tensorrt-rtx", *graph, path)
    return path


def no_driver() -> bool:
    try:
        runtime.Cuda(0).close()
    except UnavailableError:
        return True
    return False


SHAPES = [(None, None), (Range(4, 4, 4), None), (Range(1, 2, 16), Range(8, 32, 64))]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize(("batch", "segments"), SHAPES, ids=["batch", "fixed", "both"])
def test_build(rtx: Any, tiny_model: Path, tmp_path: Path, precision: str, batch, segments) -> None:
    options = ExportOptions(
        "tensorrt-rtx",
        precision,
        batch=batch,
        segments=segments,
        build=BuildOptions(workspace_mb=64, log=tmp_path / "build.log"),
    )
    seen: list[tuple[int, int]] = []
    out = export_model(
        tiny_model, tmp_path / "m.engine", options, progress=lambda done, every, _: seen.append((done, every))
    )
    assert seen[-1][0] == seen[-1][1] > 0
    assert "Engine generation completed" in (tmp_path / "build.log").read_text()
    container = read_container(out)
    assert container.kind == "tensorrt-rtx"
    assert container.builder["version"] == rtx.__version__
    assert container.info.precision == precision
    assert container.info.batch == (batch or Range(1, 8, 64))
    assert container.info.segments == (segments or Range(32, 32, 32))
    net, _ = load_model(tiny_model)
    assert container.info.weights == model_info(net, container.info.config).weights
    plan = container.read("plan")
    # A C++ program finds the plan by the fixed part alone.
    content = out.read_bytes()
    magic, version, length, offset, size = struct.unpack("<8sIIQQ", content[:32])
    assert (magic, version) == (MAGIC, 1)
    assert hashlib.sha256(content[64 : 64 + length]).digest() == content[32:64]
    assert content[offset : offset + size] == plan


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_parsed_network(rtx: Any, tiny_model: Path, precision) -> None:
    net, config = load_model(tiny_model)
    batch, segments = SHAPES[2]
    info = model_info(net, config, precision=precision, batch=batch, segments=segments)
    parsed = network_from_onnx("tensorrt-rtx", build_onnx(net, info).SerializeToString())
    assert check_network(parsed, info) == {
        "features": ("FLOAT", (-1, -1, 11)),
        "scores": ("FLOAT", (-1, -1, 3)),
        "video_scores": ("FLOAT", (-1, 3)),
        "actionness": ("FLOAT", (-1, -1)),
        "actionness_agnostic": ("FLOAT", (-1, -1)),
    }
    layers = [parsed.network.get_layer(number) for number in range(parsed.network.num_layers)]
    products = [one.get_output(0).dtype.name for one in layers if one.type == rtx.LayerType.CONVOLUTION]
    narrow = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}[precision]
    assert sorted(products) == sorted([narrow] * 3 + ["FLOAT"] * 3)
    softmax = [one.get_output(0).dtype.name for one in layers if one.type == rtx.LayerType.SOFTMAX]
    assert softmax == ["FLOAT"] * 2
    with pytest.raises(ModelError, match="parsed network differs"):
        check_network(parsed, model_info(net, config, precision=precision))
    plan = build_plan(parsed, info)
    assert len(plan) > 1000


@pytest.mark.parametrize(("precision", "cards"), [("int8", ["8.0+"]), ("fp8", ["8.9+"])])
def test_quantised(rtx: Any, tiny_model: Path, tiny_dataset: Path, tmp_path: Path, precision, cards) -> None:
    options = ExportOptions("tensorrt-rtx", precision, calibrate=tiny_dataset)
    out = export_model(tiny_model, tmp_path / "m.engine", options)
    container = read_container(out)
    assert container.info.precision == precision
    assert container.builder["compute_capability"] == cards
    if precision == "fp8":
        check_card(container, (12, 0))
        with pytest.raises(ModelError, match=r"was built for compute capability 8\.9\+; this card has 8\.6"):
            check_card(container, (8, 6))


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_quantised_networks_as_parsed(rtx: Any, tiny_model: Path, tiny_dataset: Path, precision) -> None:
    """Q/DQ pairs of the three embeddings are layers of the network, in their own type."""
    options = ExportOptions("tensorrt-rtx", precision, calibrate=tiny_dataset)
    model, info = exported_onnx(*load_model(tiny_model), options)
    parsed = network_from_onnx("tensorrt-rtx", model.SerializeToString())
    check_network(parsed, info)
    layers = [parsed.network.get_layer(number) for number in range(parsed.network.num_layers)]
    narrow = rtx.DataType.INT8 if precision == "int8" else rtx.DataType.FP8
    pairs = [one for one in layers if one.type == rtx.LayerType.QUANTIZE]
    # Features of three convolutions; int8 has their results too.
    assert [one.get_output(0).dtype for one in pairs] == [narrow] * (6 if precision == "int8" else 3)
    restored = [one for one in layers if one.type == rtx.LayerType.DEQUANTIZE]
    assert len(restored) == len(pairs) + 3
    assert {one.get_input(0).dtype for one in restored} == {narrow}


def test_a_real_size_stays_narrow(rtx: Any) -> None:
    """The plan holds narrow weights: folded back to float32 they would be four times as large."""
    import torch

    from aicl_fast.config import load_config
    from aicl_fast.export.quantize import quantize_onnx
    from aicl_fast.model import TwoBranchNet

    config = load_config("thumos14").with_values({"segments": 64})
    torch.manual_seed(0)
    net = TwoBranchNet(config)
    features = [np.random.default_rng(0).random((1, 64, 2048), dtype=np.float32)]
    model = build_onnx(net, model_info(net, config))
    for precision in ("int8", "fp8"):
        info = model_info(net, config, precision=precision)
        quantised = quantize_onnx(model, info, features)
        assert len(quantised.SerializeToString()) < 6.6e6  # 6.3 M parameters of a byte
        plan = build_plan(network_from_onnx("tensorrt-rtx", quantised.SerializeToString()), info)
        assert len(plan) < 9e6


def test_cards(rtx: Any, graph: tuple[Any, ModelInfo], tmp_path: Path) -> None:
    export_tensorrt("tensorrt-rtx", *graph, tmp_path / "m.engine")
    container = read_container(tmp_path / "m.engine")
    check_card(container, (8, 0))
    with pytest.raises(ModelError, match=r"was built for compute capability 8\.0\+; this card has 7\.5"):
        check_card(container, (7, 5))
    options = BuildOptions(compute_capability=parse_capabilities("8.6, 12.0"))
    export_tensorrt("tensorrt-rtx", *graph, tmp_path / "m.engine", options)
    container = read_container(tmp_path / "m.engine")
    assert container.builder["compute_capability"] == ["8.6", "12.0"]
    check_card(container, (8, 6))
    with pytest.raises(ModelError, match=r"compute capability 8\.6, 12\.0; this card has 9\.0"):
        check_card(container, (9, 0))
    with pytest.raises(ConfigError, match=r"builds for .*8\.6.*, not for 3\.5"):
        export_tensorrt(
            "tensorrt-rtx", *graph, tmp_path / "n.engine", BuildOptions(compute_capability=("3.5",))
        )
    assert not (tmp_path / "n.engine").exists()
    with pytest.raises(ConfigError, match=r"for example 8\.6 or 8\.6,8\.9, got '86'"):
        parse_capabilities("86")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16", "int8", "fp8"])
def test_turing(precision: str) -> None:
    options = BuildOptions(compute_capability=("7.5",))
    if precision in ("fp32", "fp16"):
        check_options("tensorrt-rtx", options, precision)
        return
    with pytest.raises(ConfigError, match=rf"cards have {precision} products from 8\.\d on; got 7\.5"):
        check_options("tensorrt-rtx", options, precision)


def test_graphs_that_it_does_not_take(rtx: Any) -> None:
    with pytest.raises(ModelError, match="cannot parse the network"):
        network_from_onnx("tensorrt-rtx", b"no graph")


def test_refitting_needs_the_card(rtx: Any, engine_file: Path, graph, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="was not built to take new weights"):
        refit_tensorrt(engine_file, *graph, tmp_path / "new.engine")
    options = BuildOptions(refittable=True, compute_capability=("8.6", "8.9"))
    with pytest.raises(ConfigError, match="one card at a time"):
        export_tensorrt("tensorrt-rtx", *graph, tmp_path / "m.engine", options)
    if no_driver():
        with pytest.raises(UnavailableError, match="driver does not start here"):
            export_tensorrt("tensorrt-rtx", *graph, tmp_path / "m.engine", BuildOptions(refittable=True))


def test_without_a_driver(engine_file: Path) -> None:
    if not no_driver():
        pytest.skip("there is a driver")
    pytest.importorskip("cuda.bindings")
    with pytest.raises(
        UnavailableError, match=r"runs on an NVIDIA GPU, and CUDA's driver does not start here"
    ):
        Detector(engine_file)
    with pytest.raises(ModelError, match="runs on a GPU only; got device='cpu'"):
        Detector(engine_file, device="cpu")


def test_the_full_tensorrt_is_asked_for_by_name() -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    with pytest.raises(UnavailableError, match=r"pip install 'aicl-fast\[tensorrt\]'"):
        load_tensorrt("tensorrt")


def _container(path: Path, info: ModelInfo, **builder: Any) -> Path:
    write_container(
        path, "tensorrt-rtx", info, {"name": "x", "version": "1.2.3", **builder}, {"plan": b"plan" * 50}
    )
    return path


def test_versions(tmp_path: Path, graph: tuple[Any, ModelInfo]) -> None:
    exact = read_container(_container(tmp_path / "a.engine", graph[1]))
    check_builder(exact, "1.2.3")
    with pytest.raises(ModelError, match=r"expected TensorRT-RTX 1\.2\.3.*; version 1\.2\.4 is installed"):
        check_builder(exact, "1.2.4")
    loose = read_container(_container(tmp_path / "b.engine", graph[1], version_compatible=True))
    check_builder(loose, "1.10.0")
    for version in ("1.1.0", "2.0.0"):
        with pytest.raises(ModelError, match=r"1\.2\.3 or later"):
            check_builder(loose, version)
    anywhere = read_container(_container(tmp_path / "c.engine", graph[1], compute_capability=["8.0+"]))
    check_card(anywhere, (9, 0))
    with pytest.raises(ModelError, match=r"this card has 7\.5"):
        check_card(anywhere, (7, 5))
    check_card(exact, (12, 0))


def test_damaged_containers(tmp_path: Path, graph: tuple[Any, ModelInfo]) -> None:
    whole = _container(tmp_path / "whole.engine", graph[1]).read_bytes()
    path = tmp_path / "m.engine"
    for cut in [*range(8, 64, 7), 64, 200, len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(ModelError, match=r"m\.engine: (expected \d+ bytes, found \d+|.*damaged)"):
            read_container(path)
    path.write_bytes(whole + b"more")
    with pytest.raises(ModelError, match="cut off or changed"):
        read_container(path)
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 200):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        with contextlib.suppress(AiclError):  # a changed byte between sections means nothing
            assert read_container(path).read("plan") == b"plan" * 50
    path.write_bytes(whole[:-1] + b"?")
    with pytest.raises(ModelError, match="its plan is damaged"):
        read_container(path).read("plan")
    path.write_bytes(whole.replace(struct.pack("<I", 1), struct.pack("<I", 7), 1))
    with pytest.raises(ModelError, match=r"has layout 7; this aicl_fast reads layout 1\. Upgrade"):
        read_container(path)
    with pytest.raises(ModelError, match="has no section 'bin', only plan"):
        read_container(tmp_path / "whole.engine").read("bin")
    write_container(path, "abacus", graph[1], {}, {"plan": b"x"})
    with pytest.raises(ModelError, match=f"holds a 'abacus' engine; .*{', '.join(KINDS)}"):
        Detector(path)


@pytest.mark.parametrize("content", [b"", b"ftrt plan", b"\x00" * 4096])
def test_foreign_engines(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.engine"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"foreign\.engine: is not a file that `aicl-fast export` wrote"):
        Detector(path)


# --- the runtime, on memory of the host in the place of a GPU's


class FakeCuda:
    """What ``Cuda`` of the engine offers. A stream runs what it was given when it is waited for."""

    def __init__(self, number: int) -> None:
        self.number, self.capability = number, (8, 6)
        self.memory: dict[int, Any] = {}
        self.queues: dict[int, Any] = {}
        self.streams = 0
        self.captured: dict[int, list[Any]] = {}
        self.captures = self.launches = self.waits = 0
        self.closed = False
        self.others: dict[int, int] = {}
        self.events = 0
        self.lock = threading.Lock()

    def make_current(self) -> None:
        assert not self.closed

    def stream(self) -> int:
        with self.lock:
            self.streams += 1
            self.queues[len(self.queues) + 1] = []
            return len(self.queues)

    def event(self) -> str:
        self.events += 1
        return "event"

    def allocate(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def pinned(self, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
        address = self.allocate(4 * int(np.prod(shape)))
        count = int(np.prod(shape))
        array = np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))
        array[:] = np.nan
        return array.reshape(shape), address

    def put(self, stream: int, work: Any) -> None:
        (self.captured if stream in self.captured else self.queues)[stream].append(work)

    def copy_in(self, device: int, host: int, size: int, stream: int) -> None:
        self.put(stream, lambda: ctypes.memmove(device, host, size))

    copy_out = copy_on = copy_in

    def number_of(self, address: int) -> int:
        return self.others.get(address, self.number)

    def synchronize(self, stream: int) -> None:
        time.sleep(0.001)
        queue, self.queues[stream] = self.queues[stream], []
        for work in queue:
            work()

    def wait_for(self, stream: int, other: int, event: str) -> None:
        self.waits += 1

    def capture(self, stream: int) -> Any:
        cuda = self

        class Capture:
            graph: Any = None

            def __enter__(self) -> Any:
                cuda.captured[stream] = []
                cuda.captures += 1
                return self

            def __exit__(self, *_: object) -> None:
                self.graph = cuda.captured.pop(stream)

        return Capture()

    def launch(self, graph: list[Any], stream: int) -> None:
        self.launches += 1
        self.queues[stream].extend(graph)

    def destroy_graph(self, graph: Any) -> None:
        pass

    def free(self, *addresses: int) -> None:
        for address in addresses:
            del self.memory[address]

    free_pinned = free

    def destroy_event(self, event: str) -> None:
        self.events -= 1

    def destroy_stream(self, stream: int) -> None:
        self.queues[stream] = None
        self.streams -= 1

    def close(self) -> None:
        self.closed = True

    @property
    def empty(self) -> bool:
        """Everything was given back."""
        return not (self.memory or self.streams or self.events)


class FakeContext:
    """An execution context that asks the reference."""

    def __init__(self, reference: Any, cuda: FakeCuda) -> None:
        self.reference, self.cuda = reference, cuda
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "features"
        self.shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch, length, _ = self.shape
        last = {"scores": (length, 3), "video_scores": (3,)}.get(name, (length,))
        return (batch, *last)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        return 1000 * self.shape[0]

    def set_device_memory(self, address: int, size: int) -> None:
        assert len(self.cuda.memory[address]) == size
        self.scratch = size

    def execute_async_v3(self, stream: int) -> bool:
        addresses = dict(self.addresses)

        def work() -> None:
            count = int(np.prod(self.shape))
            features = np.ctypeslib.as_array((ctypes.c_float * count).from_address(addresses["features"]))
            outputs = self.reference(features.reshape(self.shape).copy())
            for name, output in zip(NetworkOutputs._fields, outputs, strict=True):
                output = np.ascontiguousarray(output)
                ctypes.memmove(addresses[name], output.ctypes.data, output.nbytes)

        self.cuda.put(stream, work)
        return True


@pytest.fixture
def engine(tiny_model: Path, tmp_path: Path, graph: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    from aicl_fast.engines.torch import TorchSession

    reference = TorchSession(tiny_model)
    devices: list[FakeCuda] = []

    def cuda(number: int) -> FakeCuda:
        devices.append(FakeCuda(number))
        return devices[-1]

    plan = SimpleNamespace(
        create_execution_context=lambda *_: FakeContext(reference, devices[-1]),
    )
    api = SimpleNamespace(
        __version__="1.2.3", Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda data: plan)
    )
    monkeypatch.setattr(runtime, "Cuda", cuda)
    monkeypatch.setattr(plans, "load_tensorrt", lambda kind: api)
    monkeypatch.setattr(plans, "make_logger", lambda api: SimpleNamespace(errors=["no reason"]))
    path = _container(tmp_path / "m.engine", graph[1])
    opened = TensorRTSession(path, pool=2)
    yield opened
    opened.close()


def close_to(actual: NetworkOutputs, expected: NetworkOutputs) -> None:
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_one_graph_a_shape(engine: Any, batch: np.ndarray, expected: NetworkOutputs) -> None:
    for _ in range(4):
        close_to(engine(batch), expected)
    assert (engine.cuda.captures, engine.cuda.launches) == (1, 3)  # the first run prepares
    engine(batch[:2])
    assert len(engine._slots) == 2
    many = np.concatenate([batch] * 20)
    close_to(NetworkOutputs(*(each[60:65] for each in engine(many))), expected)  # 64 and 36


def test_submitting(engine: Any, batch: np.ndarray, expected: NetworkOutputs) -> None:
    features = batch.copy()
    first, second = engine.submit(features), engine.submit(features[::-1].copy())
    features[:] = 0  # staged already
    close_to(second.result(), NetworkOutputs(*(each[::-1] for each in expected)))
    close_to(first.result(), expected)
    with pytest.raises(RuntimeError, match="taken already"):
        first.result()
    with pytest.raises(DataError, match="takes 1:8:64 rows per run, got 65"):
        engine.submit(np.zeros((65, 32, 11), np.float32))
    with pytest.raises(DataError, match="T 32 and D 11"):
        engine.submit(np.zeros((1, 33, 11), np.float32))


def test_threads_share_the_pool(engine: Any, batch: np.ndarray, expected: NetworkOutputs) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(6) as pool:
        for number, outputs in enumerate(pool.map(lambda n: engine(batch[n % 5][None]), range(40))):
            np.testing.assert_allclose(outputs.scores[0], expected.scores[number % 5], atol=1e-6)
    assert len(engine._slots) == 2
    assert len(engine._idle) == 2


class OnGpu:
    """An array of the host that says it is on a GPU."""

    def __init__(self, array: np.ndarray, **changes: Any) -> None:
        self.array, self.shape = array, array.shape
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "strides": None,
            "version": 3,
            **changes,
        }


def test_arrays_on_the_gpu_are_read_in_place(engine: Any, batch, expected: NetworkOutputs) -> None:
    close_to(engine(OnGpu(batch)), expected)
    close_to(engine(batch), expected)  # the slot reads its own buffer again
    close_to(engine(OnGpu(batch, stream=77)), expected)
    assert engine.cuda.waits == 1
    with pytest.raises(DataError, match="expected float32 on the GPU, got type <f8"):
        engine(OnGpu(batch.astype(np.float64)))
    with pytest.raises(DataError, match="in C order"):
        engine(OnGpu(batch, strides=(4, 20, 640)))
    close_to(engine(OnGpu(batch, strides=batch.strides)), expected)
    close_to(engine(batch), expected)


def test_addresses_that_tensorrt_takes(engine: Any, batch: np.ndarray, expected: NetworkOutputs) -> None:
    room = np.zeros(batch.nbytes + 512, np.uint8)
    start = -room.ctypes.data % 256
    for offset, in_place in ((0, True), (64, False), (256, True), (4, False)):
        there = room[start + offset :][: batch.nbytes].view(np.float32).reshape(batch.shape)
        there[:] = batch
        close_to(engine(OnGpu(there)), expected)
        (slot,) = engine._slots
        read = slot.context.addresses["features"]
        assert read == (there.ctypes.data if in_place else slot.features)
    engine.cuda.others[there.ctypes.data] = 3
    with pytest.raises(DataError, match=r"are on GPU 3, the engine is on 0\. Move them"):
        engine(OnGpu(there))
    slot.context.set_tensor_address = lambda name, address: False
    with pytest.raises(ModelError, match=r"takes no address for features \(no reason\)"):
        engine(OnGpu(batch))


def test_a_result_that_nobody_asks_for(engine: Any, batch: np.ndarray, expected: NetworkOutputs) -> None:
    dropped = [engine.submit(batch[::-1].copy()) for _ in range(2)]
    dropped.clear()
    gc.collect()
    done = threading.Event()

    def third() -> None:
        close_to(engine(batch), expected)
        done.set()

    threading.Thread(target=third, daemon=True).start()
    assert done.wait(30)
    assert len(engine._slots) == 2


@pytest.mark.parametrize("place", range(1, 9))
def test_a_slot_that_fails_half_way(engine: Any, batch: np.ndarray, place: int) -> None:
    """Each of the calls that make one, in turn."""
    device, calls = engine.cuda, []

    def failing(name: str) -> Any:
        call = getattr(device, name)

        def counted(*arguments: Any) -> Any:
            calls.append(name)
            if len(calls) == place:
                raise UnavailableError(f"CUDA: {name} failed: CUDA_ERROR_OUT_OF_MEMORY.")
            return call(*arguments)

        return counted

    for name in ("stream", "event", "allocate", "pinned"):
        setattr(device, name, failing(name))
    engine._plan.engine.create_execution_context = lambda *_: FakeContext(None, device)
    with contextlib.suppress(UnavailableError):
        engine.submit(batch)
    if len(calls) >= place:
        assert len(calls) == place
        assert device.empty
        assert not engine._slots


def test_idle_slots_are_few(engine: Any, batch: np.ndarray) -> None:
    many = np.concatenate([batch] * 4)
    for count in range(1, 21):
        engine(many[:count])
    assert [slot.shape[0] for slot in engine._slots] == list(range(13, 21))
    assert engine.cuda.streams == engine.cuda.events == 8
    held = len(engine.cuda.memory)
    engine(many[:15])
    engine(many[:1])
    assert [slot.shape[0] for slot in engine._idle] == [14, 16, 17, 18, 19, 20, 15, 1]
    assert len(engine.cuda.memory) == held


def test_memory_is_that_of_the_shape(engine: Any, batch: np.ndarray, expected: NetworkOutputs) -> None:
    engine._plan.api.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="mine")
    create, asked = engine._plan.engine.create_execution_context, []
    engine._plan.engine.create_execution_context = lambda *how: (asked.append(how), create())[1]
    close_to(engine(batch), expected)
    engine(batch[:1])
    assert asked == [("mine",)] * 2
    assert [slot.context.scratch for slot in engine._slots] == [5000, 1000]


def test_what_cannot_be_captured_runs(engine: Any, batch, expected: NetworkOutputs, monkeypatch) -> None:
    execute = FakeContext.execute_async_v3

    def refuse(self: Any, stream: int) -> bool:
        return stream not in self.cuda.captured and execute(self, stream)

    monkeypatch.setattr(FakeContext, "execute_async_v3", refuse)
    for _ in range(4):
        close_to(engine(batch), expected)
    assert (engine.cuda.captures, engine.cuda.launches) == (1, 0)


def test_an_engine_that_nobody_closes(engine: Any, batch: np.ndarray) -> None:
    opened = TensorRTSession(engine.path)
    device = opened.cuda
    opened(batch)
    del opened
    gc.collect()
    assert device.closed
    assert device.empty
    opened = TensorRTSession(engine.path)
    runtime._close_all()  # as at the interpreter's end
    assert opened.cuda.closed
    assert engine.cuda.closed


def test_closing(engine: Any, batch: np.ndarray) -> None:
    pending = engine.submit(batch)
    with engine:
        engine(batch)
    assert engine.cuda.closed
    assert engine.cuda.empty
    engine.close()
    with pytest.raises(UnavailableError, match="is closed"):
        engine(batch)
    with pytest.raises(UnavailableError, match="was closed before this result"):
        pending.result()


def test_a_slot_that_fails_keeps_nothing_from_being_freed(
    engine: Any, batch: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in (1, 2, 3):
        engine(batch[:count])
    pending = engine.submit(batch[:2])
    broken = engine._slots[1].stream
    synchronize = engine.cuda.synchronize

    def fail(stream: int) -> None:
        if stream == broken:
            raise UnavailableError("CUDA: cuStreamSynchronize failed")
        synchronize(stream)

    monkeypatch.setattr(engine.cuda, "synchronize", fail)
    with pytest.raises(UnavailableError, match="cuStreamSynchronize failed"):
        engine.close()
    with pytest.raises(UnavailableError, match="was closed before this result"):
        pending.result()
    assert engine._plan.engine is engine._plan.runtime is None
    assert engine.cuda.closed
    assert engine.cuda.empty


def test_kernels_that_cannot_be_kept(engine: Any, batch: np.ndarray, tmp_path: Path) -> None:
    def settings() -> Any:
        kernels = SimpleNamespace(serialize=lambda: b"kernels")
        return SimpleNamespace(
            create_runtime_cache=lambda: kernels,
            set_runtime_cache=lambda _: None,
            get_runtime_cache=lambda: kernels,
        )

    engine._plan.engine.create_runtime_config = settings
    with TensorRTSession(engine.path, cache=tmp_path / "cache") as opened:
        opened(batch)
        assert not opened._plan.cache.exists()
        opened(batch)  # captured: there are kernels, and who knows whether it is closed
        assert opened._plan.cache.read_bytes() == b"kernels"
        opened._plan.cache.unlink()
        opened(batch)
    assert not opened._plan.cache.exists()  # nothing new
    with TensorRTSession(engine.path, cache=tmp_path / "cache") as opened:
        opened(batch)
    assert opened._plan.cache.read_bytes() == b"kernels"
    (tmp_path / "file").touch()
    opened = TensorRTSession(engine.path, cache=tmp_path / "file")
    opened(batch)
    with pytest.warns(RuntimeWarning, match=r"cannot be kept: .*file.*Choose"):
        opened.close()
    assert opened._plan.engine is opened._plan.settings is None
    assert opened.cuda.closed
    assert opened.cuda.empty


class OnGpuByDLPack:
    """An array of the host that offers itself by DLPack as a GPU's, and says for which stream."""

    def __init__(self, array: np.ndarray, asked: Any) -> None:
        self.array, self.shape, self.asked = array, array.shape, asked

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, stream: int) -> Any:
        self.asked(stream)
        return self.array.__dlpack__()


def test_the_producers_stream_outlives_its_use(engine: Any, batch: np.ndarray, expected) -> None:
    closing = threading.Thread(target=engine.close)
    alive: list[bool] = []

    def close_meanwhile(stream: int) -> None:
        closing.start()
        closing.join(0.3)  # it must wait for us
        alive.append(engine.cuda.queues[stream] is not None)

    with contextlib.suppress(UnavailableError):  # closed before or after the results are copied out
        close_to(engine(OnGpuByDLPack(batch, close_meanwhile)), expected)
    closing.join()
    assert alive == [True]
    assert engine.cuda.closed
    assert engine.cuda.empty


def test_a_plan_that_does_not_load(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api = SimpleNamespace(
        __version__="1.2.3", Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda data: None)
    )
    monkeypatch.setattr(plans, "load_tensorrt", lambda kind: api)
    with pytest.raises(ModelError, match=r"TensorRT-RTX cannot load the plan \(no reason\)"):
        TensorRTSession(engine.path)

    def fail(self: Any) -> None:
        raise UnavailableError("CUDA: cuDevicePrimaryCtxRelease failed")

    with monkeypatch.context() as patch:  # the first failure is the one that is told
        patch.setattr(FakeCuda, "close", fail)
        with pytest.raises(ModelError, match="cannot load the plan"):
            TensorRTSession(engine.path)


@pytest.mark.parametrize("newer", [True, False], ids=["remains refittable", "has no such flag"])
def test_refitting(tmp_path: Path, graph: Any, monkeypatch: pytest.MonkeyPatch, newer: bool) -> None:
    """The plan comes with its weights, and what TensorRT holds ends before the GPU is let go of."""
    import aicl_fast.export.tensorrt.refit as export

    alive: list[Any] = []
    device = FakeCuda(0)
    flags = {"EXCLUDE_WEIGHTS": 0, **({"INCLUDE_REFIT": 2} if newer else {})}

    class Config:
        def __init__(self) -> None:
            self.flags = {"EXCLUDE_WEIGHTS"}

        def clear_flag(self, flag: int) -> None:
            self.flags.discard({0: "EXCLUDE_WEIGHTS"}[flag])

        def set_flag(self, flag: int) -> None:
            self.flags.add({2: "INCLUDE_REFIT"}[flag])

    class Part:
        def __init__(self, *_: Any) -> None:
            alive.append(weakref.ref(self))

    class Engine(Part):
        weights = b"old"

        def create_serialization_config(self) -> Config:
            return Config()

        def serialize_with_config(self, config: Config) -> bytes:
            return f"{self.weights.decode()} {sorted(config.flags)}".encode()

    class Runtime(Part):
        engine_host_code_allowed = False

        def deserialize_cuda_engine(self, plan: bytes) -> Engine:
            assert self.engine_host_code_allowed
            return Engine()

    class Refitter(Part):
        def __init__(self, engine: Engine, logger: Any) -> None:
            super().__init__()
            self.engine = engine

        def refit_cuda_engine(self) -> bool:
            self.engine.weights = b"new"
            return takes[0]

    class Parser(Part):
        def refit_from_bytes(self, onnx: bytes) -> bool:
            return True

    close = device.close

    def closing() -> None:
        assert [each() for each in alive] == [None] * len(alive)
        close()

    monkeypatch.setattr(device, "close", closing)
    api = SimpleNamespace(
        __version__="1.2.3",
        Runtime=Runtime,
        Refitter=Refitter,
        OnnxParserRefitter=Parser,
        SerializationFlag=SimpleNamespace(**flags),
    )
    monkeypatch.setattr(export, "Cuda", lambda number: device)
    monkeypatch.setattr(export, "load_tensorrt", lambda kind: api)
    monkeypatch.setattr(export, "make_logger", lambda api: SimpleNamespace(errors=["no reason"]))
    path = _container(tmp_path / "m.engine", graph[1], refittable=True, version_compatible=True)
    takes = [True]
    with pytest.raises(ModelError, match=r"carries native code.*trust=True\) or --trust"):
        refit_tensorrt(path, *graph, path)
    refit_tensorrt(path, *graph, path, trust=True)
    wanted = "new ['INCLUDE_REFIT']" if newer else "new []"
    assert read_container(path).read("plan") == wanted.encode()
    assert device.closed
    assert len(alive) == 4
    takes[0] = False
    with pytest.raises(ModelError, match=r"does not take the new weights \(no reason\)"):
        refit_tensorrt(path, *graph, path, trust=True)
    assert read_container(path).read("plan") == wanted.encode()


def test_detecting_on_it(engine: Any, tiny_model: Path, batch: np.ndarray) -> None:
    detector = Detector(engine.path)
    found, wanted = detector(batch[0]), Detector(tiny_model)(batch[0])
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_allclose(found.segments, wanted.segments, atol=1e-6)
    detector.close()


# --- a segment network on the same runtime


class FakeClips(FakeContext):
    """An execution context of I3D: the first values of each clip."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "clips"
        self.shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shape[0], {"features": 1024, "logits": 7}[name])

    def execute_async_v3(self, stream: int) -> bool:
        addresses = dict(self.addresses)
        kind = ctypes.c_uint8 if self.shape[-1] == 3 else ctypes.c_float

        def work() -> None:
            count = int(np.prod(self.shape))
            clips = np.ctypeslib.as_array((kind * count).from_address(addresses["clips"]))
            first = clips.reshape(self.shape[0], -1)[:, -1024:].astype(np.float32)
            for name, output in (("features", first), ("logits", np.ascontiguousarray(-first[:, :7]))):
                ctypes.memmove(addresses[name], output.ctypes.data, output.nbytes)

        self.cuda.put(stream, work)
        return True


@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_a_segment_network(engine: Any, tmp_path: Path, stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    info = SegmentInfo(stream, "ab" * 32, precision="fp16", batch=Range(2, 2, 3), classes=7)
    path = tmp_path / "i3d.engine"
    builder = {"name": "tensorrt-rtx", "version": "1.2.3", "compute_capability": []}
    write_container(path, "tensorrt-rtx", info, builder, {"plan": b"plan"})
    device = FakeCuda(1)
    plan = SimpleNamespace(create_execution_context=lambda *_: FakeClips(None, device))
    monkeypatch.setattr(runtime, "Cuda", lambda number: device)
    monkeypatch.setattr(
        engine._plan.api, "Runtime", lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda data: plan)
    )
    clips = np.random.default_rng(0).integers(0, 256, (7, *info.clip_shape)).astype(np.uint8)
    clips = clips if stream == "rgb" else clips.astype(np.float32) / 7
    with open_network(path, stream=stream, device="cuda:1") as network:
        assert (network.stream, network.precision, network.weights_hash) == (stream, "fp16", "ab" * 32)
        for _ in range(3):  # the second run of a shape is captured, the third is the graph
            np.testing.assert_array_equal(network(clips), clips.reshape(7, -1)[:, -1024:])
        assert network.classify(clips).shape == (7, 7)
        assert device.launches
        with pytest.raises(ModelError, match=r"precision: is not an option .*has its precision in it"):
            open_network(path, precision="fp16")
    assert device.closed
    with pytest.raises(ModelError, match=r"i3d\.engine: is a network of kind 'i3d'"):
        Detector(path)
    with pytest.raises(ModelError, match="is a detector's model, which reads features"):
        open_network(engine.path)


def test_dlpack_says_where_memory_is() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    capsule = array.__dlpack__()
    tensor = read_capsule(capsule)
    assert (tensor.ndim, [tensor.shape[i] for i in range(3)]) == (3, [2, 3, 4])
    assert (tensor.data or 0) + tensor.byte_offset == array.ctypes.data
    assert not is_gpu_array(array)
    with pytest.raises(DataError, match="is not on a GPU; give it as a numpy array"):
        read_array(array, 1)

    class Fake:
        shape = array.shape

        def __dlpack__(self, stream: int) -> Any:
            assert stream == 5
            return array.__dlpack__()

        def __dlpack_device__(self) -> tuple[int, int]:
            return (2, 3)

    assert is_gpu_array(Fake())
    found = read_array(Fake(), 5)
    assert (found.pointer, found.shape, found.device) == (array.ctypes.data, (2, 3, 4), 3)


@pytest.mark.parametrize("compatible", [True, False], ids=["version-compatible", "plain"])
def test_native_code_of_an_engine_runs_on_the_callers_word(
    engine: Any, tmp_path: Path, graph: Any, monkeypatch: pytest.MonkeyPatch, compatible: bool
) -> None:
    runtimes: list[Any] = []

    def make(logger: Any) -> Any:
        plan = engine._plan.engine
        runtimes.append(
            SimpleNamespace(engine_host_code_allowed=False, deserialize_cuda_engine=lambda data: plan)
        )
        return runtimes[-1]

    monkeypatch.setattr(engine._plan.api, "Runtime", make)
    path = _container(tmp_path / "m.engine", graph[1], version_compatible=compatible)
    if compatible:
        with pytest.raises(ModelError, match=r"m\.engine: .*native code.*trust=True\) or --trust"):
            Detector(path)
        assert not runtimes  # TensorRT did not see the file
    with Detector(path, trust=True):
        assert [each.engine_host_code_allowed for each in runtimes] == [compatible]
